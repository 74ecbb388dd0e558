"""Texts of a classifier as token ids, without waiting for the tokenizer: ids are remembered word by word.

At batch 1 a small student answers in a tenth of a millisecond, as long as its tokenizer takes for one sentence. WordPiece over
a BERT pre-tokenizer reads each word by itself, so the ids of a text are those of its words in a row; where that does not hold
(checked on the first texts), and for a text with characters that such a tokenizer drops although they part words, the tokenizer
itself is asked. Teacher and student are served through the same coder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effkit.models.model import Model

BREAKS = dict.fromkeys(map(ord, "\t\n\r"), " ")  # part words for such a tokenizer as spaces do; other such characters do not
REMEMBERED = 200_000  # words
CHECKED = 64  # texts on which remembered words must give what the tokenizer gives


class Coder:
    """`coder(text)` -> ids with special tokens, cut to `window`; the same as the tokenizer's own."""

    def __init__(self, model: Model, window: int = 128) -> None:
        self.tokenizer = model.tokenizer
        self.window = min(window, model.window)
        self.pad = int(model.tokenizer.pad_token_id or 0)
        self.words: dict[str, list[int]] = {}
        self.before, self.after = self._frame()
        self.checked = 0
        self.by_word = self.before is not None

    def __call__(self, text: str) -> list[int]:
        if not self.by_word or not (text.isprintable() or text.translate(BREAKS).isprintable()):
            return self.whole(text)
        ids = self._joined(text)
        if self.checked < CHECKED:
            self.checked += 1
            if ids != (right := self.whole(text)):
                self.by_word = False
                return right
        return ids

    def many(self, texts: Sequence[str]) -> list[list[int]]:
        """`coder(text)` of each text; what the tokenizer itself must read, it reads in one call."""
        if not self.by_word:
            found = self.tokenizer(list(texts), truncation=True, max_length=self.window, verbose=False)["input_ids"] if texts else []
            return [ids or [self.pad] for ids in found]
        first = dict.fromkeys(word for text in texts for word in text.split(None, self.window)[: self.window])
        unknown = [word for word in first if word not in self.words]
        unknown = unknown[: REMEMBERED - len(self.words)]
        if unknown:
            parts = self.tokenizer(unknown, add_special_tokens=False, verbose=False)["input_ids"]
            self.words.update(zip(unknown, parts, strict=True))
        return [self(text) for text in texts]

    def whole(self, text: str) -> list[int]:
        """What the tokenizer says. A text without any token becomes one unknown or padding token."""
        ids = self.tokenizer(text, truncation=True, max_length=self.window, verbose=False)["input_ids"]
        return ids or [self.pad]

    def batch(self, coded: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
        """(ids, attention mask), both [texts, longest], padded on this side."""
        longest = max(map(len, coded))
        ids = np.full((len(coded), longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(coded), longest), dtype=np.int64)
        for row, words in enumerate(coded):
            place = slice(None, len(words)) if side == "right" else slice(longest - len(words), None)
            ids[row, place] = words
            mask[row, place] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _joined(self, text: str) -> list[int]:
        assert self.before is not None
        ids = list(self.before)
        known = self.words
        for word in text.split(None, self.window):
            part = known.get(word)
            if part is None:
                part = self.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
                if len(known) < REMEMBERED:
                    known[word] = part
            ids += part
            if len(ids) >= self.window:  # the rest of a long text is not read
                break
        del ids[self.window - len(self.after) :]
        ids += self.after
        return ids

    def _frame(self) -> tuple[list[int] | None, list[int]]:
        """The special tokens before and after a text, where words may be read one by one."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        parts = [type(getattr(backend, name, None)).__name__ for name in ("model", "normalizer", "pre_tokenizer")]
        added = self.tokenizer.get_added_vocab() if backend is not None else {}
        if parts != ["WordPiece", "BertNormalizer", "BertPreTokenizer"] or any(len(token.split()) > 1 for token in added):
            return None, []
        both, inner = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
        at = next((i for i in range(len(both)) if both[i : i + len(inner)] == inner), None)
        return (None, []) if at is None else (both[:at], both[at + len(inner) :])


def in_batches(coded: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Indices of texts of like length, `batch` at a time: little padding."""
    order = sorted(range(len(coded)), key=lambda i: len(coded[i]))
    for start in range(0, len(order), batch):
        yield order[start : start + batch]
