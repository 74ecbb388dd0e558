"""What fidelity is measured on: windows of tokens for a language model, texts for a sequence classifier.

Both are a row of units, each with the same number of scored positions: the tokens of a window after its first, or the
one choice of a class that a text asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from effkit.models.model import Model
from effkit.models.texts import datasets
from effkit.models.texts.datasets import Text
from effkit.spec.errors import BadInput

# Text that two tokenizers are compared on: enough to meet most of their merges.
SAMPLE = 2000


class Windows:
    """Windows of token ids [count, length]; all tokens but the first are predicted."""

    unit = "window"

    def __init__(self, text: Text, ids: Tensor) -> None:
        self.text, self.ids = text, ids
        self.count, self.length = ids.shape
        self.positions = self.length - 1

    def outputs(self, model: Model, units: Sequence[int], kv_bits: int | None = None) -> list[Tensor]:
        """Logits [positions, vocabulary] of each unit, from one forward pass."""
        logits = model.logits(self.ids[list(units)], kv_bits=kv_bits)
        return [window[:-1] for window in logits]

    def targets(self, unit: int) -> Tensor | None:
        return self.ids[unit, 1:]

    def hash(self) -> str:
        """Of the token ids and how they are cut."""
        return hashlib.sha256(f"{tuple(self.ids.shape)}".encode() + self.ids.numpy().tobytes()).hexdigest()


class Texts:
    """Texts for a sequence classifier, each cut to `length` tokens; one choice of a class each."""

    unit = "text"
    positions = 1

    def __init__(self, text: Text, texts: Sequence[str], length: int) -> None:
        self.text, self.texts, self.length = text, texts, length
        self.count = len(texts)

    def outputs(self, model: Model, units: Sequence[int], kv_bits: int | None = None) -> list[Tensor]:
        """Logits [1, classes] of each unit, from one forward pass. A classifier keeps no cache: kv_bits is for its twin above."""
        if len(units) > 1 and model.tokenizer.pad_token_id is None:
            raise BadInput(
                f"batch is {len(units)}", "This model's tokenizer has no padding token, so its texts cannot share a pass", "Use batch=1"
            )
        coded = model.tokenizer(
            [self.texts[i] for i in units], padding=len(units) > 1, truncation=True, max_length=self.length, return_tensors="pt"
        )
        logits = model.logits(coded["input_ids"], attention_mask=coded["attention_mask"])
        return [row[None] for row in logits]

    def targets(self, unit: int) -> Tensor | None:
        return None


Material = Windows | Texts


def material_for(model: Model, base: Model | None, on: str | Path | Sequence[str] | Text | None, window: int, windows: int) -> Material:
    """What `on` means for this model. BadInput: empty or too short text, a window that a model cannot read, other tokens."""
    text = datasets.read_text(on)
    for who, m in (("model", model), ("base", base)):
        if m is not None and window > m.window:
            raise BadInput(f"window is {window} tokens", f"The {who} reads at most {m.window} at once", f"Choose at most {m.window}")
    language = model.task == "causal-lm"  # a classifier's outcomes are its classes: each reads the texts in its own tokens
    if language and base is not None and base is not model and model.tokens(text.text[:SAMPLE]) != base.tokens(text.text[:SAMPLE]):
        raise BadInput(
            "the model and the base cut the same text into different tokens",
            "Both must have the same vocabulary",
            "Compare with the model that this one was made from",
        )
    if language:
        return Windows(text, datasets.windows(text, model, window, windows))
    texts = text.documents if len(text.documents) > 1 else [line for line in text.text.splitlines() if line.strip()]
    return Texts(text, texts, window)
