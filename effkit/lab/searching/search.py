"""One exploration: what is tried next, what came of it, and when to stop; all of it in a folder, so that it can go on.

    study.json         what is explored and how; a call that asks for something else is refused
    journal.log        Optuna's study
    base.json          the base's record
    trials/000012.json a trial that ended, with its record: whole or absent
    made/              students and rounded layers that several recipes share; gone when all was tried
    state.json         seconds of work so far, and why it ended
    owner.lock         held by the process that explores

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): every trial is measured on few windows first, and only the
best 1/eta of those measured so far go on to more. A trial is judged when it comes, so that nothing waits for others (Li et al.
2018, arXiv:1810.05934), and several objectives are ranked by fronts (Schmucker et al. 2021, arXiv:2106.12639).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from effkit.spec.errors import BadInput, CannotWrite, Unavailable
from effkit.spec.exploration import TIMED, Budget, Exploration, Rung, Stage, Trial, losses, promising
from effkit.spec.files import write_text, writing
from effkit.spec.frontier import figure_of
from effkit.spec.progress import Progress, Snapshot, Work
from effkit.spec.recipe import Distill, Quantize
from effkit.spec.record import Record
from effkit.spec.space import BYTES, Draft, Space, key_of, label_of, step_at

from ..records.store import Store
from ..runs.folder import RunFolder
from .bench import REST, Clock, Found, Job, rounding_key
from .folder import STUDY, asked, read
from .study import Study, Taken

TELL_SECONDS = 0.2  # between two events of the work inside a trial
MEASURING = ("evaluate", "profile", REST)  # the other stages make a model


class Executor(Protocol):
    """Where jobs run. `capacity`: how many at once; `wait` tells in words how it goes and returns those that ended; `dashboard`: the
    address of a page that shows it, or ""."""

    @property
    def dashboard(self) -> str: ...
    def capacity(self) -> int: ...
    def submit(self, job: Job) -> None: ...
    def wait(self) -> Generator[str, None, list[Found]]: ...
    def close(self) -> None: ...


@dataclass
class _Running:
    """A trial that is being worked on: which rung it has come to and what it showed before."""

    taken: Taken
    label: str
    rung: int = 0
    rungs: tuple[Rung, ...] = ()
    stages: tuple[Stage, ...] = ()


@dataclass
class Search:
    """The state of one exploration. rungs: windows, rising; the last is what a whole measurement reads."""

    folder: Path
    facts: Mapping[str, Any]
    space: Space
    objectives: tuple[str, ...]
    sampler: str
    rungs: tuple[int, ...]
    eta: float
    budget: Budget
    trials: int | None
    speed: bool
    store: Store | None
    done: dict[int, Trial] = field(default_factory=dict)
    running: dict[int, _Running] = field(default_factory=dict)
    base: Record | None = None
    ended: str = ""
    notes: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    dashboard: str = ""
    _made: set[str] = field(default_factory=set)

    # opening and closing

    def open(self) -> None:
        """Take the folder and recall what was done. BadInput where it holds another exploration, Unavailable where it is in use."""
        self.home = RunFolder(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "trials").mkdir(exist_ok=True)
        if not self.home.take(patience=1.0):
            raise Unavailable(f"the folder {str(self.folder)!r}", f"the process {self.home.owner()} explores in it", "Wait for it")
        try:
            self._recall()
        except BaseException:
            self.home.release()
            raise

    def _recall(self) -> None:
        self.id = self._identity()
        for place in (self.home, RunFolder(self.folder / "trials")):
            place.sweep()
        before = read(self.folder)
        self.base, self.clock = before.base, Clock(before.seconds)
        self.done = {trial.number: trial for trial in before.trials}
        population = max(4, min(50, round((self.trials or 40) / 4)))
        self.study = Study(self.folder, self.space, self.objectives, self.sampler, population)
        self.study.recall({n: (t.draft, self._worth(t)) for n, t in self.done.items()})
        self._made = {place.name.removesuffix(".safetensors") for place in (self.folder / "made").glob("*")}

    def _identity(self) -> str:
        place = self.folder / STUDY
        if not place.exists():
            # what a kill leaves while this file is written is nobody's
            if any(not re.fullmatch(rf"owner\.lock|trials|\.{re.escape(STUDY)}\..*\.part", p.name) for p in self.folder.iterdir()):
                raise BadInput(f"the folder {str(self.folder)!r} holds other things", "Allowed: a new or empty folder, or an exploration's")
            write_text(place, json.dumps({"version": 1, "id": uuid.uuid4().hex, "facts": self.facts}, indent=1))
        written = asked(self.folder)
        now = json.loads(json.dumps(self.facts))
        other = sorted(name for name in {*now, *written["facts"]} if now.get(name) != written["facts"].get(name))
        if other:
            raise BadInput(
                f"in {str(self.folder)!r} lies an exploration with another {' and '.join(other)}",
                "Allowed: the same call again, with more trials or another budget, which goes on",
                "Choose another folder",
            )
        return written["id"]

    def close(self) -> None:
        if self.ended and "budget" not in self.ended:
            shutil.rmtree(self.folder / "made", ignore_errors=True)  # nothing is left that would share it
        with contextlib.suppress(CannotWrite, OSError):  # it says why nothing more is done; a full disk has been told already
            self.home.write_state(state="explored", seconds=self.clock.seconds, ended=self.ended, notes=self.notes)
        self.home.release()

    # the work

    def run(self, executor: Executor) -> Work[None]:
        """Try recipe after recipe until something ends it; what is being worked on then is finished."""
        waiting: list[Job] = []  # those that go on to more windows
        self.dashboard = executor.dashboard
        while True:
            while len(self.running) - len(waiting) < max(1, executor.capacity()):
                job = waiting.pop(0) if waiting else self._next()
                if job is None:
                    break
                executor.submit(job)
            if not self.running:
                return
            for found in (yield from self._told(executor.wait())):
                again = self._judged(found)
                if again is not None:
                    waiting.append(again)
                elif found.number in self.done:
                    yield self.progress(self.done[found.number])

    def _told(self, work: Generator[str, None, list[Found]]) -> Work[list[Found]]:
        last = 0.0
        while True:
            try:
                message = next(work)
            except StopIteration as end:
                return end.value
            if time.monotonic() - last >= TELL_SECONDS:
                yield self.progress(message=message)
                last = time.monotonic()

    def _next(self) -> Job | None:
        """The next trial, if there is one and it would end within the budget."""
        if self.trials is not None and len(self.done) + len(self.running) >= self.trials:
            self.ended = f"all {self.trials} trials were made"
            return None
        if self.clock.seconds >= self.budget.seconds:
            self.ended = "the budget is used up"
            return None
        taken = self.study.ask(self._busy())
        if taken is None:
            self.ended = "every recipe of the space was tried"
            return None
        expected = self.expected(taken.draft)
        if self.clock.seconds + expected > self.budget.seconds:
            self.study.put_back(taken)
            self.ended = f"the budget holds no trial more: the next would take about {expected:.0f} s"
            return None
        label = label_of(taken.draft)
        if any(label == t.label for t in (*self.done.values(), *self.running.values())):
            label += f" #{taken.number}"
        self.running[taken.number] = _Running(taken, label)
        return self._job(self.running[taken.number])

    def _busy(self) -> Callable[[Draft], bool]:
        """Whether a draft begins with what a trial is making just now, so that another worker would make it twice."""
        making = {key for r in self.running.values() for key in _beginnings(r.taken.draft)} - self._made
        return lambda draft: not making.isdisjoint(_beginnings(draft))

    def _job(self, trial: _Running) -> Job:
        last = trial.rung + 1 == len(self.rungs)
        return Job(
            trial.taken.number,
            trial.taken.draft,
            hashlib.sha256(f"{self.id} {key_of(trial.taken.draft)}".encode()).hexdigest()[:32],
            trial.label,
            self.rungs[trial.rung],
            self.speed and (last or any(name in TIMED for name in self.objectives)),
        )

    def _judged(self, found: Found) -> Job | None:
        """Write a trial down that has ended, or say what is to be measured next of one that goes on."""
        trial = self.running[found.number]
        trial.stages += found.stages
        draft = trial.taken.draft
        self._made |= _beginnings(draft)
        if found.record is None:
            self._end(trial, found, "failed", found.reason)
            return None
        values = tuple(figure_of(found.record, name).value for name in self.objectives)
        if trial.rung + 1 == len(self.rungs):
            lacking = [name for name, value in zip(self.objectives, values, strict=True) if value is None]
            self._end(trial, found, "done", f"{', '.join(lacking)} could not be measured" if lacking else "", values)
            return None
        others = [r.values for t in (*self.done.values(), *self.running.values()) for r in t.rungs if r.windows == found.windows]
        trial.rungs = (*trial.rungs, Rung(windows=found.windows, values=values))
        if promising(losses(values, self.objectives), [losses(v, self.objectives) for v in others], self.eta):
            trial.rung += 1
            return self._job(trial)
        why = f"on {found.windows} of {self.rungs[-1]} windows it was not among the best 1/{self.eta:g} of {len(others) + 1}"
        self._end(trial, found, "stopped", why, values)
        return None

    def _end(self, trial: _Running, found: Found, state: Any, reason: str, values: tuple[float | None, ...] = ()) -> None:
        number, record = trial.taken.number, found.record
        ended = Trial(
            number=number,
            label=trial.label,
            draft=trial.taken.draft,
            recipe=record.recipe if record else None,
            state=state,
            reason=reason,
            values=values,
            windows=found.windows if record else 0,
            record=record,
            rungs=trial.rungs,
            seconds=sum(stage.seconds for stage in trial.stages),
            stages=trial.stages,
            worker=found.worker,
        )
        if record is not None:
            self.keep(record)
        # the file decides whether a trial was made: it comes after the store, where adding twice changes nothing
        write_text(self.folder / "trials" / f"{number:06d}.json", ended.model_dump_json())
        self.study.tell(number, self._worth(ended))
        self.done[number] = ended
        del self.running[number]
        self.home.write_state(state="exploring", seconds=self.clock.seconds, ended="", notes=self.notes)

    def _worth(self, trial: Trial) -> tuple[float, ...] | None:
        known = [v for v in trial.values if v is not None]
        return tuple(known) if known and len(known) == len(self.objectives) else None

    def keep(self, record: Record) -> None:
        """Add a record to the store; one that cannot be written does not end the search."""
        if self.store is None:
            return
        try:
            self.store.add(record)
        except (CannotWrite, BadInput) as error:
            note = f"A record was not added to the store, but lies in {self.folder}: {error}"
            if note not in self.notes:
                self.notes.append(note)
                warnings.warn(note, stacklevel=2)

    # what it may take

    def expected(self, draft: Draft) -> float:
        """Seconds that a trial would take, from what its stages took so far. What was made already takes none; a stage that was
        never seen is taken to be as long as all making in a trial so far, on average."""
        seen: dict[str, list[float]] = {}
        stages = [s for t in (*self.done.values(), *self.running.values()) for s in t.stages]
        for stage in stages:
            total = seen.setdefault(stage.name, [0.0, 0.0])
            total[0], total[1] = total[0] + stage.seconds, total[1] + stage.units
        count = max(1, len(self.done) + len(self.running))
        usual = sum(s.seconds for s in stages if s.name not in MEASURING) / count
        seconds = sum(seen[name][0] / count for name in ("profile", "sensitivity", REST) if name in seen)
        if "evaluate" in seen:
            seconds += self.rungs[-1] * seen["evaluate"][0] / seen["evaluate"][1]
        elif self.base is not None and self.base.quality is not None:
            seconds += self.base.quality.seconds / 2  # base and noise floor were computed then
        for at in range(len(draft["steps"])):
            if key_of(draft, at + 1) in self._made:
                continue
            name, units = _stage(draft, at, self._made)
            if name in seen:
                seconds += units * seen[name][0] / seen[name][1]
            else:
                seconds += usual
        return seconds

    # what is told

    def progress(self, trial: Trial | None = None, message: str = "") -> Progress:
        """An event: of a trial that ended, or of how it goes."""
        total = self.trials or (int(self.space.size) if self.study.countable else len(self.done) + len(self.running))
        details: dict[str, Any] = {"running": [r.label for r in self.running.values()], "folder": str(self.folder)}
        details |= {"dashboard": self.dashboard} if self.dashboard else {}
        if trial is not None:
            front = [t.number for t in self.exploration().front()]
            details |= {"trial": trial.told(self.objectives), "front": front, "objectives": list(self.objectives)}
            details["store"] = str(self.store.path) if self.store else None
            message = f"trial {trial.number}: {trial.label}: {trial.state}" + (f" ({trial.reason})" if trial.reason else "")
        metrics = {"front": float(len(details["front"]))} if trial is not None else {}
        # nothing needs to be kept to go on from here: the folder has it all
        return Progress(
            "explore", len(self.done), max(total, len(self.done)), "trials", message, metrics, details, lambda: Snapshot({}, {})
        )

    def exploration(self) -> Exploration:
        return Exploration(
            objectives=self.objectives,
            base=self.base,
            trials=tuple(self.done[n] for n in sorted(self.done)),
            sampler=self.sampler,
            ended=self.ended,
            seconds=self.clock.seconds,
            folder=str(self.folder),
            notes=tuple(self.notes),
        )


def _stage(draft: Draft, at: int, made: set[str]) -> tuple[str, float]:
    """What `Bench` calls step `at`, and its units."""
    try:
        step = step_at(draft, at)
    except BadInput:
        return "quantize", 1.0
    if isinstance(step, Quantize):
        again = BYTES not in draft["steps"][at] and rounding_key(draft, at, step) in made
        return ("round again" if again else f"quantize {step.method}"), 1.0
    return step.step, float(step.steps) if isinstance(step, Distill) else 1.0


def _beginnings(draft: Draft) -> set[str]:
    """The keys under which a bench keeps what a draft makes on its way: the models after its steps, and the rounded layers."""
    found = {key_of(draft, at + 1) for at in range(len(draft["steps"]))}
    for at in range(len(draft["steps"])):
        with contextlib.suppress(BadInput):
            step = step_at(draft, at)
            if isinstance(step, Quantize) and BYTES not in draft["steps"][at]:
                found.add(rounding_key(draft, at, step))
    return found
