"""What importance is measured on: a little text of the domain, read as the model would read it, always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from effkit.models.model import Model
from effkit.models.texts.datasets import Text, read_text, windows
from effkit.spec.recipe import Prune, Student

WINDOWS = 4  # of a causal language model
WINDOW = 128
DOCUMENTS = 64  # of a classifier, which reads each on its own


def domain_text(step: Prune | Student, text: Any = None) -> Text:
    """The text that a step is about: given with the call, named by the step, or the train part of the offline default."""
    given = step.text if text is None else text
    return read_text(given, part="train")


def calibration(model: Model, text: Text) -> list[torch.Tensor]:
    """Token ids [batch, time] of a few windows, or of documents one by one, spread evenly over the text."""
    longest = min(WINDOW, model.window)
    if model.task == "causal-lm":
        count = sum(len(model.tokens(document)) for document in text.documents[:WINDOW])
        return [windows(text, model, max(2, min(longest, count)), WINDOWS)]
    chosen = _spread(text.documents, DOCUMENTS)
    return [torch.tensor([ids[:longest]]) for document in chosen if (ids := model.tokens(document))]


def _spread(items: Sequence[str], count: int) -> list[str]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
