"""compressed-tensors: safetensors with a quantization_config that transformers, vLLM and vllm-ascend read.

Linear layers become "pack-quantized": w = (q - zero) * scale with q in 4 or 8 bits, the widths that the readers have
kernels for, packed eight or four to an int32 along the row, zero points along the column. Both widths hold effkit's
numbers exactly: 2 and 3 bits widen to 4, and 5 to 7 to 8 (without zero points, since q - zero fits). Modules of one
width, group size and symmetry form a config group; where there are several, each names its modules. Embeddings and heads
stand in the compute dtype, as the readers expect them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from effkit.spec.progress import Progress, Work

from ..files.exporting import Placed
from ..files.saving import WEIGHTS, write_description
from ..files.stamp import write_tensors
from ..model import Model
from ..stored.packed import PackedWeight
from .parts import Part, integers, linears, parts, span

MARK = "effkit-export.json"


class CompressedTensors:
    name = "compressed-tensors"
    suffix = ""

    def plan(self, model: Model, strict: bool) -> tuple[Placed, ...]:
        vocabulary, pieces = _vocabulary(model), parts(model)
        inside = {p.module: p.packed for p in pieces if p.packed is not None and p.linear and p.module not in vocabulary}
        mixed = len({_scheme(packed) for packed in inside.values()}) > 1
        return tuple(_placed(piece, vocabulary, model.dtype, mixed) for piece in pieces)

    def write(self, model: Model, plan: tuple[Placed, ...], part: Path) -> Work[None]:
        tensors: dict[str, torch.Tensor] = {}
        groups: dict[tuple[int, int | None, bool], list[str]] = {}
        for number, (placed, piece) in enumerate(zip(plan, parts(model), strict=True), 1):
            if placed.dense or piece.packed is None:
                tensors[piece.name] = piece.dense(None if piece.stored == "" and piece.packed is None else model.dtype).contiguous()
            else:
                stored, scheme = _packed(piece.packed)
                tensors |= {f"{piece.module}.{leaf}": tensor for leaf, tensor in stored.items()}
                groups.setdefault(scheme, []).append(piece.module)
            yield Progress("export", number, len(plan), "tensors", placed.name, details={"tensor": placed.name, "kind": placed.kind})
        write_tensors(tensors, part / WEIGHTS)
        config = {"quantization_config": quantization_config(groups, linears(model))} if groups else {}
        write_description(model, part, **config)
        told = {"format": self.name, "recipe": model.recipe.model_dump(mode="json"), "source": model.checkpoint.source}
        (part / MARK).write_text(json.dumps(told, indent=2), encoding="utf-8")

    def ours(self, path: Path) -> bool:
        return (path / MARK).exists()


COMPRESSED_TENSORS = CompressedTensors()


def width(packed: PackedWeight) -> tuple[int, bool]:
    """(bits, symmetric) of the narrowest of the readers' widths that holds every q - zero."""
    low, high = span(packed)
    for bits in (4, 8):
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return bits, True
        if packed.bits == bits:
            return bits, False
    raise AssertionError(packed.bits)


def words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, n] below 2**bits -> int32 [rows, ceil(n * bits / 32)], the first value in the lowest bits."""
    per_word = 32 // bits
    if rest := values.shape[1] % per_word:
        values = torch.nn.functional.pad(values, (0, per_word - rest))
    data = values if bits == 8 else values[:, 0::2] | (values[:, 1::2] << 4)
    return data.reshape(-1).view(torch.int32).reshape(len(values), -1)


def quantization_config(groups: dict[tuple[int, int | None, bool], list[str]], linears: list[str]) -> dict[str, Any]:
    """What config.json says to a reader: which modules are stored how."""
    quantized = {name for names in groups.values() for name in names}
    told = {}
    for number, ((bits, group, symmetric), names) in enumerate(groups.items()):
        weights = {
            "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel", "group_size": group,
            "dynamic": False,
        }  # fmt: skip
        targets = ["Linear"] if len(groups) == 1 else names
        told[f"group_{number}"] = {
            "targets": targets, "weights": weights, "input_activations": None, "output_activations": None, "format": "pack-quantized",
        }  # fmt: skip
    # transformers unpacks at the first pass anyway; told to do so while it loads, it also reads zero points, which it
    # otherwise expects unpacked since compressed-tensors 0.18. With several groups it would take the first for all.
    early = {"dequantize": True} if len(groups) == 1 else {}
    return {
        **early,
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": told,
        "ignore": [name for name in linears if name not in quantized],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _packed(packed: PackedWeight) -> tuple[dict[str, torch.Tensor], tuple[int, int | None, bool]]:
    """The tensors of one packed linear, by their names in the format, and its scheme."""
    bits, _, symmetric = scheme = _scheme(packed)
    q, zeros, scales = integers(packed)
    if symmetric:  # stored with the fixed zero point of the wider integers
        grouped = q.to(torch.int16).reshape(len(q), packed.groups, packed.group_size) - zeros.to(torch.int16).unsqueeze(-1)
        q = (grouped + 2 ** (bits - 1)).to(torch.uint8).reshape(len(q), packed.columns)
    stored = {
        "weight_packed": words(q, bits),
        "weight_scale": scales.to(packed.dtype).contiguous(),
        "weight_shape": torch.tensor([packed.rows, packed.columns]),
    }
    if not symmetric:
        stored["weight_zero_point"] = words(zeros.t().contiguous(), bits).t().contiguous()
    return stored, scheme


def _scheme(packed: PackedWeight) -> tuple[int, int | None, bool]:
    """(bits, group size, symmetric) of the config group it belongs to; None: whole rows."""
    bits, symmetric = width(packed)
    return bits, None if packed.groups == 1 else packed.group_size, symmetric


def _placed(part: Part, vocabulary: set[str], dtype: torch.dtype, mixed: bool) -> Placed:
    if part.packed is None and not part.stored:
        kind = str(part.tensor.dtype).removeprefix("torch.")  # type: ignore[union-attr]
        return Placed(part.module, part.name, kind, part.own_bytes, part.own_bytes)
    if part.packed is not None and part.linear and part.module not in vocabulary:
        return _placed_packed(part, part.packed, mixed)
    rows, columns = part.shape
    kind = str(dtype).removeprefix("torch.")
    if part.stored:
        why = f"{part.stored} has no form in compressed-tensors, so its weights are stored as {kind}"
        if part.stored in ("BnbLinear8bit", "Int8Linear"):
            why += "; its inputs are no longer rounded to 8 bits"
    elif part.module in vocabulary:
        why = f"embeddings and heads are not packed in this format, so it is stored as {kind}"
    else:
        why = f"a {part.original.__name__} is not packed in this format, so it is stored as {kind}"
    return Placed(part.module, part.name, kind, rows * columns * dtype.itemsize, part.own_bytes, dense=True, why=why)


def _placed_packed(part: Part, packed: PackedWeight, mixed: bool) -> Placed:
    bits, symmetric = width(packed)
    row_words = -(-packed.columns * bits // 32)
    zeros = 0 if symmetric else 4 * packed.groups * -(-packed.rows * bits // 32)
    size = 4 * packed.rows * row_words + packed.rows * packed.groups * packed.dtype.itemsize + zeros + 16
    why = "" if bits == packed.bits else f"{packed.bits}-bit integers lie in {bits} bits, the width that readers have kernels for"
    if mixed and not symmetric:
        why = "zero points beside modules of another kind: transformers reads them with compressed-tensors up to 0.17 only"
    group = "rows" if packed.groups == 1 else f"group {packed.group_size}"
    return Placed(part.module, part.name, f"{bits}-bit, {group}", size, part.own_bytes, why=why)


def _vocabulary(model: Model) -> set[str]:
    """The embedding and the head."""
    inner: Any = model.module
    found = [inner.get_input_embeddings(), inner.get_output_embeddings() if model.task == "causal-lm" else None]
    return {name for name, module in inner.named_modules() if any(module is f for f in found if f is not None)}
