"""Where the trials of an exploration are made and measured, each with all that it can take over from another.

A recipe is a path: recipes that begin alike share what they begin with. Kept between trials are

- the models after each step, so that ten ways to round one distilled student train it once,
- the rounded layers of a quantize step, for recipes that differ in the embedding's bits or in tuning only (both of these on disk
  too where they took long, for other workers and for going on after a kill),
- sensitivities, one for each model, group size and form, for budgets in bytes,
- what the base computes of the text that its students are trained on (`effkit.compress.states`), whatever the student is,
- the base's outputs and noise floor on the text (`effkit.measure.reference`), for every evaluation,
- the speed of every layout: models of the same shapes and storage run the same code, whatever their weights are.

Nothing else is shared: a trial's quality, bytes and weights are those of the same recipe made and measured alone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from effkit.compress.pipeline import refuse, step_work
from effkit.compress.quantization.registry import method
from effkit.compress.quantization.sensitivity import sensitivity
from effkit.measure.fidelity import evaluate
from effkit.measure.latency import profile, refuse_profile
from effkit.models.layers import layer_list
from effkit.models.loading import load
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput, CannotWrite, EffkitError, OutOfMemory
from effkit.spec.exploration import Stage
from effkit.spec.files import atomic_file, content_hash, free_bytes, writing
from effkit.spec.progress import Snapshot, Work
from effkit.spec.recipe import Distill, Quantize, Recipe, Step
from effkit.spec.record import Profile, Record
from effkit.spec.space import Draft, byte_budget, key_of, step_at

from ..records.measuring import recorded

WIDTHS = (2, 3, 4, 5, 6, 8)  # that a budget in bytes chooses from
REST = "rest"  # what a trial takes besides its stages
LONG = 1.0  # seconds of making from which on something is kept on disk too
SPARE = 4.0  # free space on the disk that is asked for, as a multiple of what is kept there


@dataclass(frozen=True)
class Measuring:
    """How every trial is measured: the arguments of `ek.measure`. isolated: profiled in a process of its own, so that what this
    one keeps is no part of the peak memory."""

    window: int = 256
    windows: int = 8
    prompt: int = 128
    new_tokens: int = 32
    repeats: int = 5
    isolated: bool = False


@dataclass(frozen=True)
class Job:
    """A recipe to be made and measured on so many windows, with its speed or without. `id` and `name`: of its record."""

    number: int
    draft: Draft
    id: str
    name: str
    windows: int
    speed: bool


@dataclass(frozen=True)
class Found:
    """What came of a job: a record, or the reason why there is none."""

    number: int
    windows: int
    record: Record | None = None
    reason: str = ""
    stages: tuple[Stage, ...] = ()
    worker: str = ""


@dataclass
class Clock:
    """Counts seconds of work: what passes between two yields, when others have the thread, does not count."""

    before: float = 0.0
    _since: float | None = None

    @property
    def seconds(self) -> float:
        return self.before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def counted(self, work: Work[Any]) -> Work[Any]:
        """Pass the events of `work` on and count."""
        while True:
            self._since = time.perf_counter()
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            finally:
                self.before, self._since = self.seconds, None
            yield event


@dataclass
class _Kept:
    """Models and rounded layers by key; the least recently used go where they are more than `limit` bytes together."""

    limit: int
    held: OrderedDict[str, tuple[Any, int]] = field(default_factory=OrderedDict)

    def get(self, key: str) -> Any:
        if key not in self.held:
            return None
        self.held.move_to_end(key)
        return self.held[key][0]

    def put(self, key: str, value: Any, size: int) -> None:
        self.held.pop(key, None)
        while self.held and size + sum(s for _, s in self.held.values()) > self.limit:
            self.held.popitem(last=False)
        if size <= self.limit:
            self.held[key] = value, size


class Bench:
    """Makes and measures. on: what is measured on; text: what steps read that name no text; folder: for what is kept on disk."""

    def __init__(self, base: Model, on: Any, text: Any, how: Measuring, folder: Path | None = None) -> None:
        self.base, self.on, self.text, self.how, self.folder = base, on, text, how, folder
        self.kept = _Kept(2 * base.stored_bytes)
        self.sensitivities: dict[str, Any] = {}
        self.speeds: dict[str, tuple[Profile, str]] = {}
        self._stages: list[Stage] = []

    # a trial

    def found(self, job: Job) -> Work[Found]:
        """Make and measure; an error becomes the reason, so that a search goes on after it."""
        self._stages, clock = [], Clock()
        record, reason = None, ""
        try:
            record = yield from clock.counted(self._record(job))
        except OutOfMemory as error:
            if not self.kept.held:
                return Found(job.number, job.windows, None, str(error), self._stages_and_rest(clock))
            self.kept.held.clear()
            return (yield from self.found(job))  # once more, with all the memory there is
        except EffkitError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  (kept as the trial's reason)
            reason = f"{type(error).__name__}: {error}"
        return Found(job.number, job.windows, record, reason, self._stages_and_rest(clock))

    def _stages_and_rest(self, clock: Clock) -> tuple[Stage, ...]:
        rest = clock.seconds - sum(stage.seconds for stage in self._stages)
        return (*self._stages, Stage(name=REST, seconds=max(0.0, rest)))

    def measured_base(self, id: str, speed: bool) -> Work[Record]:
        """The base's own record; its outputs on the text are kept with it."""
        base, how = self.base, self.how
        quality = yield from self._clocked(
            "evaluate", evaluate.work(base, base, self.on, window=how.window, windows=how.windows), how.windows
        )
        timed = (yield from self._clocked("profile", self._profile(base))) if speed else None
        return recorded(base, base, quality, timed, name="base").model_copy(update={"id": id})

    def _record(self, job: Job) -> Work[Record]:
        model = yield from self.made(job.draft, job.speed)
        work = evaluate.work(model, self.base, self.on, window=self.how.window, windows=job.windows)
        quality = yield from self._clocked("evaluate", work, job.windows)
        timed = (yield from self._speed(model, job.id)) if job.speed else None
        record = recorded(model, self.base, quality, timed, name=job.name)
        return record.model_copy(update={"id": job.id})

    # making

    def made(self, draft: Draft, speed: bool = False) -> Work[Model]:
        """The model of a draft, from the longest beginning of it that is there already. speed: one whose speed is to be measured."""
        count = len(draft["steps"])
        begun = next(((at, m) for at in range(count, 0, -1) if (m := self.kept.get(key_of(draft, at))) is not None), (0, self.base))
        if begun[0] == count:
            return begun[1]
        steps = tuple(step_at(draft, at) for at in range(count))
        _, outline = refuse(self.base, Recipe(steps=steps, seed=draft["seed"]), self.text)
        if speed:
            refuse_profile(outline, [self.base], self.how.prompt, self.how.new_tokens, 1, self.how.repeats)
        at, current = yield from self._from_disk(draft, *begun)
        for i in range(at, count):
            step: Step = yield from self._resolved(draft, i, steps[i], current)
            begun_at = time.perf_counter()
            current = yield from self._made_step(draft, i, step, current)
            self.kept.put(key_of(draft, i + 1), current, current.stored_bytes)
            if i + 1 < count and isinstance(step, Distill):
                self._to_disk(key_of(draft, i + 1), current, time.perf_counter() - begun_at)
        return current

    def _made_step(self, draft: Draft, at: int, step: Step, current: Model) -> Work[Model]:
        seed = draft["seed"]
        if not isinstance(step, Quantize):
            units = step.steps if isinstance(step, Distill) else 1
            work = step_work(self.base, current, step, self.text, seed, shared=True)
            return (yield from self._clocked(step.step, work, units))
        key = rounding_key(draft, at, step)
        rounded = self._rounded(key)
        resume = None if rounded is None else Snapshot({n: t.clone() for n, t in rounded.tensors.items()}, rounded.state)
        name = "round again" if resume else f"quantize {step.method}"
        return (yield from self._clocked(name, self._rounding(key, step, current, seed, resume)))

    def _rounding(self, key: str, step: Quantize, current: Model, seed: int, resume: Snapshot | None) -> Work[Model]:
        """Quantize, and keep the rounded layers as they are before any tuning."""
        work = step_work(self.base, current, step, self.text, seed, resume, shared=True)
        layers, begun = layer_list(current)[0] + ".", time.perf_counter()
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            modules = event.total - (step.tune_steps if step.tune else 0)
            if resume is None and event.snapshot and event.done == modules and "module" in event.details:
                whole = event.snapshot()
                specs = {name: spec for name, spec in whole.state["specs"].items() if name.startswith(layers)}
                inside = {n: t for n, t in whole.tensors.items() if n.startswith("fold/") or n.rsplit("/", 1)[0] in specs}
                tensors = {name: t.detach().cpu().clone() for name, t in inside.items()}
                self._keep_rounded(key, Snapshot(tensors, {**whole.state, "specs": specs}), time.perf_counter() - begun)
            yield event

    def _resolved(self, draft: Draft, at: int, step: Step, current: Model) -> Work[Step]:
        """The step, with the bits that its budget allots to every module."""
        budget = byte_budget(draft, at, self.base.stored_bytes)
        if budget is None or not isinstance(step, Quantize):
            return step
        widths = tuple(b for b in WIDTHS if b in method(step.method).bits)
        if len(widths) < 2:
            raise BadInput(f"bytes is given for {step.method}", "Allowed: a method that rounds to several widths, such as rtn or gptq")
        vocabulary = step.embedding_bits is not None
        key = content_hash([key_of(draft, at), step.group_size, step.symmetric, step.calibration, vocabulary, widths])
        if key not in self.sensitivities:
            text = step.calibration or self.text
            work = sensitivity.work(
                current, text, widths, step.group_size, step.symmetric, window=step.window, vocabulary=vocabulary, seed=draft["seed"]
            )
            self.sensitivities[key] = yield from self._clocked("sensitivity", work)
        return step.model_copy(update={"module_bits": self.sensitivities[key].allocate(budget).bits})

    # speed

    def _speed(self, model: Model, id: str) -> Work[Profile]:
        layout = layout_of(model)
        if layout in self.speeds:
            known, of = self.speeds[layout]
            return known if of == id else known.model_copy(update={"timed_on": of})
        found = yield from self._clocked("profile", self._profile(model))
        self.speeds[layout] = found, id
        return found

    def _profile(self, model: Model) -> Work[Profile]:
        how = self.how
        against = None if model is self.base else self.base
        return profile.work(model, against, prompt=how.prompt, new_tokens=how.new_tokens, repeats=how.repeats, isolated=how.isolated)

    # what is kept on disk

    def _from_disk(self, draft: Draft, at: int, current: Model) -> Work[tuple[int, Model]]:
        if self.folder is None:
            return at, current
        for more in range(len(draft["steps"]) - 1, at, -1):
            place = self.folder / key_of(draft, more)
            if place.is_dir():
                dtype = str(self.base.dtype).removeprefix("torch.")
                found = yield from self._clocked("read", load.work(str(place), device=self.base.device, dtype=dtype))
                self.kept.put(key_of(draft, more), found, found.stored_bytes)
                return more, found
        return at, current

    def _to_disk(self, key: str, model: Model, seconds: float) -> None:
        if self._worth_keeping(seconds, model.stored_bytes) is not None:
            try:
                model.save(self.folder / key)  # type: ignore[operator]
            except (CannotWrite, BadInput):
                shutil.rmtree(self.folder / key, ignore_errors=True)  # type: ignore[operator]

    def _rounded(self, key: str) -> Snapshot | None:
        found: Snapshot | None = self.kept.get(key)
        path = self.folder / f"{key}.safetensors" if self.folder is not None else None
        if found is None and path is not None and path.exists():
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                found = Snapshot(tensors, json.loads(file.metadata()["state"]))
            self.kept.put(key, found, _bytes(found))
        return found

    def _keep_rounded(self, key: str, rounded: Snapshot, seconds: float) -> None:
        size = _bytes(rounded)
        self.kept.put(key, rounded, size)
        folder = self._worth_keeping(seconds, size)
        if folder is not None:
            with contextlib.suppress(CannotWrite, SafetensorError), atomic_file(folder / f"{key}.safetensors", size) as part:
                save_file(dict(rounded.tensors), part, {"state": json.dumps(rounded.state)})

    def _worth_keeping(self, seconds: float, size: int) -> Path | None:
        """The folder for what took long to make, where there is ample room; without it the search goes on as well."""
        if self.folder is None or seconds < LONG:
            return None
        try:
            with writing(self.folder):
                self.folder.mkdir(exist_ok=True)
        except CannotWrite:
            return None
        return self.folder if free_bytes(self.folder) > SPARE * size else None

    def _clocked(self, name: str, work: Work[Any], units: float = 1.0) -> Work[Any]:
        """Pass events on, and note the seconds of work as a stage."""
        clock = Clock()
        result = yield from clock.counted(work)
        self._stages.append(Stage(name=name, seconds=clock.seconds, units=units))
        return result


def _bytes(snapshot: Snapshot) -> int:
    return sum(t.numel() * t.element_size() for t in snapshot.tensors.values())


def rounding_key(draft: Draft, at: int, step: Quantize) -> str:
    """Equal for quantize steps that round the layers alike, whatever they do to the embedding, and to the scales afterwards."""
    alike = step.model_copy(update={"embedding_bits": None, "tune": None, "tune_steps": 1})
    return "rounded-" + content_hash([key_of(draft, at), alike.model_dump(mode="json")])


def layout_of(model: Model) -> str:
    """Equal for models that differ in the values of their weights only: every module's kind, shapes, types and storage."""
    rows: list[Any] = [model.config.to_dict() if hasattr(model.config, "to_dict") else None]
    for name, part in model.module.named_modules():
        tensors: Mapping[str, Any] = {**part._parameters, **part._buffers}
        shapes = [[n, list(t.shape), str(t.dtype)] for n, t in tensors.items() if t is not None]
        if shapes or is_replaced(part):
            rows.append([name, type(part).__name__, shapes, part.storage_spec() if is_replaced(part) else None])  # type: ignore[operator]
    return content_hash([_plain(row) for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
