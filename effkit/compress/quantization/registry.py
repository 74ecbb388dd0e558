"""The one door for quantization methods: name -> "module:attribute" of a `Method`.

What is built in enters here as a plug-in does; a third party uses the entry-point group "effkit.methods".
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from effkit.spec.errors import choice
from effkit.spec.plugins import imported, table

if TYPE_CHECKING:
    from effkit.hardware.attached.device import Device
    from effkit.spec.recipe import Quantize

METHODS = {
    "rtn": "effkit.compress.quantization.methods.rtn:RTN",
    "search": "effkit.compress.quantization.methods.search:METHOD",
    "hqq": "effkit.compress.quantization.methods.hqq:METHOD",
    "awq": "effkit.compress.quantization.methods.awq:METHOD",
    "gptq": "effkit.compress.quantization.methods.gptq:METHOD",
    "learned": "effkit.compress.quantization.methods.learned:METHOD",
    "smooth": "effkit.compress.quantization.methods.smooth:METHOD",
    "nf4": "effkit.compress.quantization.methods.bnb:NF4",
    "fp4": "effkit.compress.quantization.methods.bnb:FP4",
    "int8": "effkit.compress.quantization.methods.bnb:INT8",
}


class Method(Protocol):
    """What a quantization method answers. A weight is [rows, columns] = [out_features, in_features].

    One that reads calibration text says so in `reads`, and then has, as generators that may be interrupted at each yield:
    "inputs": choose(weight, seen, bits, group, symmetric, scale_dtype) -> Rounded, for one linear (without it, `apply` is used)
    "layer":  learn(stream, layer, index, targets, formats, symmetric, step) -> Rounded by name, for all of a layer at once
    Either may have folds(stream, layer, index, formats, symmetric) -> factors to fold into the layer before (see `folding`).
    """

    name: str
    title: str
    summary: str
    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]  # allowed ones; empty: any that divides the row

    def why_not(self, device: Device) -> str | None:
        """Why it cannot run on this device, in a sentence; None if it can."""
        ...

    def group_for(self, step: Quantize, columns: int) -> int:
        """The group size for a row of `columns` (itself: the whole row). BadInput if the step asks for one that does not fit."""
        ...

    def check(self, step: Quantize, rows: int, columns: int) -> str | None:
        """Why a module of this shape is left alone; None if it is quantized."""
        ...

    def predicted_bytes(self, step: Quantize, rows: int, columns: int, group: int) -> int:
        """Bytes of the stored weight with its scales, without the bias."""
        ...

    def apply(self, step: Quantize, weight: torch.Tensor, bias: torch.Tensor | None, group: int, dtype: torch.dtype) -> nn.Module:
        """The replacement module, on the weight's device, computing in `dtype`."""
        ...


@cache
def names() -> dict[str, str]:
    """All names and where their methods live, built in or brought by plug-ins."""
    return table("effkit.methods", METHODS)


@cache
def method(name: str) -> Method:
    """The method of that name. BadInput lists the names."""
    known = names()
    if name not in known:
        raise choice("method", name, sorted(known))
    return imported(known[name])


def reads(method: Any) -> str:
    """What a method looks at: "weights" alone, the "inputs" of each module, or a whole "layer"."""
    return getattr(method, "reads", "weights")


def methods() -> dict[str, Method]:
    """Every method by name."""
    return {name: method(name) for name in names()}
