"""Time on a device. Work on an accelerator is only queued when a call returns, so a clock that does not wait for it lies.

    clock = Clock(device)
    with clock.measure() as span:
        model.logits(ids)
    span.seconds

A device with events is timed by them (its own clock, one mark costs microseconds), another one by the wall clock after
synchronising. A device that offers neither raises Unavailable: a wrong number is worse than none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from effkit.spec.errors import Unavailable

from .device import Device, device, module_of


class Span:
    """What `Clock.measure` gives: `seconds` is there once its block has ended."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        assert self._seconds is not None, "read span.seconds after its `with` block has ended"
        return self._seconds

    def __repr__(self) -> str:
        return "Span(running)" if self._seconds is None else f"Span({self._seconds:.6f} s)"


@dataclass(frozen=True)
class Mark:
    """A moment on a device's time line: an event it will record, or a reading of the wall clock."""

    moment: Any


class Clock:
    """Times work on one device; `how` says by what."""

    def __init__(self, on: str | Device | Any = "auto") -> None:
        self.device = device(on)
        self.events = self.device.timing == "events"
        self.how = {
            "events": "device events",
            "wall clock": "wall clock" if self.device.is_cpu else "wall clock after synchronising",
        }.get(self.device.timing, "")
        if not self.how:
            raise Unavailable(
                f"{self.device!r} cannot be timed",
                "It offers neither events nor a way to wait for it, and a time taken without waiting would be wrong",
                "Choose another device",
            )

    def mark(self) -> Mark:
        """A moment. With events nothing waits; without, the device is waited for first."""
        if self.events:
            module: Any = module_of(self.device.type)
            with module.device(self.device.index):
                event = module.Event(enable_timing=True)
                event.record(module.current_stream(self.device.torch))
            return Mark(event)
        self.device.synchronize()
        return Mark(time.perf_counter())

    def seconds(self, begin: Mark, end: Mark) -> float:
        """Seconds on the device between two marks; waits for the second one."""
        if self.events:
            end.moment.synchronize()
            return begin.moment.elapsed_time(end.moment) / 1000.0
        return end.moment - begin.moment

    @contextmanager
    def measure(self) -> Iterator[Span]:
        """Time a block. Work queued before it is waited for and not counted; work queued in it is."""
        span = Span()
        self.device.synchronize()
        begin = self.mark()
        yield span
        span._seconds = self.seconds(begin, self.mark())
