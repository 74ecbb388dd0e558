"""Energy from the machine's own meters: NVML for NVIDIA's devices, RAPL for processors, `npu-smi` for Ascend.

    meter = EnergyMeter(device)
    with meter.running(queries=1, tokens=32):
        ...
    meter.noun().machine        # Estimate in J, "counter" or "sampled", or unavailable with the reason in why_not()

A counter is read before and after; where there is only a power reading, a thread reads it again and again and the samples
are integrated. What cannot be read is unavailable, with the reason. NVML comes through NVIDIA's own binding nvidia-ml-py
where it is installed. codecarbon was left out because it fills unknown power with constants and knows no Ascend, zeus because
RAPL and NVML counters are all that it would add here.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from effkit.spec.energy import Energy, EnergyReading
from effkit.spec.intervals import Estimate, How

from .device import Device, device, module_of

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 0.1
NPU_SMI_SECONDS = 0.5  # each reading starts a program
# As npu-smi prints it on 910B and 310P, and on 310; its "Rated Power Dissipation(W)" is a limit, not a reading.
NPU_POWER = re.compile(r"^\s*(?:NPU Real-time Power|Power Dissipation)\s*\(W\)\s*:\s*([\d.]+)", re.MULTILINE)


class Source(Protocol):
    """One meter. `begin` and `end` enclose a span of work; `end` gives its J, None where the meter could not be read."""

    name: str
    part: str
    how: How
    note: str

    def begin(self) -> None: ...

    def end(self) -> float | None: ...

    def owned(self, share: float | None) -> tuple[float | None, str]:
        """(share of the part's energy that this process is answerable for, how that is known); share: of processor time."""
        ...


class EnergyMeter:
    """Sums what the meters of one device, and of the host around it, say over one or more spans of work."""

    def __init__(self, on: str | Device | Any = "auto", *, powercap: Path = POWERCAP, npu_smi: str | None = None) -> None:
        self.device = device(on)
        self.seconds, self.queries, self.tokens = 0.0, 0, 0
        rapl = _rapl(powercap)
        if self.device.is_cpu:
            found, self._host = rapl, []
        else:
            found, self._host = [_of_accelerator(self.device, npu_smi)], rapl
        self._device: list[Source | EnergyReading] = found
        self._joules: dict[int, float | None] = {id(s): 0.0 for s in self._sources()}
        self._processor = ProcessorTime()

    @contextmanager
    def running(self, queries: int = 1, tokens: int = 0) -> Iterator[None]:
        """Meter a block; several blocks add up."""
        self.device.synchronize()
        sources = self._sources()
        self._processor.begin()
        for source in sources:
            source.begin()
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.device.synchronize()
            self.seconds += time.perf_counter() - begun
            for source in sources:
                spent, before = source.end(), self._joules[id(source)]
                self._joules[id(source)] = None if spent is None or before is None else before + spent
            self._processor.end()
            self.queries += queries
            self.tokens += tokens

    def noun(self) -> Energy:
        """What was read so far."""
        return Energy(
            device=tuple(self._reading(s) for s in self._device),
            host=tuple(self._reading(s) for s in self._host),
            seconds=self.seconds,
            queries=self.queries,
            tokens=self.tokens,
            simulated=self.device.simulated,
        )

    def _sources(self) -> list[Source]:
        return [s for s in (*self._device, *self._host) if not isinstance(s, EnergyReading)]

    def _reading(self, source: Source | EnergyReading) -> EnergyReading:
        if isinstance(source, EnergyReading):
            return source
        joules = self._joules[id(source)]
        if not joules:  # a counter that stood still was not updated meanwhile: that is no measurement of zero
            note = source.note or "The work was shorter than the meter's own step; run more repeats."
            return EnergyReading(source=source.name, part=source.part, note=note)
        share, note = source.owned(self._processor.share)
        return EnergyReading(
            source=source.name,
            part=source.part,
            machine=Estimate(value=joules, unit="J", n=1, how=source.how),
            process=Estimate.unavailable("J") if share is None else Estimate(value=share * joules, unit="J", n=1, how="modelled"),
            note=note,
        )


class ProcessorTime:
    """This process's share of the processor time that anybody on the machine used."""

    def __init__(self) -> None:
        self._process, self._mine, self._all = psutil.Process(), 0.0, 0.0

    def begin(self) -> None:
        self._from = self._now()

    def end(self) -> None:
        mine, everybody = (b - a for a, b in zip(self._from, self._now(), strict=True))
        self._mine, self._all = self._mine + mine, self._all + everybody

    @property
    def share(self) -> float | None:
        return min(self._mine / self._all, 1.0) if self._all > 0 and self._mine > 0 else None

    def _now(self) -> tuple[float, float]:
        mine, machine = self._process.cpu_times(), psutil.cpu_times()
        # guest time is already in user time
        return mine.user + mine.system, sum(machine) - sum(getattr(machine, n, 0.0) for n in ("idle", "iowait", "guest", "guest_nice"))


@dataclass
class _Rapl:
    """One zone of Linux's powercap interface: a counter of microjoules that starts again at its range."""

    folder: Path
    part: str
    range: int
    name: str = "rapl"
    how: How = "counter"
    note: str = ""
    _from: int = 0

    def begin(self) -> None:
        self._from = self._read()

    def end(self) -> float:
        spent = self._read() - self._from
        return (spent if spent >= 0 else spent + self.range) / 1e6

    def owned(self, share: float | None) -> tuple[float | None, str]:
        if share is None:
            return None, "This process used too little processor time for a share."
        return share, f"Shared out by processor time: {share:.0%} of what was used on the machine."

    def _read(self) -> int:
        return int((self.folder / "energy_uj").read_text(encoding="ascii"))


def _rapl(root: Path) -> list[Source | EnergyReading]:
    """The zones that add up to the processors and their memory: packages, and dram beside them. "core" and "uncore" are inside
    a package, "psys" holds everything once more, and "intel-rapl-mmio" is the same package by another way."""
    found: list[Source | EnergyReading] = []
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            part = (zone / "name").read_text(encoding="ascii").strip()
            if not (part.startswith("package") or part == "dram"):
                continue
            int((zone / "energy_uj").read_text(encoding="ascii"))
            found.append(_Rapl(zone, part, int((zone / "max_energy_range_uj").read_text(encoding="ascii"))))
        except PermissionError:
            why = f"Linux lets only root read {zone / 'energy_uj'}; `sudo chmod a+r` on it allows it until the next start."
            found.append(EnergyReading(source="rapl", part=zone.name, note=why))
        except (OSError, ValueError) as error:
            found.append(EnergyReading(source="rapl", part=zone.name, note=f"It cannot be read: {error}."))
    if not found:
        why = f"{root} holds no energy counter of a processor: virtual machines and other systems than Linux have none."
        found.append(EnergyReading(source="rapl", part="processor", note=why))
    return found


class _Sampled:
    """Integrates a power reading, in W, by the trapezoidal rule."""

    how: How = "sampled"

    def __init__(self, name: str, part: str, every: float) -> None:
        self.name, self.part, self.every, self.note = name, part, every, ""

    def watts(self) -> float | None:
        raise AssertionError("each sampled meter reads its own power")

    def owned(self, share: float | None) -> tuple[float | None, str]:
        return None, f"{self.name} does not say which process the power is of."

    def begin(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"effkit-{self.name}", daemon=True)
        self._take()
        self._thread.start()

    def end(self) -> float | None:
        self._stop.set()
        self._thread.join()
        self._take()
        taken = self._samples
        if len(taken) < 2:
            self.note = self.note or f"{self.name} gave no power readings."
            return None
        return sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in itertools.pairwise(taken))

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            self._take()

    def _take(self) -> None:
        power = self.watts()
        if power is not None:
            self._samples.append((time.perf_counter(), power))


class _NpuSmi(_Sampled):
    """Power of one Ascend card, as `npu-smi info -t power` prints it."""

    def __init__(self, program: str, index: int, part: str) -> None:
        super().__init__("npu-smi", part, NPU_SMI_SECONDS)
        self.command = [program, "info", "-t", "power", "-i", str(index)]

    def watts(self) -> float | None:
        try:
            done = subprocess.run(self.command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.note = f"npu-smi cannot be run: {error}."
            return None
        found = NPU_POWER.search(done.stdout)
        if found is None:
            self.note = f"npu-smi did not say the power of card {self.command[-1]}."
        return float(found[1]) if found else None


class _NvmlPower(_Sampled):
    def __init__(self, nvml: Any, handle: Any, part: str) -> None:
        super().__init__("nvml", part, SAMPLE_SECONDS)
        self.nvml, self.handle = nvml, handle

    def watts(self) -> float | None:
        try:
            return self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1000
        except self.nvml.NVMLError as error:
            self.note = f"NVML gives no power: {error}."
            return None

    def owned(self, share: float | None) -> tuple[float | None, str]:
        return _alone(self.nvml, self.handle)


class _NvmlCounter:
    """The board's total energy counter in mJ, of Volta and later; it moves in steps of 20 to 100 ms."""

    name = "nvml"
    how: How = "counter"

    def __init__(self, nvml: Any, handle: Any, part: str) -> None:
        self.nvml, self.handle, self.part, self.note = nvml, handle, part, ""

    def begin(self) -> None:
        self._from = self._read()

    def end(self) -> float | None:
        now = self._read()
        return None if now is None or self._from is None else (now - self._from) / 1000

    def owned(self, share: float | None) -> tuple[float | None, str]:
        return _alone(self.nvml, self.handle)

    def _read(self) -> int | None:
        try:
            return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
        except self.nvml.NVMLError as error:
            self.note = f"NVML gives no energy: {error}."
            return None


def _alone(nvml: Any, handle: Any) -> tuple[float | None, str]:
    """All of a GPU's energy is this process's where it is the only one on it; otherwise nobody can tell."""
    try:
        others = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1  # in a container process ids are not ours
    except nvml.NVMLError as error:
        return None, f"NVML does not say who else uses this GPU: {error}."
    if others < 0:  # not even this process is listed, as in a container of its own: nor would be others
        return None, "NVML lists no process of this GPU, not even this one, so that nobody can tell who else uses it."
    if others > 0:
        return None, f"{others} other processes use this GPU, and NVML does not share out energy."
    return 1.0, "The only process on this GPU, so all of it, what the GPU draws when idle too."


def _of_accelerator(on: Device, npu_smi: str | None) -> Source | EnergyReading:
    def nothing(source: str, why: str) -> EnergyReading:
        return EnergyReading(source=source, part=on.name, note=why)

    if on.simulated:
        return nothing("npu-smi", "The device is simulated: it draws no power.")
    if on.type == "npu":
        program = npu_smi or shutil.which("npu-smi")
        return _NpuSmi(program, on.index or 0, on.name) if program else nothing("npu-smi", "npu-smi is not on the path.")
    if on.type != "cuda":
        return nothing("", f"effkit knows no energy meter of {on.type} devices.")
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return nothing("nvml", "NVIDIA's binding is not installed: pip install nvidia-ml-py.")
    module: Any = module_of(on.type)
    uuid = getattr(module.get_device_properties(on.index), "uuid", None)
    try:
        pynvml.nvmlInit()
        # by its identity: NVML counts all boards, torch only those that CUDA_VISIBLE_DEVICES shows
        handle = pynvml.nvmlDeviceGetHandleByIndex(on.index) if uuid is None else pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        try:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except pynvml.NVMLError:
            return _NvmlPower(pynvml, handle, on.name)
        return _NvmlCounter(pynvml, handle, on.name)
    except pynvml.NVMLError as error:
        return nothing("nvml", f"NVML cannot read this GPU: {error}.")
