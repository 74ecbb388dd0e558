"""Profiling on the simulated Ascend machine: what waits, what is unavailable, and that every figure says "simulated"."""

from __future__ import annotations

import dataclasses
import time

import pytest

import effkit as ek
from effkit.hardware.attached.clock import Clock, Mark
from effkit.hardware.attached.energy import EnergyMeter
from effkit.measure import latency
from effkit.spec.bottleneck import verdict
from effkit.spec.errors import Unavailable

MS = 1_000_000  # nanoseconds
FEW = {"prompt": 16, "new_tokens": 4, "repeats": 2, "warmup": 1}


@pytest.fixture
def base(tiny_llama_folder) -> ek.Model:
    return ek.load(str(tiny_llama_folder), device="npu:0", dtype="float32")


class Hasty(Clock):
    """A clock as it is often written: it reads the wall clock and forgets to wait."""

    def mark(self) -> Mark:
        return Mark(time.perf_counter())

    def seconds(self, begin: Mark, end: Mark) -> float:
        return end.moment - begin.moment


def test_a_clock_that_does_not_wait_is_caught(machine):
    with machine.having(op_ns=60 * MS):
        Clock("npu:0").check()
        Clock(dataclasses.replace(ek.device("npu:0"), timing="wall clock")).check()
        with pytest.raises(
            Unavailable, match=r"the clock of npu:0 \(Ascend910B1 \(simulated\)\) cannot be trusted\. It said .* it does not wait"
        ):
            Hasty("npu:0").check()


def test_a_device_that_cannot_be_waited_for_is_refused():
    with pytest.raises(Unavailable, match="It offers neither events nor a way to wait for it, and a time taken without waiting"):
        Clock(dataclasses.replace(ek.device("npu:0"), timing="unavailable"))


def test_profiling_asks_the_clock_first(base, machine, monkeypatch):
    monkeypatch.setattr(latency, "Clock", Hasty)
    with machine.having(op_ns=60 * MS), pytest.raises(Unavailable, match="cannot be trusted"):
        ek.profile(base, **FEW)


def test_energy_is_unavailable_and_says_why(base):
    got = ek.profile(base, **FEW)
    assert got.energy.simulated
    assert got.energy.machine.value is got.energy.process.value is got.energy.per_query.value is None
    assert got.energy.machine.how == "unavailable"
    assert got.energy.why_not() == "The device is simulated: it draws no power."
    assert [r.source for r in got.energy.device] == ["npu-smi"]
    assert {r.source for r in got.energy.host} == {"rapl"}


def test_a_real_npu_without_npu_smi_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    real = dataclasses.replace(ek.device("npu:0"), simulated=False)
    assert EnergyMeter(real).noun().why_not() == "npu-smi is not on the path."


def test_every_figure_says_simulated(base):
    profile = ek.profile(base, **FEW)
    assert profile.simulated
    assert "simulated" in profile.device
    assert all(p.simulated for p in ek.sweep(base, batches=(1, 2), contexts=(8,), new_tokens=2, repeats=1, warmup=0))
    taken_apart = ek.breakdown(base, prompt=16, repeats=2)
    assert taken_apart.simulated
    assert taken_apart.timing == "device events"
    assert "simulated" in repr(taken_apart)


def test_time_by_module_is_the_devices(base, machine):
    """Every operation takes 2 ms of the device: modules with more operations take longer, and the parts sum to the whole."""
    with machine.having(op_ns=2 * MS):
        found = ek.breakdown(base, prompt=8, repeats=2)
    assert found.root.total_ms > 100
    assert sum(part.own_ms for part in found.root.walk()) == pytest.approx(found.root.total_ms)
    parts = {part.name: part for part in found.root.walk()}
    assert parts["model.layers.0.mlp"].total_ms > parts["model.layers.0.mlp.up_proj"].total_ms >= 2


def test_a_calibration_is_simulated_and_so_is_a_verdict(base):
    made = ek.calibrate("npu:0", formats=["float32"], dtype="float32", seconds=0.01)
    assert made.simulated
    assert made.overlaps
    assert made.cache_seconds_per_byte > 0
    assert "simulated" in repr(made)
    assert ek.Calibration.from_json(made.to_json()) == made
    found = ek.bottleneck(base, made, prompt=8, new_tokens=3, repeats=1)
    assert found.figures.simulated
    assert "(simulated)" in repr(found)
    assert verdict(found.figures) == found
