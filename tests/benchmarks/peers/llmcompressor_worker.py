"""llm-compressor: GPTQ (Frantar et al. 2023, arXiv:2210.17323) or AWQ (Lin et al. 2023, arXiv:2306.00978) in one shot.

GPTQ takes columns in order of activation with static groups, as is its default. "observer" is how a group's range is found:
its default, the least and the greatest weight, or "memoryless_mse", which searches a narrower one; "shrink" is by how much at
most (its default is 0.2, too little for 2 bits). Scales are counted with 16 bits and zero points with those of the integers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    from llmcompressor import oneshot

    bits, group, symmetric = setting["bits"], setting["group"], setting.get("symmetric", True)
    arguments = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": group}
    if "observer" in setting:
        arguments |= {"observer": setting["observer"], "observer_kwargs": {"maxshrink": setting["shrink"]}}
    given: dict[str, Any] = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments}}, "ignore": ["lm_head"]}
    module = peer.base(model)
    plain = {name: part.weight.detach().clone() for name, part in peer.linears(module).items()}
    if setting["method"] == "gptq":
        from llmcompressor.modifiers.quantization import GPTQModifier

        recipe = [GPTQModifier(**given, actorder="static", dampening_frac=setting.get("damping", 0.01))]
    else:
        from llmcompressor.modifiers.awq import AWQModifier

        torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]  # it asks for it where no accelerator is

        recipe = [AWQModifier(**given)]
    oneshot(
        model=module, processor=peer.tokenizer(model), dataset=peer.batches(calibration), recipe=recipe,
        num_calibration_samples=len(calibration), max_seq_length=len(calibration[0]),
    )  # fmt: skip
    weights = {}
    for name in plain:
        part = module.get_submodule(name)
        scale, zero = part.weight_scale.detach().float(), getattr(part, "weight_zero_point", None)
        steps = scale.repeat_interleave(group, dim=1)
        offset = 0 if zero is None else zero.detach().float().repeat_interleave(group, dim=1)
        half = 2 ** (bits - 1)
        weights[name] = ((part.weight.detach() / steps + offset).round().clamp(-half, half - 1) - offset) * steps
    if setting["method"] == "awq":
        # AWQ folds scales into the norms, so its weights stand for others beside its own norms: hand these over too
        weights |= {name: p.detach() for name, p in module.named_parameters() if "norm" in name}
    counted = bits + (16 + (0 if symmetric else bits)) / group
    words = [setting["method"], f"{bits} bits", f"group {group}", "symmetric" if symmetric else "zero points"]
    return weights, counted, ", ".join([*words, "scales searched"] if "observer" in setting else words)


if __name__ == "__main__":
    sys.exit(peer.serve(make))
