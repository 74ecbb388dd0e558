"""effkit's own kernel for packed linears on a CPU, compiled on this machine the first time it is wanted (about a second).

PyTorch has CPU kernels for 4 bits in bfloat16 and for 8 bits a row, nothing for float32 or for 2, 3, 5 and 6 bits, which
mixed precision needs. Where there is no compiler, `why_not` says so and weights are dequantized as before. What was
compiled is checked against torch before it is used, and kept in the cache folder under a name that holds the source,
the compiler and the processor. `EFFKIT_NATIVE=0` switches it off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from effkit.spec.errors import Unavailable
from effkit.spec.places import cache_folder

SOURCE = Path(__file__).with_name("packed_linear.cpp")
# No -ffast-math: linked into a library it would flush denormals to zero in the whole process.
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC")
OPERATOR = "packed_linear(Tensor x, Tensor integers, Tensor scales, Tensor? zeros, Tensor? bias, int group, int bits) -> Tensor"
REAL = {torch.uint8: 0, torch.float16: 1, torch.bfloat16: 2}  # how zero points are stored
WORTH_THREADS = 1 << 19  # products: twenty microseconds on one core, about what waking another thread takes

_building = threading.Lock()


def why_not() -> str | None:
    """Why the kernel cannot be used on this machine, in a sentence; None if it can (it is then compiled and loaded)."""
    return _loaded(os.environ.get("EFFKIT_NATIVE", "1"))[1]


def multiply(
    x: torch.Tensor,
    integers: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    group: int,
    bits: int,
) -> torch.Tensor:
    """x [..., columns] W' + b -> [..., rows] in x's dtype, computed in float32. All contiguous, on the CPU."""
    call = _loaded("1")[0]  # whether it may be used was asked when the engine was chosen
    assert call is not None, "asked for a kernel that why_not() refuses"
    return _called(call, x, integers, scales, zeros, bias, group, bits)


def _called(
    call: Callable[..., None],
    x: torch.Tensor,
    integers: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    group: int,
    bits: int,
) -> torch.Tensor:
    rows, columns = integers.shape[0], x.shape[-1]
    given = x if x.dtype == torch.float32 and x.is_contiguous() else x.to(torch.float32).contiguous()
    offset = bias if bias is None or bias.dtype == torch.float32 else bias.to(torch.float32)
    y = torch.empty((*x.shape[:-1], rows), dtype=torch.float32)
    call(
        given.data_ptr(), given.numel() // columns,
        integers.data_ptr(), integers.shape[1],
        scales.data_ptr(), scales.dtype == torch.bfloat16,
        None if zeros is None else zeros.data_ptr(), 0 if zeros is None else zeros.shape[1], 0 if zeros is None else REAL[zeros.dtype],
        None if offset is None else offset.data_ptr(), y.data_ptr(),
        rows, columns, group, bits, torch.get_num_threads() if rows * given.numel() >= WORTH_THREADS else 1,
    )  # fmt: skip
    return y if x.dtype == torch.float32 else y.to(x.dtype)


@functools.cache
def operator() -> object:
    """The same as `torch.ops.effkit.packed_linear`, which torch.compile can put into a graph."""
    library = torch.library.Library("effkit", "FRAGMENT")
    library.define(OPERATOR)
    library.impl("packed_linear", multiply, "CPU")
    library.impl("packed_linear", lambda x, integers, *_: x.new_empty((*x.shape[:-1], integers.shape[0])), "Meta")
    return library


@functools.cache
def _loaded(wanted: str) -> tuple[Callable[..., None] | None, str | None]:
    """(the function, None) or (None, the reason)."""
    if wanted == "0":
        return None, "effkit's own kernel is switched off (EFFKIT_NATIVE=0)"
    with _building:
        try:
            function = ctypes.CDLL(str(build())).effkit_packed_linear
        except (Unavailable, OSError, AttributeError) as error:
            return None, f"effkit's own kernel cannot be used: {error}"
    pointer, number, small = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    function.argtypes = [
        pointer, number, pointer, number, pointer, small, pointer, number, small, pointer, pointer, number, number, number, small, small,
    ]  # fmt: skip
    function.restype = None
    wrong = _wrong(function)
    return (None, wrong) if wrong else (function, None)


def _wrong(function: Callable[..., None]) -> str | None:
    """What is wrong with the products of a kernel that was just loaded, in a sentence; None where they are torch's."""
    from effkit.models.stored.packed import PackedWeight

    make = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        for bits, group in ((4, 32), (3, 16), (8, 64)):
            packed = PackedWeight(9, 64, bits, group, False, torch.float32)
            integers, zeros = (torch.randint(0, 2**bits, (9, n), dtype=torch.uint8, generator=make) for n in (64, 64 // group))
            packed.store_(0, integers, torch.rand(9, 64 // group, generator=make) + 0.1, zeros)
            for rows in (1, 2):
                x = torch.randn(rows, 64, generator=make)
                wanted = x @ packed.dequantized().T
                got = _called(function, x, packed.integers, packed.scales, packed.zeros, None, group, bits)
                if not torch.allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())):
                    return f"effkit's own kernel, as compiled here, multiplies wrongly ({bits} bits)"
    return None


def build(folder: Path | None = None) -> Path:
    """Compile the kernel unless that was done before. Returns the library; Unavailable where it cannot be compiled."""
    if platform.system() != "Linux":
        raise Unavailable("it is compiled on Linux only", f"This is {platform.system()}")
    compiler = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))), None)
    if compiler is None:
        raise Unavailable("there is no C++ compiler", "g++ and clang++ were looked for", "Install one, e.g. with `apt-get install g++`")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    facts = (SOURCE.read_text(encoding="utf-8"), *FLAGS, compiler, version, platform.machine(), _processor(), torch.__version__)
    name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    target = (folder or cache_folder() / "kernels") / f"packed_linear-{name}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            compiled, linked = Path(scratch, "kernel.o"), Path(scratch, "kernel.so")
            _run([compiler, *FLAGS, native, "-c", str(SOURCE), "-o", str(compiled)])
            # Linked without -fopenmp: the threads are those of the OpenMP library that torch has loaded, not a second pool.
            _run([compiler, "-shared", str(compiled), "-o", str(linked)])
            os.replace(linked, target)
    except OSError as error:
        raise Unavailable("it could not be compiled", str(error)) from error
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise Unavailable(f"{Path(command[0]).name} failed", first.strip())


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines with different processors."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags", "Features"))
