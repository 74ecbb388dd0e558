"""llama.cpp's blocks of 32 weights (ggml's ggml-common.h), filled with effkit's own integers and scales.

    Q4_0  w = d * (q - 8)     d float16, 32 x 4 bits            4.5 bits a weight
    Q5_0  w = d * (q - 16)    d float16, 32 x 5 bits            5.5
    Q8_0  w = d * q           d float16, 32 x int8              8.5
    Q4_1  w = d * q + m       d, m float16, 32 x 4 bits         5.0
    Q5_1  w = d * q + m       d, m float16, 32 x 5 bits         6.0

effkit's weight is (q - zero) * scale. A type without m holds it exactly when q - zero fits in its range; Q4_1 and Q5_1
hold the integers as they are, and m = -zero * scale rounded to float16: at most 2^-11 of m, a hundredth of a step.
"""

from __future__ import annotations

import gguf
import numpy as np
import torch

from ..stored.packed import PackedWeight
from .parts import integers, numbers, span

BLOCK = 32
RANGES = {"Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q8_0": (-128, 127)}
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34}
WITH_MINIMUM = {4: "Q4_1", 5: "Q5_1"}
SLICE = 1 << 22  # weights turned at once


def fits(packed: PackedWeight) -> bool:
    """Whether its groups are whole blocks and its scales float16 numbers."""
    if packed.columns % BLOCK or packed.group_size % BLOCK:
        return False
    return packed.scale_dtype == torch.float16 or bool((packed.scales.half().float() == packed.scales.float()).all())


def block_type(packed: PackedWeight, exact: bool) -> tuple[str, bool]:
    """(type, whether it holds the numbers exactly) of the smallest that serves; `exact`: prefer one that does.

    4 bits symmetric: Q4_0. 4 bits asymmetric: Q4_1, or exactly Q5_0. 8 bits asymmetric: Q8_0, rounded again.
    """
    low, high = span(packed)
    held = next((name for name, (least, most) in RANGES.items() if least <= low and high <= most), None)
    with_minimum = WITH_MINIMUM.get(packed.bits)
    if held and (exact or with_minimum is None or BLOCK_BYTES[held] <= BLOCK_BYTES[with_minimum]):
        return held, True
    return (with_minimum, False) if with_minimum else ("Q8_0", False)


def blocks(packed: PackedWeight, kind: str, rows: torch.Tensor) -> np.ndarray:
    """The bytes [rows, bytes of a row] of the given rows, in their order."""
    count = max(1, SLICE // packed.columns)
    return np.concatenate([_blocks(packed, kind, part) for part in rows.split(count)])


def _blocks(packed: PackedWeight, kind: str, rows: torch.Tensor) -> np.ndarray:
    low, high = span(packed)
    if kind == "Q8_0" and (low < -128 or high > 127):
        return gguf.quantize(numbers(packed, rows).numpy(), gguf.GGMLQuantizationType.Q8_0)
    q, zeros, scales = integers(packed, rows)
    per_group = packed.group_size // BLOCK
    d = scales.float().repeat_interleave(per_group, dim=1)  # [rows, blocks]
    zero = zeros.repeat_interleave(per_group, dim=1)
    grouped = q.reshape(len(q), -1, BLOCK)
    if kind in RANGES:
        values = grouped.to(torch.int16) - zero.to(torch.int16).unsqueeze(-1)
        head = [d]
        values = values.to(torch.int8).view(torch.uint8) if kind == "Q8_0" else (values - RANGES[kind][0]).to(torch.uint8)
    else:
        values = grouped
        head = [d, -zero.float() * d]
    data = [half.half().numpy()[..., None].view(np.uint8) for half in head]
    return np.concatenate([*data, *_digits(values.numpy(), kind)], axis=-1).reshape(len(q), -1)


def _digits(values: np.ndarray, kind: str) -> list[np.ndarray]:
    """The integers of blocks [rows, blocks, 32] as ggml lays them: low halves in low nibbles, then fifth bits before them."""
    if kind == "Q8_0":
        return [values]
    nibbles = (values[..., : BLOCK // 2] & 15) | ((values[..., BLOCK // 2 :] & 15) << 4)
    if kind in ("Q4_0", "Q4_1"):
        return [nibbles]
    return [np.packbits(values >> 4, axis=-1, bitorder="little"), nibbles]
