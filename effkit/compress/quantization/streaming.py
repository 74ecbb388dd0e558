"""Calibration text on its way through the layers, one layer at a time, each with what was rounded before it.

Only the hidden states between two layers, one working copy of a layer and what a group of modules sees of its inputs are
kept at once, so the memory needed beside the model is that of a layer. Modules of a layer that read the same tensor form a
group (queries, keys and values; gate and up), and groups come in the order in which they run: when a group's inputs are
seen, all that runs before it is rounded already ("true sequential").
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from effkit.models.checks import finite
from effkit.models.layers import layer_list
from effkit.models.model import Model
from effkit.models.stored.packed import PackedLinear
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput

from .planning import as_matrix

Inputs = dict[str, Tensor]


class _Reached(Exception):
    """All that a pass was made for has been seen."""


@dataclass
class Seen:
    """What a module reads of the calibration text.

    hessian: sum of x x', float32 [in_features, in_features]; largest: magnitude of every input [in_features]
    """

    hessian: Tensor
    tokens: int = 0
    largest: Tensor | None = None
    shared: Any = None  # what a method has made of the hessian, for all the modules that read the same

    @property
    def mean_square(self) -> Tensor:
        """Of every input [in_features]."""
        return self.hessian.diagonal() / max(1, self.tokens)

    def take_hessian(self) -> Tensor:
        """The hessian, which is then no longer kept here: it can be as large as the weights of a layer."""
        taken, self.hessian = self.hessian, self.hessian.new_empty(0, 0)
        return taken

    def add_(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        self.hessian.addmm_(rows.t(), rows)
        self.tokens += len(rows)
        largest = rows.abs().amax(0)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)


class Stream:
    """The hidden states of calibration batches in front of one layer after the other. `model` is never changed."""

    def __init__(self, model: Model, batches: list[Inputs]) -> None:
        self.model, self.batches = model, batches
        self.name, self.layers = layer_list(model)
        self.hidden: list[Tensor] = []
        self.arguments: list[list[dict[str, Any]]] = []  # for each layer, for each batch

    def begin(self) -> Iterator[int]:
        """Bring every batch in front of the first layer. Yields after each."""
        self.arguments = [[] for _ in self.layers]
        alike = self.model.task == "causal-lm"  # windows of one length without padding: a mask serves every batch
        for number, batch in enumerate(self.batches):
            first = number == 0 or not alike or batch["input_ids"].shape != self.batches[0]["input_ids"].shape
            self._enter(batch, whole=first)
            if not first:
                for kept in self.arguments:
                    kept.append(kept[0])
            yield number

    def _enter(self, batch: Inputs, whole: bool) -> None:
        """Keep what the first layer reads; with `whole`, all layers' other arguments too."""
        hooks = []

        def keep(index: int) -> Callable:
            def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                if index == 0:
                    self.hidden.append(args[0] if args else kwargs["hidden_states"])
                if whole:
                    extra = {k: v for k, v in kwargs.items() if k != "hidden_states"}
                    self.arguments[index].append({"args": args[1:], "kwargs": extra})
                elif index == 0:
                    raise _Reached

            return hook

        for index, layer in enumerate(self.layers):
            hooks.append(layer.register_forward_pre_hook(keep(index), with_kwargs=True))
        try:
            given = {"use_cache": False} if self.model.task == "causal-lm" else {}
            with torch.no_grad():
                core = getattr(self.model.module, "base_model", self.model.module)  # without the head: no logits are made
                core(**batch, **given)
        except _Reached:
            pass
        finally:
            for hook in hooks:
                hook.remove()

    def fork(self) -> Stream:
        """Another stream at the same place: what is kept of the inputs is shared, and each goes on by itself."""
        other = copy.copy(self)
        other.hidden = list(self.hidden)
        return other

    def working_copy(self, index: int, done: dict[str, nn.Module], shared: bool = False) -> nn.Module:
        """A copy of a layer, in which what is done already computes with the weights that it stands for.

        shared: it holds the model's own weights, for those who replace modules and change no weight in place.
        """
        weights = {id(p): p for p in self.layers[index].parameters()} if shared else {}
        layer = copy.deepcopy(self.layers[index], memo=weights)
        for name in self.inside(layer):
            full = f"{self.name}.{index}.{name}"
            if full in done:
                layer.set_submodule(name, plain(done[full]))
        return layer

    def inside(self, layer: nn.Module) -> list[str]:
        return [n for n, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D) or is_replaced(m)]

    def groups(self, index: int, wanted: set[str]) -> list[list[str]]:
        """Names of a layer's modules among `wanted` (full names), grouped by the tensor they read, in running order.

        What the first batch does not reach (an expert that no token chose) comes last, each by itself.
        """
        layer, prefix = self.layers[index], f"{self.name}.{index}."
        names = [name for name in self.inside(layer) if prefix + name in wanted]
        order: list[tuple[Tensor, list[str]]] = []

        def note(name: str) -> Callable:
            def hook(module: nn.Module, args: tuple) -> None:
                if not any(name in group for _, group in order):
                    same = next((group for x, group in order if x is args[0] or same_memory(x, args[0])), None)
                    if same is None:
                        order.append((args[0], [name]))  # the tensor is held, so that its memory is not given to another
                    else:
                        same.append(name)

            return hook

        hooks = [layer.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
        try:
            self.run(layer, index, 0)
        finally:
            for hook in hooks:
                hook.remove()
        reached = {name for _, group in order for name in group}
        return [group for _, group in order] + [[name] for name in names if name not in reached]

    def see(self, layer: nn.Module, index: int, group: list[str]) -> Generator[int, None, Seen]:
        """What the modules of a group read, over all batches. Yields after each. BadInput where that is not finite."""
        module = layer.get_submodule(group[0])
        width = as_matrix(module).shape[1]
        seen = Seen(torch.zeros(width, width, device=self.hidden[0].device))

        def hook(module: nn.Module, args: tuple) -> None:
            seen.add_(args[0])
            raise _Reached

        for number in range(len(self.hidden)):
            handle = module.register_forward_pre_hook(hook)
            try:
                self.run(layer, index, number)
            except _Reached:
                pass
            finally:
                handle.remove()
            yield number
        _check(seen.hessian, f"what {self.name}.{index}.{group[0]} reads")
        return seen

    def advance(self, layer: nn.Module, index: int) -> Iterator[int]:
        """Bring every batch behind the layer. Yields after each. BadInput where what comes out is not finite."""
        for number in range(len(self.hidden)):
            self.hidden[number] = self.run(layer, index, number)
            _check(self.hidden[number], f"what {self.name}.{index} makes")
            yield number

    def run(self, layer: nn.Module, index: int, number: int) -> Tensor:
        """What a layer makes of the hidden states of one batch that stand before layer `index`."""
        given = self.arguments[index][number]
        with torch.no_grad():
            out = layer(self.hidden[number], *given["args"], **given["kwargs"])
        return out[0] if isinstance(out, tuple) else out


def looked_at(work: Generator[int, None, Seen]) -> Generator[None, None, Seen]:
    """`Stream.see`, for a method that yields nothing else."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
        yield


class Unpacked(nn.Module):
    """A packed linear that computes with exactly the weights it stands for, whatever engines there are; they are made for
    every pass, so that of a layer's float weights only one stands there at a time."""

    def __init__(self, packed: PackedLinear) -> None:
        super().__init__()
        self.packed = packed
        self.in_features, self.out_features = packed.in_features, packed.out_features

    @property
    def weight(self) -> Tensor:
        return self.packed.packed.dequantized()

    @property
    def bias(self) -> Tensor | None:
        return self.packed.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def plain(module: nn.Module) -> nn.Module:
    """A module that computes with the weights that a packed linear stands for; any other is itself."""
    return Unpacked(module) if isinstance(module, PackedLinear) else module


def _check(numbers: Tensor, what: str) -> None:
    if not finite(numbers):
        raise BadInput(
            f"{what} of the calibration text is not finite",
            "Calibration needs a model whose hidden states are finite numbers on the text",
            "Load it in float32 or bfloat16 (float16 ends at 65504), or choose a method that reads no text, such as 'hqq'",
        )


def same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.device == b.device
