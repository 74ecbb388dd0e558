"""What a student reads: windows of tokens for a language model, whole texts for a classifier, a part of them held out.

Teacher and student of a classifier may have different tokenizers: each reads the same texts in its own tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from effkit.measure.coder import Coder
from effkit.models.model import Model
from effkit.models.texts.datasets import read_text, windows
from effkit.spec.errors import BadInput

from ..pool import augmented

HELD_OUT_WINDOWS = 4
HELD_OUT_TEXTS = 64  # texts of a classifier are short
NO_LABEL = -100
REMEMBERED = 16_000_000  # tokens of texts that a tokenizer need not read again, in four bytes each
CHUNK = 2048  # texts that are tokenized in one go
OVERHEAD = 32  # how many tokens' room a remembered text takes beside its own


class Reader:
    """Texts as one tokenizer reads them; each is tokenized once, as long as what is remembered is at most `limit` tokens."""

    def __init__(self, model: Model, window: int, limit: int = REMEMBERED) -> None:
        self.coder, self.side, self.limit = Coder(model, window), model.tokenizer.padding_side, limit
        self.kept: dict[str, array[int]] = {}
        self.held = 0  # tokens, and what keeping a text costs beside them

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(ids, attention mask), both [texts, longest]."""
        known = [self.kept.get(text) for text in texts]
        new = iter(self.coder.many([text for text, ids in zip(texts, known, strict=True) if ids is None]))
        return self.coder.batch(
            [self._remembered(text, next(new)) if ids is None else ids for text, ids in zip(texts, known, strict=True)], self.side
        )

    def read_(self, texts: Sequence[str]) -> Iterator[None]:
        """Remember these texts as far as there is room, so that no step has to wait for the tokenizer; yields now and then."""
        for start in range(0, len(texts), CHUNK):
            if self.held >= self.limit:
                return
            chunk = [text for text in texts[start : start + CHUNK] if text not in self.kept]
            for text, ids in zip(chunk, self.coder.many(chunk), strict=True):
                self._remembered(text, ids)
            yield

    def _remembered(self, text: str, ids: Sequence[int]) -> Sequence[int]:
        if self.held + len(ids) + OVERHEAD <= self.limit and text not in self.kept:
            self.kept[text] = array("i", ids)
            self.held += len(ids) + OVERHEAD
        return ids


def read_alike(model: Model, window: int) -> tuple[int, int]:
    """Models of which this is the same read texts alike: a student made from its teacher has its tokenizer."""
    return id(model.tokenizer), min(window, model.window)


def reader_of(readers: dict[tuple[int, int], Reader], model: Model, window: int) -> Reader:
    """The one reader of this tokenizer and window."""
    key = read_alike(model, window)
    if key not in readers:
        readers[key] = Reader(model, window)
    return readers[key]


@dataclass(frozen=True)
class Batch:
    """Some windows (`ids` [n, window], in the student's tokens) or texts.

    labels: classes of texts [n], NO_LABEL where nobody knows. scored: positions that count [n, window]; None: all.
    """

    ids: Tensor | None = None
    texts: tuple[str, ...] = ()
    labels: Tensor | None = None
    scored: Tensor | None = None
    readers: dict[tuple[int, int], Reader] = field(default_factory=dict, compare=False, repr=False)
    _coded: dict[tuple[int, int], Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.texts) if self.ids is None else len(self.ids)

    def parts(self, size: int) -> list[Batch]:
        """The batch in pieces of at most `size` windows or texts."""

        def cut(value: Any, at: slice) -> Any:
            return None if value is None else value[at]

        spans = [slice(start, start + size) for start in range(0, len(self), size)]
        return [Batch(cut(self.ids, s), self.texts[s], cut(self.labels, s), cut(self.scored, s), self.readers) for s in spans]

    def inputs(self, model: Model, window: int, mapping: Tensor | None = None) -> dict[str, Tensor]:
        """What `model` reads. mapping: from the student's token ids to the model's, where they differ."""
        device: torch.device = model.module.device  # type: ignore[assignment]
        if self.ids is not None:
            ids = self.ids.to(device)
            return {"input_ids": ids if mapping is None else mapping[ids]}
        if model.tokenizer.pad_token_id is None and len(self) > 1:
            raise BadInput(
                f"batch is {len(self)}", "This model's tokenizer has no padding token, so its texts cannot share a pass", "Use batch=1"
            )
        key = read_alike(model, window)
        if key not in self._coded:
            self._coded[key] = reader_of(self.readers, model, window).batch(self.texts)
        return {name: tensor.to(device) for name, tensor in zip(("input_ids", "attention_mask"), self._coded[key], strict=True)}


@dataclass(frozen=True)
class Windows:
    """Windows of token ids: `train` [n, window] and `held_out` [m, window]."""

    train: Tensor
    held_out: Tensor

    @property
    def count(self) -> int:
        return len(self.train)

    def batch(self, rows: Sequence[int]) -> Batch:
        return Batch(self.train[list(rows)])

    def held(self) -> list[Batch]:
        """The held-out windows, one a batch."""
        return [Batch(window[None]) for window in self.held_out]


@dataclass(frozen=True)
class Texts:
    """Texts of a classifier with their classes where these are known."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    labels: tuple[int, ...]
    readers: dict[tuple[int, int], Reader] = field(default_factory=dict, compare=False, repr=False)

    @property
    def count(self) -> int:
        return len(self.train)

    def batch(self, rows: Sequence[int]) -> Batch:
        labels = torch.tensor([self.labels[i] for i in rows])
        return Batch(texts=tuple(self.train[i] for i in rows), labels=labels, readers=self.readers)

    def read_(self, rows: Sequence[int], models: Sequence[Model], window: int) -> Iterator[None]:
        """Tokenize these texts for the models before they are asked for; yields now and then."""
        for model in models:
            yield from reader_of(self.readers, model, window).read_([self.train[i] for i in rows])

    def held(self) -> list[Batch]:
        """The held-out texts, sixteen a batch."""
        return Batch(texts=self.held_out, readers=self.readers).parts(16)


Material = Windows | Texts


def windows_for(student: Model, text: Any, window: int) -> Windows:
    """Parts of the default text, or every tenth window of the user's held out. Windows are in the student's tokens."""
    if text is None:
        train = windows(read_text(None, part="train"), student, window, None)
        return Windows(train, windows(read_text(None, part="held-out"), student, window, HELD_OUT_WINDOWS))
    own = windows(read_text(text), student, window, None)
    if len(own) < 2:
        raise BadInput(
            f"the text fills {len(own)} window of {window} tokens",
            "Training needs at least 2: one to train on, one held out",
            "Give more text or a shorter window",
        )
    kept, held = _held_out(len(own), HELD_OUT_WINDOWS)
    return Windows(own[kept], own[held])


def texts_for(text: Any, labels: Sequence[int | None] | None, classes: int, least: int = 0, seed: int = 0) -> Texts:
    """The texts of a list, or the lines of a file, every tenth (at most 64) held out. labels: a class or None for each.

    least: texts to train on; where there are fewer, the rest is made of them, without labels, as `seed` draws it
    """
    given = read_text(text, part="train")
    texts = given.documents if len(given.documents) > 1 else tuple(line for line in given.text.splitlines() if line.strip())
    if len(texts) < 2:
        raise BadInput(
            f"the text holds {len(texts)} text",
            "Training a classifier needs at least 2: one to train on, one held out",
            "Give a list of texts, or a file with one text a line",
        )
    if labels is not None and len(labels) != len(texts):
        raise BadInput(f"there are {len(labels)} labels and {len(texts)} texts", "Allowed: one label a text, None where it has none")
    known = [NO_LABEL if label is None else label for label in labels or [None] * len(texts)]
    wrong = next((label for label in known if label != NO_LABEL and not 0 <= label < classes), None)
    if wrong is not None:
        raise BadInput(f"a label is {wrong!r}", f"Allowed: 0 to {classes - 1}, the classes of the student, or None")
    kept, held = _held_out(len(texts), HELD_OUT_TEXTS)
    train = [texts[i] for i in kept]
    made = augmented(train, least - len(train), seed)
    return Texts((*train, *made), tuple(texts[i] for i in held), (*(known[i] for i in kept), *(NO_LABEL for _ in made)))


def _held_out(total: int, most: int) -> tuple[list[int], list[int]]:
    """Indices to train on, and those held out: every tenth or so, spread evenly, at least one, at most `most`."""
    count = min(most, max(1, total // 10))
    spread = torch.linspace(0, total - 1, count + 2)[1:-1].round().long() if count + 2 <= total else torch.tensor([total - 1])
    held = set(spread.tolist())
    return [i for i in range(total) if i not in held], sorted(held)
