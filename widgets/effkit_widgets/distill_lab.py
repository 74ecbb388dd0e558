"""Distill a smaller student live: choose its layers, watch training and held-out loss, turn temperature and learning rate.

lab = DistillLab(teacher); lab
lab.start(layers=20, steps=60); student = await lab
lab.student, lab.run, lab.record
lab.pause(); lab.branch(temperature=2.0)        # go on from here in two ways; lab.undo() takes the last change back
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import traitlets as t

from effkit.compress.distillation.distilling import distill
from effkit.compress.distillation.planning import hard_weight
from effkit.compress.distillation.students import prune
from effkit.compress.planning import plan as plan_of
from effkit.lab.records.measuring import measure
from effkit.lab.runs.run import Run, attach, start
from effkit.models.layers import layer_list
from effkit.models.model import Model
from effkit.spec.errors import BadInput, EffkitError, choice
from effkit.spec.intervals import three
from effkit.spec.recipe import Distill, Prune, step_of
from effkit.spec.record import Record

from ._base import explained, refuse_unknown, script, short_name, style
from ._live import LiveCard, options_of, today

OBJECTIVES = get_args(Distill.model_fields["objective"].annotation)
KNOBS = ("temperature", "learning_rate", "hard")
LOOK_SECONDS = 2.0  # between two looks at a run's checkpoints and branches, which are on the disk
CURVES = ("loss", "held_out")
PROMPTS = ("The most important thing to know is", "Once upon a time")


class DistillLab(LiveCard):
    """A bench for `ek.prune` and `ek.distill` on one teacher, which it never changes.

    text:      what to train on (None: the offline default)
    store:     where the record goes: None for the default store, a Store, or False for none
    on:        text to measure on; measuring: more options for ek.measure; training: more options for ek.distill, such as
               {"batch": 2, "window": 64}

    references: lines in the loss chart by name, in nats of KL, beside those that the run itself tells (0, the teacher, among them)
    prompts:    texts that teacher and student continue side by side every tenth of the way; None for two of ours, () for none

    choice:  {"layers", "steps", "objective", "temperature", "learning_rate", "hard"}, set by the fields of the card; the last three
             also while it runs. `training` may say how objective and hard begin; hard None is the library's default for the objective
    plan:    {"layers", "before", "after"}: bytes of the teacher and of the student to be
    verdict: what the student keeps, in words, once it is measured
    tree:    the run, its ancestors and their branches, parents first: [{"id", "parent", "from", "step", "change", "undone",
             "held_out", "state", "number", "shown"}]
    lines:   {name: KL in nats} in the loss chart; samples: {"step", "rows": [{"prompt", "teacher", "student"}]}, the latest
    Raises BadInput for something that is no Model, a reference that is no number, or an unknown option.
    """

    _esm = script("live", "run_tree", "distill_lab")
    _css = style("live")

    choice = t.Dict().tag(sync=True)
    plan = t.Dict().tag(sync=True)
    verdict = t.Unicode().tag(sync=True)
    lines = t.Dict().tag(sync=True)
    samples = t.Dict().tag(sync=True)
    tree = t.List(t.Dict()).tag(sync=True)

    def __init__(
        self,
        teacher: Model,
        text: Any = None,
        store: Any = None,
        *,
        on: Any = None,
        measuring: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        references: Mapping[str, float] | None = None,
        prompts: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("DistillLab", unknown, ("teacher", "text", "store", "on", "measuring", "training", "references", "prompts"))
        if not isinstance(teacher, Model):
            raise BadInput(f"the teacher is a {type(teacher).__name__}", "Allowed: a Model", "ek.load(...) gives one")
        self._teacher, self._text, self._store, self._on = teacher, text, store, on
        self._measuring = options_of(measure, "measuring", measuring, ("model", "base", "on", "store"))
        fields = ("steps", "temperature", "learning_rate")
        self._training = options_of(distill, "training", training, ("teacher", "student", "text", "prompts", *fields))
        first = {"objective": self._training.pop("objective", "forward-kl"), "hard": self._training.pop("hard", None)}
        self._references = _numbers(references or {})
        self._prompts = tuple(prompts if prompts is not None else PROMPTS if teacher.task == "causal-lm" else ())
        self._reached = 0
        self._numbers: dict[str, int] = {}
        self._runs: dict[str, Run] = {}
        self._measured: dict[str, tuple[Model, Record]] = {}
        self._pending: dict[str, float] = {}
        self._others: dict[int, list[tuple[float, float]]] = {}
        self._points: list[int] = []
        self._seen: tuple[Any, float] = (None, 0.0)
        self._distilling: Run | None = None
        self._student: Model | None = None
        self._record: Record | None = None
        total = len(layer_list(teacher)[1])
        choice = {"layers": max(1, round(total * 2 / 3)), "steps": 100, "temperature": 1.0, "learning_rate": 3e-4, **first}
        source = self._training.get("source", "text")
        self._hard = {name: hard_weight(step_of(Distill, objective=name, source=source), teacher.task) for name in OBJECTIVES}
        config = {"name": short_name(teacher.checkpoint.source), "layers": total, "hard": self._hard}
        super().__init__(config=config, choice=choice, lines=self._references)
        self._where = {"device": repr(teacher.device), "date": today()}
        self._replan()
        self.observe(self._chosen, names=["choice"])

    @property
    def student(self) -> Model | None:
        """The distilled student; None before the first is done."""
        return self._student

    @property
    def run(self) -> Run | None:
        """The distillation that goes on, or the last one."""
        return self._distilling

    @property
    def record(self) -> Record | None:
        """The record of the last student; None before it is measured."""
        return self._record

    def start(self, **choice: Any) -> Run:
        """Start what the card shows, or `choice` instead: prune, distill, then measure. Returns the distill run at once."""
        with self._starting:
            if not self._at_rest:
                raise BadInput("a run is going on", "One run at a time", "Cancel it first, or wait for it")
            refuse_unknown("DistillLab.start", {name: 0 for name in choice if name not in self.choice}, self.choice)
            wanted = {**self.choice, **choice}
            step_of(Distill, **{name: value for name, value in wanted.items() if name != "layers"})
            pruned = prune(self._teacher, wanted["layers"])
            if choice:
                self._soon(lambda: self.set_trait("choice", wanted))
            self._student, self._record = None, None
            self._soon(self._forget)
            self._where = {"device": repr(self._teacher.device), "date": today()}
            options = {**self._training, **{name: value for name, value in wanted.items() if name != "layers"}}
            run = start(distill, self._teacher, pruned, text=self._text, prompts=self._prompts, **options)
            self._runs, self._measured, self._numbers, self._pending = {}, {}, {}, {}
            self._present(run)
            return run

    def resume(self) -> None:
        """Go on after a pause, with the knobs as the fields show them, or after the run's process ended."""
        if self._pending and self._distilling is not None and self._distilling.state == "paused":
            self._distilling.change(**self._pending)
        self._pending = {}
        super().resume()

    def branch(self, step: int | None = None, **knobs: float) -> Run:
        """A new run that goes on from the checkpoint at `step` (None: the last one) of the run that is shown, with changed knobs.

        The card shows the branch; the run that it left stays as it was, and `show` shows it again. knobs: temperature,
        learning_rate, steps. Raises BadInput while work goes on, or where there is no such checkpoint.
        """
        with self._starting:
            refuse_unknown(
                "DistillLab.branch", {name: 0 for name in knobs if name not in ("steps", *distill.knobs)}, ("steps", *distill.knobs)
            )
            run = self._resting().branch(step, folder=None, **knobs)
            self._pending = {}
            self._soon(lambda: self._chose(knobs))
            self._present(run)
            return run

    def undo(self, step: int | None = None) -> None:
        """Go back to the checkpoint at `step` (None: the last one before here) and go on from there, in the run that is shown."""
        run = self._distilling
        if run is None or (self._run is not run and not self._at_rest):
            raise BadInput("no training goes on", "Allowed: while a student is trained", "Start one first")
        self._pending = {}
        run.undo(step)
        self._seen = (None, 0.0)
        self._wake()

    def show(self, id: str) -> Run:
        """Show another run of the tree, by its id. One that was paused can be resumed then."""
        with self._starting:
            here = self._resting()
            nodes = {node["id"]: node for node in tree_of(here)}
            if id not in nodes:
                raise choice("the run", id, nodes)
            self._pending = {}
            run = self._runs.get(id) or attach(nodes[id]["folder"])
            there = values_at(run, None)
            self._soon(lambda: self._chose({name: there[name] for name in ("steps", *KNOBS) if name in there}))
            self._present(run)
            return run

    def _resting(self) -> Run:
        """The run that is shown, if nothing moves."""
        if self._distilling is None:
            raise BadInput("there is no run", "Start one first")
        if not self._at_rest and (self._run is not self._distilling or self._distilling.state == "running"):
            raise BadInput("a run is going on", "One run at a time", "Pause it first, or wait for it")
        return self._distilling

    def _present(self, run: Run) -> None:
        """Show a run, with the held-out curves of the others of its tree behind it."""
        self._distilling, self._reached, self._seen = run, 0, (None, 0.0)
        self._runs[run.id] = run
        self._student, self._record = self._measured.get(run.id, (None, None))
        self._others = {node["number"]: held_out(attach(node["folder"]).events) for node in self._family(run) if node["id"] != run.id}
        self._show_run(run, 2)

    def _family(self, run: Run) -> list[dict[str, Any]]:
        """The tree, numbered in the order in which its runs were first seen."""
        nodes = tree_of(run)
        for node in nodes:
            node["number"] = self._numbers.setdefault(node["id"], len(self._numbers) + 1)
        return sorted(nodes, key=lambda node: node["number"])

    def _chose(self, values: Mapping[str, Any]) -> None:
        """The fields show what the run that comes works with; nothing is turned by that."""
        self.unobserve(self._chosen, names=["choice"])
        self.verdict, self.choice = "", {**self.choice, **values}
        self.observe(self._chosen, names=["choice"])
        self._replan()

    def _background(self) -> None:
        for number, points in self._others.items():
            for x, y in points:
                self._curves.add(f"held_out:{number}", x, y)

    def _described(self, name: str, run: Run) -> dict[str, Any]:
        here = self._distilling
        if here is not None:
            if name == "running" and run is here and self._pending:
                pending, self._pending = self._pending, {}
                here.change(**pending)  # someone resumed it from Python
            if (name, run.id) != self._seen[0] or time.monotonic() - self._seen[1] > LOOK_SECONDS:
                self._seen = ((name, run.id), time.monotonic())
                self._points = sorted({point["step"] for point in here.checkpoints()})
                shown = [{k: v for k, v in node.items() if k != "folder"} | {"shown": node["id"] == here.id} for node in self._family(here)]
                if shown != self.tree:
                    self.tree = shown
        return {**super()._described(name, run), "checkpoints": self._points, "training": run is here}

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        if what == "start":
            self._show(None)
            self.start(**values.get("choice", {}))
        elif what == "branch":
            self._show(None)
            here = self._resting()
            step, points = values.get("step"), here.checkpoints()
            if step is None and points and here.state != "paused":  # a paused run can go on from where it is
                step = points[-1]["step"]
            wanted, there = self._spelt(self.choice), self._spelt(values_at(here, step))
            self.branch(step, **{name: wanted[name] for name in ("steps", *KNOBS) if wanted[name] != there.get(name)})
        elif what == "undo":
            self._show(None)
            self.undo(values.get("step"))
        elif what == "show":
            self._show(None)
            self.show(values.get("run", ""))
        else:
            super()._asked(what, values)

    def _forget(self) -> None:
        """What the last run told."""
        self.verdict, self.samples, self.lines = "", {}, self._references

    def _take(self, event: dict[str, Any]) -> None:
        if event["task"] != "distill":
            return
        if event["done"] < self._reached:  # it diverged or was undone: what was drawn beyond did not happen
            self._curves.rewind(event["done"], CURVES)
        self._reached = event["done"]
        details = event["details"]
        if "references" in details:
            self.lines = {**details["references"], **self._references}
        if "samples" in details:
            self.samples = {"step": event["done"], "rows": details["samples"]}
        for name in CURVES:
            if name in event["metrics"]:
                self._curves.add(name, event["done"], event["metrics"][name])

    def _after(self, run: Run) -> Run | None:
        if run is self._distilling and run.id in self._measured:
            self.verdict = _verdict(self._measured[run.id][1])
            return None
        if run is self._distilling:
            self._student = run.result
            return start(measure, self._student, base=self._teacher, on=self._on, store=self._store, **self._measuring)
        self._record = run.result
        if self._distilling is not None and self._student is not None:
            self._measured[self._distilling.id] = (self._student, run.result)
        self.verdict = _verdict(run.result)
        return None

    def _made(self, run: Run) -> Model | None:
        return self._student

    def _chosen(self, change: Any) -> None:
        """A field was changed. While training goes on, the knobs turn at once; while it is paused, with Resume or in a branch."""
        old, new, run = self._spelt(change["old"] or {}), self._spelt(change["new"]), self._distilling
        turned = {name: new[name] for name in KNOBS if new.get(name) != old.get(name)}
        if turned and run is not None and run.state == "paused":
            self._pending |= turned
        elif turned and run is not None and run.state == "running":
            try:
                run.change(**turned)
            except EffkitError as error:
                self._show(error)
        self._soon(self._replan)

    def _spelt(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """With the number that hard's default stands for."""
        stands = "hard" in values and values["hard"] is None
        return {**values, "hard": self._hard.get(values.get("objective", ""), 0.0)} if stands else dict(values)

    def _replan(self) -> None:
        try:
            planned = plan_of(self._teacher, step_of(Prune, layers=self.choice["layers"]))
            step_of(Distill, **{name: value for name, value in self.choice.items() if name != "layers"})
        except EffkitError as error:
            self.plan, self.problem = {}, explained(error)
        else:
            assert isinstance(planned.step, Prune)
            self.plan, self.problem = {"layers": self.choice["layers"], "before": planned.bytes_before, "after": planned.bytes_after}, {}

    def __repr__(self) -> str:
        return f"DistillLab({self.config['name']!r})"


def _verdict(record: Record) -> str:
    """What was found, in words: quality and bytes as shares of the teacher. Nobody keeps more than all: a student that predicts a text
    better than its teacher has learned it from the text."""
    share = f"{record.cost.bytes / record.cost.base_bytes:.1%} of the teacher's bytes"
    found = record.quality
    kept = found.retained if found else None
    if found is None or kept is None:
        return f"The student has {share}."
    if kept <= 1:
        return f"The student keeps {kept:.1%} of the teacher's quality at {share}."
    ours, theirs = (three(e.value or 0.0) for e in (found.perplexity, found.base_perplexity))
    same = f" It would say the same as its teacher for {found.agreement.value:.1%} of the tokens." if found.agreement.value else ""
    ratio = found.perplexity_ratio.high
    if ratio is None or ratio >= 1:
        return f"On this text the data cannot tell the student from its teacher (perplexity {ours} against {theirs}), at {share}.{same}"
    return (
        f"At {share} the student predicts this text better than its teacher (perplexity {ours} against {theirs}): it has learned such "
        f"text, which its teacher knows less, so this is no share of the teacher's quality that was kept.{same}"
    )


def _numbers(references: Mapping[str, float]) -> dict[str, float]:
    for name, value in references.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"the reference {name!r} is {value!r}", "Allowed: a number, in nats of KL to the teacher")
    return {str(name): float(value) for name, value in references.items()}


def tree_of(run: Run) -> list[dict[str, Any]]:
    """A run's family in one list, parents first."""
    found: list[dict[str, Any]] = []

    def add(node: Mapping[str, Any], parent: str | None) -> None:
        kept = ("id", "folder", "step", "change", "undone", "held_out", "state")
        found.append({**{name: node[name] for name in kept}, "from": node["from_step"], "parent": parent})
        for child in node["children"]:
            add(child, node["id"])

    add(run.tree, None)
    return found


def held_out(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(event["done"], event["metrics"]["held_out"]) for event in events if "held_out" in event["metrics"]]


def values_at(run: Run, step: int | None) -> dict[str, Any]:
    """The fields of Distill as they were at a checkpoint (None: at the end); {} where there is none, which `branch` then says."""
    points = [point for point in run.checkpoints() if step is None or point["step"] == step]
    if not points:
        return {}
    state = json.loads((points[-1]["path"] / "state.json").read_text(encoding="utf-8"))["state"]
    values = {**state["step"], **(state.get("change") or {})}
    for event in run.events[points[-1]["events"] :] if step is None else ():
        values |= event.get("change") or {}
    return values
