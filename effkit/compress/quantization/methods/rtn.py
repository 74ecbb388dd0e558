"""Round-to-nearest: no calibration text, seconds for a small model; the yardstick for every other method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effkit.models.stored.packed import PackedEmbedding, PackedLinear, PackedWeight
from effkit.spec.errors import BadInput
from effkit.spec.recipe import BITS

from ..rounding import round_to_nearest, scale_type

if TYPE_CHECKING:
    from effkit.hardware.attached.device import Device
    from effkit.spec.recipe import Quantize

CHUNK = 1 << 22  # weights rounded at once: keeps temporaries below 100 MB


class RoundToNearest:
    name = "rtn"
    title = "Round to nearest"
    summary = "Each weight goes to the nearest of 2^bits levels of its group. No text needed."
    bits = BITS
    group_sizes: tuple[int, ...] = ()

    def why_not(self, device: Device) -> str | None:
        return None

    def group_for(self, step: Quantize, columns: int) -> int:
        if step.group_size == "auto":
            return next((group for group in (64, 32) if columns % group == 0), columns)
        group = step.group_size or columns
        if columns % group:
            fit = [g for g in (16, 32, 48, 64, 96, 128, 192, 256) if columns % g == 0]
            raise BadInput(
                f"group_size is {step.group_size}, which does not divide a row of {columns} weights",
                f"Allowed: a divisor of {columns}" + (f", such as {', '.join(map(str, fit))}" if fit else ""),
                "Or choose None (whole rows) or 'auto'",
            )
        return group

    def check(self, step: Quantize, rows: int, columns: int) -> str | None:
        return None

    def predicted_bytes(self, step: Quantize, rows: int, columns: int, group: int) -> int:
        return PackedWeight.predicted_bytes(rows, columns, step.bits, group, step.symmetric)

    def apply(self, step: Quantize, weight: torch.Tensor, bias: torch.Tensor | None, group: int, dtype: torch.dtype) -> PackedLinear:
        return PackedLinear(rounded(weight, step.bits, group, step.symmetric, dtype), bias)


def rounded(weight: torch.Tensor, bits: int, group: int, symmetric: bool, dtype: torch.dtype) -> PackedWeight:
    """Round a matrix [rows, columns] and pack it, some rows at a time."""
    rows, columns = weight.shape
    packed = PackedWeight(rows, columns, bits, group, symmetric, dtype, scale_type(weight, bits), device=weight.device)
    step = max(1, CHUNK // columns)
    for start in range(0, rows, step):
        part = round_to_nearest(weight[start : start + step], bits, packed.group_size, symmetric, packed.scale_dtype)
        packed.store_(start, *part)
    return packed


def rounded_embedding(
    weight: torch.Tensor, bits: int, group: int, dtype: torch.dtype, padding_idx: int | None, scale: float
) -> PackedEmbedding:
    """The token embedding, always with zero points: rows differ much in their mean. scale: of what is looked up."""
    return PackedEmbedding(rounded(weight, bits, group, False, dtype), padding_idx, scale)


RTN = RoundToNearest()
