"""What every classifier must beat: the majority class, and a linear model over word and character n-grams.

TF-IDF n-grams with logistic regression (Wang and Manning 2012, ACL 2012:90) cost a thousandth of a language model and are
hard to beat where words decide the class. The distilled one learns, like a student, from a teacher's probabilities on
labels and pool together. Each predicts alone, and its bytes are those of its vocabulary and weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from effkit.models.texts.labelled import LabelledSet
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work, long_work

MOST_FEATURES = 50_000  # of each kind, the most frequent ones
C = 10.0  # inverse strength of the regularisation: rows have a squared length of 2
ALPHA = 1.0  # strength of the ridge
LEAST = 1e-4  # of a teacher's probability, so that its logarithm is finite
LONGEST = 10_000  # characters of a text that are counted: some 1,700 words, beyond which counting takes minutes and GB


class Predictor(Protocol):
    """A classifier of texts. `bytes`: what must be stored to predict again."""

    name: str
    classes: tuple[str, ...]

    @property
    def bytes(self) -> int: ...

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities [texts, classes]."""
        ...


@dataclass(frozen=True)
class Majority:
    """Answers with the class shares of the labels, whatever the text."""

    name: str
    classes: tuple[str, ...]
    shares: np.ndarray

    @property
    def bytes(self) -> int:
        return self.shares.nbytes

    @property
    def majority(self) -> int:
        """The index of the most frequent class, the first of equals."""
        return int(self.shares.argmax())

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        return np.tile(self.shares, (len(texts), 1))


@dataclass(frozen=True, repr=False)
class Linear:
    """softmax(features @ weights + bias) with weights [features, classes that were seen]; other classes have 0."""

    name: str
    classes: tuple[str, ...]
    features: Any
    weights: np.ndarray
    bias: np.ndarray
    seen: tuple[int, ...]
    note: str = field(default="", compare=False)

    @property
    def bytes(self) -> int:
        """The n-grams as text, an inverse document frequency each, the weights and the bias."""
        words = sum(len(term.encode()) + 1 for _, part in self.features.transformer_list for term in part.vocabulary_)
        return words + 4 * self.weights.shape[0] + self.weights.nbytes + self.bias.nbytes

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        logits = self.features.transform([text[:LONGEST] for text in texts]) @ self.weights + self.bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        out = np.zeros((len(texts), len(self.classes)), dtype=np.float32)
        out[:, list(self.seen)] = shares / shares.sum(axis=1, keepdims=True)
        return out

    def __repr__(self) -> str:
        return f"Linear({self.name!r}, {self.weights.shape[0]} features, {len(self.classes)} classes, {self.bytes} bytes)"


def majority(labelled: LabelledSet) -> Majority:
    """The majority class of the labels."""
    counts = Counter(labelled.labels)
    shares = np.array([counts[i] for i in range(len(labelled.classes))], dtype=np.float32) / max(len(labelled), 1)
    return Majority("majority", labelled.classes, shares)


@long_work
def linear(labelled: LabelledSet) -> Work[Linear]:
    """Logistic regression on the labels, each class weighing the same. Deterministic."""
    from sklearn.linear_model import LogisticRegression

    seen = tuple(sorted(set(labelled.labels)))
    if len(seen) < 2:
        raise BadInput(f"{labelled.name} has labels of {len(seen)} class", "Allowed: labels of at least two classes")
    yield Progress("linear", 0, 2, "steps", "counting n-grams")
    features, rows = _counted(labelled.texts, least=1)
    yield Progress("linear", 1, 2, "steps", f"fitting {rows.shape[1]} features on {len(labelled)} labels")
    with _one_thread():
        fitted = LogisticRegression(C=C, class_weight="balanced", max_iter=500, tol=1e-4).fit(rows, labelled.labels)
    weights, bias = fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)
    if len(seen) == 2:  # one column stands for both
        weights, bias = np.hstack([-weights / 2, weights / 2]), np.hstack([-bias / 2, bias / 2])
    yield Progress("linear", 2, 2, "steps")
    return Linear("linear", labelled.classes, features, weights, bias, seen)


@long_work
def distilled_linear(texts: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]) -> Work[Linear]:
    """The same features fitted to a teacher's probabilities [texts, classes]: a ridge regression on their logarithms.

    texts: labels and pool together. Deterministic.
    """
    from sklearn.linear_model import Ridge

    targets = np.asarray(probabilities, dtype=np.float32)
    if targets.shape != (len(texts), len(classes)) or not len(texts):
        raise BadInput(
            f"the teacher's probabilities have the shape {targets.shape}",
            f"Allowed: ({len(texts)}, {len(classes)}), a row for each text and a column for each class, and at least one text",
        )
    if not np.isfinite(targets).all() or targets.min() < 0 or np.abs(targets.sum(axis=1) - 1).max() > 1e-3:
        raise BadInput("the teacher's probabilities do not sum to 1 in each row", "Allowed: the softmax of what `answers` returns")
    logs = np.log(np.maximum(targets, LEAST))
    logs -= logs.mean(axis=1, keepdims=True)
    yield Progress("distilled linear", 0, 2, "steps", "counting n-grams")
    features, rows = _counted(texts, least=2 if len(texts) >= 100 else 1)
    yield Progress("distilled linear", 1, 2, "steps", f"fitting {rows.shape[1]} features on {len(texts)} texts")
    with _one_thread():
        fitted = Ridge(alpha=ALPHA, solver="sparse_cg", tol=1e-3, max_iter=100).fit(rows, logs)
    weights, bias = fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)
    yield Progress("distilled linear", 2, 2, "steps")
    return Linear("distilled linear", tuple(classes), features, weights, bias, tuple(range(len(classes))))


def _counted(texts: Sequence[str], least: int) -> tuple[Any, Any]:
    """(the fitted features, their rows [texts, features]): words (1-2) and characters within words (2-5), as TF-IDF.

    Only the first 10,000 characters of a text are counted, here and in answering.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    common: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32, "min_df": least, "max_features": MOST_FEATURES}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **common)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **common)
    both = [("words", words), ("characters", characters)]
    for parts in (both, both[1:]):  # there are texts without a single word, of emoji for example
        union = FeatureUnion(parts)
        try:
            return union, union.fit_transform([text[:LONGEST] for text in texts]).tocsr()
        except ValueError as error:
            why = error
    raise BadInput(f"no n-grams can be counted ({why})", "Allowed: texts with words or other characters in them")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sparse rows keep one thread busy; more of them only wait for each other (measured: 3 to 9 times slower with two)."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
