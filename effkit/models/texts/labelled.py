"""Labelled text: a frozen set of texts with classes, split so that nothing in test was seen in training.

What must not be torn apart (a report and its near-copy, the siblings of one diagnosis) carries one group name, and the
part of a group follows from a hash of that name: not from its position, the other rows or the machine. Only where a class
would be absent from a part is a group moved there, and the note says so. `budget` then hides all labels but a few per
class, which is the situation of most users: few labels and a large pool of text without any.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from effkit.spec.errors import BadInput, choice
from effkit.spec.plugins import imported, table

DATASETS = {
    "healthcare": "effkit.models.verticals.healthcare:read",
    "maintenance": "effkit.models.verticals.maintenance:read",
}
SHARES = {"train": 0.7, "held-out": 0.1, "test": 0.2}
NEEDED = ("train", "test", "held-out")  # the parts that a class reaches with one, two, three groups


@dataclass(frozen=True, repr=False)
class LabelledSet:
    """Texts and their classes. `labels[i]` indexes `classes`; rows with the same `groups[i]` always stay together.

    grouping: what a group is, in words; note: what was dropped or moved, in sentences
    extra:    texts without labels from the same domain, each with its group; `split` gives train those, and only those,
              whose group is in neither held-out nor test
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    source: str = ""
    licence: str = "unknown"
    note: str = ""
    grouping: str = "same text"
    extra: tuple[str, ...] = ()
    extra_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.texts) == len(self.labels) == len(self.groups), "texts, labels and groups differ in number"
        assert len(self.extra) == len(self.extra_groups), "extra texts and their groups differ in number"
        assert all(0 <= label < len(self.classes) for label in self.labels), "a label is outside the classes"

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all texts, labels, classes and groups."""
        content = [self.texts, self.labels, self.classes, self.groups, self.extra, self.extra_groups]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def balance(self) -> dict[str, int]:
        """Rows of each class."""
        counts = Counter(self.labels)
        return {name: counts[i] for i, name in enumerate(self.classes)}

    def take(self, rows: Iterable[int], name: str | None = None) -> LabelledSet:
        """These rows, with the same classes and without the extra texts."""
        rows = tuple(rows)
        return replace(
            self,
            name=name or self.name,
            texts=tuple(self.texts[i] for i in rows),
            labels=tuple(self.labels[i] for i in rows),
            groups=tuple(self.groups[i] for i in rows),
            extra=(),
            extra_groups=(),
        )

    def card(self) -> dict[str, Any]:
        """The facts of the set as a plain dict."""
        balance = self.balance
        largest = max(balance, key=lambda name: balance[name])
        return {
            "name": self.name,
            "rows": len(self),
            "classes": len(self.classes),
            "balance": balance,
            "largest class": f"{largest} ({balance[largest] / max(len(self), 1):.0%} of the rows)",
            "median length": f"{median(map(len, self.texts)) if self.texts else 0:.0f} characters",
            "texts without label": len(self.extra),
            "groups": len(set(self.groups)),
            "split": f"by a hash of the group ({self.grouping}), about 70% train, 10% held-out, 20% test",
            "source": self.source,
            "licence": self.licence,
            "note": self.note,
            "hash": self.hash,
        }

    def __repr__(self) -> str:
        return f"LabelledSet({self.name!r}, {len(self)} rows, {len(self.classes)} classes)"

    def _repr_html_(self) -> str:
        from ..card import table

        card = self.card()
        balance = ", ".join(f"{name} {count}" for name, count in sorted(card["balance"].items(), key=lambda item: -item[1]))
        rows = [(key.capitalize(), str(value)) for key, value in {**card, "balance": balance}.items() if key != "name" and value != ""]
        return table(self.name, rows)


class Split(NamedTuple):
    """Three disjoint parts of a labelled set: train on the first, choose on the second, report on the third."""

    train: LabelledSet
    held_out: LabelledSet
    test: LabelledSet


@cache
def named_sets() -> dict[str, str]:
    """All named sets and where they are read, built in or brought by plug-ins (entry points "effkit.datasets")."""
    return table("effkit.datasets", DATASETS)


def read_labelled(what: Any, text: str | None = None, label: str | None = None, group: str | None = None) -> LabelledSet:
    """A labelled set from a name ("healthcare", "maintenance"), a .csv, .tsv or .jsonl file, a data frame or (text, label) pairs.

    text, label: the names of the two columns of a file or frame; group: optionally one whose rows must stay together.
    Raises BadInput (no such file or column, one class only), Unavailable (the set's package is missing).
    `len(read_labelled("healthcare").classes)` is 21.
    """
    from .tables import read_frame, read_pairs, read_table

    if isinstance(what, LabelledSet):
        return what
    if isinstance(what, (str, Path)):
        if str(what) in named_sets():
            return _named(str(what), text, label)
        path = Path(os.path.expanduser(what))
        if path.suffix == "" and not path.exists():
            raise choice("the labelled set", str(what), named_sets(), "Or give a .csv, .tsv or .jsonl file and its two columns")
        return read_table(path, text, label, group)
    if hasattr(what, "columns") and hasattr(what, "to_dict"):
        return read_frame(what, text, label, group)
    return read_pairs(what)


@cache
def _read(place: str) -> LabelledSet:
    return imported(place)()


def _named(name: str, text: str | None, label: str | None) -> LabelledSet:
    if text is not None or label is not None:
        raise BadInput(f"columns are given for the built-in set {name!r}", "Only files have columns", "Leave text and label out")
    return _read(named_sets()[name])


def made(
    name: str,
    rows: Sequence[tuple[str, str, Hashable]],
    *,
    source: str,
    licence: str = "unknown",
    notes: Iterable[str] = (),
    grouping: str = "same text",
    extra: Iterable[tuple[str, Hashable]] = (),
) -> LabelledSet:
    """A LabelledSet from (text, class, group) rows and (text, group) extras. Group None: the text itself, normalised.

    Groups that hold the same text (but for case and spaces) become one, so that no text can stand in two parts.
    """
    extra = tuple(extra)
    notes = list(notes)
    groups, extra_groups = joined([(t, g) for t, _, g in rows], extra)
    names = sorted({c for _, c, _ in rows}, key=_natural)
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no row with a text and a label"
        raise BadInput(f"{name} has {found}", "Allowed: at least two classes", "Check the label column")
    if len(names) > max(20, len(rows) // 2):
        raise BadInput(
            f"{name} has {len(names)} different labels in {len(rows)} rows",
            "Allowed: classes, each with several examples",
            "Choose the column that holds the class",
        )
    index = {c: i for i, c in enumerate(names)}
    labels = tuple(index[c] for _, c, _ in rows)
    notes += _findings([t for t, _, _ in rows], labels, names, groups)
    texts = tuple(t for t, _, _ in rows)
    return LabelledSet(
        name, texts, labels, tuple(names), groups, source, licence, " ".join(notes), grouping, tuple(t for t, _ in extra), extra_groups
    )


def joined(rows: Sequence[tuple[str, Hashable]], extra: Sequence[tuple[str, Hashable]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The group names of rows and extras, those that share a text united under the least of their names."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    both = [*rows, *extra]
    keys = [("text", normal(t)) if g is None else ("group", str(g)) for t, g in both]
    names = [f"{kind}: {key}" for kind, key in keys]
    holder: dict[str, str] = {}
    for (text, _), name in zip(both, names, strict=True):
        a, b = root(name), root(holder.setdefault(normal(text), name))
        parent[max(a, b)] = min(a, b)
    final = tuple(root(name).partition(": ")[2] for name in names)
    return final[: len(rows)], final[len(rows) :]


def normal(text: str) -> str:
    """A text without the differences that do not make it another text: case and white space."""
    return " ".join(text.casefold().split())


def split(labelled: LabelledSet, seed: int = 0) -> Split:
    """About 70% train, 10% held-out, 20% test by a hash of the group: the same on every machine, in any order of the rows.

    A class with two groups reaches train and test, one with three or more all parts: where the hash leaves one out, the
    group whose hash is nearest moves there. One group that holds much of a class goes to train, for in another part it
    would be measured over and over. A group is never torn apart, and train's extra texts avoid the other parts.
    """
    place = {group: _draw(f"{seed}", group) for group in set(labelled.groups)}
    part = {group: next(p for p in SHARES if place[group] < _bounds(p)[1]) for group in place}
    part |= dict.fromkeys(_heavy(labelled), "train")
    moved = _repair(labelled, place, part)
    note = f"{moved} groups were moved so that each class has its parts." if moved > 1 else "One group was moved." if moved else ""
    parts = {}
    for name in SHARES:
        rows = [i for i, group in enumerate(labelled.groups) if part[group] == name]
        taken = labelled.take(rows, f"{labelled.name}, {name}")
        parts[name] = replace(taken, note=" ".join(filter(None, (labelled.note, note))))
    kept = [i for i, group in enumerate(labelled.extra_groups) if part.get(group, "train") == "train"]
    train = replace(
        parts["train"],
        extra=tuple(labelled.extra[i] for i in kept),
        extra_groups=tuple(labelled.extra_groups[i] for i in kept),
    )
    return Split(train, parts["held-out"], parts["test"])


def budget(train: LabelledSet, per_class: int | None, seed: int = 0) -> tuple[LabelledSet, tuple[str, ...]]:
    """(the rows whose label may be used, all other texts of train without any label).

    per_class: that many different texts of each class, or all that it has; None: every label. A larger budget of the same
    seed contains the smaller one. The pool holds each text once and none that is labelled; train's extra texts belong to it.
    """
    if per_class is not None and (isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1):
        raise BadInput(f"labels per class is {per_class!r}", "Allowed: a whole number of at least 1, or None for all labels")
    order = sorted(range(len(train)), key=lambda i: (_draw(f"{seed}:label", train.texts[i]), train.texts[i], i))
    taken: defaultdict[int, dict[str, int]] = defaultdict(dict)  # of a class, the row of each text
    for i in order if per_class is not None else ():
        chosen, text = taken[train.labels[i]], normal(train.texts[i])
        if len(chosen) < per_class and text not in chosen:  # type: ignore[operator]
            chosen[text] = i
    rows = sorted(i for chosen in taken.values() for i in chosen.values()) if per_class is not None else range(len(train))
    named = "all labels" if per_class is None else f"{per_class} labels a class"
    labelled = train.take(rows, f"{train.name}, {named}")
    seen = {normal(text) for text in labelled.texts}
    pool = []
    for text in (*train.texts, *train.extra):
        if (key := normal(text)) not in seen:
            seen.add(key)
            pool.append(text)
    return labelled, tuple(pool)


def _heavy(labelled: LabelledSet) -> list[str]:
    """Groups with more than a tenth of the rows of a class that has at least 20 groups."""
    rows, total = Counter(zip(labelled.groups, labelled.labels, strict=True)), Counter(labelled.labels)
    groups = Counter(label for _, label in rows)
    return sorted({group for (group, label), count in rows.items() if groups[label] >= 20 and count > total[label] / 10})


def _repair(labelled: LabelledSet, place: dict[str, float], part: dict[str, str]) -> int:
    """Move groups in `part` so that every class reaches the parts its number of groups allows. Returns how many moved."""
    holds: defaultdict[int, set[str]] = defaultdict(set)
    inside: defaultdict[str, set[int]] = defaultdict(set)
    for group, label in zip(labelled.groups, labelled.labels, strict=True):
        holds[label].add(group)
        inside[group].add(label)
    moved: set[str] = set()
    for label in sorted(holds, key=lambda label: (len(holds[label]), label)):
        for wanted in NEEDED[: len(holds[label])]:
            if any(part[group] == wanted for group in holds[label]):
                continue
            free = [group for group in holds[label] if group not in moved and _can_leave(group, part, inside, holds, wanted)]
            if free:
                nearest = min(free, key=lambda group: (_distance(place[group], wanted), group))
                part[nearest] = wanted
                moved.add(nearest)
    return len(moved)


def _can_leave(group: str, part: dict[str, str], inside: Any, holds: Any, wanted: str) -> bool:
    """Whether no class of the group loses a part that it needs more than `wanted`."""
    for label in inside[group]:
        here = part[group]
        alone = not any(part[other] == here for other in holds[label] if other != group)
        if alone and NEEDED.index(here) < max(NEEDED.index(wanted), min(len(holds[label]), len(NEEDED))):
            return False
    return True


def _bounds(part: str) -> tuple[float, float]:
    names = list(SHARES)
    start = sum(SHARES[name] for name in names[: names.index(part)])
    return start, (1.0 if part == names[-1] else start + SHARES[part])


def _distance(place: float, part: str) -> float:
    low, high = _bounds(part)
    return max(low - place, place - high, 0.0)


def _draw(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by value, before words by letter."""
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return (0, value, name) if math.isfinite(value) else (1, 0.0, name)


def _findings(texts: Sequence[str], labels: Sequence[int], names: Sequence[str], groups: Sequence[str]) -> list[str]:
    """What a reader should know: repeated and contradicting texts, classes too small to test, names that differ by case."""
    found = []
    seen: defaultdict[str, set[int]] = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        seen[normal(text)].add(label)
    if repeated := len(texts) - len(seen):
        found.append(f"{repeated} rows repeat a text that stands elsewhere; they stay together in one part.")
    if torn := sum(len(label) > 1 for label in seen.values()):
        found.append(f"{torn} texts carry more than one label.")
    holds: defaultdict[int, set[str]] = defaultdict(set)
    for group, label in zip(groups, labels, strict=True):
        holds[label].add(group)
    small = [f"{names[label]!r} ({len(holds[label])})" for label in sorted(holds) if len(holds[label]) < 3]
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        found.append(f"Too few separate examples to be in train, held-out and test alike: {', '.join(small[:5])}{more}.")
    folded = Counter(name.casefold() for name in names)
    if alike := [name for name in names if folded[name.casefold()] > 1]:
        found.append(f"Classes that differ only by case are kept apart: {', '.join(map(repr, alike[:6]))}.")
    return found
