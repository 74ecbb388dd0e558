"""Text to measure on and to train on: a string, a file, a list, or technical English that every Python carries.

The default (`pydoc_data.topics`, 465 kB about the Python language) is split by a hash of the topic's name into disjoint
parts: "train", "held-out" and "test". Whatever is tuned on one part is never measured on it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from effkit.spec.errors import BadInput, choice
from effkit.spec.files import parsed
from effkit.spec.places import is_local

PARTS = {"train": range(0, 6), "held-out": range(6, 7), "test": range(7, 10)}
SUFFIXES = (".txt", ".md", ".jsonl")
BETWEEN = "\n\n"


@dataclass(frozen=True, repr=False)
class Text:
    """Documents and where they are from. `hash`: SHA-256 of the text, so that two measurements know they read the same."""

    name: str
    documents: tuple[str, ...]
    source: str

    @cached_property
    def text(self) -> str:
        """All documents, joined by an empty line."""
        return BETWEEN.join(self.documents)

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def __repr__(self) -> str:
        return f"Text({self.name!r}, {len(self.text)} characters in {len(self.documents)} documents)"


def read_text(what: str | Path | Iterable[str] | Text | None = None, part: str = "test") -> Text:
    """Text from a string, a file (.txt, .md, .jsonl with a field "text"), a list of documents, or None: the default.

    part: "train", "held-out" or "test" of the default; other text is taken whole.
    """
    if isinstance(what, Text):
        return what
    if what is None:
        return default_text(part)
    if isinstance(what, Path):
        return _file(what)
    if isinstance(what, str):
        if _is_path(what):
            return _file(Path(os.path.expanduser(what)))
        return _made("given text", (what,), "a string")
    documents = tuple(what)
    wrong = next((d for d in documents if not isinstance(d, str)), None)
    if wrong is not None:
        raise BadInput(f"the text holds {wrong!r}, a {type(wrong).__name__}", "Allowed: a string, a file, a list of strings, or None")
    return _made("given texts", documents, f"a list of {len(documents)}")


def default_text(part: str = "test") -> Text:
    """One part of `pydoc_data.topics`: about 60% "train", 10% "held-out" and 30% "test", 380 kB in all."""
    if part not in PARTS:
        raise choice("part", part, PARTS)
    chosen = tuple(text for name, text in _topics() if hashlib.sha256(name.encode()).digest()[0] % 10 in PARTS[part])
    return _made(f"Python topics, {part}", chosen, f"pydoc_data.topics of Python {platform.python_version()}, part {part!r}")


@cache
def _topics() -> tuple[tuple[str, str], ...]:
    """(name, text) of all topics. A fifth of their text stands in several of them: each paragraph is kept where it comes
    first, so that no part holds what another does."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    unique = []
    for name in sorted(topics):
        kept = []
        for paragraph in topics[name].strip().split(BETWEEN):
            words = " ".join(paragraph.split())
            if len(words) <= 40 or words not in seen:
                kept.append(paragraph)
            seen.add(words)
        unique.append((name, BETWEEN.join(kept)))
    return tuple(unique)


def windows(text: Text, model: Any, length: int, count: int | None = None) -> torch.Tensor:
    """Token ids [n, length] of n windows that do not overlap, spread evenly over the text; always the same ones.

    model: a Model or a tokenizer. No special token is added: what is scored is the text itself.
    count: how many; None, or more than there are: all that fit. Raises BadInput where not even one fits.
    """
    tokenizer = getattr(model, "tokenizer", model)
    if not isinstance(length, int) or length < 2:
        raise BadInput(f"window is {length!r}", "Allowed: a whole number of at least 2 tokens")
    if count is not None and count < 1:
        raise BadInput(f"windows is {count!r}", "Allowed: a whole number of at least 1, or None for all that fit")
    limit = getattr(model, "window", None)
    if limit is not None and length > limit:
        raise BadInput(f"window is {length} tokens", f"This model reads at most {limit} at once", f"Choose at most {limit}")
    ids = torch.tensor(tokenizer(text.text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)
    if len(ids) < length:
        raise BadInput(
            f"the text ({text.name}) has {len(ids)} tokens, fewer than one window of {length}",
            f"Allowed: at least {length} tokens",
            "Give more text or choose a smaller window",
        )
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is not None and int(ids.max()) >= size:
        raise BadInput(
            f"the tokenizer made the token {int(ids.max())}",
            f"This model knows tokens 0 to {size - 1}",
            "The tokenizer belongs to another model: use the one that the model was trained with",
        )
    fitting = len(ids) // length
    n = fitting if count is None else min(count, fitting)
    spare = len(ids) - n * length
    starts = [i * length + (round(spare * i / (n - 1)) if n > 1 else spare // 2) for i in range(n)]
    return torch.stack([ids[start : start + length] for start in starts])


def file_name(what: Any) -> str | None:
    """What a recipe can name: a file. Text given as such stays out of it."""
    return str(what) if isinstance(what, str | Path) and os.path.isfile(os.path.expanduser(what)) else None


def _is_path(what: str) -> bool:
    """A short string without whitespace that has a known suffix or a separator is meant as a path, and so is one line that begins as a
    path does and has a known suffix ("/my texts/a.txt"), and an existing file."""
    if not what.strip() or len(what.encode("utf-8", "replace")) > 250:
        return False
    known = Path(what).suffix.lower() in SUFFIXES
    looks = not re.search(r"\s", what) and (known or "/" in what or "\\" in what)
    looks = looks or (known and is_local(what) and "\n" not in what)
    return looks or os.path.isfile(os.path.expanduser(what))


def _file(path: Path) -> Text:
    if not path.is_file():
        raise BadInput(f"there is no text file {str(path)!r}", f"Allowed: an existing file ({', '.join(SUFFIXES)}), or the text itself")
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"the text file {path.name!r} ends in {path.suffix!r}", f"Allowed: {', '.join(SUFFIXES)}", "Convert or rename it")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the text file {str(path)!r} cannot be read ({error})", "Allowed: UTF-8 text") from None
    if path.suffix.lower() != ".jsonl":
        return _made(path.name, (content,), str(path))
    documents = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                documents.append(str(parsed(line)["text"]))
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"line {number} of {path.name!r} has no field 'text'", 'Allowed: lines like {"text": "..."}') from None
    return _made(path.name, tuple(documents), str(path))


def _made(name: str, documents: tuple[str, ...], source: str) -> Text:
    kept = tuple(document for document in documents if document.strip())
    if not kept:
        raise BadInput(f"the text ({name}) is empty", "Allowed: text with at least one window of tokens", "Give a text, a file, or None")
    return Text(name, kept, source)
