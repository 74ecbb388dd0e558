"""The thread that drives a long verb, and all that happens between two yields.

There, and only there, the work is paused, closed, given changed knobs, or has its snapshot taken; so no verb ever sees
any of it. A disk that fails does not end the work: it goes on in memory and a note says that nothing more is saved.
"""

from __future__ import annotations

import atexit
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from effkit.hardware.attached.threads import release_idle_threads
from effkit.spec.errors import CannotWrite
from effkit.spec.progress import LongVerb, Progress, Work

from .arguments import decode, encode, has_later
from .folder import RunFolder
from .history import History, RunError
from .tree import keep

SNAPSHOT_SECONDS = 20.0  # a snapshot at most this often, and at most every SNAPSHOT_COSTS times what the last one cost,
SNAPSHOT_COSTS = 50.0  # so that saving takes at most 2% of the time
WRITE_SECONDS = 0.5  # events are written in batches
EXIT_SECONDS = 10.0  # how long an ending interpreter waits for the next yield

_working: set[Worker] = set()


class _Stop(Exception):
    """Raised between two yields to end the work before its end."""

    def __init__(self, state: str) -> None:
        self.state = state


class Worker:
    """Drives one verb in a daemon thread. `history`, `state`, `error`, `result`, `notes` may be read from any thread."""

    def __init__(self, home: RunFolder, verb: LongVerb, writes: bool) -> None:
        self.history = History()
        self.state = "running"
        self.error: RunError | None = None
        self.exception: BaseException | None = None
        self.result: Any = None
        self.notes: list[str] = []
        self.finished = threading.Event()  # the result or the error is there
        self.saved = threading.Event()  # nothing more will be written
        self._home, self.verb, self._writes = home, verb, writes
        self._arguments: dict[str, Any] | None = None
        self._call: dict[str, Any] = {}
        self._bell = threading.Condition()
        self._asked: set[str] = set()
        self._changes: dict[str, Any] = {}
        self._news: Mapping[str, Any] = {}  # changed for the step that comes
        self._answers: list[threading.Event] = []
        self._pause_at: int | None = None
        self.standing = False  # paused, and its snapshot is written
        self._callers: list[Callable[[], Any]] = []
        # seconds of work before the start or the last resume, and when that was; one value, as any thread may read it meanwhile
        self._clock: tuple[float, float | None] = (0.0, None)
        self._open: Callable[[], Work]
        self._written = 0
        self._last_write = 0.0
        self._due = 0.0

    # called from outside

    def begin(self, arguments: dict[str, Any], call: dict[str, Any]) -> None:
        """Work with these arguments, from the start."""
        self._arguments, self._call = arguments, call
        self._launch(lambda: self.verb.work(**arguments))

    def go_on(self, call: dict[str, Any]) -> None:
        """Work with what the folder holds, from its last snapshot."""
        self._call = call
        self._launch(self._from_folder)

    def ask(self, *wishes: str, **knobs: Any) -> None:
        """Wishes for the next yield: "pause", "cancel", "keep" (cancel with a snapshot), "leave" (be interrupted)."""
        with self._bell:
            self._asked.update(wishes)
            self._changes.update(knobs)
            self._bell.notify_all()

    def pause(self, at: int | None) -> None:
        """A wish for a pause: at the next yield, or at the first one that has done so much."""
        self._pause_at = at
        if at is None:
            self.ask("pause")

    def unpause(self) -> None:
        with self._bell:
            self._asked.discard("pause")
            self.standing = False
            self._bell.notify_all()

    def ask_snapshot(self) -> threading.Event:
        """Ask for a snapshot at the next yield; the event is set when it was taken, or could not be."""
        answer = threading.Event()
        with self._bell:
            self._answers.append(answer)
            self._asked.add("snapshot")
            self._bell.notify_all()
        return answer

    def when_finished(self, call: Callable[[], Any]) -> None:
        """Have `call` called, in the worker's thread, when the work has ended; at once if it has."""
        with self._bell:
            if not self.finished.is_set():
                self._callers.append(call)
                return
        call()

    def _finish(self) -> None:
        with self._bell:
            self.finished.set()
            callers, self._callers = self._callers, []
        for call in callers:
            call()

    @property
    def elapsed(self) -> float:
        return self._elapsed_at(time.monotonic())

    def _elapsed_at(self, now: float) -> float:
        before, since = self._clock
        return before + (now - since if since is not None else 0.0)

    # the thread

    def _launch(self, open_work: Callable[[], Work]) -> None:
        release_idle_threads()
        self._open = open_work
        self.thread = threading.Thread(target=self._labour, name=f"effkit {self.verb.name}", daemon=True)
        _working.add(self)
        self.thread.start()

    def _labour(self) -> None:
        try:
            self._end(*self._drive())
        finally:
            self._arguments = None
            self._writes = False
            self._home.release()
            self._finish()
            self.saved.set()
            for answer in self._answers:
                answer.set()
            _working.discard(self)

    def _drive(self) -> tuple[str, Any]:
        """Drive the work; what it came to: a state, and the result or the error."""
        try:
            work = self._open()
        except Exception as error:  # noqa: BLE001  (kept in self.error and raised by wait)
            return "interrupted", error
        finally:
            del self._open  # it holds the arguments, which are let go before `saved` says that all is over
        try:
            self._clock = (self._clock[0], time.monotonic())
            self._due = time.monotonic() + SNAPSHOT_SECONDS
            change = None
            while True:
                try:
                    event = work.send(change)
                except StopIteration as end:
                    return "done", end.value
                change = self._between(event)
                event = None
        except _Stop as stop:
            try:
                work.close()
            except BaseException as error:  # noqa: BLE001
                return "failed", error
            return stop.state, None
        except BaseException as error:  # noqa: BLE001
            return "failed", error
        finally:
            self._hold_clock()

    def _between(self, event: Progress) -> Mapping[str, Any] | None:
        now = time.monotonic()
        entry = {**event.as_json(), "t": round(self._elapsed_at(now), 4)}
        if self._news:
            entry["change"], self._news = self._news, {}
        self.history.add(entry, replace(event, snapshot=None) if event.snapshot else event)
        if self._writes and now >= self._last_write + WRITE_SECONDS:
            self._write("its events", self._flush)
            self._last_write = now
        if self._writes and now >= self._due:
            self._keep(event)
        if self._pause_at is not None and event.done >= self._pause_at:
            self._pause_at = None
            self.ask("pause")
        return self._heed(event) if self._asked or self._changes else None

    def _heed(self, event: Progress) -> Mapping[str, Any] | None:
        """Do what was asked for; returns the knobs to send. The bell is not held while a snapshot is written."""
        while True:
            with self._bell:
                asked = set(self._asked)
                if "cancel" in asked:
                    raise _Stop("cancelled")
                self._asked -= {"snapshot"}
                answers, self._answers = (self._answers, []) if "snapshot" in asked else ([], self._answers)
                if not asked:
                    change, self._changes = self._changes, {}
            if not asked:
                self._go()
                if change:
                    self._keep(event, for_good=True)  # what run.undo() goes back to
                self._news = change
                return change or None
            if asked & {"keep", "leave", "snapshot"}:
                self._keep(event, for_good="snapshot" in asked)
                for answer in answers:
                    answer.set()
            if asked & {"keep", "leave"}:
                raise _Stop("cancelled" if "keep" in asked else "interrupted")
            if "pause" in asked:
                self._stand(event)
                with self._bell:
                    if self._asked == {"pause"}:
                        self._bell.wait()

    def _stand(self, event: Progress) -> None:
        if self.state != "paused":
            self._hold_clock()
            self.state = "paused"
            self._keep(event, for_good=True)
            self._write("its state", self._write_state)
        self.standing = True

    def _go(self) -> None:
        if self.state == "paused":
            self._clock = (self._clock[0], time.monotonic())
            self.state, self.standing = "running", False
            self._write("its state", self._write_state)

    def _hold_clock(self) -> None:
        self._clock = (self.elapsed, None)

    def _end(self, state: str, what: Any) -> None:
        """Make the outcome known, then write it down; a cancelled run is tidied up before it says so."""
        if state == "done":
            self.result = what
        elif what is not None:
            self.error, self.exception = RunError.of(what), what
            # the frames of the failed work would keep its models and their memory alive
            traceback.clear_frames(what.__traceback__)
        self._arguments = None
        if state == "cancelled":
            self._write("its end", lambda: self._put_away(state))
        self.state = state
        self._finish()
        time.sleep(0.01)  # whoever waited for the result has the processor before it is written
        if state == "done":
            self._write("its result", self._save_result)
        if state in ("done", "failed"):
            self._write("its end", lambda: self._put_away(state))
        elif state == "interrupted":
            self._write("its events", self._flush)

    # the folder

    def _write(self, what: str, action: Callable[[], Any]) -> bool:
        """Write if this run is written down at all; a disk that fails ends the writing, not the work."""
        if not self._writes:
            return False
        try:
            action()
        except (OSError, CannotWrite) as error:
            self._writes = False
            self.notes.append(f"Nothing more of this run is saved, because {what} could not be written: {error}")
            return False
        return True

    def _flush(self) -> None:
        events = self.history.events
        count = len(events)
        self._home.append(events[self._written : count])
        self._written = count

    def _keep(self, event: Progress, for_good: bool = False) -> None:
        """Make the run resumable from here: inputs that were put off, events, and the snapshot if the verb has one.

        for_good: a later snapshot does not take its place, so that the run can come back here.
        """
        begun = time.monotonic()
        if self._write("its inputs", self._keep_inputs) and self._write("its events", self._flush) and event.snapshot is not None:
            take, count, seconds = event.snapshot, len(self.history.events), round(self.elapsed, 4)
            if self._write("a snapshot", lambda: self._home.save_snapshot(take(), count, seconds)) and for_good:
                self._write("a checkpoint", lambda: keep(self._home, self._home.snapshots()[-1]))
        now = time.monotonic()
        self._due = now + max(SNAPSHOT_SECONDS, SNAPSHOT_COSTS * (now - begun))

    def _keep_inputs(self) -> None:
        if self._arguments is None or not has_later(self._call["arguments"]):
            return
        written = {
            name: encode(self._arguments[name], name, self._home.inputs) if has_later(data) else data
            for name, data in self._call["arguments"].items()
        }
        self._call = {**self._call, "arguments": written}
        self._home.write_call(self._call)

    def _from_folder(self) -> Work:
        """The work that goes on from the folder: from the snapshot, or anew for a verb that has none."""
        snapshot, about = self._home.load_snapshot()
        arguments = {name: decode(data, self._home.path / "inputs") for name, data in self._call["arguments"].items()}
        if snapshot is not None:
            arguments["resume"] = snapshot
        self.history.begin_from(self._home.all_events()[: about["events"]])
        self._home.rewrite_events(self.history.events)
        self._written = len(self.history.events)
        self._clock = (about["t"], None)
        self._arguments = arguments
        self._write("its state", self._write_state)
        return self.verb.work(**arguments)

    def _write_state(self, state: str | None = None) -> None:
        error = asdict(self.error) if self.error else None
        self._home.write_state(state=state or self.state, seconds=self.elapsed, notes=self.notes, error=error)

    def _save_result(self) -> None:
        try:
            self._home.save_result(lambda keep: encode(self.result, "result", keep))
        except (OSError, CannotWrite):
            raise
        except Exception as error:  # noqa: BLE001  (the result itself is there; only its copy on disk is not)
            self.notes.append(f"The result is here but not in the run folder: {error}")

    def _put_away(self, state: str) -> None:
        """The last writing. What a finished run does not need is removed; a failed one keeps its snapshot."""
        self._flush()
        self._write_state(state)
        self._home.sweep(everything=state == "done" or (state == "cancelled" and "keep" not in self._asked))


def _leave_all() -> None:
    """At the end of the interpreter: let results be saved, and leave other runs interrupted at their next yield."""
    for worker in list(_working):
        worker.ask("leave")
    for worker in list(_working):
        if worker.finished.wait(EXIT_SECONDS):
            worker.thread.join()


# Before the handlers of atexit, of which torch's take its operators apart under a thread that still computes. What
# concurrent.futures uses for the same purpose; it has no public name.
getattr(threading, "_register_atexit", atexit.register)(_leave_all)
