"""Start a simulated Ascend machine in this process. Call `start` before the first `import torch`.

Real: torch_npu, its allocator and its figures, its events, its out-of-memory errors, its detection by transformers,
accelerate and bitsandbytes. Simulated: the runtime (fake_cann.c) and the kernels (host_kernels.py). So nothing about the
numbers, the speed or the operators of real hardware follows from what runs here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[2] / "build"
WHEEL = BUILD / "torch_npu"  # pip install --no-deps --target build/torch_npu torch_npu==<version of torch>
DRIVER = "libascendcl"
COMPANIONS = ("libacl_op_compiler", "libge_runner", "libgraph", "libhccl", "libacl_tdt_channel", "libopapi")
FIGURES = ("devices", "capacity", "op_ns", "syncs", "launches")


class Machine:
    """The driver's settings and counters as attributes: devices, capacity (bytes), op_ns, syncs, launches."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self.driver = driver
        driver.fake_cann_cfg.restype = ctypes.POINTER(ctypes.c_int64)
        self._cells = driver.fake_cann_cfg()

    def __getattr__(self, name: str) -> int:
        if name not in FIGURES:
            raise AttributeError(name)
        return self._cells[FIGURES.index(name)]

    def set(self, **settings: int) -> None:
        for name, value in settings.items():
            self._cells[FIGURES.index(name)] = value

    @contextmanager
    def having(self, **settings: int) -> Iterator[Machine]:
        """These settings for the length of a block."""
        before = {name: getattr(self, name) for name in settings}
        self.set(**settings)
        try:
            yield self
        finally:
            self.set(**before)


def build() -> Path:
    """Compile the driver and its companions (under a second) unless that was done for these sources. Returns the folder."""
    sources = (HERE / "fake_cann.c", HERE / "nothing.h")
    mark = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:12]
    folder = BUILD / f"simulated_cann-{mark}"
    if folder.exists():
        return folder
    BUILD.mkdir(exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=BUILD, prefix=".simulated_cann-"))
    compiler = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wno-unused-parameter"]
    subprocess.run([*compiler, f"-Wl,-soname,{DRIVER}.so", "-o", part / f"{DRIVER}.so", sources[0], "-lpthread"], check=True)
    for name in COMPANIONS:  # empty libraries that only refer to the first
        link = [f"-Wl,-soname,{name}.so", "-o", part / f"{name}.so", "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed", f"-L{part}"]
        subprocess.run([*compiler, *link, f"-l{DRIVER.removeprefix('lib')}"], input=b"", check=True)
    try:
        part.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(part)
    return folder


def plug_in(**settings: int) -> Machine:
    """Load the driver into this process, so that torch_npu finds it by name. No torch yet."""
    folder = build()
    driver = ctypes.CDLL(str(folder / f"{DRIVER}.so"), ctypes.RTLD_GLOBAL)
    for name in COMPANIONS:  # a loaded library satisfies later requests for its soname
        ctypes.CDLL(str(folder / f"{name}.so"), ctypes.RTLD_GLOBAL)
    machine = Machine(driver)
    machine.set(**settings)
    return machine


def start(**settings: int) -> Machine:
    """Plug in the driver, import torch and torch_npu the way effkit does, and give torch_npu working operators."""
    assert "torch" not in sys.modules, "start the simulated machine before importing torch"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes' default backend would try torch.compile, which needs real CANN
    os.environ["TASK_QUEUE_ENABLE"] = "0"  # torch_npu would record events from another thread, while kernels are launched from this one
    machine = plug_in(**settings)
    sys.path.insert(0, str(WHEEL))
    from effkit.hardware import preflight

    assert preflight.NOTE is None, preflight.NOTE
    from . import host_kernels

    host_kernels.install(machine.driver)
    return machine
