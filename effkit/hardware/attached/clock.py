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

import torch

from effkit.spec.errors import Unavailable

from .device import Device, device, module_of

CHECK_KERNELS, CHECK_SHARE = 24, 0.3
BYTES_A_NUMBER = 4096  # of the device's memory for each number that the check works on: larger devices are faster
_trusted: set[tuple[type, Device]] = set()


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

    def check(self) -> None:
        """Raise Unavailable if this clock stops before the device has finished: a result would still have to be waited for.

        Takes some milliseconds, once for each device and process.
        """
        if self.device.is_cpu or (type(self), self.device) in _trusted:
            return
        x = torch.ones((self.device.memory or 1 << 34) // BYTES_A_NUMBER, device=self.device.torch)
        waited = alone = 0.0
        for _ in range(2):  # the first round pays for the device's own start
            with self.measure() as span:
                for _ in range(CHECK_KERNELS):
                    x = x * 1.0
            waited = _until_read(x)
            alone = _until_read(x)
        if waited - alone > CHECK_SHARE * (span.seconds + waited):
            raise Unavailable(
                f"the clock of {self.device!r} cannot be trusted",
                f"It said {1000 * span.seconds:.3g} ms for work that took {1000 * (waited - alone):.3g} ms longer: it does not wait",
                "Nothing is timed on it; report this with the versions that `effkit doctor` prints",
            )
        _trusted.add((type(self), self.device))

    @contextmanager
    def measure(self) -> Iterator[Span]:
        """Time a block. Work queued before it is waited for and not counted; work queued in it is."""
        span = Span()
        self.device.synchronize()
        begin = self.mark()
        yield span
        span._seconds = self.seconds(begin, self.mark())


def _until_read(x: torch.Tensor) -> float:
    """Seconds until a number of `x` is here, whatever is queued before it: no clock and no synchronising of ours is asked."""
    begun = time.perf_counter()
    x[0].item()
    return time.perf_counter() - begun
