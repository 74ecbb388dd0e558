"""The factor of a matrix of second moments that GPTQ needs, made within the matrix's own memory.

Wanted is the upper U with U'U = inverse(H). With J the reversal of all inputs and J H J = L L', H = (J L J)(J L J)', so
U = J inverse(L) J: one Cholesky factor and one inverse of a triangle, block by block in place. The usual way, over the
inverse of H and its own factor, holds three such matrices, and one for 8192 inputs is 268 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from effkit.models.checks import finite

BLOCK = 256  # columns at once
DAMPING = 0.01  # of the mean of H's diagonal
TRIES = 6


@dataclass(frozen=True)
class Factor:
    """U by rows, in the order of the inputs that it was made for. `reversed`: J U J, lower [n, n]."""

    reversed: Tensor

    def rows(self, start: int, end: int) -> Tensor:
        """U[start:end, start:], a copy."""
        n = len(self.reversed)
        return self.reversed[n - end : n - start, : n - start].flip(0, 1)


def inverse_factor_(h: Tensor, order: Tensor) -> Factor:
    """The factor of the inverse of h[order][:, order], its diagonal raised, ten times more after every failure.

    h, symmetric, float32 [n, n], is used up. Inputs that are always zero get a diagonal of 1: their weights do not
    matter. Raises ArithmeticError if h is not finite.
    """
    reorder_(h, order.flip(0))
    diagonal = h.diagonal().clone()
    diagonal[diagonal <= 0] = 1.0
    damping = DAMPING * float(diagonal.mean())
    for _ in range(TRIES):
        h.diagonal().copy_(diagonal + damping)
        if cholesky_(h):
            invert_(h)
            if finite(h):
                return Factor(h)
            break
        damping *= 10
        for a in range(0, len(h), BLOCK):  # what is above the diagonal is still h's own
            b = min(a + BLOCK, len(h))
            h[b:, a:b] = h[a:b, b:].t()
            h[a:b, a:b] = torch.triu(h[a:b, a:b]) + torch.triu(h[a:b, a:b], 1).t()
    raise ArithmeticError(f"the inputs' {tuple(h.shape)} second moments have no Cholesky factor, whatever is added to their diagonal")


def reorder_(h: Tensor, order: Tensor) -> None:
    """h becomes h[order][:, order]."""
    for a in range(0, len(h), BLOCK):
        h[:, a : a + BLOCK] = h[order, a : a + BLOCK]
    for a in range(0, len(h), BLOCK):
        h[a : a + BLOCK] = h[a : a + BLOCK, order]


def cholesky_(h: Tensor) -> bool:
    """The lower Cholesky factor in the lower triangle of h, which stays as it was above the diagonal. False: there is none."""
    for a in range(0, len(h), BLOCK):
        b = min(a + BLOCK, len(h))
        panel = h[a:, a:b] - h[a:, :a] @ h[a:b, :a].t() if a else h[:, :b].clone()
        lower, failed = torch.linalg.cholesky_ex(panel[: b - a])
        if int(failed):
            return False
        h[a:b, a:b] = torch.triu(h[a:b, a:b], 1) + lower
        if b < len(h):  # torch_npu gives an empty product another shape
            h[b:, a:b] = torch.linalg.solve_triangular(lower.t(), panel[b - a :], upper=True, left=False)
    return True


def invert_(h: Tensor) -> None:
    """The lower triangle of h becomes its inverse, and zero what is above it."""
    h.tril_()
    for a in reversed(range(0, len(h), BLOCK)):
        b = min(a + BLOCK, len(h))
        own = torch.linalg.solve_triangular(h[a:b, a:b], torch.eye(b - a, dtype=h.dtype, device=h.device), upper=False)
        if b < len(h):
            h[b:, a:b] = -(h[b:, b:] @ h[b:, a:b]) @ own
        h[a:b, a:b] = own
