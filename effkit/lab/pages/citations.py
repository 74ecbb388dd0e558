"""What to cite beside effkit: the papers of the methods and models that the records name, in the order in which they occur."""

from __future__ import annotations

from collections.abc import Iterable

from effkit import __version__
from effkit.spec.recipe import Distill, Prune, Quantize
from effkit.spec.record import Record

OWN = f"effkit {__version__}: distil, quantize and profile language models live in Jupyter. Apache-2.0."
METHODS = {
    "hqq": "HQQ: Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models.",
    "awq": "AWQ: Lin et al. 2023, Activation-aware Weight Quantization for LLM Compression and Acceleration, arXiv:2306.00978.",
    "gptq": "GPTQ: Frantar et al. 2022, Accurate Post-Training Quantization for Generative Pre-trained Transformers, arXiv:2210.17323.",
    "learned": "SignRound: Cheng et al. 2023, Optimize Weight Rounding via Signed Gradient Descent, arXiv:2309.05516.",
    "smooth": "SmoothQuant: Xiao et al. 2022, Accurate and Efficient Post-Training Quantization for LLMs, arXiv:2211.10438.",
    "nf4": "NF4: Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314.",
    "fp4": "FP4: Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314.",
    "int8": "LLM.int8(): Dettmers et al. 2022, 8-bit Matrix Multiplication for Transformers at Scale, arXiv:2208.07339.",
}
DISTILLATION = "Distillation: Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531."
ROTATION = "QuaRot: Ashkboos et al. 2024, Outlier-Free 4-Bit Inference in Rotated LLMs, arXiv:2404.00456."
DEPTH = "Removing layers: Men et al. 2024, ShortGPT: Layers in Large Language Models are More Redundant Than You Expect, arXiv:2403.03853."
WIDTH = "Narrowing: Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation, arXiv:2407.14679."
MODELS = {
    "smollm2": "SmolLM2: Ben Allal et al. 2025, SmolLM2: When Smol Goes Big, arXiv:2502.02737.",
    "stories": "TinyStories: Eldan and Li 2023, How Small Can Language Models Be and Still Speak Coherent English?, arXiv:2305.07759.",
}


def citations_of(records: Iterable[Record]) -> list[str]:
    """One line a work, effkit's own first."""
    found = [OWN]
    for record in records:
        found += [text for name, text in MODELS.items() if name in record.checkpoint.source.lower()]
        for step in record.recipe.steps:
            if isinstance(step, Quantize):
                found += [METHODS[step.method]] if step.method in METHODS else []
                found += [ROTATION] if step.rotate else []
            if isinstance(step, Distill):
                found.append(DISTILLATION)
            if isinstance(step, Prune):
                found.append(DEPTH if step.layers else WIDTH)
    return list(dict.fromkeys(found))
