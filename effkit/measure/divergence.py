"""Per-token losses, agreement and KL divergence from logits: the one implementation.

With z = logit - largest logit, S = sum of exp(z), and p the base's probabilities:

    NLL(token) = log S - z[token]        KL(base || model) = sum_v p_v (z_base_v - z_v) - log S_base + log S

Shifting first keeps float32 accurate where the probability is: sums agree with float64 to about 1e-7 a token, which
`torch.log_softmax` in float32 does not (1e-5 over 49,152 tokens). The vocabulary-sized work goes over slices of rows,
so that it needs little memory and, on a CPU, stays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .coding import Coded, rows_of_slice


@dataclass(frozen=True)
class Scores:
    """What one forward pass says about n positions; all on the CPU. `nll` and `kl` are float64 of shape [n], in nats.

    top:    the most likely token of each position, int64 [n]
    finite: whether the logits are numbers, and nothing that happens (or that the base allows) is ruled out by a -inf
    """

    top: Tensor
    nll: Tensor | None
    kl: Tensor | None
    finite: bool


@torch.no_grad()
def score(logits: Tensor, targets: Tensor | None = None, base: Tensor | Coded | None = None) -> Scores:
    """Score logits of shape [n, vocabulary] against the next tokens (`targets`, [n]) and the base's outputs.

    `base` is the base's logits [n, vocabulary], or their compact form. KL of a tensor to itself is exactly 0;
    logits [0, 0] against base logits [0, log 3] give 0.1308 nats.
    """
    n = len(logits)
    rows = rows_of_slice(logits)
    slices = []
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        slices.append(_slice(logits[part], None if targets is None else targets[part], _base_rows(base, part, logits.device)))
    top, nll, kl, total = (None if column[0] is None else torch.cat(column) for column in zip(*slices, strict=True))
    assert top is not None
    finite = all(bool(torch.isfinite(x).all()) for x in (nll, kl, total) if x is not None)
    return Scores(top, nll, kl, finite)


def _slice(logits: Tensor, targets: Tensor | None, base: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Top token, NLL, KL and log S of a few rows. `base` may be overwritten; `logits` is left alone."""
    largest, top = logits.max(-1, keepdim=True)
    z = logits.float() - largest.float()
    chosen = None if targets is None else _wide(z.gather(-1, targets.to(z.device)[:, None])[:, 0])
    kl = None
    if base is not None:
        p = base.exp()
        p_total = _wide(p.sum(-1))
        cross = _wide(base.sub_(z).mul_(p).sum(-1))
        kl = cross / p_total - p_total.log()
    total = _wide(z.exp_().sum(-1)).log()
    if kl is not None:
        # A KL divergence is never negative; what lies below zero is rounding (about 1e-7).
        kl = (kl + total).clamp_min_(0.0)
    return top[:, 0].cpu(), None if chosen is None else total - chosen, kl, total


def _base_rows(base: Tensor | Coded | None, part: slice, device: torch.device) -> Tensor | None:
    if base is None:
        return None
    if isinstance(base, Coded):
        return base.decode(part, device)
    rows = base[part].to(device, torch.float32)
    # exp(-100) is nothing in float32; a base's -inf would make 0 * inf of it.
    return (rows - rows.amax(-1, keepdim=True)).clamp_(min=-100.0)


def _wide(rows: Tensor) -> Tensor:
    """One number a row, in float64, on the CPU: some accelerators have no float64."""
    return rows.cpu().double()
