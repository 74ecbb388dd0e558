"""Quantizing a layer after the other on calibration text, each with what was rounded before it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from torch import nn

from effkit.hardware.memory import guard
from effkit.models.model import Model
from effkit.models.packed import PackedLinear, PackedWeight
from effkit.spec.plan import ModulePlan
from effkit.spec.progress import Progress, Work
from effkit.spec.recipe import Quantize

from .calibration import calibration
from .planning import as_matrix
from .registry import method as method_of
from .rounding import scale_type
from .streaming import Stream, plain

T = TypeVar("T")


def reads(method: Any) -> str:
    """What a method looks at: "weights" alone, the "inputs" of each module, or a whole "layer"."""
    return getattr(method, "reads", "weights")


def quantize_layers(
    model: Model,
    step: Quantize,
    text: Any,
    seed: int,
    todo: dict[str, ModulePlan],
    done: dict[str, nn.Module],
    finish: Callable[[str, ModulePlan, nn.Module], Progress],
    still: Callable[[str], Progress],
) -> Work[None]:
    """Fill `done` with the replacements of the modules in `todo` that lie inside the layers.

    finish: makes the Progress of a module that is ready; still: that of work in between
    """
    batches = yield from calibration(model, text, step.samples, step.window, seed=seed)
    stream = Stream(model, batches)
    for number in stream.begin():
        yield still(f"reading calibration text, {number + 1} of {len(batches)}")
    for index in range(len(stream.layers)):
        prefix = f"{stream.name}.{index}."
        inside = {name for name in todo if name.startswith(prefix)}
        with guard(model.device, f"quantizing layer {index}"):
            layer = stream.working_copy(index, done)
            for group in stream.groups(index, inside):
                missing = [name for name in group if prefix + name not in done]
                if not missing:
                    continue
                seen = yield from _told(stream.see(layer, index, group), still, f"layer {index}: reading the inputs of {', '.join(group)}")
                for name in missing:
                    planned = todo[prefix + name]
                    work = _rounded(step, planned, layer.get_submodule(name), seen)
                    replacement = yield from _told(work, still, f"layer {index}: rounding {name}")
                    done[prefix + name] = replacement
                    layer.set_submodule(name, plain(replacement))
                    yield finish(prefix + name, planned, replacement)
            if index + 1 < len(stream.layers):
                yield from _told(_drained(stream.advance(layer, index)), still, f"layer {index}: passing on")


@torch.no_grad()  # also here it is left and entered again at every yield, so a driver's own gradients are not switched off
def _rounded(step: Quantize, planned: ModulePlan, original: nn.Module, seen: Any) -> Generator[Any, None, nn.Module]:
    weight = as_matrix(original)
    bits, group = int(planned.bits or step.bits), planned.group_size or weight.shape[1]
    scale_dtype = scale_type(weight, bits)
    rounded = yield from method_of(step.method).choose(weight, seen, bits, group, step.symmetric, scale_dtype)  # type: ignore[attr-defined]
    rows, columns = weight.shape
    packed = PackedWeight(rows, columns, bits, group, step.symmetric, weight.dtype, scale_dtype, device=weight.device)
    packed.store_(0, *rounded)
    bias = getattr(original, "bias", None)
    return PackedLinear(packed, None if bias is None else bias.detach().clone())


def _told(work: Generator[Any, None, T], still: Callable[[str], Progress], message: str) -> Work[T]:
    """A Progress for every yield of `work`."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
        yield still(message)


def _drained(steps: Any) -> Generator[Any, None, None]:
    yield from steps
