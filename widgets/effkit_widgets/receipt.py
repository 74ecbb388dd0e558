"""What is needed to run a record again, to be copied; and a button that does it and says of each figure whether it is the same.

Receipt(record)
Receipt(ek.Store(), replaying={"speed": False})      # several, one at a time
card.run_again(record.id); replay = await card       # what the button does; an effkit.spec.replay.Replay
card.replays                                         # record's id -> what came out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets as t

from effkit.lab.records.replay import replay
from effkit.lab.runs.run import Run, start
from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Estimate
from effkit.spec.receipt import FILE, receipt_of
from effkit.spec.record import Record
from effkit.spec.replay import Replay

from ._base import refuse_unknown, script, style
from ._live import LiveCard, options_of, today


class Receipt(LiveCard):
    """Receipts of one record or of several, one shown at a time.

    records:   a Record or several, such as an ek.Store
    replaying: more options for ek.replay, such as {"model": base, "on": "text.txt", "speed": False}
    file:      what the reader calls the file that holds the records; the commands name it

    receipts: one a record, as effkit.spec.receipt.receipt_of tells it; chosen: the id of the one that is shown
    outcomes: id -> {"ok", "same_weights", "date", "figures": [{"label", "unit", "then", "now", "verdict", "why"}], "changes": [sentence]}
    Raises BadInput for no record, anything else, or an unknown option.
    """

    _esm = script("live", "receipt")
    _css = style("live", "receipt")

    receipts = t.List(t.Dict()).tag(sync=True)
    chosen = t.Unicode().tag(sync=True)
    outcomes = t.Dict().tag(sync=True)

    def __init__(
        self, records: Record | Iterable[Record], *, replaying: Mapping[str, Any] | None = None, file: str = FILE, **unknown: Any
    ) -> None:
        refuse_unknown("Receipt", unknown, ("records", "replaying", "file"))
        given = [records] if isinstance(records, Record) else list(records)
        for record in given:
            if not isinstance(record, Record):
                raise BadInput(f"a {type(record).__name__} is among the records", "Allowed: records, as ek.measure returns them")
        if not given:
            raise BadInput("there are no records", "Allowed: at least one")
        self._records = {record.id: record for record in given}
        self._options = options_of(replay, "replaying", replaying, ("record",))
        self._replays: dict[str, Replay] = {}
        self._again = ""  # the id of the record that is run again
        told = [receipt_of(record, file) for record in self._records.values()]
        super().__init__(receipts=[{**one.model_dump(mode="json"), "plain": str(one)} for one in told], chosen=told[0].id)

    @property
    def replays(self) -> dict[str, Replay]:
        """What came out of the records that were run again, by their id."""
        return dict(self._replays)

    def run_again(self, id: str | None = None) -> Run:
        """Replay a record (None: the one that is shown) and compare. Returns the run at once; `await card` gives the Replay."""
        with self._starting:
            if not self._at_rest:
                raise BadInput("a record is being run again", "One at a time", "Cancel it first, or wait for it")
            wanted = self.chosen if id is None else id
            if wanted not in self._records:
                raise choice("the record", wanted, self._records)
            self._again = wanted
            self._where = {"date": today(), "record": wanted}
            run = start(replay, self._records[wanted], **self._options)
            self._show_run(run)
            return run

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        if what == "start":
            self._show(None)
            self.run_again(values.get("record"))
        else:
            super()._asked(what, values)

    def _take(self, event: dict[str, Any]) -> None:
        """A replay draws no curves."""

    def _after(self, run: Run) -> Run | None:
        found: Replay = run.result
        self._replays[self._again] = found
        self.outcomes = {**self.outcomes, self._again: _told(found)}
        return None

    def __repr__(self) -> str:
        return f"Receipt({', '.join(repr(record.name) for record in self._records.values())})"


def _told(found: Replay) -> dict[str, Any]:
    figures = [
        {"figure": o.figure, "label": o.label, "unit": o.then.unit, "then": _three(o.then), "now": _three(o.now), "verdict": o.verdict,
         "why": o.why}
        for o in found.outcomes
    ]  # fmt: skip
    changes = [str(change) for change in found.changes]
    where = found.again.profile or found.again.fingerprint
    device = where.device if where is not None else None
    return {
        "ok": found.ok, "same_weights": found.same_weights, "date": found.again.created, "device": device, "figures": figures,
        "changes": changes,
    }  # fmt: skip


def _three(e: Estimate) -> list[float | None]:
    return [e.value, e.low, e.high]
