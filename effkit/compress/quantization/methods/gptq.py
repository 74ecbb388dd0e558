"""GPTQ: weights are rounded one input at a time, and what each loses is made good by those still unrounded.

With H = sum of x x' over the inputs x of calibration text, the loss of the layer's output is (w - q) H (w - q)' for each
row w. After input j is rounded, the remaining weights move by -(w_j - q_j) / U_jj * U_j,j+1.., where U is the upper
Cholesky factor of the inverse of H (Frantar et al. 2022, arXiv:2210.17323). Inputs are taken in the order of falling H_jj
("activation order"), while the groups and their scales stay those of neighbouring inputs ("static groups"), so what is
stored looks like any other packed weight. Where H is not positive definite, its diagonal is raised until it is.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..factoring import Factor, inverse_factor_
from ..rounding import Rounded, fit
from .rtn import RoundToNearest

if TYPE_CHECKING:
    from ..streaming import Seen

BLOCK = 128  # inputs rounded between two updates of all the rest


class GPTQ(RoundToNearest):
    name = "gptq"
    title = "GPTQ"
    summary = "Rounds one input after the other; the rest make good what each loses on calibration text."
    reads = "inputs"

    def choose(
        self, weight: torch.Tensor, seen: Seen, bits: int, group: int, symmetric: bool, scale_dtype: torch.dtype
    ) -> Generator[None, None, Rounded]:
        if seen.shared is None:
            seen.shared = Prepared.of(seen.take_hessian())
            yield
        return (yield from rounded_in_order(weight, seen.shared, bits, group, symmetric, scale_dtype))


@dataclass(frozen=True)
class Prepared:
    """diagonal of H; the order of the inputs; the factor of the inverse of H in that order."""

    diagonal: torch.Tensor
    order: torch.Tensor
    factor: Factor

    @classmethod
    def of(cls, hessian: torch.Tensor) -> Prepared:
        """From H, float32, which is used up."""
        diagonal = hessian.diagonal().clone()
        order = torch.argsort(diagonal, descending=True, stable=True)
        return cls(diagonal, order, inverse_factor_(hessian, order))


def gptq(
    weight: torch.Tensor, hessian: torch.Tensor, bits: int, group_size: int, symmetric: bool, scale_dtype: torch.dtype
) -> Generator[None, None, Rounded]:
    """Integers, scales and zero points for a weight [rows, columns]; hessian: [columns, columns], sum of x x'.

    A generator, so that a large matrix can be interrupted; its return value is the result. Nothing given is changed.
    """
    return (yield from rounded_in_order(weight, Prepared.of(hessian.float().clone()), bits, group_size, symmetric, scale_dtype))


def rounded_in_order(
    weight: torch.Tensor, prepared: Prepared, bits: int, group_size: int, symmetric: bool, scale_dtype: torch.dtype
) -> Generator[None, None, Rounded]:
    """`gptq` with what is common to all weights that read the same inputs."""
    rows, columns = weight.shape
    order = prepared.order
    scales, zeros = fit(weight, bits, group_size, symmetric, scale_dtype, prepared.diagonal)
    yield
    w = weight[:, order].float()
    group_of = order // group_size
    steps = scales.float()
    offsets = torch.full_like(steps, 2.0 ** (bits - 1)) if zeros is None else zeros.float()
    integers = torch.empty(rows, columns, dtype=torch.uint8, device=w.device)
    highest = 2**bits - 1
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, u = w[:, start:end], prepared.factor.rows(start, end)
        errors = torch.empty_like(block)
        scale, zero = steps[:, group_of[start:end]], offsets[:, group_of[start:end]]
        chosen = torch.empty_like(block)
        for j in range(end - start):
            column, s, z = block[:, j], scale[:, j], zero[:, j]
            q = (torch.round(column / s) + z).clamp_(0, highest)
            error = (column - (q - z) * s) / u[j, j]
            block[:, j:] -= error.unsqueeze(1) * u[j, j : end - start].unsqueeze(0)
            errors[:, j], chosen[:, j] = error, q
        integers[:, start:end] = chosen.to(torch.uint8)
        if end < columns:  # torch_npu gives a product without columns another shape
            w[:, end:] -= errors @ u[:, end - start :]
        yield
    return Rounded(integers[:, torch.argsort(order)], scales, zeros)


METHOD = GPTQ()
