"""GGUF for llama.cpp: every tensor in the block type that holds effkit's numbers exactly or nearest, with tokenizer and metadata.

Models of the Llama and Mistral architectures. llama.cpp keeps the two halves of a rotary pair side by side, so rows of q
and k are re-ordered; rows are packed one by one, so their integers go along. Vectors are float32, as llama.cpp expects.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work

from ..files.exporting import Placed
from ..files.header import read_header
from ..model import Model
from .blocks import BLOCK, BLOCK_BYTES, block_type, blocks, fits
from .gguf_metadata import MARK, add_metadata
from .parts import Part, parts

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
DENSE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Gguf:
    name = "gguf"
    suffix = ".gguf"

    def plan(self, model: Model, strict: bool) -> tuple[Placed, ...]:
        check(model)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
        placed = []
        for part in parts(model):
            name = names.get_name(part.name, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise BadInput(f"{part.name} has no name in GGUF", "Allowed: the tensors of a Llama or Mistral model")
            placed.append(_placed(part, name, strict))
        if (factors := frequency_factors(model.config)) is not None:
            placed.append(Placed("rope", "rope_freqs.weight", "F32", factors.nbytes, 0))
        return tuple(placed)

    def write(self, model: Model, plan: tuple[Placed, ...], part: Path) -> Work[None]:
        writer = gguf.GGUFWriter(part, "llama")
        try:
            add_metadata(writer, model, plan)
            pieces = parts(model)
            for number, placed in enumerate(plan):
                shape = pieces[number].shape if number < len(pieces) else (placed.bytes // 4,)
                _announce(writer, placed, shape)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for number, placed in enumerate(plan):
                if number < len(pieces):
                    data = _data(pieces[number], placed, model.config)
                else:
                    data = frequency_factors(model.config)
                writer.write_tensor_data(data)  # type: ignore[arg-type]
                yield Progress(
                    "export", number + 1, len(plan), "tensors", placed.name, details={"tensor": placed.name, "kind": placed.kind}
                )
        finally:
            writer.close()

    def ours(self, path: Path) -> bool:
        try:
            return MARK in read_header(path).fields
        except BadInput:
            return False


GGUF = Gguf()


def check(model: Model) -> None:
    """BadInput for a model that llama.cpp would read wrongly or not at all."""
    name, config = type(model.module).__name__, model.config
    if name not in ARCHITECTURES:
        raise BadInput(
            f"the architecture of {model.checkpoint.source} is {name}",
            f"Allowed for gguf: {', '.join(ARCHITECTURES)}",
            "Export as 'compressed-tensors' instead",
        )
    kind = rope(config).get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise BadInput(f"the rotary positions are of the type {kind!r}", "Allowed for gguf: 'default', 'linear', 'llama3'")
    if config.hidden_act != "silu":
        raise BadInput(f"the activation is {config.hidden_act!r}", "Allowed for gguf: 'silu', the only one of llama.cpp's Llama")


def rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def frequency_factors(config: Any) -> np.ndarray | None:
    """What llama.cpp divides the rotary frequencies by, float32 [head_dim / 2], for Llama 3's positions; None for others."""
    of = rope(config)
    if of.get("rope_type") != "llama3":
        return None
    half = config.head_dim // 2
    frequencies = of["rope_theta"] ** -(torch.arange(half, dtype=torch.float64) / half)
    turns = of["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the original context
    low, high = of["low_freq_factor"], of["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / of["factor"] + smooth)).float().numpy()


def order(part: Part, config: Any) -> torch.Tensor:
    """The rows of a tensor in llama.cpp's order."""
    rows = torch.arange(part.shape[0])
    for name, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
        if f".{name}." in part.name:
            return rows.view(heads, 2, -1).transpose(1, 2).reshape(-1)
    return rows


def _placed(part: Part, name: str, strict: bool) -> Placed:
    count = math.prod(part.shape)
    if part.packed is not None and fits(part.packed):
        kind, exact = block_type(part.packed, strict)
        why = "" if exact else _rounded(kind)
        return Placed(part.module, name, kind, count // BLOCK * BLOCK_BYTES[kind], part.own_bytes, exact=exact, why=why)
    if part.packed is None and part.stored == "":
        tensor = part.dense()
        kind, exact = _dense_type(tensor, strict)
        why = "" if exact else "float32 is rounded to float16, whose relative error is at most 0.0005"
        return Placed(part.module, name, kind, count * DENSE[kind].itemsize, part.own_bytes, exact=exact, why=why)
    kind, exact = _dense_type(part.dense(torch.float32), strict)
    reason = f"{part.stored} has no form in GGUF"
    if part.packed is not None:
        reason = f"groups of {part.packed.group_size} in rows of {part.packed.columns} are no whole blocks of {BLOCK}"
        if part.packed.group_size % BLOCK == 0:
            reason = "a scale leaves float16's range"
    return Placed(
        part.module, name, kind, count * DENSE[kind].itemsize, part.own_bytes, exact=exact, dense=True,
        why=f"{reason}, so its weights are stored as {kind}",
    )  # fmt: skip


def _rounded(kind: str) -> str:
    if kind == "Q8_0":
        return "8-bit integers with zero points are rounded again to Q8_0 (relative error 0.005; 6 or 7 bits would be held exactly)"
    return f"{kind} keeps the integers and rounds zero * scale to float16 (at most a hundredth of a step; strict takes an exact type)"


def _dense_type(tensor: torch.Tensor, strict: bool) -> tuple[str, bool]:
    """(type, exact): vectors in float32, matrices in their own 16 bits, or float16 where that loses nothing or may."""
    if tensor.dim() < 2:
        return "F32", True
    if tensor.dtype != torch.float32:
        return ("BF16" if tensor.dtype == torch.bfloat16 else "F16"), True
    half = tensor.half()
    if bool((half.float() == tensor).all()):
        return "F16", True
    return ("F32", True) if strict or not bool(torch.isfinite(half).all()) else ("F16", False)


def _announce(writer: gguf.GGUFWriter, placed: Placed, shape: tuple[int, ...]) -> None:
    kind = gguf.GGMLQuantizationType[placed.kind]
    if placed.kind in ("F32", "F16"):
        dtype = np.dtype(np.float32 if placed.kind == "F32" else np.float16)
        writer.add_tensor_info(placed.name, shape, dtype, placed.bytes)
    else:
        row = placed.bytes // math.prod(shape[:-1])
        writer.add_tensor_info(placed.name, (*shape[:-1], row), np.dtype(np.uint8), placed.bytes, raw_dtype=kind)


def _data(part: Part, placed: Placed, config: Any) -> np.ndarray:
    rows = order(part, config)
    if placed.kind in BLOCK_BYTES:
        assert part.packed is not None
        return blocks(part.packed, placed.kind, rows)
    tensor = part.dense(torch.float32).to(DENSE[placed.kind])[rows].contiguous()
    return tensor.view(torch.uint8).numpy() if placed.kind == "BF16" else tensor.numpy()
