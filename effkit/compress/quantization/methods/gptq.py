"""GPTQ: weights are rounded one input at a time, and what each loses is made good by those still unrounded.

With H = sum of x x' over the inputs x of calibration text, the loss of the layer's output is (w - q) H (w - q)' for each
row w. After input j is rounded, the remaining weights move by -(w_j - q_j) / U_jj * U_j,j+1.., where U is the upper
Cholesky factor of the inverse of H (Frantar et al. 2022, arXiv:2210.17323). Inputs are taken in the order of falling H_jj
("activation order"), while the groups and their scales stay those of neighbouring inputs ("static groups"), so what is
stored looks like any other packed weight. Where H is not positive definite, its diagonal is raised until it is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch

from ..rounding import Rounded, fit
from .rtn import RoundToNearest

if TYPE_CHECKING:
    from ..streaming import Seen

BLOCK = 128  # inputs rounded between two updates of all the rest
DAMPING = 0.01  # of the mean of H's diagonal
TRIES = 6


class GPTQ(RoundToNearest):
    name = "gptq"
    title = "GPTQ"
    summary = "Rounds one input after the other; the rest make good what each loses on calibration text."
    reads = "inputs"

    def choose(
        self, weight: torch.Tensor, seen: Seen, bits: int, group: int, symmetric: bool, scale_dtype: torch.dtype
    ) -> Generator[None, None, Rounded]:
        return gptq(weight, seen.hessian, bits, group, symmetric, scale_dtype)


def gptq(
    weight: torch.Tensor, hessian: torch.Tensor, bits: int, group_size: int, symmetric: bool, scale_dtype: torch.dtype
) -> Generator[None, None, Rounded]:
    """Integers, scales and zero points for a weight [rows, columns]; hessian: [columns, columns], sum of x x'.

    A generator, so that a large matrix can be interrupted; its return value is the result. Nothing given is changed.
    """
    rows, columns = weight.shape
    w = weight.float().clone()
    diagonal = hessian.diagonal().float()
    scales, zeros = fit(w, bits, group_size, symmetric, scale_dtype, diagonal)
    yield
    order = torch.argsort(diagonal, descending=True, stable=True)
    factor = inverse_factor(hessian.float()[order][:, order])
    yield
    w = w[:, order]
    group_of = order // group_size
    steps = scales.float()
    offsets = torch.full_like(steps, 2.0 ** (bits - 1)) if zeros is None else zeros.float()
    integers = torch.empty(rows, columns, dtype=torch.uint8, device=w.device)
    highest = 2**bits - 1
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, u = w[:, start:end], factor[start:end, start:end]
        errors = torch.empty_like(block)
        scale, zero = steps[:, group_of[start:end]], offsets[:, group_of[start:end]]
        chosen = torch.empty_like(block)
        for j in range(end - start):
            column, s, z = block[:, j], scale[:, j], zero[:, j]
            q = (torch.round(column / s) + z).clamp_(0, highest)
            error = (column - (q - z) * s) / u[j, j]
            block[:, j:] -= error.unsqueeze(1) * u[j, j:].unsqueeze(0)
            errors[:, j], chosen[:, j] = error, q
        integers[:, start:end] = chosen.to(torch.uint8)
        if end < columns:  # torch_npu gives a product without columns another shape
            w[:, end:] -= errors @ factor[start:end, end:]
        yield
    return Rounded(integers[:, torch.argsort(order)], scales, zeros)


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of H with its diagonal raised, ten times more after every failure.

    Inputs that are always zero get a diagonal of 1: their weights do not matter. Raises ArithmeticError if H is not finite.
    """
    h = hessian.clone()
    diagonal = h.diagonal()
    diagonal[diagonal <= 0] = 1.0
    damping = DAMPING * float(diagonal.mean())
    for _ in range(TRIES):
        raised = h.clone()
        raised.diagonal().add_(damping)
        lower, failed = torch.linalg.cholesky_ex(raised)
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and bool(torch.isfinite(upper).all()):
                return upper
        damping *= 10
    raise ArithmeticError(f"the inputs' {tuple(h.shape)} second moments have no Cholesky factor, whatever is added to their diagonal")


METHOD = GPTQ()
