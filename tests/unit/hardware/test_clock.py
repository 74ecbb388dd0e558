"""The clock on the CPU. What waiting for a device means is tested where there is one (tests/npu, tests/gpu)."""

from __future__ import annotations

import time

import pytest

from effkit.hardware.attached.clock import Clock


def test_a_span_holds_at_least_what_was_slept():
    clock = Clock("cpu")
    assert clock.how == "wall clock"
    with clock.measure() as span:
        time.sleep(0.05)
    assert span.seconds >= 0.05


def test_marks_add_up():
    clock = Clock("cpu")
    first, second = clock.mark(), clock.mark()
    time.sleep(0.01)
    third = clock.mark()
    assert clock.seconds(second, third) >= 0.01
    assert clock.seconds(first, third) == pytest.approx(clock.seconds(first, second) + clock.seconds(second, third))


def test_a_span_is_not_read_before_its_end():
    with pytest.raises(AssertionError, match="after its `with` block has ended"), Clock("cpu").measure() as span:
        _ = span.seconds


def test_an_error_inside_passes_through():
    with pytest.raises(KeyError), Clock("cpu").measure():
        raise KeyError
