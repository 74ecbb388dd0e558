"""Devices, clock and memory on the simulated Ascend machine.

Nothing measured here is a claim about real hardware: the driver is fake and the kernels are the CPU's. What is tested is
that effkit asks torch_npu the right questions and waits for the device.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time

import pytest
import torch

import effkit as ek
from effkit.hardware import preflight
from effkit.hardware.attached.clock import Clock
from effkit.hardware.attached.doctor import examine
from effkit.hardware.attached.memory import PeakMemory, guard
from effkit.spec.errors import OutOfMemory, Unavailable


def test_a_sound_torch_npu_passes_the_preflight():
    assert preflight.NOTE is None
    assert preflight.usable()


def test_both_npus_and_the_cpu_are_found(machine):
    found = ek.devices()
    assert [str(d) for d in found] == ["npu:0", "npu:1", "cpu"]
    first = found[0]
    assert first.name == "Ascend910B1 (simulated)"
    assert first.simulated
    assert not found[-1].simulated
    assert first.memory == machine.capacity
    assert first.dtypes == ("float32", "bfloat16", "float16")
    assert first.timing == "events"
    assert ek.device("auto") == ek.device("npu") == ek.device("npu:0") == first
    assert ek.device(torch.device("npu", 1)) == found[1]


def test_a_third_npu_is_not_here():
    with pytest.raises(Unavailable, match=r"device 'npu:2' is not here. There are 2 of type npu. Attached: npu:0 "):
        ek.device("npu:2")


def test_properties_read_sensibly():
    properties = torch.npu.get_device_properties(0)
    assert (properties.name, properties.cube_core_num, properties.vector_core_num) == ("Ascend910B1", 24, 48)


MS = 1_000_000  # nanoseconds


def occupy(machine, x: torch.Tensor) -> None:
    """A second of work in the queue: it stays ahead of this process even if the system pauses it."""
    with machine.having(op_ns=1000 * MS):
        x.add_(1)


@pytest.mark.parametrize("name", ["npu:0", "npu:1"])
def test_the_clock_waits_where_a_plain_timer_does_not(machine, name):
    x = torch.ones(8, device=name)
    clock = Clock(name)
    with machine.having(op_ns=50 * MS):
        begun = time.perf_counter()
        with clock.measure() as span:
            for _ in range(20):
                x.add_(1)
            unsynchronised = time.perf_counter() - begun  # what a timer would say that forgets to wait
    assert clock.how == "device events"
    assert span.seconds >= 1.0
    assert unsynchronised < 0.9


def test_marks_measure_what_lies_between_them(machine):
    x = torch.ones(8, device="npu:0")
    clock = Clock("npu:0")
    occupy(machine, x)
    with machine.having(op_ns=20 * MS):
        marks = [clock.mark()]
        for count in (5, 15):
            for _ in range(count):
                x.add_(1)
            marks.append(clock.mark())
        five, fifteen = (clock.seconds(a, b) for a, b in itertools.pairwise(marks))
    assert five == pytest.approx(0.1, rel=0.01)
    assert fifteen == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("timing", ["events", "wall clock"])
def test_work_queued_before_a_span_is_not_counted(machine, timing):
    x = torch.ones(8, device="npu:0")
    clock = Clock(dataclasses.replace(ek.device("npu:0"), timing=timing))
    assert clock.how == {"events": "device events", "wall clock": "wall clock after synchronising"}[timing]
    occupy(machine, x)
    with machine.having(op_ns=20 * MS), clock.measure() as span:
        for _ in range(5):
            x.add_(1)
    assert 0.1 <= span.seconds < 0.9


def test_peak_memory_comes_from_the_allocator_of_that_device():
    size = 64 << 20
    with PeakMemory("npu:1") as peak, PeakMemory("npu:0") as other:
        torch.empty(size, dtype=torch.uint8, device="npu:1")
    assert peak.allocated is not None and size <= peak.allocated < size + (1 << 20)  # noqa: PT018
    assert peak.reserved is not None and peak.reserved >= peak.allocated  # noqa: PT018
    assert other.allocated is not None and other.allocated < size  # noqa: PT018
    assert "npu:1" in peak.noun().how


def test_out_of_memory_has_the_figures_and_the_device_survives(machine):
    device = ek.device("npu:0")
    with (
        pytest.raises(OutOfMemory, match=r"Out of memory on npu:0 while filling it \(asked for 4.29 GB, free .* total 2.15 GB\)") as caught,
        guard(device, "filling it"),
    ):
        torch.empty(4 << 30, dtype=torch.uint8, device="npu:0")
    assert caught.value.asked == 4 << 30
    assert caught.value.total == machine.capacity
    assert caught.value.free is not None and 0 < caught.value.free <= machine.capacity  # noqa: PT018
    assert torch.ones(4, device="npu:0").sum().item() == 4


def test_after_out_of_memory_the_failed_work_is_let_go():
    def hoard() -> list[torch.Tensor]:
        kept = []
        while True:
            kept.append(torch.empty(256 << 20, dtype=torch.uint8, device="npu:0"))

    gc.collect()  # what earlier tests left in cycles is not this work's
    before = torch.npu.memory_allocated(0)
    with pytest.raises(OutOfMemory) as caught, guard("npu:0", "hoarding"):
        hoard()
    assert caught.value.allocated is not None and caught.value.allocated > 1 << 30  # noqa: PT018 - as it was when it failed
    assert caught.value.free is not None and caught.value.free < 256 << 20  # noqa: PT018
    assert torch.npu.memory_allocated(0) == before
    assert torch.empty(1 << 30, dtype=torch.uint8, device="npu:0").numel() == 1 << 30


def test_random_numbers_follow_the_npus_own_generators():
    generator = torch.Generator("npu")
    draws = []
    for _ in range(2):
        generator.manual_seed(3)
        draws.append([torch.rand(4, generator=generator, device="npu"), torch.randn(4, generator=generator, device="npu")])
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))
    state = torch.npu.get_rng_state()
    first = torch.rand(4, device="npu")
    assert not torch.equal(first, torch.rand(4, device="npu"))
    torch.npu.set_rng_state(state)
    assert torch.equal(first, torch.rand(4, device="npu"))


def test_drawing_on_the_npu_leaves_the_cpus_generator_alone():
    before = torch.get_rng_state()
    torch.rand(4, device="npu")
    torch.nn.functional.dropout(torch.ones(8, device="npu"))
    assert torch.equal(before, torch.get_rng_state())


def test_tensors_of_two_devices_do_not_mix():
    with pytest.raises(RuntimeError, match="npu:0 and npu:1"):
        torch.ones(2, device="npu:0") + torch.ones(2, device="npu:1")
    with pytest.raises(RuntimeError, match="npu:0 and cpu"):
        torch.ones(2, device="npu:0") + torch.ones(2)


def test_doctor_says_simulated_and_tries_every_npu():
    found = examine()
    checks = {check["name"]: check for check in found["checks"]}
    for name in ("npu:0", "npu:1"):
        assert "Ascend910B1 (simulated)" in checks[name]["found"]
        assert "simulated: nothing measured on it is a claim about real hardware" in checks[name]["found"]
        assert checks[f"{name} numbers"]["works"], checks[f"{name} numbers"]
        assert checks[f"{name} timing"]["found"] == "by device events"
    assert checks["torch_npu"]["works"]
    assert checks["bitsandbytes on npu"]["works"], checks["bitsandbytes on npu"]
    assert found["ok"]
