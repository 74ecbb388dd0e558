"""From per-token values to estimates: the bootstrap draws whole windows of text (see spec.intervals).

Values come as arrays of shape [windows, n]. Tokens of a window share its topic and its context, so the window is the
unit that is drawn again. (Seen on WikiText-2 with 4 to 16 windows of 256 tokens: nominal 95% intervals of perplexity
and KL cover 92 to 97% over windows, but only 78 to 91% over blocks of 64 tokens, as if these were independent.)
Fewer than four windows leave too little to draw from: then a window is cut into blocks of about 64 tokens, equal to
within one, and the interval says how sure one is of these windows, not of all such text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from effkit.spec.intervals import Estimate, mean_interval, resample, small_sample_stretch

BLOCK = 64
ENOUGH = 4
DRAWS = 500


def cuts(windows: int, n: int) -> list[int]:
    """Where the blocks of each window of n values begin, and n: cuts(8, 255) -> [0, 255], cuts(1, 255) -> [0, 63, 127, 191, 255]."""
    count = 1 if windows >= ENOUGH else max(1, round(n / BLOCK))
    return [n * i // count for i in range(count + 1)]


def block_means(values: np.ndarray) -> np.ndarray:
    """Means of the blocks of values [windows, n], window after window."""
    means = [values[:, a:b].mean(axis=1) for a, b in pairwise(cuts(*values.shape))]
    return np.stack(means, axis=1).reshape(-1)


def mean_over(values: np.ndarray, unit: str = "") -> Estimate:
    """The mean over all tokens, with the interval that their blocks give."""
    rough = mean_interval(block_means(values), unit=unit)
    assert rough.value is not None
    mean = float(values.mean())
    # Blocks differ by a token in size, so that the mean of their means is off by a hair: the interval moves with the value.
    shift = mean - rough.value
    return rough.model_copy(update={"value": mean, "low": _plus(rough.low, shift), "high": _plus(rough.high, shift)})


def share_over(hits: np.ndarray) -> Estimate:
    """The share of tokens that are hits (0 or 1), with its interval inside [0, 1].

    Where all tokens hit (or none), the bootstrap has nothing to vary, so the bound is 3/n (rule of three: Hanley and
    Lippman-Hand 1983, JAMA 249:1743).
    """
    mean = mean_over(hits)
    bound = min(1.0, 3 / hits.size)
    if mean.value == 1.0:
        return mean.model_copy(update={"low": 1.0 - bound, "high": 1.0})
    if mean.value == 0.0:
        return mean.model_copy(update={"low": 0.0, "high": bound})
    low, high = (None if x is None else min(1.0, max(0.0, x)) for x in (mean.low, mean.high))
    return mean.model_copy(update={"low": low, "high": high})


def percentiles_over(values: np.ndarray, shares: Sequence[float], unit: str = "", seed: int = 0) -> list[Estimate]:
    """Percentiles of the tokens' values, each with a percentile-bootstrap interval over blocks.

    One sort serves all draws: a draw only gives each block, and so each sorted token, a whole-number weight.
    """
    points = [float(x) for x in np.quantile(values, shares)]
    edges = cuts(*values.shape)
    within = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    owner = (np.arange(values.shape[0])[:, None] * (len(edges) - 1) + within).reshape(-1)
    blocks = values.shape[0] * (len(edges) - 1)
    if blocks < 2:
        return [Estimate(value=point, unit=unit, n=blocks) for point in points]
    order = np.argsort(values, axis=None, kind="stable")
    ranked, owner = values.reshape(-1)[order], owner[order]
    drawn = resample(blocks, DRAWS, seed)
    found = np.empty((DRAWS, len(points)))
    for i in range(DRAWS):
        weight = np.cumsum(np.bincount(drawn[i], minlength=blocks)[owner])
        found[i] = ranked[np.minimum(np.searchsorted(weight, np.asarray(shares) * weight[-1]), len(ranked) - 1)]
    stretch = small_sample_stretch(blocks)
    floor = float(ranked[0])
    estimates = []
    for point, draws in zip(points, found.T, strict=True):
        low, high = (float(q) for q in np.quantile(draws, [0.025, 0.975]))
        low, high = min(low, point), max(high, point)
        low = max(floor, point - (point - low) * stretch)
        estimates.append(Estimate(value=point, low=low, high=point + (high - point) * stretch, unit=unit, n=blocks))
    return estimates


def exponential(estimate: Estimate) -> Estimate:
    """exp of a value and of its interval: a mean loss becomes a perplexity. Beyond 1e308 it is unavailable."""
    if estimate.value is None or estimate.value > 709:
        return Estimate.unavailable()
    low, high = (None if x is None else math.exp(min(x, 709.0)) for x in (estimate.low, estimate.high))
    return Estimate(value=math.exp(estimate.value), low=low, high=high, n=estimate.n)


def _plus(x: float | None, shift: float) -> float | None:
    return None if x is None else x + shift
