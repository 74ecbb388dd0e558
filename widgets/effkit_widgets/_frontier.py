"""What the cards with a frontier share: records as points with their ties, two axes, a budget, a selection, a sentence.

All that needs no kernel happens in the page (static/frontier.js and frontier_view.js): what is sent is plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import traitlets as t

from effkit.spec.errors import BadInput, choice
from effkit.spec.frontier import BLOCKS, FIGURES, QUALITY, Frontier, contenders, figure_of, tied
from effkit.spec.places import last_part
from effkit.spec.recipe import Recipe
from effkit.spec.record import Record

from ._base import Card

FRONTIER = ("heat", "frontier", "frontier_marks", "frontier_view")  # the scripts of the picture
TIES_AMONG = 200  # records up to which every pair is compared; of more, those that can be on a front
TIES = {"nll": "retained", "kl": "kl", "agreement": "agreement"}  # what is compared on text -> a figure that is compared so
# fields of a step that colour, shape and size can follow, under the name they have there
FIELDS = {
    "quantize": ("method", "bits", "group_size", "embedding_bits", "symmetric", "rotate", "tune", "calibration"),
    "prune": ("layers", "by", "heads", "ffn", "hidden_size", "vocabulary"),
    "student": ("layers", "heads", "ffn", "hidden_size", "vocabulary"),
    "distill": ("steps", "objective", "temperature", "source"),
}


def tie_of(figure: str) -> str | None:
    """Which comparison on text tells two values of a figure apart; None where their own intervals do."""
    return BLOCKS[figure][0] if figure in BLOCKS else "nll" if figure in QUALITY else None


def described(figure: str) -> dict[str, Any]:
    """A figure as the page knows it."""
    label, unit, better = FIGURES[figure]
    at = list(FIGURES).index(figure)  # their order, which a notebook that is saved forgets: its keys are sorted
    return {"label": label, "unit": unit, "up": better == "up", "ties": tie_of(figure), "at": at}


def fields(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, flat: {"method": "gptq", "bits": 4, ...}. A list of layers counts; single modules' bits are "mixed"."""
    found: dict[str, Any] = {}
    for step in recipe.steps:
        for name in FIELDS[step.step]:
            value = getattr(step, name)
            if name == "bits" and step.module_bits:  # type: ignore[union-attr]
                value = "mixed"
            if value is not None:
                found[name] = len(value) if isinstance(value, tuple) else last_part(value) if name == "calibration" else value
    return found


def point(record: Record) -> dict[str, Any]:
    """A record as the page draws it: every figure it has as [value, low, high], the recipe's fields, when and where."""
    figures = {}
    for name in FIGURES:
        e = figure_of(record, name)
        if (value := _finite(e.value)) is not None:
            figures[name] = [value, _finite(e.low), _finite(e.high)]
    profile, mark = record.profile, record.fingerprint
    return {
        "id": record.id,
        "name": record.name,
        "kind": record.recipe.kind(),
        "recipe": record.recipe.label(),
        "fields": fields(record.recipe),
        "figures": figures,
        "device": profile.device if profile else (mark and mark.device) or str(record.environment.get("device", "an unknown device")),
        "date": record.created,
        "simulated": bool(profile and profile.simulated),
        "slower": (profile.slower if profile else None) or "",
    }


class Drawn:
    """Records as points, each drawn and each pair compared once however often the list grows.

    A point's `n` is its number here; `ties` are {comparison: [numbers of those that the text cannot tell it from]}, None where the
    point was not compared: of many records only those that can be on a front are, with each other, and the card says so.
    """

    def __init__(self) -> None:
        self._points: dict[str, tuple[Record, dict[str, Any]]] = {}
        self._met: dict[str, set[str]] = {}  # with whom each was compared
        self._count = 0

    def points(self, records: list[Record]) -> list[dict[str, Any]]:
        """All of them as points, in their order."""
        for record in records:
            held = self._points.get(record.id)
            if held is None or held[0] is not record:
                self._count += 1
                self._points[record.id] = (record, {**point(record), "n": self._count, "ties": {}})
                self._met[record.id] = set()
                for met in self._met.values():
                    met.discard(record.id)
        among = (records if len(records) <= TIES_AMONG else contenders(records))[:TIES_AMONG]
        for i, record in enumerate(among):
            met = self._met[record.id]
            others = [other for other in among[:i] if other.id not in met and record.id not in self._met[other.id]]
            if others:
                self._compare(record, others)
                met.update(other.id for other in others)
        told = {record.id for record in among}
        drawn = [self._points[record.id][1] for record in records]
        return [dict(one) if one["id"] in told else {**one, "ties": None} for one in drawn]

    def _compare(self, record: Record, others: list[Record]) -> None:
        own = self._points[record.id][1]
        for kind, figure in TIES.items():
            for other, same in zip(others, tied(record, others, figure), strict=True):
                if same:
                    theirs = self._points[other.id][1]
                    for a, b in ((own, theirs), (theirs, own)):
                        a["ties"] = {**a["ties"], kind: [*a["ties"].get(kind, ()), b["n"]]}


class FrontierCard(Card):
    """What the cards with a frontier share: records as points, two axes, a budget, a selection, a sentence.

    axes:     {"x": name, "y": name, "xlog": bool, "ylog": bool}
    budgets:  {"x": value, "y": value} in the unit of the axes; None: the default share of the base
    selected: ids of records
    """

    points = t.List(t.Dict()).tag(sync=True)
    axes = t.Dict().tag(sync=True)
    budgets = t.Dict().tag(sync=True)
    selected = t.List(t.Unicode()).tag(sync=True)
    sentence = t.Unicode().tag(sync=True)

    def __init__(self, records: Iterable[Record], x: str, y: str, quality: float, cost: float, **traits: Any) -> None:
        for name, share in (("quality", quality), ("cost", cost)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 10:
                raise BadInput(f"{name} is {share!r}", "Allowed: a share of the base above 0, such as 0.9 or 0.25")
        for axis, name in (("x", x), ("y", y)):
            if name not in FIGURES:
                raise choice(axis, name, FIGURES)
        self._records = checked(records)
        self._drawn = Drawn()
        self._shares = {"quality": float(quality), "cost": float(cost)}
        super().__init__(
            config={"figures": {figure: described(figure) for figure in FIGURES}, "shares": self._shares, **traits.pop("config", {})},
            points=self._all_points(),
            axes={"x": x, "y": y, "xlog": False, "ylog": False},
            budgets={"x": None, "y": None},
            **traits,
        )
        self.sentence = self._sentence()
        self.observe(lambda _: self._soon(self._speak), names=["axes", "budgets", "points"])

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(self._records)

    @property
    def frontier(self) -> Frontier:
        """The records on the axes that the reader has chosen."""
        return Frontier(self._records, self.axes["x"], self.axes["y"])

    @property
    def selected_records(self) -> tuple[Record, ...]:
        return tuple(r for r in self._records if r.id in set(self.selected))

    @property
    def quality(self) -> float | None:
        """The quality budget as a share of the base; None where the base has no such figure."""
        return self._share("y")

    @property
    def cost(self) -> float | None:
        """The cost budget as a share of the base; None where the base has no such figure."""
        return self._share("x")

    def add(self, record: Record) -> None:
        """Add a record, or replace the one with the same id. Works while the board is shown, from any thread."""
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        """Add many at once, each as `add` does."""
        new = {record.id: record for record in checked(records)}

        def put() -> None:
            self._records = [*(r for r in self._records if r.id not in new), *new.values()]
            self.points = self._all_points()

        self._soon(put)

    def _all_points(self) -> list[dict[str, Any]]:
        return self._drawn.points(self._records)

    def _share(self, axis: str) -> float | None:
        """A budget as a share of the base: x in cost, y in quality, both so that the base is 1."""
        given = self.budgets.get(axis)
        if given is None:
            return self._shares["cost" if axis == "x" else "quality"]
        base = next((r for r in self._records if not r.recipe.steps), None)
        name = self.axes[axis]
        value = figure_of(base, name).value if base else None
        if not value or not given:
            return None
        upright = (FIGURES[name][2] == "up") == (axis == "y")
        return float(given / value if upright else value / given)

    def _speak(self) -> None:
        self.sentence = self._sentence()

    def _sentence(self) -> str:
        """The verdict, and which models are slower than their base: fewer bytes are not always faster."""
        slower = [f"{r.name} {r.profile.slower}" for r in self._records if r.profile and r.profile.slower]
        more = f", and {len(slower) - 2} more are slower too" if len(slower) > 2 else ""
        return " ".join([self._verdict(), *([f"{', '.join(slower[:2])}{more}."] if slower else [])])

    def _verdict(self) -> str:
        """The verdict for the budget of this moment, in words."""
        frontier = self.frontier
        measured = [r for r in self._records if frontier.point(r) is not None]
        if not measured:
            return "Nothing has been measured on these axes yet."
        base = next((r for r in measured if not r.recipe.steps), None)
        if base is None:
            return f"{len(measured)} measured; the base is not among them, so a budget cannot be a share of it: ek.measure(model) adds it."
        if len(measured) == 1:
            return f"Only the base, {base.name}, has been measured so far."
        quality, cost = self.quality, self.cost
        if quality is None or cost is None or not all(frontier.point(base) or ()):
            front = len(frontier.front())
            return f"On these axes the base is zero, so nothing can be a share of it; {front} of {len(measured)} are on the front."
        return frontier.verdict(quality, cost)


def checked(records: Iterable[Record]) -> list[Record]:
    """A list of them; BadInput where something else is among them."""
    given = list(records)
    for record in given:
        if not isinstance(record, Record):
            allowed = "Allowed: records, as ek.measure returns them and ek.Store holds them"
            raise BadInput(f"a {type(record).__name__} is among the records", allowed)
    return given


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
