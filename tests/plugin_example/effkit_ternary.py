"""Ternary weights: each weight of a group becomes -s, 0 or +s; no calibration text.

The best s for a given threshold t is the mean of the magnitudes above it, and t = 0.7 mean |w| is near the best threshold for
normal weights (Li, Zhang and Liu 2016, arXiv:1605.04711). Stored as effkit's symmetric 2-bit weights, whose integers 1, 2 and 3
stand for -1, 0 and +1; the fourth, 0, is never used.
"""

from __future__ import annotations

import torch

from effkit.compress.quantization.methods.rtn import RoundToNearest
from effkit.models.stored.packed import PackedLinear, PackedWeight

THRESHOLD = 0.7


class Ternary(RoundToNearest):
    """Where it can run and which groups fit are as for round to nearest."""

    name = "ternary"
    title = "Ternary"
    summary = "Each weight is -s, 0 or +s, one s a group. No text needed."
    bits = (2,)

    def predicted_bytes(self, step, rows: int, columns: int, group: int) -> int:
        return PackedWeight.predicted_bytes(rows, columns, 2, group, symmetric=True)

    def apply(self, step, weight: torch.Tensor, bias: torch.Tensor | None, group: int, dtype: torch.dtype) -> PackedLinear:
        rows, columns = weight.shape
        packed = PackedWeight(rows, columns, 2, group, True, dtype, device=weight.device)
        packed.store_(0, *ternary(weight, group), None)
        return PackedLinear(packed, bias)


def ternary(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers uint8 [rows, columns] in 1 to 3, and scales float16 [rows, groups]."""
    grouped = weight.float().reshape(len(weight), -1, group)
    size = grouped.abs()
    above = size > THRESHOLD * size.mean(-1, keepdim=True)
    scales = (size * above).sum(-1) / above.sum(-1).clamp(min=1)
    integers = 2 + grouped.sign() * above
    return integers.to(torch.uint8).reshape(weight.shape), scales.to(torch.float16)


METHOD = Ternary()
