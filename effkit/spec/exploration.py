"""What `ek.explore` found: every trial with its recipe and record, also those that failed, were stopped or are dominated.

A trial's `values` are the figures that were asked for, in their order. Trial a dominates b where it is at least as good in
all of them and better in one; the front is what nothing dominates. How much of the space of figures a front covers down to
a reference point is its hypervolume (Zitzler and Thiele 1998, doi:10.1007/BFb0056872), computed here exactly, by slices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from .errors import BadInput, bytes_text, choice
from .files import upgrade
from .frontier import FIGURES, Frontier, figure_of
from .intervals import Noun
from .recipe import Recipe, from_json
from .record import Record

VERSION = 1
TIMED = ("first_token_ms", "output_token_ms", "decode", "prefill", "peak_memory")  # figures that need the speed measured


class Budget(Noun):
    """What an exploration may spend in all, pauses not counted; the smaller counts where both are given.

    minutes: of work; price: $, at `price_per_hour` $ of all that it runs on
    """

    minutes: float | None = Field(default=None, gt=0)
    price: float | None = Field(default=None, gt=0)
    price_per_hour: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _priced(self) -> Budget:
        if self.price is not None and self.price_per_hour is None:
            raise BadInput(f"the price is {self.price:g} $ without a price per hour", "Allowed: both", "Add price_per_hour=...")
        return self

    @property
    def seconds(self) -> float:
        """Seconds of work that it pays for; infinite where nothing limits them."""
        paid = self.price / self.price_per_hour * 3600 if self.price and self.price_per_hour else math.inf
        return min(math.inf if self.minutes is None else 60 * self.minutes, paid)


class Stage(Noun):
    """A part of a trial's work: "distill", "quantize gptq", "evaluate", "profile", and the seconds it took for `units` units
    (training steps, windows, or 1). What another trial had done already takes no seconds and is not here."""

    name: str
    seconds: float
    units: float = 1.0


class Rung(Noun):
    """What a trial showed on so many windows of text, before it was decided whether it is measured on more."""

    windows: int
    values: tuple[float | None, ...]


class Trial(Noun):
    """One recipe that was tried.

    number:  counted from 0 in the order in which they were begun
    draft:   its steps as the space gave them; recipe: as they were made, None where it did not come to that
    state:   "done", "stopped" (measured on few windows and not among the promising ones), or "failed"; reason: why
    values:  the figures that were asked for; None where one could not be measured
    windows: of text that it was measured on; record: all that was measured, also of one that was stopped
    rungs:   what it showed on fewer windows before
    seconds: of work; stages: in what. worker: where, on a cluster
    """

    number: int
    label: str
    draft: dict[str, Any]
    recipe: Recipe | None = None
    state: Literal["done", "stopped", "failed"]
    reason: str = ""
    values: tuple[float | None, ...] = ()
    windows: int = 0
    record: Record | None = None
    rungs: tuple[Rung, ...] = ()
    seconds: float = 0.0
    stages: tuple[Stage, ...] = ()
    worker: str = ""

    def told(self, objectives: Sequence[str]) -> dict[str, Any]:
        """What an event tells of it: without its record, whose id it names, with the interval of each figure."""
        figures = {name: None for name in objectives} if self.record is None else {n: figure_of(self.record, n) for n in objectives}
        return {
            "number": self.number,
            "label": self.label,
            "kind": self.recipe.kind() if self.recipe else None,
            "state": self.state,
            "reason": self.reason,
            "record": self.record.id if self.record else None,
            "values": {name: None if e is None else [e.value, e.low, e.high] for name, e in figures.items()},
            "windows": self.windows,
            "seconds": round(self.seconds, 2),
        }


class Exploration(Noun):
    """All trials of one search, and the base that they are compared with.

    objectives: names in FIGURES, each with a better direction of its own; sampler: how recipes were chosen
    ended:      why it stopped where it did; seconds: of work, over all sittings; folder: where it goes on
    """

    version: int = VERSION
    objectives: tuple[str, ...]
    base: Record | None = None
    trials: tuple[Trial, ...] = ()
    sampler: str = ""
    ended: str = ""
    seconds: float = 0.0
    folder: str = ""
    notes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        return upgrade(data, VERSION, "exploration") if isinstance(data, dict) else data

    @property
    def records(self) -> tuple[Record, ...]:
        """The base's record and those of all trials that were measured to the end."""
        return tuple(r for r in (self.base, *(t.record for t in self.trials if t.state == "done")) if r is not None)

    def front(self) -> tuple[Trial, ...]:
        """The trials, measured to the end, that no other dominates in the objectives; by the first of them."""
        whole = [t for t in self.trials if t.state == "done" and None not in t.values]
        points = [losses(t.values, self.objectives) for t in whole]
        kept = [t for t, p in zip(whole, points, strict=True) if not any(dominates(q, p) for q in points)]
        return tuple(sorted(kept, key=lambda t: losses(t.values, self.objectives)))

    def frontier(self, x: str | None = None, y: str | None = None) -> Frontier:
        """The records on two axes, by default the first two objectives: a cost and a quality."""
        axes = [*self.objectives, *(name for name in ("bytes", "retained") if name not in self.objectives)]
        return Frontier(self.records, x or axes[0], y or axes[1])

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """What the front covers down to `reference` (a value for each objective), in the product of their units."""
        missing = [name for name in self.objectives if name not in reference]
        if missing:
            raise BadInput(f"the reference has no {missing[0]!r}", f"Allowed: a value for each of {', '.join(self.objectives)}")
        return hypervolume(
            [losses(t.values, self.objectives) for t in self.front()], losses([reference[n] for n in self.objectives], self.objectives)
        )

    def table(self) -> str:
        """All trials, one a line, those of the front marked with a star."""
        best = {t.number for t in self.front()}
        head = ["", "trial", "recipe", *(FIGURES[name][0] for name in self.objectives), "state"]
        rows = [head]
        for t in self.trials:
            said = t.state + (f": {t.reason}" if t.reason else "")
            shown = [_shown(name, value) for name, value in zip(self.objectives, t.values or [None] * len(self.objectives), strict=True)]
            rows.append(["*" if t.number in best else "", str(t.number), t.label, *shown, said])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows]
        return "\n".join(lines)

    def to_json(self) -> str:
        """All of it as JSON."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Exploration:
        """Read what `to_json` wrote; BadInput names what is wrong."""
        return from_json(cls, text, "exploration")

    def __repr__(self) -> str:
        states = {state: sum(t.state == state for t in self.trials) for state in ("done", "stopped", "failed")}
        counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        return f"Exploration({len(self.trials)} trials: {counted or 'none yet'}; {len(self.front())} on the front of {self.objectives})"

    __str__ = __repr__


def check_objectives(names: str | Sequence[str]) -> tuple[str, ...]:
    """One or several names of FIGURES, each once. BadInput otherwise."""
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if name not in FIGURES:
            raise choice("the objective", name, FIGURES)
    if not given or len(set(given)) != len(given):
        raise BadInput(f"the objectives are {list(given)}", "Allowed: at least one, each once", f"Choose among {', '.join(FIGURES)}")
    return given


def losses(values: Sequence[float | None], objectives: Sequence[str]) -> tuple[float, ...]:
    """Values such that less is better in each; None becomes infinite."""
    signs = [1 if FIGURES[name][2] == "down" else -1 for name in objectives]
    return tuple(math.inf if v is None else v * s for v, s in zip(values, signs, strict=True))


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether losses `a` are at least as good as `b` in all and better in one."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def promising(mine: Sequence[float], others: Sequence[Sequence[float]], eta: float) -> bool:
    """Whether losses `mine` belong to the best 1/eta of `others` and itself, by fronts: the first front is what nothing dominates,
    the next what then nothing dominates, and so on; a front that begins within the share belongs to it as a whole."""
    left = [tuple(mine), *map(tuple, others)]
    room = max(1.0, len(left) / eta)
    before = 0
    while True:
        front = [p for p in left if not any(dominates(q, p) for q in left)]
        if tuple(mine) in front:
            return before < room
        before += len(front)
        left = [p for p in left if p not in front]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume between `reference` and what the losses `points` dominate. ((0, 1), (1, 0)) down to (2, 2): 3."""
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    # slices along the last figure: in each, the volume of the other figures of the points that reach it
    inside.sort(key=lambda p: p[-1])
    ends = [*(p[-1] for p in inside[1:]), reference[-1]]
    total = 0.0
    for i, (point, end) in enumerate(zip(inside, ends, strict=True)):
        if end > point[-1]:
            total += (end - point[-1]) * hypervolume([p[:-1] for p in inside[: i + 1]], reference[:-1])
    return total


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return bytes_text(value) if FIGURES[name][1] == "bytes" else f"{value:.4g}"
