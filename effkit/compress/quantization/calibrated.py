"""Quantizing a layer after the other on calibration text, each with what was rounded before it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from effkit.hardware.attached.memory import guard
from effkit.models.model import Model
from effkit.models.stored.packed import PackedLinear, PackedWeight
from effkit.spec.plan import ModulePlan
from effkit.spec.progress import Progress, Work
from effkit.spec.recipe import Quantize

from .calibration import calibration
from .folding import fold_layer_
from .planning import as_matrix, bias_of
from .registry import method as method_of
from .registry import reads
from .rounding import Rounded, scale_type
from .streaming import Stream, plain

T = TypeVar("T")
WINDOWS = 2  # in a batch where a layer is learned: what one step reads


@dataclass
class Prepared:
    """What was found for whole layers: factors to fold by name, and the layers for which they were looked for.

    note: what the text lacks of what was asked for, in a sentence; else empty
    """

    folds: dict[str, Tensor] = field(default_factory=dict)
    layers: set[int] = field(default_factory=set)
    note: str = ""


@dataclass
class Job:
    """What is to be rounded and what is there already.

    finish: makes the Progress of a module that is ready, given its exact weight; still: that of work in between
    """

    step: Quantize
    todo: dict[str, ModulePlan]
    done: dict[str, nn.Module]
    prepared: Prepared
    finish: Callable[[str, ModulePlan, nn.Module, Tensor], Progress]
    still: Callable[[str], Progress]


def quantize_layers(model: Model, job: Job, text: Any, seed: int) -> Work[None]:
    """Fill `done` with the replacements of the modules in `todo` that lie inside the layers, and `prepared` with their factors."""
    step, still = job.step, job.still
    method = method_of(step.method)
    whole = reads(method) == "layer"
    batches = yield from calibration(model, text, step.samples, step.window, WINDOWS if whole else 8, seed)
    job.prepared.note = _lacking(batches, step.samples, model.task)
    stream = Stream(model, batches)
    for number in stream.begin():
        yield still(f"reading calibration text, {number + 1} of {len(batches)}")
    exact = stream.fork() if whole else None
    for index in range(len(stream.layers)):
        with guard(model.device, f"quantizing layer {index}"):
            if exact is not None:
                yield from _told(exact.advance(stream.layers[index], index), still, f"layer {index}: passing on unrounded")
            layer = yield from _layer(job, stream, index, exact)
            if index + 1 < len(stream.layers):
                yield from _told(stream.advance(layer, index), still, f"layer {index}: passing on")
            del layer  # not beside the next one


def _lacking(batches: list[dict[str, Tensor]], asked: int, task: str) -> str:
    found = sum(len(batch["input_ids"]) for batch in batches)
    what = f"windows of {batches[0]['input_ids'].shape[1]} tokens" if task == "causal-lm" else "texts"
    return f"the calibration text holds {found} of the {asked} {what} that were asked for" if found < asked else ""


def _layer(job: Job, stream: Stream, index: int, exact: Stream | None) -> Work[nn.Module]:
    """One layer: factors are folded, then its modules rounded. The layer as it will be."""
    step, todo, done, prepared, still = job.step, job.todo, job.done, job.prepared, job.still
    method: Any = method_of(step.method)
    prefix = f"{stream.name}.{index}."
    inside = {name for name in todo if name.startswith(prefix)}
    formats = {name.removeprefix(prefix): _format(step, todo[name]) for name in inside}
    if hasattr(method, "folds") and index not in prepared.layers:
        work = method.folds(stream, stream.working_copy(index, done), index, formats, step.symmetric)
        found = yield from _told(work, still, f"layer {index}: finding factors")
        prepared.folds |= {prefix + name: t for name, t in found.items()}
        prepared.layers.add(index)
    layer = stream.working_copy(index, done, shared=exact is None and not hasattr(method, "folds"))
    fold_layer_(layer, prepared.folds, prefix, done)

    def put(name: str, replacement: nn.Module) -> Progress:
        original = as_matrix(layer.get_submodule(name))
        layer.set_submodule(name, plain(replacement))
        return job.finish(prefix + name, todo[prefix + name], replacement, original)

    missing = {name: form for name, form in formats.items() if prefix + name not in done}
    if exact is not None and missing:
        work = method.learn(stream, layer, index, exact.hidden, missing, step.symmetric, step)
        learned = yield from _told(work, still, f"layer {index}: learning to round")
        new = {name: _packed(step, missing[name], layer.get_submodule(name), rounded) for name, rounded in learned.items()}
        done |= {prefix + name: module for name, module in new.items()}  # all at once: half a layer cannot be gone on with
        for name, module in new.items():
            yield put(name, module)
        return layer
    for group in stream.groups(index, inside):
        left = [name for name in group if name in missing]
        if not left:
            continue
        seen = None
        if hasattr(method, "choose"):
            seen = yield from _told(stream.see(layer, index, group), still, f"layer {index}: reading the inputs of {', '.join(group)}")
        for name in left:
            work = _rounded(step, formats[name], layer.get_submodule(name), seen)
            replacement = yield from _told(work, still, f"layer {index}: rounding {name}")
            done[prefix + name] = replacement
            yield put(name, replacement)
    return layer


def _format(step: Quantize, planned: ModulePlan) -> tuple[int, int]:
    """Bits and group size."""
    return int(planned.bits or step.bits), planned.group_size or planned.shape[-1]


@torch.no_grad()  # also here it is left and entered again at every yield, so a driver's own gradients are not switched off
def _rounded(step: Quantize, form: tuple[int, int], original: nn.Module, seen: Any) -> Generator[Any, None, nn.Module]:
    weight, method = as_matrix(original), method_of(step.method)
    bits, group = form
    if seen is None:
        yield
        return method.apply(step, weight, bias_of(original), group, weight.dtype)
    rounded = yield from method.choose(weight, seen, bits, group, step.symmetric, scale_type(weight, bits))  # type: ignore[attr-defined]
    return _packed(step, form, original, rounded)


def _packed(step: Quantize, form: tuple[int, int], original: nn.Module, rounded: Rounded) -> PackedLinear:
    weight, (bits, group) = as_matrix(original), form
    rows, columns = weight.shape
    packed = PackedWeight(rows, columns, bits, group, step.symmetric, weight.dtype, rounded.scales.dtype, device=weight.device)
    packed.store_(0, *rounded)
    return PackedLinear(packed, bias_of(original))


def _told(work: Generator[Any, None, T] | Iterator[Any], still: Callable[[str], Progress], message: str) -> Work[T]:
    """A Progress for every yield of `work`."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
        yield still(message)
