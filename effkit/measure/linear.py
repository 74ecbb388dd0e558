"""The linear model that every specialist must beat: softmax regression on word and character n-grams.

Fitted on labels it is the usual baseline; fitted on a teacher's probabilities for many texts it is that baseline distilled.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 30_000  # features of each kind
STRENGTH = 30.0  # inverse regularisation, as scikit-learn's C


class Linear:
    """TF-IDF of words and pairs of words, and of 2 to 5 characters within words, and one weight for each class."""

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: all that may be read, labelled or not: they decide the vocabulary and the weights of words."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        least = 1 if len(texts) < 2000 else 2
        self.features: Any = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MOST, min_df=least, token_pattern=r"(?u)\S+"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=MOST, min_df=least),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.features.fit(texts)
        self.weight = np.zeros((0, 0))
        self.bias = np.zeros(0)

    def fit_(self, texts: Sequence[str], targets: np.ndarray, iterations: int = 60) -> Linear:
        """targets: probabilities [texts, classes], each row times the weight of its text."""
        from scipy.optimize import minimize

        x = self.features.transform(list(texts)).tocsr().astype(np.float32)
        xt = x.T.tocsr()
        y = np.asarray(targets, np.float32)
        mass = y.sum(axis=1, keepdims=True)
        n, classes = x.shape[1], y.shape[1]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            w, b = flat[: n * classes].reshape(n, classes).astype(np.float32), flat[n * classes :].astype(np.float32)
            z = x @ w + b
            z -= z.max(axis=1, keepdims=True)
            logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
            error = np.exp(logs) * mass - y
            value = -float((y * logs).sum()) + float((w * w).sum()) / (2 * STRENGTH)
            slope = xt @ error + w / STRENGTH
            return value, np.concatenate([slope.ravel(), error.sum(axis=0)]).astype(np.float64)

        found = minimize(loss, np.zeros(n * classes + classes), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 6})
        self.weight, self.bias = found.x[: n * classes].reshape(n, classes).astype(np.float32), found.x[n * classes :].astype(np.float32)
        return self

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, classes]."""
        return np.asarray(self.features.transform(list(texts)) @ self.weight) + self.bias

    @property
    def stored_bytes(self) -> int:
        """Weights, bias and IDF in float32; the n-grams' own letters are not counted, as a tokenizer's are not."""
        return 4 * (self.weight.size + self.bias.size + self.weight.shape[0])
