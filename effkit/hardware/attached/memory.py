"""Peak memory, and running out of it as one exception with the figures in it.

An accelerator's peaks come from torch's allocator. For the CPU it is the peak of the process's resident set: Linux keeps
it (VmHWM in /proc/self/status) and resets it on request (5 to /proc/self/clear_refs, see proc(5)); elsewhere it is sampled.
"""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from effkit.spec.errors import OutOfMemory
from effkit.spec.record import Memory

from .device import Device, device

SAMPLE_SECONDS = 0.01
UNITS = {"B": 1, "BYTES": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
ASKED = re.compile(r"(?:tried to allocate|allocating)\s+([\d.]+)\s*(bytes|[KMGT]iB|B)", re.IGNORECASE)
ALLOCATOR_ERRORS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "std::bad_alloc")

_lock = threading.Lock()
_measuring: list[PeakMemory] = []


class PeakMemory:
    """Peak bytes while its block runs, all of this process: what others do meanwhile in it counts too.

    allocated, reserved: the device's allocator (None on the CPU); resident: the process's resident set; how: in words
    """

    def __init__(self, on: str | Device | Any = "auto") -> None:
        self.device = device(on)
        self.allocated: int | None = None
        self.reserved: int | None = None
        self.resident: int | None = None
        self.resident_before: int | None = None
        self.how = "unavailable"
        self._sampler: _Sampler | None = None

    def __enter__(self) -> PeakMemory:
        self.device.synchronize()
        with _lock:
            for other in _measuring:  # its peak so far, before the counters start again
                other._read()
            exact = _reset_resident_peak()
            if not self.device.is_cpu:
                torch.accelerator.reset_peak_memory_stats(self.device.torch)
            _measuring.append(self)
        self.resident_before = psutil.Process().memory_info().rss
        if not exact:
            self._sampler = _Sampler()
        counted = "the system's counter of the peak resident set" if exact else f"resident set sampled every {SAMPLE_SECONDS * 1000:.0f} ms"
        self.how = counted if self.device.is_cpu else f"the allocator of {self.device}; {counted}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _lock:
            _measuring.remove(self)
            self._read()
        if self._sampler is not None:
            self.resident = max(self.resident or 0, self._sampler.stop())

    def noun(self) -> Memory:
        """The figures as a part of a Profile."""
        return Memory(allocated=self.allocated, reserved=self.reserved, resident=self.resident, how=self.how)

    def _read(self) -> None:
        if self._sampler is None:
            self.resident = max(self.resident or 0, _resident_peak() or 0)
        if not self.device.is_cpu:
            where = self.device.torch
            self.allocated = max(self.allocated or 0, torch.accelerator.max_memory_allocated(where))
            self.reserved = max(self.reserved or 0, torch.accelerator.max_memory_reserved(where))


class _Sampler:
    """Watches the resident set where the system keeps no peak that can be reset."""

    def __init__(self) -> None:
        self._process, self._stop = psutil.Process(), threading.Event()
        self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, name="effkit-resident-set", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return max(self.peak, self._process.memory_info().rss)


@contextmanager
def guard(on: str | Device | Any, doing: str) -> Iterator[None]:
    """Turn running out of memory, however the device says it, into OutOfMemory with the figures.

    The failed call's own tensors are let go first, so that the caller can try again with less.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        where = device(on)
        found = OutOfMemory(doing, str(where), _asked(str(error)), where.free(), where.memory, _in_use(where))
        traceback.clear_frames(error.__traceback__)  # their locals would keep tensors alive as long as the error
        where.empty_cache()
        raise found from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(sign.lower() in text for sign in ALLOCATOR_ERRORS)


def _asked(text: str) -> int | None:
    found = ASKED.search(text)
    return int(float(found[1]) * UNITS[found[2].upper()]) if found else None


def _in_use(where: Device) -> int | None:
    if where.is_cpu:
        return psutil.Process().memory_info().rss
    return int(torch.accelerator.memory_allocated(where.torch))


def _reset_resident_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # another system, or a container that forbids it
        return False
    return _resident_peak() is not None


def _resident_peak() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None
