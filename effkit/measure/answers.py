"""A classifier's answers to many texts, in batches of texts of like length, and several models scored on the same draws of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from effkit.hardware.memory import guard
from effkit.models.model import Model
from effkit.spec.intervals import Estimate, resample
from effkit.spec.progress import Progress, Work

from .coder import Coder, in_batches
from .tasks import macro_f1

DRAWS = 1000


def answers(model: Model, texts: Sequence[str], window: int = 128, batch: int = 64, autocast: str | None = None) -> Work[Tensor]:
    """Logits [texts, classes] in float32 on the CPU. Texts are cut to `window` tokens."""
    coder = Coder(model, window)
    coded = [coder(text) for text in texts]
    out = torch.zeros(len(texts), int(model.config.num_labels))
    device, done, kind = model.device.torch, 0, getattr(torch, autocast or "bfloat16")
    for rows in in_batches(coded, batch):
        ids, mask = (t.to(device) for t in coder.batch([coded[i] for i in rows]))
        with torch.inference_mode(), guard(model.device, "answering"), torch.autocast(device.type, kind, enabled=autocast is not None):
            out[rows] = model.module(input_ids=ids, attention_mask=mask).logits.float().cpu()
        done += len(rows)
        yield Progress("answer", done, len(texts), "texts")
    return out


class Scores:
    """Macro-F1 of several models on the same texts, over the same draws of whole groups (paired cluster bootstrap)."""

    def __init__(self, labels: Sequence[int], groups: Sequence[Hashable], classes: int, seed: int = 0, draws: int = DRAWS) -> None:
        self.labels, self.classes = np.asarray(labels), classes
        index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        of = np.array([index[group] for group in groups])
        self.n = len(index)
        drawn = resample(self.n, draws, seed)
        counts = np.zeros((draws, self.n))
        np.add.at(counts, (np.arange(draws)[:, None], drawn), 1.0)
        self.weights = counts[:, of]
        self._known: dict[bytes, np.ndarray] = {}

    def drawn(self, answered: Sequence[int] | np.ndarray) -> np.ndarray:
        """Macro-F1 of each draw, [draws]."""
        answered = np.asarray(answered)
        key = answered.astype(np.int64).tobytes()
        if key not in self._known:
            self._known[key] = _scores(self.weights, self.labels, answered, self.classes)
        return self._known[key]

    def f1(self, answered: Sequence[int] | np.ndarray) -> Estimate:
        low, high = np.quantile(self.drawn(answered), [0.025, 0.975])
        value = _f1(self.labels, answered, self.classes)
        return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)), n=self.n)

    def ratio(self, answered: Sequence[int] | np.ndarray, base: Sequence[int] | np.ndarray) -> Estimate:
        """Macro-F1 over that of `base`, paired; unavailable where the base has none."""
        below = _f1(self.labels, base, self.classes)
        if not below:
            return Estimate.unavailable()
        value = _f1(self.labels, answered, self.classes) / below
        low, high = np.quantile(self.drawn(answered) / np.maximum(self.drawn(base), 1e-9), [0.025, 0.975])
        return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)), n=self.n)

    def behind(self, answered: Sequence[int] | np.ndarray, base: Sequence[int] | np.ndarray) -> bool:
        """Whether the data tell that `base` scores higher: the interval of the paired difference lies below zero."""
        return float(np.quantile(self.drawn(answered) - self.drawn(base), 0.975)) < 0


def _scores(weights: np.ndarray, labels: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 (as `tasks.macro_f1`: over the classes among the labels) for each row of weights [draws, texts]."""
    if not len(labels):
        return np.zeros(len(weights))
    eye = np.eye(classes)
    right = weights @ (eye[labels] * (labels == answered)[:, None])
    given, meant = weights @ eye[answered], weights @ eye[labels]
    total = given + meant
    f1 = np.where(total > 0, 2 * right / np.maximum(total, 1e-12), 0.0)
    return (f1 * (meant > 0)).sum(axis=1) / np.maximum((meant > 0).sum(axis=1), 1)


def _f1(labels: np.ndarray, answered: Sequence[int] | np.ndarray, classes: int) -> float:
    return macro_f1(labels.tolist(), np.asarray(answered).tolist(), classes)
