"""Learned rounding: which way each weight is rounded, and each group's range, trained for the layer's output.

An offset in -0.5 ... 0.5 is added to every weight, in units of its grid, before it is rounded, and both ends of every
group's range get a factor. They are trained by signed gradient descent at a rate that falls linearly to zero, so that all of
the steps together can move an offset by half a unit, on the mean square error between the layer's output on what was
rounded so far and the exact layer's on exact inputs (Cheng et al. 2023, arXiv:2309.05516; gradients pass through the
rounding). Training begins at searched scales, and where it did not lower the error over all of the text they are kept.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..planning import as_matrix
from ..rounding import TINY, Rounded, fit, scale_type
from ..streaming import Stream, looked_at
from .rtn import RoundToNearest

if TYPE_CHECKING:
    from effkit.spec.recipe import Quantize

RANGE_WAY = 0.25  # how far a factor of a range can travel in all steps together; an offset travels 0.5
SHORTEST, LONGEST = 0.5, 1.25  # factors of a range
EVALUATED = 16  # batches over which the errors before and after are compared


class Learned(RoundToNearest):
    name = "learned"
    title = "Learned rounding"
    summary = "Which way each weight goes, and each range, is trained for the layer's output on calibration text."
    reads = "layer"

    def learn(
        self,
        stream: Stream,
        layer: nn.Module,
        index: int,
        targets: list[Tensor],
        formats: Mapping[str, tuple[int, int]],
        symmetric: bool,
        step: Quantize,
    ) -> Generator[None, None, dict[str, Rounded]]:
        """Roundings of the modules in `formats`. layer: a working copy; targets: what the exact layer makes of each batch."""
        own = yield from _starts(stream, layer, index, formats, symmetric)
        steps = step.learn_steps
        first = yield from _error(stream, layer, index, targets, own)
        before = {name: grid.rounded() for name, grid in own.items()}
        draw = torch.Generator().manual_seed(index)
        for number in range(steps):
            batch = int(torch.randint(len(targets), (1,), generator=draw))
            rate = 1 - number / steps
            with torch.enable_grad():
                leaves = [p for grid in own.values() for p in grid.leaves()]
                out = _forward(stream, layer, index, batch, own)
                loss = (out.float() - targets[batch].float()).square().mean()
                slopes = torch.autograd.grad(loss, leaves, materialize_grads=True)  # without zero points one end of the range is unused
            with torch.no_grad():
                for grid, at in zip(own.values(), range(0, len(leaves), 3), strict=True):
                    grid.step_(slopes[at : at + 3], rate / steps)
            yield
        last = yield from _error(stream, layer, index, targets, own)
        return {name: grid.rounded() for name, grid in own.items()} if last < first else before


class _Grid:
    """The offsets and ranges of one weight. A range reaches from -low to high, in steps of the scale that it began with."""

    def __init__(self, weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> None:
        self.shape, self.kind, self.highest = weight.shape, scales.dtype, 2**bits - 1
        self.scale = scales.float().unsqueeze(-1)
        self.weight = weight.float().reshape(*scales.shape, -1)
        self.middle = 2.0 ** (bits - 1) if zeros is None else None
        self.zero = torch.full_like(self.scale, 2.0 ** (bits - 1)) if zeros is None else zeros.float().unsqueeze(-1)
        self.offset = torch.zeros_like(self.weight).requires_grad_()
        self.low = torch.ones_like(self.scale).requires_grad_()
        self.high = torch.ones_like(self.scale).requires_grad_()

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.offset, self.low, self.high

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scales, in their stored type's values, and whole zero points; both let gradients through."""
        if self.middle is not None:
            scale, zero = self.scale * self.high, self.zero
        else:
            low, high = self.zero * self.low, (self.highest - self.zero) * self.high
            part = (low + high) / self.highest
            scale, zero = self.scale * part, _whole(low / part.clamp(min=1e-6)).clamp(0, self.highest)
        stored = scale.to(self.kind).float()
        stored = torch.where(stored == 0, torch.full_like(stored, TINY), stored)
        return scale + (stored - scale).detach(), zero

    def integers(self, scale: Tensor, zero: Tensor) -> Tensor:
        return (_whole(self.weight / scale + self.offset) + zero).clamp(0, self.highest)

    def value(self) -> Tensor:
        """The weight [rows, columns] that it stands for."""
        scale, zero = self.grid()
        return ((self.integers(scale, zero) - zero) * scale).reshape(self.shape)

    @torch.no_grad()
    def rounded(self) -> Rounded:
        scale, zero = self.grid()
        q = self.integers(scale, zero).round().to(torch.uint8).reshape(self.shape)  # a sum that lets gradients through may miss by 1e-7
        zeros = None if self.middle is not None else zero.round().squeeze(-1).to(torch.uint8)
        return Rounded(q, scale.squeeze(-1).to(self.kind), zeros)

    def step_(self, slopes: tuple[Tensor, ...], rate: float) -> None:
        self.offset.sub_(rate * slopes[0].sign()).clamp_(-0.5, 0.5)
        for p, slope in zip((self.low, self.high), slopes[1:], strict=True):
            p.sub_(2 * RANGE_WAY * rate * slope.sign()).clamp_(SHORTEST, LONGEST)


def _whole(x: Tensor) -> Tensor:
    """Rounded; the gradient passes straight through."""
    return x + (torch.round(x) - x).detach()


def _starts(
    stream: Stream, layer: nn.Module, index: int, formats: Mapping[str, tuple[int, int]], symmetric: bool
) -> Generator[None, None, dict[str, _Grid]]:
    """Searched scales for the inputs of the layer as it is before it is rounded."""
    own: dict[str, _Grid] = {}
    prefix = f"{stream.name}.{index}."
    for group in stream.groups(index, {prefix + name for name in formats}):
        importance = (yield from looked_at(stream.see(layer, index, group))).mean_square
        for name in group:
            weight, (bits, size) = as_matrix(layer.get_submodule(name)), formats[name]
            with torch.no_grad():
                scales, zeros = fit(weight, bits, size, symmetric, scale_type(weight, bits), importance)
            own[name] = _Grid(weight, scales, zeros, bits)
            yield
    return own


def _forward(stream: Stream, layer: nn.Module, index: int, number: int, own: Mapping[str, _Grid]) -> Tensor:
    weights = {}
    for name, grid in own.items():
        part = layer.get_submodule(name)
        value = grid.value().to(part.weight.dtype)  # type: ignore[arg-type, union-attr]
        weights[f"{name}.weight"] = value.t() if isinstance(part, Conv1D) else value
    given = stream.arguments[index][number]
    out = torch.func.functional_call(layer, weights, (stream.hidden[number], *given["args"]), given["kwargs"])
    return out[0] if isinstance(out, tuple) else out


def _error(stream: Stream, layer: nn.Module, index: int, targets: list[Tensor], own: Mapping[str, _Grid]) -> Generator[None, None, float]:
    chosen = torch.linspace(0, len(targets) - 1, min(EVALUATED, len(targets))).round().long().tolist()
    total = 0.0
    for number in chosen:
        with torch.no_grad():
            total += float((_forward(stream, layer, index, number, own).float() - targets[number].float()).square().mean())
        yield
    return total


METHOD = Learned()
