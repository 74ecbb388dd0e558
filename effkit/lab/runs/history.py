"""What a run has reported so far, and how far it has come. Filled by the worker here, or from the file of another process."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from effkit.spec.errors import BadInput, Cancelled, CannotWrite, EffkitError, OutOfMemory, Unavailable
from effkit.spec.progress import Progress

FIELDS = ("task", "done", "total", "unit", "message", "metrics", "details")


@dataclass(frozen=True)
class RunError:
    """Why a run failed, for people: what happened, why, what to do next. `traceback` is for whoever mends it."""

    what: str
    why: str
    next: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> RunError:
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, BadInput):
            return cls(error.given, error.allowed, error.todo, trace)
        if isinstance(error, Unavailable):
            return cls(error.what, error.why, error.todo, trace)
        if isinstance(error, OutOfMemory | CannotWrite):
            what, _, then = str(error).partition(". ")
            return cls(what, "The machine has no more room" if isinstance(error, OutOfMemory) else "The disk refused it", then, trace)
        if isinstance(error, EffkitError):
            return cls(str(error), "", "", trace)
        return cls(f"{type(error).__name__}: {error}", "effkit did not expect this error", "Please report it with the traceback", trace)

    def __str__(self) -> str:
        return " ".join(part if part.endswith((".", "?")) else part + "." for part in (self.what, self.why, self.next) if part)


class History:
    """Events in order, the last of them as Progress, and the pace of the task that is going on."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.progress: Progress | None = None
        self._phase = 0  # index of the first event of the task that is going on

    def add(self, event: dict[str, Any], progress: Progress | None = None) -> None:
        last = self.progress
        if last is None or (event["task"], event["total"]) != (last.task, last.total) or event["done"] < last.done:
            self._phase = len(self.events)
        self.progress = progress or Progress(**{name: event[name] for name in FIELDS})
        self.events.append(event)

    def begin_from(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Forget what was there and hold `events`: a new list, so that whoever shows the old one notices."""
        self.events, self.progress, self._phase = [], None, 0
        for event in events:
            self.add(dict(event))

    @property
    def seconds(self) -> float:
        """Seconds of work at the last event."""
        return self.events[-1]["t"] if self.events else 0.0

    def seconds_left(self) -> float | None:
        """From the last event to the end of its task, at the pace of the task's later half; None before its third event."""
        count, last = len(self.events) - self._phase, self.progress
        if last is None or count < 3:
            return None
        first = self.events[self._phase + min(count // 2, max(0, count - 10))]
        done = last.done - first["done"]
        return (last.total - last.done) * (self.seconds - first["t"]) / done if done > 0 else None


def outcome(verb: str, run: Any) -> Any:
    """What a run that stands still came to: its result, or its own error raised, or Cancelled. run: a Worker or a Mirror."""
    if run.state == "done":
        return run.result
    if run.state == "cancelled":
        raise Cancelled(f"{verb} was cancelled. Its arguments are as they were and no partial result is left.")
    if run.exception is not None:
        raise run.exception
    if run.error is not None:
        raise EffkitError(str(run.error))
    raise Unavailable(f"the run of {verb} was interrupted", "The process that worked on it ended", "run.resume() goes on with it")
