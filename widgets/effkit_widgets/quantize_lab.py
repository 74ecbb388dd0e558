"""Quantize a model live: choose, see the plan and its bytes at once, start, watch the error of every module, see where it lands.

lab = QuantizeLab(model); lab
lab.start(method="nf4"); small = await lab      # what the Start button does, from a cell
lab.result, lab.record, lab.records
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import traitlets as t

from effkit.compress.planning import plan as plan_of
from effkit.compress.quantization.quantizing import quantize
from effkit.compress.quantization.registry import Method, methods
from effkit.lab.records.measuring import measure
from effkit.lab.runs.run import Run, start
from effkit.models.model import Model
from effkit.spec.errors import BadInput, EffkitError
from effkit.spec.plan import Plan
from effkit.spec.recipe import Quantize, step_of
from effkit.spec.record import Record

from ._base import explained, refuse_unknown, script, short_name, style
from ._frontier import FRONTIER, FrontierCard
from ._live import LiveCard, options_of, today

GROUPS: tuple[int | str | None, ...] = ("auto", 32, 64, 128, 256, None)
FIRST = {"method": "rtn", "bits": 4, "group_size": "auto", "symmetric": False, "embedding_bits": 8}


class QuantizeLab(FrontierCard, LiveCard):
    """A bench for `ek.quantize` on one model, which it never changes.

    store:     where records go: None for the default store, a Store, or False for none
    on:        text to measure on (None: the offline default)
    measuring: more options for ek.measure, such as {"windows": 4, "repeats": 2}

    choice: {"method", "bits", "group_size", "symmetric", "embedding_bits"}, set by the fields of the card
    plan:   what the choice will do to each module, with its bytes; {} while the choice is impossible
    Raises BadInput for something that is no Model, or an unknown option.
    """

    _esm = script(*FRONTIER, "live", "quantize_lab")
    _css = style("frontier", "live")

    choice = t.Dict(FIRST).tag(sync=True)
    plan = t.Dict().tag(sync=True)

    def __init__(
        self, model: Model, store: Any = None, on: Any = None, *, measuring: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        refuse_unknown("QuantizeLab", unknown, ("model", "store", "on", "measuring"))
        if not isinstance(model, Model):
            raise BadInput(f"the model is a {type(model).__name__}", "Allowed: a Model", "ek.load(...) gives one")
        self._model, self._store, self._on = model, store, on
        self._measuring = options_of(measure, "measuring", measuring, ("model", "base", "on", "store"))
        self._base_record: Record | None = None
        self._result: Model | None = None
        self._record: Record | None = None
        self._spent, self._seconds = 0.0, {}
        config = {"name": short_name(model.checkpoint.source), "methods": _offered(model)}
        super().__init__((), "bytes", "retained", 0.9, 0.5, config=config)
        self._where = {"device": repr(model.device), "date": today()}
        self._replan()
        self.observe(lambda _: self._soon(self._replan), names=["choice"])

    @property
    def result(self) -> Model | None:
        """The last quantized model; None before the first."""
        return self._result

    @property
    def record(self) -> Record | None:
        """The record of the last quantized model; None before it is measured."""
        return self._record

    @property
    def seconds(self) -> dict[str, float]:
        """What quantizing took, by the record's id: for MethodTable(lab.records, seconds=lab.seconds)."""
        return dict(self._seconds)

    def start(self, **choice: Any) -> Run:
        """Quantize as the card shows, then measure. Returns the quantize run at once.

        choice: what to choose otherwise; naming a method starts from that method's defaults, not from the card.
        """
        with self._starting:
            if not self._at_rest:
                raise BadInput("a run is going on", "One run at a time", "Cancel it first, or wait for it")
            refuse_unknown("QuantizeLab.start", {name: 0 for name in choice if name not in FIRST}, FIRST)
            shown = {} if "method" in choice else self._sensible()
            wanted = _fields(step_of(Quantize, **{**shown, **choice}))
            if choice:
                self._soon(lambda: self.set_trait("choice", wanted))
            plan_of(self._model, step_of(Quantize, **wanted))  # a mistake is found here, not in the worker
            self._result, self._record = None, None
            self._where = {"device": repr(self._model.device), "date": today()}
            run = start(quantize, self._model, **wanted)
            self._show_run(run, 2 if self._base_record else 3)
            return run

    def _sensible(self) -> dict[str, Any]:
        return {name: value for name, value in self.choice.items() if name in FIRST}

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        if what == "start":
            self._show(None)
            self.start(**values.get("choice", {}))
        else:
            super()._asked(what, values)

    def _take(self, event: dict[str, Any]) -> None:
        details = event["details"]
        if event["task"] == "quantize" and "error" in details:
            self._curves.add(details["kind"], event["done"], details["error"])

    def _after(self, run: Run) -> Run | None:
        if self._result is None:
            self._result, self._spent = run.result, run.elapsed
        elif self._base_record is None:
            self._base_record = run.result
            self.add(run.result)
        else:
            self._record = run.result
            self._seconds[run.result.id] = self._spent
            self.add(run.result)
            return None
        options = {"on": self._on, "store": self._store, **self._measuring}
        if self._base_record is None:
            return start(measure, self._model, **options)
        return start(measure, self._result, base=self._model, **options)

    def _made(self, run: Run) -> Model | None:
        return self._result

    def _replan(self) -> None:
        try:
            planned = plan_of(self._model, step_of(Quantize, **self._sensible()))
        except EffkitError as error:
            self.plan, self.problem = {}, explained(error)
        else:
            self.plan, self.problem = _told(planned), {}

    def __repr__(self) -> str:
        return f"QuantizeLab({self.config['name']!r})"


def _fields(step: Any) -> dict[str, Any]:
    return {name: getattr(step, name) for name in FIRST}


def _told(plan: Plan) -> dict[str, Any]:
    """The plan as the card draws it: one row a module, in the order of the model."""
    rows = [
        [m.module, m.kind, list(m.shape), m.action, m.method, m.bits, m.group_size, m.bytes_before, m.bytes_after, m.reason]
        for m in plan.modules
    ]
    sums = {"before": plan.bytes_before, "after": plan.bytes_after, "seconds": plan.seconds, "peak": plan.peak_bytes}
    return {"rows": rows, **sums, "label": plan.step.label(), "notes": list(plan.notes)}


def _offered(model: Model) -> list[dict[str, Any]]:
    """Every method with what may be chosen for this model, and why those that cannot run here cannot."""
    return [
        {
            "name": name,
            "title": method.title,
            "summary": method.summary,
            "bits": list(method.bits),
            "groups": [group for group in GROUPS if _takes(method, group, model.checkpoint.hidden_size or 256)],
            "why_not": method.why_not(model.device),
        }
        for name, method in methods().items()
    ]


def _takes(method: Method, group: Any, columns: int) -> bool:
    try:
        method.group_for(Quantize(method=method.name, bits=method.bits[0], group_size=group), columns)
    except BadInput:
        return False
    return True
