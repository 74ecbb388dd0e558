"""Energy from meters: what they say, what they cannot say, and that unknown is never zero."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import effkit as ek
from effkit.hardware.attached import energy
from effkit.hardware.attached.device import Device
from effkit.hardware.attached.energy import NPU_POWER, EnergyMeter, _NpuSmi
from effkit.spec.energy import Energy, EnergyReading, total
from effkit.spec.intervals import Estimate

RANGE = 262_143_328_850


def zone(root: Path, folder: str, name: str, microjoules: int) -> Path:
    place = root / folder
    place.mkdir(parents=True)
    (place / "name").write_text(name + "\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return place


@pytest.fixture
def powercap(tmp_path) -> Path:
    """The folder tree of a machine with two packages, as Linux lays it out."""
    root = tmp_path / "powercap"
    zone(root, "intel-rapl:0", "package-0", 5_000_000)
    zone(root, "intel-rapl:0:0", "core", 1_000_000)
    zone(root, "intel-rapl:0:1", "dram", 2_000_000)
    zone(root, "intel-rapl:1", "package-1", RANGE - 1_000_000)
    zone(root, "intel-rapl:2", "psys", 7_000_000)
    zone(root, "intel-rapl-mmio:0", "package-0", 5_000_000)
    (root / "intel-rapl").mkdir()
    return root


def spend(root: Path, folder: str, microjoules: int) -> None:
    file = root / folder / "energy_uj"
    file.write_text(f"{(int(file.read_text()) + microjoules) % RANGE}\n")


def test_packages_and_memory_add_up_and_a_counter_that_starts_again_is_followed(powercap):
    meter = EnergyMeter("cpu", powercap=powercap)
    with meter.running(queries=4, tokens=20):
        for folder, joules in (
            ("intel-rapl:0", 3),
            ("intel-rapl:0:0", 2),
            ("intel-rapl:0:1", 1),
            ("intel-rapl:1", 4),
            ("intel-rapl:2", 50),
        ):
            spend(powercap, folder, joules * 1_000_000)
        sum(i * i for i in range(2_000_000))
    got = meter.noun()
    assert [(r.part, r.machine.value, r.machine.how) for r in got.device] == [
        ("package-0", 3, "counter"),
        ("dram", 1, "counter"),
        ("package-1", 4, "counter"),
    ]
    assert got.host == ()
    assert (got.machine.value, got.machine.how, got.machine.unit) == (8, "counter", "J")
    assert got.per_query.value == 2
    assert got.per_token.value == pytest.approx(0.4)
    assert got.watts.value == pytest.approx(8 / got.seconds)
    assert got.watts.unit == "W"
    assert Energy.model_validate_json(got.model_dump_json()) == got


def test_the_share_of_this_process_is_modelled_and_kept_apart(powercap):
    meter = EnergyMeter("cpu", powercap=powercap)
    with meter.running():
        begun = time.process_time()
        while time.process_time() - begun < 0.3:
            pass
        for folder in ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1"):
            spend(powercap, folder, 1_000_000)
    got = meter.noun()
    assert got.machine.value == 3
    assert got.process.how == "modelled"
    assert 0 < got.process.value <= 3
    assert "of what was used on the machine" in got.device[0].note


def test_spans_add_up_and_what_lies_between_them_is_not_counted(powercap):
    meter = EnergyMeter("cpu", powercap=powercap)
    for _ in range(3):
        with meter.running(queries=2):
            spend(powercap, "intel-rapl:0", 500_000)
            spend(powercap, "intel-rapl:0:1", 100_000)
            spend(powercap, "intel-rapl:1", 100_000)
        spend(powercap, "intel-rapl:0", 9_000_000)
    assert meter.noun().machine.value == pytest.approx(2.1)
    assert meter.noun().queries == 6


def test_a_counter_that_stood_still_is_not_zero(powercap):
    meter = EnergyMeter("cpu", powercap=powercap)
    with meter.running():
        spend(powercap, "intel-rapl:0", 1)
    got = meter.noun()
    assert got.device[0].machine.value == 1e-6
    assert got.device[1].machine.value is None
    assert got.machine.value is None
    assert "shorter than the meter's own step" in got.why_not()


def test_a_machine_without_counters_says_so(tmp_path):
    meter = EnergyMeter("cpu", powercap=tmp_path / "nothing")
    with meter.running():
        pass
    got = meter.noun()
    assert got.machine.value is got.process.value is got.per_query.value is got.watts.value is None
    assert got.machine.how == "unavailable"
    assert str(got.per_query) == "unavailable"
    assert "holds no energy counter of a processor" in got.why_not()


def test_a_broken_counter_makes_the_sum_unknown(powercap):
    (powercap / "intel-rapl:0:1" / "energy_uj").write_text("no number")
    meter = EnergyMeter("cpu", powercap=powercap)
    with meter.running():
        spend(powercap, "intel-rapl:0", 1_000_000)
        spend(powercap, "intel-rapl:1", 1_000_000)
    got = meter.noun()
    assert [r.machine.value for r in got.device] == [1, None, 1]
    assert got.machine.value is None
    assert "It cannot be read" in got.why_not()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_counter_that_only_root_may_read(powercap):
    (powercap / "intel-rapl:0" / "energy_uj").chmod(0)
    assert "Linux lets only root read" in EnergyMeter("cpu", powercap=powercap).noun().why_not()


def test_a_sum_is_as_sure_as_its_least_sure_part():
    sure, less = Estimate(value=1.0, unit="J", how="counter"), Estimate(value=2.0, unit="J", how="sampled")
    assert (total([sure, less]).value, total([sure, less]).how) == (3, "sampled")
    assert total([sure, Estimate.unavailable("J")]).value is None
    assert total([]).value is None


OUTPUT = """
        NPU ID                         : 0
        Chip Count                     : 1

        NPU Real-time Power(W)         : 103.5
        Chip ID                        : 0
"""


def test_npu_smi_is_read_and_its_rated_power_is_not():
    assert NPU_POWER.search(OUTPUT)[1] == "103.5"
    assert NPU_POWER.search("\tPower Dissipation(W)           : 12.8\n")[1] == "12.8"
    assert NPU_POWER.search("\tRated Power Dissipation(W)     : 310.0\n") is None


def test_power_of_npu_smi_is_integrated(tmp_path):
    """A program that prints what npu-smi prints, in its place; 103.5 W over the time that passed."""
    program = tmp_path / "npu-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{OUTPUT}END\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    source = _NpuSmi(str(program), 0, "Ascend910B")
    source.every = 0.05
    before = time.perf_counter()
    source.begin()
    begun = time.perf_counter()
    while len(source._samples) < 4 and time.perf_counter() < begun + 60:
        time.sleep(0.01)
    ended = time.perf_counter()
    joules = source.end()
    after = time.perf_counter()
    assert len(source._samples) >= 5, "one at the beginning, one at the end, and more in between"
    # the first sample lies between the first two moments, the last one between the last two
    assert 0.999 * 103.5 * (ended - begun) <= joules <= 1.001 * 103.5 * (after - before)
    assert source.how == "sampled"
    broken = _NpuSmi(str(tmp_path / "missing"), 0, "Ascend910B")
    broken.begin()
    assert broken.end() is None
    assert "npu-smi cannot be run" in broken.note


class Nvml:
    """NVIDIA's binding over a board whose counter and processes the test sets, in place of pynvml."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules, self.milliwatts, self.processes, self.asked = 5_000, 250_000, [1], []
        self.broken: tuple[str, ...] = ()

    def __getattr__(self, name: str):
        def call(*given):
            if name in self.broken:
                raise self.NVMLError("Not Supported")
            self.asked.append((name, given))
            return {
                "nvmlDeviceGetTotalEnergyConsumption": self.millijoules,
                "nvmlDeviceGetPowerUsage": self.milliwatts,
                "nvmlDeviceGetComputeRunningProcesses": self.processes,
            }.get(name, "board")

        return call


@pytest.fixture
def nvml(monkeypatch) -> Nvml:
    found = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    board = SimpleNamespace(get_device_properties=lambda index: SimpleNamespace(uuid="f00d"))
    monkeypatch.setattr(energy, "module_of", lambda kind: board)
    return found


H200 = Device("cuda", 0, "NVIDIA H200", 1 << 37, ("bfloat16",), "events")


def test_the_counter_of_nvml_is_read_from_the_board_that_torch_uses(nvml):
    source = energy._of_accelerator(H200, None)
    assert ("nvmlDeviceGetHandleByUUID", ("GPU-f00d",)) in nvml.asked
    source.begin()
    nvml.millijoules += 3_500
    assert source.end() == pytest.approx(3.5)
    assert (source.name, source.part, source.how) == ("nvml", "NVIDIA H200", "counter")
    assert source.owned(0.1)[0] == 1.0  # the only process: all of it


def test_a_board_without_a_counter_is_sampled_and_one_without_either_is_unavailable(nvml):
    nvml.broken = ("nvmlDeviceGetTotalEnergyConsumption",)
    source = energy._of_accelerator(H200, None)
    assert source.how == "sampled"
    source.every = 0.02
    begun = time.perf_counter()
    source.begin()
    time.sleep(0.2)
    assert source.end() == pytest.approx(250 * (time.perf_counter() - begun), rel=0.3)
    nvml.broken = ("nvmlDeviceGetHandleByUUID",)
    assert energy._of_accelerator(H200, None).note == "NVML cannot read this GPU: Not Supported."


def test_a_counter_that_fails_in_between_is_unavailable_and_ends_no_profile(nvml):
    source = energy._of_accelerator(H200, None)
    source.begin()
    nvml.broken = ("nvmlDeviceGetTotalEnergyConsumption",)
    assert source.end() is None
    assert source.note == "NVML gives no energy: Not Supported."


def test_energy_of_a_board_that_others_use_or_whose_users_nobody_sees_is_not_this_processs(nvml):
    source = energy._of_accelerator(H200, None)
    nvml.processes = [1, 2, 3]
    assert source.owned(0.1) == (None, "2 other processes use this GPU, and NVML does not share out energy.")
    nvml.processes = []  # a container of its own
    share, why = source.owned(0.1)
    assert share is None
    assert "lists no process of this GPU" in why


def test_a_profile_and_its_record_hold_the_energy(tiny_llama):
    got = ek.profile(tiny_llama, prompt=8, new_tokens=3, batch=2, repeats=2, warmup=1)
    assert (got.energy.queries, got.energy.tokens) == (4, 12)
    assert got.energy.seconds > 0
    assert [r.source for r in got.energy.device][:1] == ["rapl"]
    assert (got.energy.machine.value is None) == bool(got.energy.why_not())


def test_the_energy_of_a_query_reaches_the_cost(tiny_llama):
    from effkit.lab.records.measuring import cost_of

    reading = EnergyReading(source="rapl", part="package-0", machine=Estimate(value=6.0, unit="J", how="counter"))
    profile = ek.profile(tiny_llama, prompt=8, new_tokens=3, repeats=2, warmup=0)
    known = profile.model_copy(update={"energy": Energy(device=(reading,), seconds=1.0, queries=3, tokens=9)})
    assert cost_of(tiny_llama, profile=known).energy_per_query.value == 2
    assert cost_of(tiny_llama, profile=profile.model_copy(update={"energy": None})).energy_per_query.value is None
