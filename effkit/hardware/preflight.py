"""Before the first `import torch`: hide a torch_npu that cannot work here, because it would take torch down with it.

torch imports every installed backend by itself (autoload). The torch_npu wheel without Huawei's CANN libraries, or
beside a CUDA build of torch, or made for another torch, raises there, and `import torch` fails as a whole; transformers
imports torch_npu too wherever it finds it. So whoever is about to import torch imports this module first:

    import effkit.hardware.preflight

`NOTE` then says what was found wrong and what to do, or is None. Where torch_npu looks sound, torch is imported here
with autoload off and torch_npu after it, so that an error in torch_npu leaves torch whole.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from pathlib import Path

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
LIBRARIES = ("libascendcl.so", "libhccl.so")
TOOLKITS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit", "~/Ascend/cann", "~/Ascend/ascend-toolkit")
DOCUMENTATION = "https://www.hiascend.com/software/cann"

NOTE: str | None = None


def torch_version() -> str | None:
    """The version of the installed torch with its build, e.g. '2.13.0+cpu'; torch is not imported. None: not installed."""
    return _torch_facts()[0]


def torch_build() -> str:
    """What the installed torch was built for: 'CUDA 13.0', 'ROCm 6.4', 'XPU' or 'CPU'."""
    return _torch_facts()[1]


def usable() -> bool:
    """Whether torch_npu is installed and was not hidden."""
    return "torch_npu" in sys.modules and sys.modules["torch_npu"] is not None


def fault() -> str | None:
    """Why the installed torch_npu cannot work here, found without importing it; None where nothing speaks against it."""
    version, build = _torch_facts()
    mine = _version("torch_npu")
    if version and mine and _numbers(mine) != _numbers(version):
        wanted = ".".join(map(str, _numbers(version)))
        return (
            f"torch_npu {mine} is installed beside torch {version}, and the two must have the same version. "
            f"Install torch_npu=={wanted} if there is one, or torch=={'.'.join(map(str, _numbers(mine)))}."
        )
    if build != "CPU":
        return (
            f"torch_npu is installed beside a torch that was built for {build}, and one process can use only one kind of accelerator. "
            f"To use an Ascend NPU, make an environment of its own with the CPU build of torch {mine or ''}".rstrip()
            + f"; to use {build}, nothing is needed, or uninstall torch_npu."
        )
    for library in LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError as error:
            return f"torch_npu is installed, but Huawei's CANN runtime is not usable ({error}). {_where_is_cann()}"
    count = _count()
    if count == 0:
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
        hint = f" ASCEND_RT_VISIBLE_DEVICES is {visible!r}: unset it to see every NPU." if visible is not None else ""
        return (
            "torch_npu and CANN are installed, but CANN sees no NPU. "
            f"Check that `npu-smi info` lists one and that this user or container may open /dev/davinci*.{hint}"
        )
    return None


def check() -> str | None:
    """Hide a torch_npu that cannot work; import one that looks sound, and hide it if that raises. Returns the note."""
    torch_there = "torch" in sys.modules
    if not torch_there and "torch._C" in sys.modules:
        return (
            "An import of torch already failed in this Python process, so torch may stay broken until Python is restarted. "
            "Restart it and import effkit before torch: effkit then keeps a backend that cannot load out of the way."
        )
    if usable():  # imported before effkit, and it did not raise
        return fault()
    if importlib.util.find_spec("torch_npu") is None:
        return None
    late = " torch was imported before effkit; code that already looked for torch_npu may still expect it." if torch_there else ""
    why = fault()
    if why is None and torch_version() is not None:
        if torch_there and os.environ.get(AUTOLOAD, "1") != "1":
            return None  # switched off by the user, on purpose
        why = _import_failure()
    if why is None:
        return None
    hide()
    return f"{why} effkit goes on without it.{late}"


def hide() -> None:
    """Make `import torch_npu` fail as if it were not installed, here and (through autoload) in child processes."""
    os.environ[AUTOLOAD] = "0"
    for name in [name for name in sys.modules if name.startswith("torch_npu.")]:
        del sys.modules[name]
    sys.modules["torch_npu"] = None  # type: ignore[assignment]


def _import_failure() -> str | None:
    """Import torch without its backends, then torch_npu; the sentence to say if that raises."""
    before = os.environ.get(AUTOLOAD)
    if before is not None and before != "1":
        return None
    os.environ[AUTOLOAD] = "0"
    try:
        importlib.import_module("torch")
    finally:
        _restore(before)
    try:
        importlib.import_module("torch_npu")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code in any state of disrepair
        text = " ".join(str(error).split())
        return (
            f"torch_npu raised {type(error).__name__} when imported ({text[:300] or 'no message'}). "
            f"Reinstall it to match torch {torch_version()} and the installed CANN, or uninstall it."
        )
    finally:
        _restore(before)  # torch_npu sets it while it is imported
    return None


def _restore(value: str | None) -> None:
    if value is None:
        os.environ.pop(AUTOLOAD, None)
    else:
        os.environ[AUTOLOAD] = value


def _count() -> int | None:
    """How many NPUs CANN sees, asked as torch_npu asks (aclrtGetDeviceCount needs no aclInit); None: nobody knows."""
    try:
        ask = ctypes.CDLL(LIBRARIES[0]).aclrtGetDeviceCount
    except (OSError, AttributeError):
        return None
    number = ctypes.c_uint32(0)
    status = ask(ctypes.byref(number))
    return number.value if status == 0 else 0


def _where_is_cann() -> str:
    for folder in TOOLKITS:
        script = Path(folder).expanduser() / "set_env.sh"
        if script.exists():
            return f"CANN is installed but not set up in this process: run `source {script}` and start again."
    return f"Install the CANN toolkit and `source` its set_env.sh ({DOCUMENTATION}), or uninstall torch_npu."


def _torch_facts() -> tuple[str | None, str]:
    """Version and build of the installed torch, read from its version.py."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None, "CPU"
    file = Path(next(iter(spec.submodule_search_locations))) / "version.py"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    facts = dict(re.findall(r"^(\w+)(?:\s*:[^=\n]*)?\s*=\s*'([^']*)'", text, flags=re.MULTILINE))
    build = "CPU"
    for key, title in (("cuda", "CUDA {}"), ("hip", "ROCm {}"), ("xpu", "XPU")):
        if facts.get(key):
            build = title.format(facts[key])
            break
    return facts.get("__version__") or _version("torch"), build


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of '2.13.0.post2+cpu'."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


NOTE = check()
