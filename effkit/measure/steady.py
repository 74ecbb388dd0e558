"""When times have become stationary, and which of them are out of the ordinary.

The first repeats pay for caches, allocators, autotuning and clocks that still rise. How many, nobody knows beforehand
(Barrett et al. 2017, "Virtual machine warmup blows hot and cold", OOPSLA), so it is found: the last change point of the
series ends the warm-up. Change points are those of medians (least absolute deviations), which a single slow repeat does
not move. Outliers are named by the modified z-score (Iglewicz & Hoaglin 1993).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANGE = 0.05  # of the later median: smaller steps are no warm-up
SPREADS = 4.0  # robust standard deviations between two levels that differ
GAIN = 0.25  # share of all deviations that a change of level must explain: one slow repeat between others explains none
TAU = 0.8
SCORE = 3.5  # modified z-score from which a value is an outlier
APART = 0.10  # and at least so far from the median: a series that hardly varies has no outliers of a few microseconds
MAD = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


def warm_up(times: Sequence[float], least: int = 1) -> int:
    """How many of `times`, the first ones, belong to the warm-up: at least `least`, then up to the last change of level.

    >>> warm_up([9.0, 4.0, 2.0, 2.1, 2.0, 1.9, 2.0]), warm_up([2.0, 2.1, 1.9, 9.0, 2.0, 2.0])
    (2, 1)
    """
    start = min(least, len(times))
    while (step := change(times[start:])) is not None:
        start += step
    return start


def change(times: Sequence[float]) -> int | None:
    """Where the level changes, as the index of the first time of the later level; None where it does not."""
    x = np.asarray(times, dtype=float)
    if len(x) < 3:
        return None
    costs = [_cost(x[:k]) + _cost(x[k:]) for k in range(1, len(x) - 1)]
    k = 1 + int(np.argmin(costs))
    before, after = float(np.median(x[:k])), float(np.median(x[k:]))
    # from neighbours, of which a change of level parts only one pair; deviations from fitted levels would be too small
    spread = MAD * float(np.median(np.abs(np.diff(x)))) / np.sqrt(2)
    if abs(before - after) > max(CHANGE * after, SPREADS * spread) and costs[k - 1] < (1 - GAIN) * _cost(x):
        return k
    return len(x) // 2 if _drifts(x) else None


def _drifts(x: np.ndarray) -> bool:
    """Whether nearly every later time is longer (or shorter) than every earlier one: Kendall's tau of at least 0.8."""
    if len(x) < 5 or np.ptp(x) <= CHANGE * np.median(x):
        return False
    later = np.sign(x[None, :] - x[:, None])[np.triu_indices(len(x), 1)]
    return bool(abs(later.mean()) >= TAU)


def outliers(times: Sequence[float]) -> list[int]:
    """Indices of the values that stand out from the rest: far from the median in spreads, and by a tenth of it."""
    x = np.asarray(times, dtype=float)
    if len(x) < 4:
        return []
    middle = float(np.median(x))
    far = np.abs(x - middle)
    return [int(i) for i in np.flatnonzero((far > SCORE * MAD * np.median(far)) & (far > APART * middle))]


def _cost(x: np.ndarray) -> float:
    return float(np.abs(x - np.median(x)).sum())
