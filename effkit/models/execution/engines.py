"""The engines that multiply by packed weights, and the choice among them by device, dtype and shape.

Each engine answers `why_not(work)` in a sentence, so that a choice can be shown with its reasons; the first one that can
is taken, in the order of ENGINES. What it needs besides the stored weights it derives once (`prepare`) and never stores:
files and byte counts do not change. Beyond `most_rows` rows of input, dequantizing and a dense product are faster.
A third party adds an engine through the entry-point group "effkit.engines".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import torch

from effkit.spec.plugins import imported, table

if TYPE_CHECKING:
    from effkit.models.stored.packed import PackedWeight

ENGINES = {
    "int4pack-cpu": "effkit.models.execution.kernels:Int4PackCpu",
    "int8pack-cpu": "effkit.models.execution.kernels:Int8PackCpu",
    "native-cpu": "effkit.models.execution.kernels:NativeCpu",
    "int4pack-cuda": "effkit.models.execution.kernels:Int4PackCuda",
    "quant-batchmatmul-npu": "effkit.models.execution.kernels:QuantBatchMatmulNpu",
}
DEQUANTIZE = "dequantize"


@dataclass(frozen=True)
class Work:
    """What is to be multiplied: x in `dtype` on `device` by W [rows, columns] in `bits` bits with groups of `group`."""

    device: torch.device
    dtype: torch.dtype
    rows: int
    columns: int
    bits: int
    group: int
    symmetric: bool
    real_zeros: bool = False

    @classmethod
    def of(cls, packed: PackedWeight, dtype: torch.dtype) -> Work:
        shape = (packed.rows, packed.columns, packed.bits, packed.group_size, packed.symmetric)
        return cls(packed.integers.device, dtype, *shape, real_zeros=packed.zero_dtype is not None)


@dataclass(eq=False)
class Prepared:
    """An engine (None: dequantize) with what it derived from one packed weight. `stamp`: the stored tensors as they were."""

    engine: Engine | None
    tensors: tuple[torch.Tensor, ...] = ()
    stamp: tuple[object, ...] = ()


class Engine(Protocol):
    """One way to multiply by packed weights."""

    title: str
    most_rows: int  # of x: beyond them dequantizing is faster
    derives: bool  # whether `prepare` makes tensors of its own

    def why_not(self, work: Work) -> str | None:
        """Why it cannot do this, in a sentence; None if it can."""
        ...

    def extra_bytes(self, work: Work) -> int:
        """Bytes of what `prepare` makes."""
        ...

    def prepare(self, packed: PackedWeight, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """The tensors that `multiply` needs besides the stored ones; empty where there are none."""
        ...

    def multiply(self, x: torch.Tensor, packed: PackedWeight, tensors: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
        """x [..., columns] -> [..., rows] in x's dtype."""
        ...


@dataclass(frozen=True, eq=False)
class Choice:
    """The engine for one piece of work (None: dequantize and multiply), and why each one before it was refused."""

    name: str
    engine: Engine | None
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def why(self) -> str:
        """In a sentence or two."""
        reasons = [f"{name}: {reason}" for name, reason in self.refused]
        if self.engine is not None:
            rows = "row" if self.engine.most_rows == 1 else "rows"
            return f"{self.engine.title}; up to {self.engine.most_rows} {rows} at once, beyond them dequantized"
        return "; ".join(reasons) or "no engine knows this device"


@cache
def engines() -> dict[str, Engine]:
    """All engines by name, in the order in which they are tried: plug-ins first."""
    return {name: imported(place)() for name, place in table("effkit.engines", ENGINES).items()}


@cache
def choose(work: Work) -> Choice:
    """The first engine that can do `work`; the same answer for the same work, whatever was asked before."""
    refused: list[tuple[str, str]] = []
    for name, engine in engines().items():
        reason = engine.why_not(work)
        if reason is None:
            return Choice(name, engine, tuple(refused))
        refused.append((name, reason))
    # what another device's engine says about this device helps nobody
    here = tuple(pair for pair in refused if "runs on" not in pair[1]) or tuple(refused[:1])
    return Choice(DEQUANTIZE, None, here)


def prepared(choice: Choice, packed: PackedWeight, dtype: torch.dtype) -> Prepared:
    """Let the chosen engine derive what it needs, outside autograd."""
    engine = choice.engine
    if engine is None:
        return Prepared(None)
    with torch.no_grad():
        return Prepared(engine, engine.prepare(packed, dtype), stamp_of(packed) if engine.derives else ())


def stamp_of(packed: PackedWeight) -> tuple[object, ...]:
    """Changes when a stored tensor is replaced or written to (of an inference tensor writes cannot be seen)."""
    stored = (packed.integers, packed.scales) if packed.symmetric else (packed.integers, packed.scales, packed.zeros)
    return tuple((t.data_ptr(), None if t.is_inference() else t._version) for t in stored)
