"""Where the time of a forward pass goes: an icicle of modules, each as wide as its time, with what the measuring itself cost.

decode = breakdown(model, phase="decode"); prefill = breakdown(model, phase="prefill")   # effkit.measure.breakdown
TimeBreakdown(decode, prefill)
"""

from __future__ import annotations

from typing import Any

from effkit.spec.breakdown import Breakdown, Part
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate

from ._base import Card, refuse_unknown, script, style


class TimeBreakdown(Card):
    """Time by module, to zoom into; several passes (prefill and decode) share one card, with a field to choose between them.

    breakdowns: what effkit.measure.breakdown.breakdown returns, one or more; name: the model's, for the title
    Raises BadInput for anything else, none at all, or an unknown option.
    """

    _esm = script("time_breakdown")
    _css = style("live", "time_breakdown")

    def __init__(self, *breakdowns: Breakdown, name: str = "", **unknown: Any) -> None:
        refuse_unknown("TimeBreakdown", unknown, ("breakdowns", "name"))
        if not breakdowns or not all(isinstance(one, Breakdown) for one in breakdowns):
            kinds = ", ".join(type(one).__name__ for one in breakdowns) or "missing"
            raise BadInput(
                f"the breakdown is {kinds}", "Allowed: one Breakdown or more", "effkit.measure.breakdown.breakdown(model) gives one"
            )
        self._breakdowns = breakdowns
        super().__init__(config={"name": name, "passes": [_told(one) for one in breakdowns]})

    def __repr__(self) -> str:
        return f"TimeBreakdown({', '.join(repr(one) for one in self._breakdowns)})"


def _three(e: Estimate) -> list[float | None]:
    return [e.value, e.low, e.high]


def _told(found: Breakdown) -> dict[str, Any]:
    return {
        "phase": found.phase, "device": found.device, "simulated": found.simulated, "dtype": found.dtype, "timing": found.timing,
        "batch": found.batch, "prompt": found.prompt, "repeats": found.repeats, "plain": _three(found.plain_ms),
        "overhead": _three(found.overhead), "by_category": found.by_category(), "root": _part(found.root),
    }  # fmt: skip


def _part(part: Part) -> dict[str, Any]:
    return {
        "name": part.name, "kind": part.kind, "category": part.category, "own": part.own_ms, "total": part.total_ms,
        "calls": part.calls, "flops": part.flops, "bytes": part.bytes, "parts": [_part(child) for child in part.children],
    }  # fmt: skip
