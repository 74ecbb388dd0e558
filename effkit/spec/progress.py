"""Long work, written once: a generator that yields `Progress` and returns its result.

    @long_work(knobs=("temperature",))
    def distill(teacher, student, ..., resume=None):
        for step in range(...):
            change = yield Progress("distill", step, steps, metrics={"loss": ...}, snapshot=take)
        return model

Called plainly, the generator is driven to its end with a progress bar. `distill.work(...)` is the bare generator:
another long verb delegates to it with `yield from`, and `effkit.lab.runs.run` drives it in a worker thread. Between two
yields the model is valid: there a driver may pause, close (cancel), send changed knobs, or take the snapshot.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .errors import BadInput, choice

P = ParamSpec("P")
T = TypeVar("T")
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Snapshot:
    """All that is needed to go on from here: tensors by name, and a state that JSON can hold."""

    tensors: Mapping[str, Any]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """One event of long work. `done` of `total` units are finished.

    metrics:  numbers for curves, e.g. {"loss": 1.31, "held_out": 1.35}
    details:  what JSON can hold, e.g. {"module": "layers.0.mlp.up_proj", "error": 0.09}
    snapshot: a function that copies the state to resume from; only called between two yields
    """

    task: str
    done: int
    total: int
    unit: str = "steps"
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    snapshot: Callable[[], Snapshot] | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The event without its snapshot, ready for json.dumps."""
        return {
            "task": self.task,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "message": self.message,
            "metrics": dict(self.metrics),
            "details": dict(self.details),
        }


Work = Generator[Progress, Mapping[str, Any] | None, T]


class LongVerb(Generic[P, T]):
    """A verb that takes long: call it, or take `.work(...)` and drive it yourself."""

    def __init__(self, function: Callable[P, Work[T]], knobs: tuple[str, ...] = (), check: Callable[..., Any] | None = None) -> None:
        functools.update_wrapper(self, function)
        self.work = function
        self.name = function.__name__
        self.knobs, self.check = knobs, check
        self.resumable = "resume" in inspect.signature(function).parameters

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return drive(self.work(*args, **kwargs))

    def check_knobs(self, change: Mapping[str, Any]) -> None:
        """Raise BadInput for a knob that this verb does not have, or a value that the knob cannot have."""
        for name, value in change.items():
            if name not in self.knobs:
                raise choice(f"the knob of {self.name}", name, self.knobs)
            check_number(name, value, 0.0 if self.check is None else -math.inf)
        if self.check is not None:
            self.check(**change)

    def __repr__(self) -> str:
        return f"effkit.{self.name}"


def check_number(name: str, value: Any, above: float = 0.0) -> None:
    """Raise BadInput unless the knob's value is a finite number above a limit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
        raise BadInput(f"the knob {name} is {value!r}", f"Allowed: a number{f' above {above:g}' if above > -math.inf else ''}")


@overload
def long_work(function: Callable[P, Work[T]], /) -> LongVerb[P, T]: ...
@overload
def long_work(
    *, knobs: tuple[str, ...] = (), check: Callable[..., Any] | None = None
) -> Callable[[Callable[P, Work[T]]], LongVerb[P, T]]: ...
def long_work(function: Any = None, /, *, knobs: tuple[str, ...] = (), check: Callable[..., Any] | None = None) -> Any:
    """Make a long verb of a generator function. `knobs` names what may be changed between two yields, to a number above 0; or to
    any for which `check`, called with the changed knobs by name, raises nothing."""
    if function is not None:
        return LongVerb(function, knobs, check)
    return lambda f: LongVerb(f, knobs, check)


def follow(work: Work[T], tell: Callable[[Progress], Any]) -> T:
    """Run `work` to its end in this thread, telling of every event."""
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            tell(event)
    finally:
        work.close()


def drive(work: Work[T]) -> T:
    """Run `work` to its end in this thread. A bar appears after a second, unless EFFKIT_PROGRESS=0."""
    bar = None
    begun = time.monotonic()
    show = os.environ.get("EFFKIT_PROGRESS", "1") != "0"

    def tell(event: Progress) -> None:
        nonlocal bar
        if show and bar is None and time.monotonic() - begun > 1.0:
            from tqdm.auto import tqdm

            bar = tqdm(total=event.total, desc=event.task, unit=event.unit, leave=False)
        if bar is not None:
            if bar.total != event.total or bar.desc.rstrip(": ") != event.task:
                bar.reset(event.total)
                bar.set_description(event.task, refresh=False)
            bar.update(event.done - bar.n)

    try:
        return follow(work, tell)
    finally:
        if bar is not None:
            bar.close()


def finish(work: Work[T]) -> T:
    """Run `work` to its end silently. For tests and for work inside work that reports nothing."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        return end.value
