"""A run as its folder shows it: one that another process works on, or one that ended."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from effkit.spec.errors import Unavailable

from .arguments import decode
from .folder import RunFolder
from .history import History, RunError

LOOK_SECONDS = 0.05


class Mirror:
    """Shows a run from its folder. Looks again when asked, at most every LOOK_SECONDS."""

    exception: BaseException | None = None

    def __init__(self, home: RunFolder) -> None:
        self.history = History()
        self.state = "running"
        self.error: RunError | None = None
        self.notes: list[str] = []
        self._home = home
        self._looked = -math.inf
        self._result: list[Any] = []
        self._lock = threading.Lock()
        self.look()

    def look(self, now: bool = False) -> None:
        with self._lock:
            if self.state == "done" or (not now and time.monotonic() < self._looked + LOOK_SECONDS):
                return
            # in this order, what a process wrote before it let go is not missed
            owner = self._home.owner()
            written = self._home.state()
            events, anew = self._home.new_events()
            if anew:
                self.history.begin_from(events)
            else:
                for event in events:
                    self.history.add(event)
            self.notes = written.get("notes", [])
            self.error = RunError(**written["error"]) if written.get("error") else None
            state = written["state"]
            self.state = "interrupted" if state in ("running", "paused", "interrupted") and owner is None else state
            self._looked = time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.history.seconds

    @property
    def result(self) -> Any:
        if self.state != "done":
            return None
        with self._lock:
            if not self._result:
                try:
                    self._result.append(self._home.result(decode))
                except FileNotFoundError:
                    why = "; ".join(self.notes) or "it was not saved"
                    raise Unavailable(f"the result of the run in {self._home.path}", why, "Start the run again") from None
            return self._result[0]
