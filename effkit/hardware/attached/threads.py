"""Idle OpenMP threads, which slow down those that work.

GNU OpenMP, with which PyTorch's CPU kernels run on Linux, gives every thread that computes a pool of its own. Once the
pools together hold more threads than there are cores, it no longer lets them wait awake between two kernels, and every
kernel pays for waking them: a quantization in a worker thread took 1.5 times as long as in the main thread, only because
the main thread had computed before.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

SOFT = 1  # omp_pause_soft of OpenMP 5.0: threads end, settings stay


def release_idle_threads() -> None:
    """End the OpenMP threads that wait for the calling thread; its next kernel makes them anew (a fraction of a millisecond).

    Call it where this thread hands its work to another one. Does nothing where OpenMP is not GNU's.
    """
    for library in _libraries():
        library.omp_pause_resource_all(SOFT)


def _libraries() -> list[ctypes.CDLL]:
    """Every GNU OpenMP that this process has loaded: PyTorch, scikit-learn and others may each bring one."""
    if not sys.platform.startswith("linux"):
        return []
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = sorted({line.split(maxsplit=5)[-1] for line in maps if "libgomp" in line and not line.endswith("(deleted)")})
    return [library for path in paths if hasattr(library := _opened(path), "omp_pause_resource_all")]


@cache
def _opened(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)
