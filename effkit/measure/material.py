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
from effkit.models.vocabulary import in_part, part_of
from effkit.spec.errors import BadInput

# Text that two tokenizers are compared on: enough to meet most of their merges.
SAMPLE = 2000


class Windows:
    """Windows of token ids [count, length]; all tokens but the first are predicted."""

    unit = "window"

    def __init__(self, text: Text, ids: Tensor, mapping: Tensor | None = None, covered: float | None = None) -> None:
        self.text, self.ids, self.mapping, self.covered = text, ids, mapping, covered
        self.count, self.length = ids.shape
        self.positions = self.length - 1

    def outputs(self, model: Model, units: Sequence[int], kv_bits: int | None = None, base: bool = False) -> list[Tensor]:
        """Logits [positions, vocabulary] of each unit, from one forward pass. base: `model` is the base, which may number the
        tokens otherwise and know others, that are left out here."""
        ids, known = self.ids[list(units)], self.mapping if base else None
        logits = model.logits(ids, kv_bits=kv_bits) if known is None else in_part(model, ids, known)
        return [window[:-1] for window in logits]

    def targets(self, unit: int) -> Tensor | None:
        return self.ids[unit, 1:]

    def hash(self) -> str:
        """Of the token ids and how they are cut, and which of the base's tokens they are."""
        known = b"" if self.mapping is None else self.mapping.cpu().numpy().tobytes()
        return hashlib.sha256(f"{tuple(self.ids.shape)}".encode() + self.ids.numpy().tobytes() + known).hexdigest()


class Texts:
    """Texts for a sequence classifier, each cut to `length` tokens, or to what a model reads; one choice of a class each."""

    unit = "text"
    positions = 1
    mapping = covered = None

    def __init__(self, text: Text, texts: Sequence[str], length: int) -> None:
        self.text, self.texts, self.length = text, texts, length
        self.count = len(texts)

    def outputs(self, model: Model, units: Sequence[int], kv_bits: int | None = None, base: bool = False) -> list[Tensor]:
        """Logits [1, classes] of each unit, from one forward pass. A classifier keeps no cache: kv_bits is for its twin above, and so
        is base."""
        if len(units) > 1 and model.tokenizer.pad_token_id is None:
            raise BadInput(
                f"batch is {len(units)}", "This model's tokenizer has no padding token, so its texts cannot share a pass", "Use batch=1"
            )
        coded = model.tokenizer(
            [self.texts[i] for i in units],
            padding=len(units) > 1,
            truncation=True,
            max_length=min(self.length, model.window),
            return_tensors="pt",
        )
        logits = model.logits(coded["input_ids"], attention_mask=coded["attention_mask"])
        return [row[None] for row in logits]

    def targets(self, unit: int) -> Tensor | None:
        return None


Material = Windows | Texts


def material_for(model: Model, base: Model | None, on: str | Path | Sequence[str] | Text | None, window: int, windows: int) -> Material:
    """What `on` means for this model. BadInput: empty or too short text, a window that a model cannot read, other tokens."""
    text = datasets.read_text(on)
    if model.task != "causal-lm":  # its outcomes are its classes: each reads the texts in its own tokens, as many as it can
        texts = text.documents if len(text.documents) > 1 else [line for line in text.text.splitlines() if line.strip()]
        return Texts(text, texts, window)
    for who, m in (("model", model), ("base", base)):
        if m is not None and window > m.window:
            raise BadInput(f"window is {window} tokens", f"The {who} reads at most {m.window} at once", f"Choose at most {m.window}")
    ids = datasets.windows(text, model, window, windows)
    if base is None or base is model:
        return Windows(text, ids)
    mapping = part_of(model, base)
    if mapping is not None:
        known, theirs = set(mapping.tolist()), base.tokens(text.text)
        return Windows(text, ids, mapping, sum(token in known for token in theirs) / len(theirs))
    if model.tokens(text.text[:SAMPLE]) != base.tokens(text.text[:SAMPLE]):
        raise BadInput(
            "the model and the base cut the same text into different tokens",
            "Both must have the same vocabulary, or the model a part of the base's",
            "Compare with the model that this one was made from",
        )
    return Windows(text, ids)
