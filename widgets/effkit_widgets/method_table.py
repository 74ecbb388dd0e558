"""Methods side by side: what each lost, with its interval, at how many bytes, in how many seconds, and what is no difference.

MethodTable([record, another])
MethodTable(lab.records, seconds=lab.seconds)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets as t

from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.frontier import figure_of, not_distinguishable
from effkit.spec.intervals import Estimate
from effkit.spec.record import Record

from ._base import Card, refuse_unknown, script, style


class MethodTable(Card):
    """Records in the order of their KL to the base, least first; neighbours that the text cannot tell apart are marked so.

    records: of ek.measure; the base's own record, if it is among them, gives the bytes to compare with
    seconds: how long each took to make, by the record's id or name; unavailable for those that are not named

    rows: one a record, each with "next": "same" (not distinguishable from the row below), "different", "unknown" or None
    Raises BadInput for anything else, for no compressed model, or a name in seconds that no record has.
    """

    _esm = script("method_table")
    _css = style()

    rows = t.List(t.Dict()).tag(sync=True)
    sentence = t.Unicode().tag(sync=True)

    def __init__(self, records: Iterable[Record], *, seconds: Mapping[str, float] | None = None, **unknown: Any) -> None:
        refuse_unknown("MethodTable", unknown, ("records", "seconds"))
        given = list(records)
        for record in given:
            if not isinstance(record, Record):
                raise BadInput(f"a {type(record).__name__} is among the records", "Allowed: records, as ek.measure returns them")
        made = [record for record in given if record.recipe.steps]
        if not made:
            raise BadInput(f"none of these {len(given)} records is of a compressed model", "Allowed: at least one")
        told = dict(seconds or {})
        for name in told:
            if not any(name in (record.id, record.name) for record in given):
                raise BadInput(f"seconds names {name!r}", "Allowed: the id or the name of a record", "Leave it out, or add its record")
        self._records = tuple(sorted(made, key=_by_kl))
        floor = next((r.quality.floor.kl for r in self._records if r.quality and r.quality.floor), None)
        base = next((record.cost.bytes for record in given if not record.recipe.steps), made[0].cost.base_bytes)
        super().__init__(
            config={"base_bytes": base, "floor": None if floor is None else floor.value},
            rows=[_row(record, told, following) for record, following in zip(self._records, (*self._records[1:], None), strict=True)],
            sentence=_sentence(self._records),
        )

    @property
    def records(self) -> tuple[Record, ...]:
        """The compressed models' records, in the order of the table."""
        return self._records

    def __repr__(self) -> str:
        return f"MethodTable({', '.join(repr(record.name) for record in self._records)})"


def _by_kl(record: Record) -> tuple[bool, float, int]:
    kl = figure_of(record, "kl").value
    return kl is None, kl or 0.0, record.cost.bytes


def _row(record: Record, seconds: Mapping[str, float], following: Record | None) -> dict[str, Any]:
    same = None if following is None else not_distinguishable(record, following, "kl")
    profile, quality = record.profile, record.quality
    return {
        "name": record.name,
        "kind": record.recipe.kind(),
        "recipe": record.recipe.label(),
        "bytes": record.cost.bytes,
        "bits": record.cost.bits_per_weight,
        "kl": _three(figure_of(record, "kl")),
        "ratio": _three(quality.perplexity_ratio if quality else Estimate.unavailable()),
        "agreement": _three(figure_of(record, "agreement")),
        "seconds": seconds.get(record.id, seconds.get(record.name)),
        "next": None if following is None else "unknown" if same is None else "same" if same else "different",
        "device": profile.device if profile else str(record.environment.get("device", "an unknown device")),
        "date": record.created,
        "simulated": bool(profile and profile.simulated),
    }


def _sentence(records: tuple[Record, ...]) -> str:
    best, kl = records[0], figure_of(records[0], "kl")
    if kl.value is None:
        return "None of these was compared with its base: ek.measure(model, base=base) does."
    words = f"{best.name} loses least: KL {kl} at {bytes_text(best.cost.bytes)}."
    ties = [record.name for record in records[1:] if not_distinguishable(best, record, "kl")]
    return words + (f" Not distinguishable from it: {', '.join(ties)}." if ties else "")


def _three(e: Estimate) -> list[float | None]:
    return [e.value, e.low, e.high]
