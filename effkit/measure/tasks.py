"""Task scores of classifiers, with intervals that know which rows belong together.

Macro-F1 is the mean over classes of 2 TP / (true + predicted): a rare class counts as much as a common one. Intervals are
percentiles of a bootstrap that draws whole groups (Efron and Tibshirani 1993, chapter 8), and two predictors are
compared on the same draws, because the hard rows are hard for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Estimate, small_sample_stretch

from .checks import whole

METRICS = ("macro_f1", "accuracy")


def macro_f1(truth: Sequence[int], predicted: Sequence[int], classes: int | None = None) -> float:
    """Mean F1 over the classes that occur in `truth`, from 0 to 1. Equals scikit-learn's f1_score over those labels.

    >>> round(macro_f1([0, 0, 1, 2], [0, 1, 1, 1]), 4)
    0.3889
    """
    return float(_score(_Counts(truth, predicted, classes).total, "macro_f1")[0])


def accuracy(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """The share of rows whose prediction is right."""
    return float(_score(_Counts(truth, predicted, None).total, "accuracy")[0])


def score(
    truth: Sequence[int],
    predicted: Sequence[int],
    groups: Sequence[str] | None = None,
    *,
    metric: str = "macro_f1",
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The score of one predictor with its 95% interval. groups: what is drawn together; None: each row by itself."""
    (value, drawn), n = _drawn(truth, [predicted], groups, metric, draws, seed)
    return _estimate(value[0], drawn[0], n, (0.0, 1.0))


def difference(
    truth: Sequence[int],
    a: Sequence[int],
    b: Sequence[int],
    groups: Sequence[str] | None = None,
    *,
    metric: str = "macro_f1",
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Score of a minus score of b on the same draws. `told_apart` says what it means."""
    (value, drawn), n = _drawn(truth, [a, b], groups, metric, draws, seed)
    return _estimate(value[0] - value[1], drawn[0] - drawn[1], n, (-1.0, 1.0))


def retained(
    truth: Sequence[int],
    student: Sequence[int],
    teacher: Sequence[int],
    groups: Sequence[str] | None = None,
    *,
    chance: int | None = None,
    metric: str = "macro_f1",
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """What the student keeps of the teacher's score: student / teacher, on the same draws.

    chance: a class; then (student - c) / (teacher - c), where c is the score of answering that class always: the
            majority class of the training labels. Unavailable where the teacher is not above it; without an interval
            where more than one draw in forty leaves the teacher at or below it.
    """
    predictors = [student, teacher] if chance is None else [student, teacher, [chance] * len(truth)]
    (value, drawn), n = _drawn(truth, predictors, groups, metric, draws, seed)
    floor, floors = (value[2], drawn[2]) if chance is not None else (0.0, np.zeros(drawn.shape[1]))
    if value[1] - floor <= 0:
        return Estimate.unavailable()
    above = drawn[1] - floors
    ratio = (value[0] - floor) / (value[1] - floor)
    if (above <= 0).mean() > 0.025:
        return Estimate(value=float(ratio), n=n)
    kept = above > 0
    return _estimate(ratio, (drawn[0] - floors)[kept] / above[kept], n, (-np.inf, np.inf))


def told_apart(found: Estimate) -> bool | None:
    """Whether the data tell the two apart: the interval of their difference excludes zero. None where it is unknown."""
    if found.low is None or found.high is None:
        return None
    return found.low > 0 or found.high < 0


class _Counts:
    """Counts of each group: true positives, true and predicted rows, [groups, 3, classes]."""

    def __init__(self, truth: Sequence[int], predicted: Sequence[int], classes: int | None, groups: np.ndarray | None = None) -> None:
        y: Any = np.asarray(truth, dtype=np.int64)
        p: Any = np.asarray(predicted, dtype=np.int64)
        if y.shape != p.shape or y.ndim != 1 or not len(y):
            raise BadInput(f"there are {p.shape} predictions for {y.shape} rows", "Allowed: one prediction a row, and at least one row")
        if min(y.min(), p.min()) < 0:
            raise BadInput(f"a label is {min(y.min(), p.min())}", "Allowed: whole numbers from 0, the index of a class")
        width = max(int(max(y.max(), p.max())) + 1, classes or 0)
        index: Any = np.zeros(len(y), dtype=np.int64) if groups is None else groups
        self.each = np.zeros((int(index.max()) + 1, 3, width))
        np.add.at(self.each, (index[y == p], 0, y[y == p]), 1)
        np.add.at(self.each, (index, 1, y), 1)
        np.add.at(self.each, (index, 2, p), 1)

    @property
    def total(self) -> np.ndarray:
        return self.each.sum(axis=0)[None]


def _score(counts: np.ndarray, metric: str) -> np.ndarray:
    """Scores [draws] from counts [draws, 3, classes]."""
    right, true, predicted = counts[:, 0], counts[:, 1], counts[:, 2]
    if metric == "accuracy":
        return right.sum(axis=1) / true.sum(axis=1)
    present = true > 0
    f1 = 2 * right / np.where(present, true + predicted, 1)
    return np.where(present, f1, 0).sum(axis=1) / present.sum(axis=1)


def _drawn(truth: Any, predictors: Sequence[Any], groups: Any, metric: str, draws: int, seed: int) -> tuple[tuple[Any, Any], int]:
    """((scores [predictors], scores [predictors, draws]), number of groups)."""
    if metric not in METRICS:
        raise choice("metric", metric, METRICS)
    whole("draws", draws, 40)
    if groups is not None and len(groups) != len(truth):
        raise BadInput(f"there are {len(groups)} groups for {len(truth)} rows", "Allowed: one group a row")
    index = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1) if groups is not None else np.arange(len(truth))
    width = max(max(map(int, labels)) for labels in [truth, *predictors]) + 1 if len(truth) else None
    counts = [_Counts(truth, predicted, width, index) for predicted in predictors]
    n = len(counts[0].each)
    values = np.array([_score(found.total, metric)[0] for found in counts])
    table = np.stack([found.each for found in counts], axis=1).reshape(n, -1)
    random, drawn = np.random.default_rng(seed), np.empty((draws, table.shape[1]))
    for draw in drawn:
        np.matmul(np.bincount(random.integers(0, n, n), minlength=n).astype(float), table, out=draw)
    drawn = np.stack([_score(part, metric) for part in np.moveaxis(drawn.reshape(draws, len(counts), 3, -1), 1, 0)])
    return (values, drawn), n


def _estimate(value: float, drawn: np.ndarray, n: int, bounds: tuple[float, float]) -> Estimate:
    """The value with the 2.5 and 97.5 percentiles of the draws around it, stretched where the groups are few.

    Drawing groups again lowers macro-F1 by itself, so the draws are moved until their mean is the value: of the intervals
    of simulated sets of 364 groups in 21 classes, 0.92 then hold the true score, and 0.83 without.
    """
    value = float(value)
    if n < 2:
        return Estimate(value=value, n=n)
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]) - drawn.mean() + value)
    stretch = small_sample_stretch(n)
    low, high = min(value - (value - low) * stretch, value), max(value + (high - value) * stretch, value)
    return Estimate(value=value, low=max(low, bounds[0]), high=min(high, bounds[1]), n=n)
