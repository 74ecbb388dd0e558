"""Long work in the foreground of a terminal: driven to its end, telling how it goes, and stopped by signals without a trace."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.progress import Progress, Work, follow

from .history import History
from .voice import Voice

if TYPE_CHECKING:
    from .run import Run


class Stopped(BaseException):
    """SIGINT or SIGTERM. Not an Exception, so that nothing on the way takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Signals become Stopped, once: the tidying up that follows is not interrupted again."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except Stopped:
        print("effkit: stopped. Nothing half-written is left; the same command goes on from what is there.", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def led() -> Iterator[None]:
    """For a process that helps the first of several: a signal reached both, and that one ends the work where it is sound.

    Then the connection is lost, which is Stopped here and no error.
    """
    told: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: told.append(number)) for number in numbers}
    try:
        yield
    except RuntimeError:
        if not told:
            raise
        raise Stopped(told[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def driven(work: Work[Any]) -> Any:
    """Drive `work` in this thread, telling how it goes."""
    history, voice, begun = History(), Voice(), time.monotonic()

    def tell(event: Progress) -> None:
        history.add({**event.as_json(), "t": time.monotonic() - begun}, event)
        voice.tell(event, history.seconds_left())

    return follow(work, tell)


def watched(run: Run) -> Any:
    """Wait for `run`, telling how it goes; if this is stopped, the run keeps what it has done."""
    voice = Voice()
    try:
        while True:
            try:
                result = run.wait(0.1)
            except TimeoutError:
                if run.progress is not None:
                    voice.tell(run.progress, run.seconds_left)
                continue
            break
        if run.progress is not None:
            voice.tell(run.progress, None)
        run.saved.wait()
    except Stopped:
        with contextlib.suppress(BadInput, Unavailable):
            run.cancel(keep=True)
        run.saved.wait()
        raise
    finally:
        for note in run.notes:
            print(f"note: {note}", file=sys.stderr)
    return result
