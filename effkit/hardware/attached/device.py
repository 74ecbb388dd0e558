"""Attached devices, through torch.accelerator and torch.get_device_module: CUDA, Ascend (npu), whatever torch knows, CPU.

ek.devices()        (cuda:0 (NVIDIA H200), cpu (AMD EPYC 9654))
ek.device("auto")   the accelerator if there is one, else the CPU
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import psutil
import torch

from effkit.hardware import preflight
from effkit.spec.errors import BadInput, Unavailable, choice

from .processes import launched

DTYPES = ("float32", "bfloat16", "float16")
Timing = Literal["events", "wall clock", "unavailable"]


@dataclass(frozen=True)
class Device:
    """One device. `memory`: total bytes, None where unknown. `dtypes`: what it computes in. `timing`: how it is timed."""

    type: str
    index: int | None
    name: str
    memory: int | None
    dtypes: tuple[str, ...]
    timing: Timing
    simulated: bool = False

    @property
    def torch(self) -> torch.device:
        return torch.device(self.type) if self.index is None else torch.device(self.type, self.index)

    @property
    def is_cpu(self) -> bool:
        return self.type == "cpu"

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it. The CPU always has."""
        if not self.is_cpu:
            torch.accelerator.synchronize(self.torch)

    def empty_cache(self) -> None:
        """Give memory that the allocator holds but nobody uses back to the device."""
        if not self.is_cpu:
            torch.accelerator.empty_cache()

    def free(self) -> int | None:
        """Bytes free now; None where the device does not say."""
        if self.is_cpu:
            return available_memory()
        try:
            return int(torch.accelerator.get_memory_info(self.torch)[0])
        except (RuntimeError, AttributeError):
            return None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "dtypes": list(self.dtypes)}

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"{self} ({self.name})"


def devices() -> tuple[Device, ...]:
    """All attached devices, accelerators first, the CPU last. Never fails: what cannot be used is missing from it."""
    return (*(_accelerator(kind, i) for kind, i in _attached()), cpu())


def device(want: str | torch.device | Device = "auto") -> Device:
    """One attached device: "auto" (the accelerator in use, else the CPU), "cpu", "cuda", "cuda:1", "npu:0".

    Raises BadInput for what is no device, Unavailable for one that is not here; `device("cpu")` always works.
    """
    if isinstance(want, Device):
        return want
    if isinstance(want, str) and want.strip().lower() == "auto":
        attached = _attached()
        return _accelerator(*attached[_current(len(attached))]) if attached else cpu()
    kind, index = _parsed(want)
    if kind == "cpu":
        return cpu()
    here = [i for k, i in _attached() if k == kind]
    if not here:
        raise Unavailable(f"device {str(want)!r} is not usable here", _why_not(kind), f"Attached: {_names()}")
    if index is None:
        index = here[_current(len(here))]
    if index not in here:
        raise Unavailable(
            f"device {str(want)!r} is not here",
            f"There {'is' if len(here) == 1 else 'are'} {len(here)} of type {kind}",
            f"Attached: {_names()}",
        )
    return _accelerator(kind, index)


def cpu() -> Device:
    """The processor that Python runs on; it computes in every dtype, some of them slowly."""
    return Device("cpu", None, processor_name(), total_memory(), DTYPES, "wall clock")


def module_of(kind: str) -> ModuleType | None:
    """torch.cuda, torch.npu, ...: where torch keeps what only that kind of device has (events, names)."""
    try:
        return torch.get_device_module(kind)
    except (RuntimeError, AttributeError):
        return None


def simulated_npu() -> bool:
    """Whether the CANN driver in this process is the simulated one of effkit's tests."""
    try:
        driver = ctypes.CDLL(preflight.LIBRARIES[0], mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except (OSError, AttributeError):  # not loaded, or a system without RTLD_NOLOAD
        return False
    return hasattr(driver, "fake_cann_cfg")


def _attached() -> list[tuple[str, int]]:
    try:
        found = torch.accelerator.current_accelerator(check_available=True)
        return [(found.type, i) for i in range(torch.accelerator.device_count())] if found else []
    except RuntimeError:  # a driver that is there but does not answer: doctor says so
        return []


def _current(count: int) -> int:
    """The device in use; processes that were launched together use one each."""
    try:
        index = int(os.environ.get("LOCAL_RANK", "0")) if launched() else torch.accelerator.current_device_index()
    except RuntimeError:
        return 0
    return index if 0 <= index < count else 0


def _accelerator(kind: str, index: int) -> Device:
    module = module_of(kind)
    properties = None
    if module is not None and hasattr(module, "get_device_properties"):
        properties = module.get_device_properties(index)
    simulated = kind == "npu" and simulated_npu()
    name = str(getattr(properties, "name", "") or kind)
    if simulated and "simulated" not in name:
        name += " (simulated)"
    memory = getattr(properties, "total_memory", None)
    return Device(kind, index, name, int(memory) if memory else None, _dtypes(kind, index, name), timing_of(kind), simulated)


def timing_of(kind: str) -> Timing:
    """How this kind of device can be timed: by its own events, by the wall clock after synchronising, or not at all."""
    if kind == "cpu":
        return "wall clock"
    module = module_of(kind)
    if module is None:
        return "unavailable"
    if hasattr(getattr(module, "Event", None), "elapsed_time") and hasattr(module, "current_stream"):
        return "events"
    return "wall clock" if hasattr(module, "synchronize") else "unavailable"


def _dtypes(kind: str, index: int, name: str) -> tuple[str, ...]:
    """What it computes in by itself. Asked of the device's own module; nothing is run, since that costs a context each."""
    if kind == "cuda":
        modern = torch.cuda.get_device_capability(index) >= (8, 0) or torch.version.hip is not None
        return DTYPES if modern else ("float32", "float16")
    if kind == "npu":  # Ascend 310P and 910A (910, 910Pro..., 910ProB) have no bfloat16
        return ("float32", "float16") if "310P" in name or name.startswith(("Ascend910P", "Ascend910A")) else DTYPES
    return DTYPES if kind == "xpu" else ("float32", "float16")


def _parsed(want: Any) -> tuple[str, int | None]:
    allowed = "'auto', 'cpu', or " + (", ".join(repr(f"{k}:{i}") for k, i in _attached()) or "an accelerator such as 'cuda:0' or 'npu:0'")
    if not isinstance(want, str | torch.device):
        raise BadInput(f"device is {want!r}", f"Allowed: {allowed}, a torch.device or an effkit device")
    text = str(want).strip().lower()
    kind, _, number = text.partition(":")
    if kind == "meta":
        raise Unavailable("device 'meta' holds no numbers, so nothing can be computed or timed on it", f"Allowed: {allowed}")
    known = ["cpu", "cuda", "npu", "xpu", "mps", *{k for k, _ in _attached()}]
    if kind not in known:
        raise choice("device", str(want), ["auto", *dict.fromkeys(known)], "'auto' takes the accelerator that is attached, else the CPU")
    if (number and not number.isdigit()) or text.endswith(":"):
        raise BadInput(f"device is {str(want)!r}", f"Allowed: {allowed}")
    return kind, int(number) if number else None


def _why_not(kind: str) -> str:
    if kind == "npu":
        return preflight.NOTE or (
            "torch_npu is not installed; it comes from PyPI in the version of torch, over Huawei's CANN toolkit"
            if not preflight.usable()
            else "torch_npu sees no NPU"
        )
    if kind == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return f"this torch ({torch.__version__}) was built without CUDA; install a CUDA build from https://pytorch.org"
        return f"this torch ({torch.__version__}) finds no GPU; check that `nvidia-smi` lists one and that its driver is recent enough"
    return f"this torch ({torch.__version__}) finds no device of type {kind}"


def _names() -> str:
    return ", ".join(repr(d) for d in devices())


@functools.cache
def processor_name() -> str:
    """The processor's name as the system gives it, e.g. 'AMD EPYC 9654 96-Core Processor'."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine() or "CPU"


def total_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's limit where that is lower."""
    limit = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    total = psutil.virtual_memory().total
    return min(total, limit) if limit else total


def available_memory() -> int:
    """Bytes that this process may still take."""
    free = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max", "memory/memory.limit_in_bytes"), _cgroup("memory.current", "memory/memory.usage_in_bytes")
    return max(min(free, limit - used), 0) if limit and used is not None else free


def _cgroup(*names: str) -> int | None:
    for name in names:
        file = Path("/sys/fs/cgroup") / name
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None
