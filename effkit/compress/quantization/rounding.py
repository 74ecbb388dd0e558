"""Round-to-nearest on a uniform grid, one scale for each group: pure functions on tensors.

asymmetric: scale = (max - min) / (2^b - 1), zero = round(-min / scale), range widened to hold 0
            (Jacob et al. 2018, arXiv:1712.05877)
symmetric:  the entry of largest magnitude lies exactly on -2^(b-1), so that all levels are used and the scale may be
            negative (as llama.cpp's Q4_0)

The scale is rounded to its stored type first and integers are chosen for that, so nothing is lost afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

SLICE = 1 << 20  # weights compared at once
TINY = 6e-8  # the smallest positive float16: an all-zero group needs some scale


FITTED = 1 << 18  # weights whose scales are searched at once: they stay in a CPU's cache
SHRINK = 20  # ranges that `fit` tries for each group


class Rounded(NamedTuple):
    """Integers uint8 [rows, columns], scales [rows, groups] in the stored type, zero points uint8 [rows, groups] or None."""

    integers: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None


def round_to_nearest(weight: torch.Tensor, bits: int, group_size: int, symmetric: bool, scale_dtype: torch.dtype) -> Rounded:
    """Round [rows, columns]; group_size divides columns. Error per weight is at most half a scale inside the range."""
    rows, columns = weight.shape
    assert columns % group_size == 0, (columns, group_size)
    grouped = weight.float().reshape(rows, columns // group_size, group_size)
    if symmetric:
        scales, zeros = symmetric_scales(grouped, bits), None
        offset: torch.Tensor | int = 2 ** (bits - 1)
    else:
        scales, zeros = asymmetric_grid(grouped, bits)
        offset = zeros.unsqueeze(-1)
    scales = scales.to(scale_dtype)
    scales = torch.where(scales == 0, torch.full_like(scales, TINY), scales)
    q = torch.round(grouped / scales.float().unsqueeze(-1)) + offset
    integers = q.clamp_(0, 2**bits - 1).to(torch.uint8).reshape(rows, columns)
    return Rounded(integers, scales, None if zeros is None else zeros.to(torch.uint8))


def fit(
    weight: torch.Tensor,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None = None,
    tries: int = SHRINK,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zero points [rows, groups] (in their stored types) with the least error, weighted by `importance` [columns].

    A range that covers the largest weight wastes levels on it: narrower ones are tried for each group (to 30% of the full
    range at 2 bits, 60% at 4 and more), then the scale is set by least squares for the integers found. With the mean square
    of each input as importance this is the least error of the layer's output, inputs taken as uncorrelated.
    """
    count = max(1, FITTED // weight.shape[1])
    parts = [
        _fit(weight[start : start + count], bits, group_size, symmetric, scale_dtype, importance, tries)
        for start in range(0, len(weight), count)
    ]
    scales = torch.cat([scales for scales, _ in parts])
    return scales, None if symmetric else torch.cat([zeros for _, zeros in parts if zeros is not None])


def _fit(
    weight: torch.Tensor,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None,
    tries: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows, columns = weight.shape
    grouped = weight.float().reshape(rows, columns // group_size, group_size)
    by = None if importance is None else importance.float().reshape(1, columns // group_size, group_size)
    narrowest = {2: 0.3, 3: 0.45}.get(bits, 0.6)
    scales, zeros = _grid(grouped, bits, symmetric, scale_dtype)
    best = _loss(grouped, scales, zeros, bits, by)
    for shrink in torch.linspace(1.0, narrowest, tries).tolist():
        tried = _grid(grouped * shrink, bits, symmetric, scale_dtype)
        for refined in range(2):
            if refined:
                tried = _least_squares(grouped, *tried, bits, by).to(scale_dtype), tried[1]
            lost = _loss(grouped, *tried, bits, by)
            better = lost < best
            best = torch.where(better, lost, best)
            scales = torch.where(better, tried[0], scales)
            zeros = None if zeros is None or tried[1] is None else torch.where(better, tried[1], zeros)
    return scales, zeros


def _grid(grouped: torch.Tensor, bits: int, symmetric: bool, scale_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    if symmetric:
        scales, zeros = symmetric_scales(grouped, bits), None
    else:
        scales, zeros = asymmetric_grid(grouped, bits)
    scales = scales.to(scale_dtype)
    scales = torch.where(scales == 0, torch.full_like(scales, TINY), scales)
    return scales, None if zeros is None else zeros.to(torch.uint8)


def searched_values(
    weight: torch.Tensor, bits: int, group_size: int, symmetric: bool, importance: torch.Tensor | None = None, tries: int = SHRINK
) -> torch.Tensor:
    """What a float32 weight [rows, columns] becomes when it is rounded to nearest on the scales that `fit` finds."""
    scales, zeros = fit(weight, bits, group_size, symmetric, scale_type(weight, bits), importance, tries)
    grouped = weight.reshape(len(weight), -1, group_size)
    return (nearest(grouped, scales, zeros, bits) * scales.float().unsqueeze(-1)).reshape(weight.shape)


def nearest(grouped: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int) -> torch.Tensor:
    """Integers, less their zero point, of float32 groups [rows, groups, group_size] on a given grid; float32."""
    zero = 2.0 ** (bits - 1) if zeros is None else zeros.float().unsqueeze(-1)
    return (torch.round(grouped / scales.float().unsqueeze(-1)) + zero).clamp_(0, 2**bits - 1) - zero


def _loss(grouped: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int, by: torch.Tensor | None) -> torch.Tensor:
    lost = (nearest(grouped, scales, zeros, bits) * scales.float().unsqueeze(-1) - grouped).square_()
    return (lost if by is None else lost * by).sum(-1)


def _least_squares(
    grouped: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int, by: torch.Tensor | None
) -> torch.Tensor:
    """The scales that fit the integers of the given ones best."""
    q = nearest(grouped, scales, zeros, bits)
    weighted = q if by is None else q * by
    below = (weighted * q).sum(-1)
    found = (weighted * grouped).sum(-1) / below.clamp(min=1e-30)
    return torch.where((below > 0) & (found.abs() > TINY) & (found * scales.float() > 0), found, scales.float())


def asymmetric_grid(grouped: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points [rows, groups] for float32 groups [rows, groups, group_size]."""
    low = grouped.amin(dim=-1).clamp(max=0)
    high = grouped.amax(dim=-1).clamp(min=0)
    levels = 2**bits - 1
    scales = ((high - low) / levels).clamp(min=TINY)
    return scales, torch.round(-low / scales).clamp_(0, levels)


def symmetric_scales(grouped: torch.Tensor, bits: int) -> torch.Tensor:
    """Scales [rows, groups]; the zero point is 2^(bits-1) for all."""
    extreme = grouped.gather(-1, grouped.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
    return extreme / -(2 ** (bits - 1))


def scale_type(weight: torch.Tensor, bits: int) -> torch.dtype:
    """float16, or bfloat16 where a scale would leave float16's range. Both take two bytes."""
    low, high = torch.aminmax(weight)  # abs() would be another matrix
    largest = float(torch.maximum(-low, high)) * 2 / (2**bits - 1)
    return torch.float16 if largest < 6e4 else torch.bfloat16


def relative_error(approximate: torch.Tensor, weight: torch.Tensor) -> float:
    """Root mean square error over root mean square of the weights: 0.09 for 4-bit NF4 on normal weights."""
    return error_by_rows(lambda rows: approximate[rows], weight)


def error_by_rows(approximate: Callable[[slice], torch.Tensor], weight: torch.Tensor) -> float:
    """`relative_error` where `approximate` gives the rows of a slice: a large matrix never stands there twice."""
    count = max(1, SLICE // weight.shape[1])
    lost = whole = 0.0
    for start in range(0, len(weight), count):
        rows = slice(start, start + count)
        exact = weight[rows].float()
        lost += float((approximate(rows).float() - exact).square().sum())
        whole += float(exact.square().sum())
    return math.sqrt(lost / whole) if whole else 0.0
