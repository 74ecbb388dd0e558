"""Progress in words, for a terminal: what work is at, and how long it still takes."""

from __future__ import annotations

import sys
import time

from effkit.spec.progress import Progress

SPEAK_SECONDS = 2.0


class Voice:
    """Says where the work is: when a task begins or ends, and every SPEAK_SECONDS in between."""

    def __init__(self) -> None:
        self._task: tuple[str, int] | None = None
        self._said, self._when = "", 0.0

    def tell(self, at: Progress, left: float | None) -> None:
        now = time.monotonic()
        if (at.task, at.total) == self._task and at.done < at.total and now < self._when + SPEAK_SECONDS:
            return
        line = f"{at.task}: {at.done} of {at.total} {at.unit}"
        if left is not None and at.done < at.total:
            line += f", {duration(left)} left"
        if line != self._said:
            print(line, file=sys.stderr, flush=True)
        self._task, self._said, self._when = (at.task, at.total), line, now


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
