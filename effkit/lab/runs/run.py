"""Long work, live: a worker thread drives a verb's generator, and what people ask for happens between two yields.

    run = ek.start(ek.distill, teacher, student, steps=200)
    run.pause(); run.resume(); run.change(temperature=2.0); run.cancel()
    student = run.wait()            # or, in a notebook that must stay free: await run

The run writes itself to a folder (folder.py). After a crash `ek.attach(folder)` shows it and `.resume()` goes on from
the last snapshot. Nothing is printed or displayed from the worker: whoever shows a run polls its attributes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
import threading
import time
import uuid
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, CannotWrite, Unavailable
from effkit.spec.places import runs_folder
from effkit.spec.progress import LongVerb, Progress, check_number

from . import tree as family
from .arguments import find_verb, named, verb_address, written
from .folder import RunFolder
from .history import RunError, outcome
from .mirror import Mirror
from .worker import Worker

__all__ = ["Run", "RunError", "attach", "start"]

LOOK_SECONDS = 0.05  # how often a run in another process is looked at while it is waited for

_known: weakref.WeakValueDictionary[Path, Run] = weakref.WeakValueDictionary()


def start(verb: LongVerb, *args: Any, folder: str | Path | None = None, **kwargs: Any) -> Run:
    """Start `verb(*args, **kwargs)` in a worker thread and return at once.

    folder: a new or empty folder for the run; None: a new one in the user's data folder. If the default folder cannot be
    written the run works all the same and says so in `run.notes`; a given folder that cannot be written raises CannotWrite.
    Raises BadInput if `verb` is not long work, TypeError if the arguments do not fit it.
    """
    if not isinstance(verb, LongVerb):
        raise BadInput(
            f"the verb is {getattr(verb, '__name__', verb)!r}, a {type(verb).__name__}",
            "Allowed: long work, such as ek.load, ek.quantize, ek.distill, ek.evaluate, ek.profile, ek.measure",
            "Give the verb itself and then its arguments: ek.start(ek.quantize, model, bits=4). Call a short verb plainly",
        )
    arguments = named(verb, args, kwargs)
    now = datetime.datetime.now(datetime.UTC)
    id = uuid.uuid4().hex
    home = RunFolder(folder or runs_folder() / f"{now:%Y%m%d-%H%M%S}-{verb.name}-{id[:6]}")
    call = {"id": id, "name": verb.name, "verb": verb_address(verb), "created": now.isoformat(timespec="seconds")}
    call["arguments"] = {name: written(value, name) for name, value in arguments.items()}
    notes = []
    try:
        home.create(call)
    except (CannotWrite, OSError) as error:
        if folder is not None:
            raise
        notes.append(f"Nothing of this run is saved, because its folder could not be made: {error}")
    worker = Worker(home, verb, writes=not notes)
    worker.notes += notes
    run = Run(home, call, worker)
    _known[home.path.resolve()] = run
    worker.begin(arguments, call)
    return run


def attach(folder: str | Path) -> Run:
    """The run in `folder`: the one that works in this process, or a mirror of one in another process, or one that ended.

    state "interrupted" means that its process ended first; `.resume()` goes on from its last snapshot. Raises BadInput if
    the folder holds no run.
    """
    home = RunFolder(folder)
    known = _known.get(home.path.resolve())
    if known is not None and known.working:
        return known
    run = Run(home, home.call(), Mirror(home))
    _known[home.path.resolve()] = run
    return run


class Run:
    """One piece of long work; made by `start` and `attach`.

    id, verb (its name), folder, created
    state:    "running" | "paused" | "cancelled" | "done" | "failed" | "interrupted"
    progress: the last event as Progress, None before the first
    events:   all events, each Progress.as_json() with "t" (seconds of work since the start) and, where a knob was changed
              for it, "change". A list that only grows; resuming from a snapshot makes a new list
    error:    RunError(what, why, next, traceback) of a failed run
    notes:    what a person should know, such as that nothing could be saved, and why
    elapsed:  seconds of work; pauses do not count
    saved:    set when nothing more will be written; the result is usable before, as soon as the state is "done"
    """

    def __init__(self, home: RunFolder, call: dict[str, Any], source: Worker | Mirror) -> None:
        self.id: str = call["id"]
        self.verb: str = call["name"]
        self.created: str = call["created"]
        self.folder = home.path
        self._home = home
        self._address = call["verb"]
        self._source = source
        self._done_saving = threading.Event()
        self._done_saving.set()

    # what can be seen

    @property
    def state(self) -> str:
        return self._look().state

    @property
    def events(self) -> list[dict[str, Any]]:
        return self._look().history.events

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(done, value) of each event that tells `metric`, such as "held_out"."""
        return [(event["done"], event["metrics"][metric]) for event in self.events if metric in event["metrics"]]

    @property
    def progress(self) -> Progress | None:
        return self._look().history.progress

    @property
    def error(self) -> RunError | None:
        return self._look().error

    @property
    def notes(self) -> list[str]:
        return self._look().notes

    @property
    def elapsed(self) -> float:
        return self._look().elapsed

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the task named in `progress` is done, at its recent pace; None before its third event."""
        source = self._look()
        left = source.history.seconds_left() if source.state in ("running", "paused") else None
        return None if left is None else max(0.0, left - (source.elapsed - source.history.seconds))

    @property
    def result(self) -> Any:
        """What the verb returned; None until the state is "done"."""
        return self._look().result

    @property
    def saved(self) -> threading.Event:
        return self._source.saved if isinstance(self._source, Worker) else self._done_saving

    @property
    def working(self) -> bool:
        """Whether a worker in this process has not yet ended, its writing included."""
        return isinstance(self._source, Worker) and not self._source.saved.is_set()

    @property
    def knobs(self) -> tuple[str, ...]:
        """What `change` can change."""
        return self._verb().knobs

    @property
    def resumable(self) -> bool:
        """Whether `resume()` can go on with a run that was interrupted, or that failed or was cancelled and kept a snapshot."""
        state = self.state
        return state in ("paused", "interrupted") or (state in ("cancelled", "failed") and bool(self._home.snapshots()))

    def done(self) -> bool:
        """Whether it has ended: done, cancelled or failed."""
        return self.state in ("done", "cancelled", "failed")

    def __repr__(self) -> str:
        at = self.progress
        return f"Run({self.verb!r}, {self.state}{f', {at.done} of {at.total} {at.unit}' if at else ''})"

    # what can be asked

    def pause(self, at: int | None = None) -> None:
        """Stop, with a snapshot, at the next yield or the first that has done `at` units; `await run.paused()` waits for it."""
        self._worker().pause(at)

    def resume(self) -> None:
        """Go on: from a pause, or from the last snapshot if its process ended, it failed, or it was cancelled with keep=True.

        A verb without snapshots begins anew. Raises BadInput if the run has ended for good, Unavailable if another process
        works on it.
        """
        if isinstance(self._source, Worker) and not self._source.finished.is_set():
            self._source.unpause()
            return
        self._let_go()
        self._check_can_go_on()
        if not self._home.take(patience=1.0):
            raise self._elsewhere()
        try:
            self._check_can_go_on()  # another process may have finished it meanwhile
            call = self._home.call()
            worker = Worker(self._home, find_verb(call["verb"], call["name"]), writes=True)
            self._home.sweep()
        except BaseException:
            self._home.release()
            raise
        self._source = worker
        worker.go_on(call)

    def cancel(self, keep: bool = False) -> None:
        """End the work at the next yield: the state becomes "cancelled", the arguments are as they were.

        keep: save a snapshot first, so that `resume()` can go on later; otherwise the snapshots are removed too.
        Does nothing if the run has ended.
        """
        if self.done():
            return
        if self.state != "interrupted":
            self._worker().ask("keep" if keep else "cancel")
            return
        if not self._home.take(patience=1.0):
            raise self._elsewhere()
        try:
            self._home.write_state(state="cancelled", notes=self.notes, error=None)
            self._home.sweep(everything=not keep)
        finally:
            self._home.release()
        self._source = Mirror(self._home)

    def change(self, **knobs: float) -> None:
        """Change knobs, from the next step on. Raises BadInput at once for a knob that the verb lacks or a value that it refuses."""
        self._check_change(knobs)
        self._worker().ask(**knobs)

    def checkpoint_now(self, timeout: float | None = None) -> Path:
        """Save a snapshot at the next yield, wait for it and return its folder.

        Raises Unavailable if the verb has none or it could not be saved, TimeoutError after `timeout` seconds.
        """
        if not self._verb().resumable:
            raise Unavailable(
                f"{self.verb} has no snapshots", "It begins anew when it is resumed", "Use it on long work, such as ek.distill"
            )
        worker = self._worker()
        if not worker.ask_snapshot().wait(timeout):
            raise TimeoutError(f"{self.verb} came to no yield within {timeout} s")
        found = self._home.snapshots()
        if not found:
            raise Unavailable("no snapshot was saved", "; ".join(worker.notes) or f"the run is {worker.state}")
        return found[-1]

    def checkpoints(self) -> list[dict[str, Any]]:
        """{"step", "events", "path"} of every point that `branch` and `undo` can go to, the earliest first.

        One is kept by a pause, by `checkpoint_now`, and before a knob is changed; the last snapshot counts too.
        """
        return family.checkpoints(self._home)

    def branch(self, step: int | None = None, *, folder: str | Path | None = None, **knobs: float) -> Run:
        """A new run that goes on from the checkpoint at `step` (None: from here, or the last one) with changed knobs.

        This run goes on as it was. knobs: what `change` takes, and steps. The new folder lies beside this one's. Raises
        BadInput for a step without a checkpoint (it lists those there are).
        """
        self._check_change(knobs, "steps")
        if step is None and self.working and self.state in ("running", "paused"):
            self.checkpoint_now()
        new = attach(family.branch(self._home, family.chosen(self._home, step), dict(knobs), folder).path)
        new.resume()
        return new

    def undo(self, step: int | None = None) -> None:
        """Go back to the checkpoint at `step` (None: the last one before here) and go on from there, in this run.

        A finished run cannot be undone: branch from it. What was undone stays in the folder and is told by `tree`.
        """
        if self.state == "done":
            raise BadInput(
                "the run is done", "Allowed: a run that goes on, or was paused, cancelled or interrupted", "Branch from it instead"
            )
        at = self.progress
        family.chosen(self._home, step, at.done if at else 0)  # said before anything is stopped
        if isinstance(self._source, Worker) and not self._source.finished.is_set():
            self._source.ask("leave")
        self._let_go()
        if not self._home.take(patience=1.0):
            raise self._elsewhere()
        try:
            family.go_back(self._home, family.chosen(self._home, step, at.done if at else 0))
        finally:
            self._home.release()
        self._source = Mirror(self._home)
        self.resume()

    @property
    def tree(self) -> family.Tree:
        """The run's family, from its first ancestor down: branches with what they changed, and what was undone. Print it."""
        if self.done():
            self.saved.wait()
        return family.tree(self._home)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the result; raise the verb's own error, or Cancelled.

        Raises TimeoutError after `timeout` seconds. A KeyboardInterrupt (the kernel's stop button) ends only the waiting: the
        run goes on, and `run.cancel()` ends it. A paused run is waited for until someone resumes it.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._ended():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.verb} is still {self.state} after {timeout} s; it goes on")
            if isinstance(self._source, Worker):
                self._source.finished.wait(min(left, 3600))
            else:
                time.sleep(min(left, LOOK_SECONDS))
        return outcome(self.verb, self._look())

    def __await__(self) -> Generator[Any, None, Any]:
        """`await run`: like wait(), and the event loop stays free for everything else."""
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if isinstance(self._source, Worker):
            loop, ended = asyncio.get_running_loop(), asyncio.Event()

            def tell() -> None:
                with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for the run
                    loop.call_soon_threadsafe(ended.set)

            self._source.when_finished(tell)
            await ended.wait()
        while not self._ended():
            await asyncio.sleep(LOOK_SECONDS)
        return outcome(self.verb, self._look())

    async def paused(self) -> bool:
        """`await run.paused()`: until it stands still, its snapshot saved; True if it is paused, False if it ended first."""
        while (state := self.state) == "running" or (state == "paused" and not getattr(self._source, "standing", True)):
            await asyncio.sleep(LOOK_SECONDS)
        return self.state == "paused"

    def _ended(self) -> bool:
        if isinstance(self._source, Worker):
            return self._source.finished.is_set()
        return self.state not in ("running", "paused")

    def _look(self) -> Worker | Mirror:
        if isinstance(self._source, Mirror):
            self._source.look()
        return self._source

    def _worker(self) -> Worker:
        """The worker that can be asked something, or an error that says why there is none."""
        if isinstance(self._source, Worker) and not self._source.finished.is_set():
            return self._source
        if self.state in ("running", "paused"):
            raise self._elsewhere()
        raise BadInput(f"the run is {self.state}", "Only a run that is going on can be asked for this", "Start a new one")

    def _elsewhere(self) -> Unavailable:
        return Unavailable(
            f"the run in {self.folder} is worked on by another process (pid {self._home.owner()})",
            "One process at a time works on a run; from here it can only be watched",
            "Ask there, or end that process and resume here",
        )

    def _let_go(self) -> None:
        """Wait until this process's worker has written everything, and look at the folder from then on."""
        if isinstance(self._source, Worker):
            self._source.saved.wait()
            self._source = Mirror(self._home)

    def _check_change(self, knobs: dict[str, Any], *more: str) -> None:
        self._verb().check_knobs({name: value for name, value in knobs.items() if name not in more})
        for name in more:
            check_number(name, knobs.get(name, 1))

    def _check_can_go_on(self) -> None:
        assert isinstance(self._source, Mirror)
        self._source.look(now=True)
        state = self._source.state
        if state in ("running", "paused"):
            if self._home.owner() is None:
                raise Unavailable("the run has just been let go", "Its state is not settled", "Try again")
            raise self._elsewhere()
        if not self.resumable:
            raise BadInput(f"the run is {state}", "Allowed: a paused run, or one with a snapshot to go on from", "Start a new one")

    def _verb(self) -> LongVerb:
        return find_verb(self._address, self.verb) if isinstance(self._source, Mirror) else self._source.verb
