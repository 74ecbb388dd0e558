"""Peak resident memory, and every way of running out of memory as one exception."""

from __future__ import annotations

import gc
import mmap
import weakref

import pytest
import torch

from effkit.hardware.attached import memory
from effkit.hardware.attached.memory import PeakMemory, guard
from effkit.spec.errors import OutOfMemory

MB = 1_000_000


def touched(megabytes: int) -> mmap.mmap:
    """Pages fresh from the system, each written to. (malloc may hand out heap that has long been resident.)"""
    pages = mmap.mmap(-1, megabytes * MB)
    for at in range(0, len(pages), mmap.PAGESIZE):
        pages[at] = 1
    return pages


@pytest.fixture(autouse=True)
def tidy():
    """What earlier tests left in cycles is not freed in the middle of a measurement."""
    gc.collect()


def risen(peak: PeakMemory) -> int:
    assert peak.resident is not None
    assert peak.resident_before is not None
    return peak.resident - peak.resident_before


def test_a_peak_is_seen_after_it_has_passed():
    with PeakMemory("cpu") as peak:
        touched(200).close()
    assert 150 * MB < risen(peak) < 300 * MB  # a busy system may take other pages of this process meanwhile
    assert (peak.allocated, peak.reserved) == (None, None)
    assert peak.noun().how == "the system's counter of the peak resident set"


def test_a_peak_before_the_block_does_not_count():
    touched(300).close()
    with PeakMemory("cpu") as peak:
        touched(50).close()
    assert 30 * MB < risen(peak) < 150 * MB


def test_a_measurement_inside_another_loses_neither_peak():
    with PeakMemory("cpu") as outer:
        touched(200).close()
        with PeakMemory("cpu") as inner:
            touched(50).close()
    assert risen(outer) > 150 * MB
    assert 30 * MB < risen(inner) < 150 * MB


def test_where_the_system_keeps_no_peak_it_is_sampled(monkeypatch):
    monkeypatch.setattr(memory, "_reset_resident_peak", lambda: False)  # as in a container that forbids it
    with PeakMemory("cpu") as peak:
        pages = touched(200)
    pages.close()
    assert risen(peak) > 150 * MB
    assert peak.how == "resident set sampled every 10 ms"


def test_an_error_inside_ends_the_measurement():
    with pytest.raises(KeyError), PeakMemory("cpu") as peak:
        raise KeyError
    assert peak.resident
    assert memory._measuring == []


def test_the_cpu_allocators_error_has_figures():
    text = (
        r"^Out of memory on cpu while testing \(asked for 4504 TB, free .+, in use by this process .+, total .+\)\. "
        r"Choose a smaller batch, window or model, fewer bits, or another device; the base model is as it was\.$"
    )
    with pytest.raises(OutOfMemory, match=text) as caught, guard("cpu", "testing"):
        torch.empty(2**50)
    assert caught.value.asked == 2**52
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_pythons_own_memory_error_is_one_too():
    with pytest.raises(OutOfMemory, match="while reading"), guard("cpu", "reading"):
        bytearray(2**60)


def test_the_innermost_guard_speaks():
    with pytest.raises(OutOfMemory, match="while inside"), guard("cpu", "outside"), guard("cpu", "inside"):
        torch.empty(2**50)


def test_other_errors_pass_untouched():
    with pytest.raises(RuntimeError, match="cannot be multiplied"), guard("cpu", "testing"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_what_the_failed_call_held_is_let_go():
    held = []

    def work() -> None:
        tensor = torch.ones(1000)
        held.append(weakref.ref(tensor))
        torch.empty(2**50)

    with pytest.raises(OutOfMemory) as caught, guard("cpu", "testing"):
        work()
    gc.collect()
    assert caught.value is not None
    assert held[0]() is None


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.72 GiB", 20 * 2**20),
        ("NPU out of memory. Tried to allocate 4.00 GiB (NPU 0; 2.00 GiB total capacity)", 4 * 2**30),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12", 400),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None),
    ],
)
def test_how_much_was_asked_for_is_read_from_the_message(text, asked):
    assert memory._asked(text) == asked
    assert memory._is_out_of_memory(RuntimeError(text))
