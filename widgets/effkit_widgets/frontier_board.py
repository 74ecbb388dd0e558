"""Every measured model on two axes: the Pareto front, a budget of quality and cost, and what fits it.

board = FrontierBoard([base, small, smaller]); board
board.add(another)                       # it lands while you look
board.quality, board.cost                # the budget as shares of the base
board.selected_records                   # what the reader's rectangle holds
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from effkit.spec.record import Record

from ._base import refuse_unknown, script, style
from ._frontier import FRONTIER, FrontierCard


class FrontierBoard(FrontierCard):
    """A scatter of records with error bars, the Pareto front, two budget lines to drag, and a rectangle to select with.

    x, y: names in FIGURES; both can be changed in the card. quality, cost: where the lines stand first, as shares of the base.
    Raises BadInput for an unknown axis or option, or something that is not a record.
    """

    _esm = script(*FRONTIER, "frontier_board")
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
