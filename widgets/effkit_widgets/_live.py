"""A card that shows runs while they go on.

The worker of a run never touches a trait. A pump on the main thread's event loop looks at the run a few times a second and
sends what is new: one `state`, and the points of the curves as one message with buffers. Messages are not part of what a
saved notebook holds, so the whole history goes into a trait when a run stops and every few seconds in between.
"""

from __future__ import annotations

import asyncio
import bisect
import datetime
import inspect
import threading
import time
from array import array
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import traitlets as t

from effkit.lab.runs.run import Run
from effkit.spec.errors import BadInput, Cancelled, choice
from effkit.spec.progress import LongVerb

from ._base import Card

PERIOD = 0.15  # seconds between two looks at a run: about seven a second
HISTORY_PERIOD = 5.0  # seconds between two whole histories while a run goes on
ENDED = ("done", "cancelled", "failed", "interrupted")
IDLE: dict[str, Any] = {"name": "idle"}


class Curves:
    """Points by name of curve, appended to (or taken back, when a run goes back); knows what the browser has been told."""

    def __init__(self) -> None:
        self.epoch = 0
        self._points: dict[str, tuple[array, array]] = {}
        self._told: dict[str, int] = {}

    def clear(self) -> None:
        """Begin anew: the browser forgets what it drew when it sees the new epoch."""
        self.epoch += 1
        self._points, self._told = {}, {}

    def add(self, name: str, x: float, y: float) -> None:
        xs, ys = self._points.setdefault(name, (array("d"), array("d")))
        xs.append(x)
        ys.append(y)

    def rewind(self, x: float, names: Iterable[str]) -> None:
        """Forget the points of these curves beyond `x`. The browser forgets all and is told anew what is left."""
        cut = False
        for xs, ys in (self._points[name] for name in names if name in self._points):
            kept = bisect.bisect_right(xs, x)
            cut = cut or kept < len(xs)
            del xs[kept:], ys[kept:]
        if cut:
            self.epoch += 1
            self._told = {}

    def news(self, everything: bool = False) -> tuple[dict[str, Any], list[bytes]] | None:
        """A message with the points that were not told yet (or all), and its buffers of float64; None if there are none."""
        parts, buffers = [], []
        for name, (xs, ys) in self._points.items():
            start = 0 if everything else self._told.get(name, 0)
            if len(xs) > start:
                parts.append([name, start])
                buffers += [xs[start:].tobytes(), ys[start:].tobytes()]
                self._told[name] = len(xs)
        return ({"type": "points", "epoch": self.epoch, "curves": parts}, buffers) if parts else None

    def history(self) -> dict[str, Any]:
        """All points, for the trait that a saved notebook keeps."""
        return {"epoch": self.epoch, "curves": {name: {"x": x.tobytes(), "y": y.tobytes()} for name, (x, y) in self._points.items()}}

    def __getitem__(self, name: str) -> tuple[list[float], list[float]]:
        xs, ys = self._points.get(name, (array("d"), array("d")))
        return list(xs), list(ys)


class LiveCard(Card):
    """Shows one run after another. Subclasses say what an event adds to the curves (`_take`) and what follows a run (`_after`).

    state:   {"name": idle | running | paused | cancelled | done | failed | interrupted, "task", "done", "total", "unit",
             "message", "stage": [which, of how many], "elapsed", "left", "device", "date"}
    history: {"epoch": int, "curves": {name: {"x": float64 bytes, "y": float64 bytes}}}
    """

    state = t.Dict(IDLE).tag(sync=True)
    history = t.Dict({"epoch": 0, "curves": {}}).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._run: Run | None = None
        self._stage, self._stages = 1, 1
        self._before = 0.0  # seconds of the runs before this one
        self._at_rest = True
        self._curves = Curves()
        self._events: Sequence[dict[str, Any]] = ()
        self._read = 0
        self._saved_at = 0.0
        self._where: dict[str, str] = {}
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._starting = threading.Lock()
        super().__init__(**traits)

    # what people ask for, from the card or from Python, in any thread

    @property
    def run(self) -> Run | None:
        """The run that is shown: the one that goes on, or the last one."""
        return self._run

    def pause(self) -> None:
        """Pause at the next yield."""
        self._going().pause()
        self._wake()

    def resume(self) -> None:
        """Go on after a pause, or after the run's process ended."""
        if self._run is None:
            raise BadInput("there is no run", "Start one first")
        self._run.resume()
        self._wake()

    def cancel(self) -> None:
        """End the work at the next yield; the model is as it was."""
        if self._run is not None:
            self._run.cancel()
            self._wake()

    def change(self, **knobs: float) -> None:
        """Change knobs of the run that goes on."""
        self._going().change(**knobs)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until the work has ended, keeping the card up to date, and return what it made. Raises its error, or Cancelled."""
        until = None if timeout is None else time.monotonic() + timeout
        here = self._loop is None or threading.current_thread() is threading.main_thread()
        while not self._at_rest:
            if here:
                self._look()
            if self._at_rest:
                break
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"the work still goes on after {timeout} s; it is not stopped by this")
            time.sleep(PERIOD / 3)
        return self._outcome(here)

    def __await__(self) -> Generator[Any, None, Any]:
        """`await card`: like wait(), and the kernel stays free for buttons and other cells."""
        return self._finished().__await__()

    async def _finished(self) -> Any:
        while not self._at_rest:
            self._look()
            if not self._at_rest:
                await asyncio.sleep(PERIOD)
        return self._outcome(True)

    def _outcome(self, here: bool) -> Any:
        if here:
            self.send_state(
                [key for key in self.keys if not key.startswith("_")]
            )  # in the context of the waiting cell: whoever records it (nbclient) gets the end of the story
        run = self._run
        if run is None:
            raise BadInput("there is no run to wait for", "Start one first")
        if run.state == "cancelled":
            raise Cancelled(f"{run.verb} was cancelled. Its arguments are as they were and no partial result is left.")
        if run.state != "done":
            return run.wait(0)
        if self._broken is not None:
            raise self._broken
        return self._made(run)

    def close(self) -> None:
        """Close the card. A run goes on without it."""
        self._closed = True
        super().close()

    # for subclasses

    _broken: BaseException | None = None

    def _take(self, event: dict[str, Any]) -> None:
        """Add an event's numbers to the curves."""
        for name, value in event["metrics"].items():
            self._curves.add(name, event["done"], value)

    def _background(self) -> None:
        """Curves that stand behind those of the run; called whenever these begin anew."""

    def _after(self, run: Run) -> Run | None:
        """What follows a run that is done: the next run, or None."""
        return None

    def _made(self, run: Run) -> Any:
        return run.result

    def _show_run(self, run: Run, stages: int = 1) -> None:
        """Show `run` from now on, the first of so many; the curves begin anew."""
        self._run, self._stage, self._stages = run, 1, stages
        self._events, self._read, self._before = (), 0, 0.0
        self._curves.clear()
        self._background()
        self._broken = None
        self._wake()

    # the pump

    def _wake(self) -> None:
        """Let the pump run on the main loop, whichever thread this is."""
        self._at_rest = False
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ensure_pump)

    def _ensure_pump(self) -> None:
        if (self._pump is None or self._pump.done()) and not self._closed:
            assert self._loop is not None
            self._pump = self._loop.create_task(self._pumping())

    async def _pumping(self) -> None:
        while not self._at_rest and not self._closed:
            self._look()
            await asyncio.sleep(PERIOD)

    def _look(self) -> None:
        """One look at the run: send what is new. Runs on the main thread only."""
        run = self._run
        if run is None or self._at_rest:
            return
        try:
            self._look_at(run)
        except Exception as error:  # noqa: BLE001 - shown in the card; the pump must not die in silence
            self._broken = error
            self._rest("failed", run)
            self._show(error)

    def _look_at(self, run: Run) -> None:
        name = run.state  # before the events: when it has ended, none of them is missed
        events = run.events
        if events is not self._events and self._read:
            self._curves.clear()  # resumed from a snapshot: the run tells its story again, up to there
            self._background()
            self._read = 0
        self._events = events
        for event in events[self._read : (end := len(events))]:
            self._take(event)
        self._read = end
        following = self._after(run) if name == "done" else None
        if following is not None:
            self._tell()
            self._save()
            self._before += run.elapsed
            self._run, self._stage, self._events, self._read = following, self._stage + 1, (), 0
            return
        self._tell()
        if name in ENDED:
            self._rest(name, run)
            return
        if name != self.state["name"] or time.monotonic() - self._saved_at > HISTORY_PERIOD:
            self._save()
        self.state = self._described(name, run)

    def _tell(self, everything: bool = False) -> None:
        news = self._curves.news(everything)
        if news is not None:
            self.send(*news)

    def _save(self) -> None:
        self.history = self._curves.history()
        self._saved_at = time.monotonic()

    def _rest(self, name: str, run: Run) -> None:
        self._save()
        self.state = self._described(name, run)
        error = run.error
        if error is not None and name == "failed":
            self.problem = {"what": error.what, "why": error.why, "next": error.next, "traceback": error.traceback}
        self._at_rest = True

    def _described(self, name: str, run: Run) -> dict[str, Any]:
        at, left = run.progress, run.seconds_left
        return {
            "name": name,
            "task": at.task if at else run.verb,
            "done": at.done if at else 0,
            "total": at.total if at else 0,
            "unit": at.unit if at else "",
            "message": at.message if at else "",
            "stage": [self._stage, self._stages],
            "elapsed": round(self._before + run.elapsed, 1),
            "left": None if left is None else round(left, 1),
            "folder": str(run.folder),
            "notes": list(run.notes),
            **self._where,
        }

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        if what != "resync":
            self._show(None)
        if what == "pause":
            self.pause()
        elif what == "resume":
            self.resume()
        elif what == "cancel":
            self.cancel()
        elif what == "change":
            self.change(**values)
        elif what == "resync":
            self._soon(lambda: self._tell(everything=True))
        else:
            super()._asked(what, values)

    def _going(self) -> Run:
        if self._run is None or self._run.state not in ("running", "paused"):
            state = self._run.state if self._run else "not started"
            raise BadInput(f"the run is {state}", "Only a run that is going on can be asked for this", "Start one first")
        return self._run


def options_of(verb: LongVerb, field: str, given: Mapping[str, Any] | None, taken: Sequence[str]) -> dict[str, Any]:
    """`given` as arguments of `verb`, checked now and not after minutes of work. `taken`: what the card gives itself."""
    free = [name for name in inspect.signature(verb.work).parameters if name not in (*taken, "resume")]
    for name in given or {}:
        if name not in free:
            raise choice(f"the option in {field}", name, sorted(free))
    return dict(given or {})


def today() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
