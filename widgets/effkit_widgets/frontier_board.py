"""Every measured model on two axes: the Pareto front, a budget of quality and cost, and what fits it.

board = FrontierBoard([base, small, smaller]); board
board.add(another)                       # it lands while you look
board.quality, board.cost                # the budget as shares of the base
board.selected_records                   # what the reader's rectangle holds
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import traitlets as t

from effkit.spec.errors import BadInput, choice
from effkit.spec.frontier import FIGURES, Frontier, figure_of, not_distinguishable
from effkit.spec.record import Record

from ._base import Card, refuse_unknown, script, style

TIES_AMONG = 100  # records up to which every pair is compared


def drawn(records: list[Record]) -> list[dict[str, Any]]:
    """All records as points; each names those that its text cannot tell it apart from."""
    points = [point(record) for record in records]
    if len(records) <= TIES_AMONG:
        for i, a in enumerate(records):
            points[i]["ties"] = [b.name for j, b in enumerate(records) if i != j and not_distinguishable(a, b)]
    return points


def point(record: Record) -> dict[str, Any]:
    """A record as the board draws it: every figure as [value, low, high], None where unavailable."""
    figures = {}
    for name in FIGURES:
        e = figure_of(record, name)
        figures[name] = [_finite(e.value), _finite(e.low), _finite(e.high)]
    profile = record.profile
    return {
        "id": record.id,
        "name": record.name,
        "kind": record.recipe.kind(),
        "recipe": record.recipe.label(),
        "figures": figures,
        "device": profile.device if profile else str(record.environment.get("device", "an unknown device")),
        "date": record.created,
        "simulated": bool(profile and profile.simulated),
        "slower": (profile.slower if profile else None) or "",
    }


class FrontierCard(Card):
    """What FrontierBoard and QuantizeLab share: records as points, two axes, a budget, a selection, a sentence.

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
        self._records = _checked(records)
        self._shares = {"quality": float(quality), "cost": float(cost)}
        figures = {name: {"label": label, "unit": unit, "up": better == "up"} for name, (label, unit, better) in FIGURES.items()}
        super().__init__(
            config={"figures": figures, "shares": self._shares, **traits.pop("config", {})},
            points=drawn(self._records),
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
        (record,) = _checked([record])

        def put() -> None:
            self._records = [r for r in self._records if r.id != record.id] + [record]
            self.points = drawn(self._records)

        self._soon(put)

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
        measured = [r for r in self._records if self.frontier.point(r) is not None]
        if not measured:
            return "Nothing has been measured on these axes yet."
        base = next((r for r in measured if not r.recipe.steps), None)
        if base is None:
            return f"{len(measured)} measured; the base is not among them, so a budget cannot be a share of it: ek.measure(model) adds it."
        if len(measured) == 1:
            return f"Only the base, {base.name}, has been measured so far."
        quality, cost = self.quality, self.cost
        if quality is None or cost is None or not all(self.frontier.point(base) or ()):
            front = len(self.frontier.front())
            return f"On these axes the base is zero, so nothing can be a share of it; {front} of {len(measured)} are on the front."
        return self.frontier.verdict(quality, cost)


class FrontierBoard(FrontierCard):
    """A scatter of records with error bars, the Pareto front, two budget lines to drag, and a rectangle to select with.

    x, y: names in FIGURES; both can be changed in the card. quality, cost: where the lines stand first, as shares of the base.
    Raises BadInput for an unknown axis or option, or something that is not a record.
    """

    _esm = script("frontier", "frontier_board")
    _css = style("frontier")

    def __init__(
        self,
        records: Iterable[Record] = (),
        x: str = "bytes",
        y: str = "retained",
        *,
        quality: float = 0.9,
        cost: float = 0.5,
        **unknown: Any,
    ) -> None:
        refuse_unknown("FrontierBoard", unknown, ("records", "x", "y", "quality", "cost"))
        self._made = (x, y)
        super().__init__(records, x, y, quality, cost)

    def __repr__(self) -> str:
        return f"FrontierBoard(x={self._made[0]!r}, y={self._made[1]!r})"


def _checked(records: Iterable[Record]) -> list[Record]:
    given = list(records)
    for record in given:
        if not isinstance(record, Record):
            allowed = "Allowed: records, as ek.measure returns them and ek.Store holds them"
            raise BadInput(f"a {type(record).__name__} is among the records", allowed)
    return given


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
