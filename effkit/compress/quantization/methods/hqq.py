"""HQQ: half-quadratic quantization; no calibration text, real zero points.

The zero points z are chosen for the least ||W - s (Q - z)||_p with p = 0.7, which, unlike squares, does not let a few
outliers decide. Half-quadratic splitting gives the error a part W_e of its own and alternates (Badri and Shaji 2023,
"Half-Quadratic Quantization of Large Machine Learning Models"):

    W_e = shrink(W - s (Q - z))         z = mean over the group of Q - (W - W_e) / s

Scales stay those of the full range. A real zero point takes two bytes a group, where the other methods' take `bits` bits:
at 4 bits in groups of 32 that is 5.0 bits a weight instead of 4.63.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effkit.models.stored.packed import PackedLinear, PackedWeight
from effkit.spec.errors import BadInput

from ..rounding import Rounded, asymmetric_grid, scale_type
from .rtn import CHUNK, RoundToNearest

if TYPE_CHECKING:
    from effkit.spec.recipe import Quantize

NORM = 0.7
BETA, GROWTH = 10.0, 1.01  # of the penalty, as in the authors' code
ITERATIONS = 20


class HQQ(RoundToNearest):
    name = "hqq"
    title = "Half-quadratic (HQQ)"
    summary = "Zero points that lose least where a few weights are far off. No text needed."

    def check(self, step: Quantize, rows: int, columns: int) -> str | None:
        if step.symmetric:
            raise BadInput("symmetric is True for hqq", "Allowed: False; its zero points are what it chooses", "Leave symmetric out")
        return None

    def predicted_bytes(self, step: Quantize, rows: int, columns: int, group: int) -> int:
        return PackedWeight.predicted_bytes(rows, columns, step.bits, group, False, real_zeros=True)

    def apply(self, step: Quantize, weight: torch.Tensor, bias: torch.Tensor | None, group: int, dtype: torch.dtype) -> PackedLinear:
        rows, columns = weight.shape
        kind = scale_type(weight, step.bits)
        packed = PackedWeight(rows, columns, step.bits, group, False, dtype, kind, device=weight.device, zero_dtype=torch.float16)
        count = max(1, CHUNK // columns)
        for start in range(0, rows, count):
            packed.store_(start, *half_quadratic(weight[start : start + count], step.bits, group, kind))
        return PackedLinear(packed, bias)


def half_quadratic(weight: torch.Tensor, bits: int, group_size: int, scale_dtype: torch.dtype) -> Rounded:
    """Integers, scales and real zero points (float16) for a weight [rows, columns]."""
    rows, columns = weight.shape
    grouped = weight.float().reshape(rows, columns // group_size, group_size)
    scales, zeros = asymmetric_grid(grouped, bits)
    scales = scales.to(scale_dtype)
    scales = torch.where(scales == 0, torch.finfo(scale_dtype).tiny, scales)
    step, zeros = scales.float().unsqueeze(-1), zeros.unsqueeze(-1)
    highest, beta = 2**bits - 1, BETA
    best, chosen = torch.full_like(zeros, torch.inf), zeros
    for _ in range(ITERATIONS):
        q = torch.round(grouped / step + zeros).clamp_(0, highest)
        apart = grouped - (q - zeros) * step
        lost = apart.abs().pow(NORM).sum(-1, keepdim=True)
        better = lost < best
        if not bool(better.any()):
            break
        best, chosen = torch.where(better, lost, best), torch.where(better, zeros, chosen)
        zeros = (q - (grouped - shrunk(apart, beta)) / step).mean(-1, keepdim=True).half().float()
        beta *= GROWTH
    integers = torch.round(grouped / step + chosen).clamp_(0, highest).to(torch.uint8)
    return Rounded(integers.reshape(rows, columns), scales, chosen.squeeze(-1).half())


def shrunk(x: torch.Tensor, beta: float) -> torch.Tensor:
    """The minimum over e of |e|^p + beta/2 (e - x)^2, by the generalised soft threshold."""
    return x.sign() * (x.abs() - x.abs().clamp(min=1e-30).pow(NORM - 1) / beta).clamp_(min=0)


METHOD = HQQ()
