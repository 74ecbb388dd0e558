"""A packed linear layer while it is tuned: what is stored as integers stays integers in the forward pass.

    w = (q - zero) * scale * (1 + change)        q fixed ("scales"), or round(u) ("weights")

`change` is trained for every group. With "weights" a full-precision u in units of the grid stands behind each integer,
and gradients pass through its rounding (straight-through; Bengio et al. 2013, arXiv:1308.3432). The weight itself is made
anew in the backward pass instead of being kept, so beside the integers only activations need memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from effkit.models.stored.packed import PackedEmbedding, PackedLinear, PackedWeight, unpack

INSIDE = 0.45  # how far from its integer a trained weight may begin: nothing flips before a step is taken


class Grid(nn.Module):
    """The weight of one PackedWeight in trainable form; linear layers and tied embeddings share one."""

    def __init__(self, packed: PackedWeight, exact: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.packed, self.dtype = packed, dtype
        self.group, self.bits = packed.group_size, packed.bits
        integers = unpack(packed.integers, packed.bits, packed.columns)
        zeros = packed.zero_points()
        self.zero: Tensor | float = zeros.float().unsqueeze(-1) if isinstance(zeros, Tensor) else zeros
        self.step = packed.scales.float()
        self.change = nn.Parameter(torch.zeros_like(self.step))
        self.learned = exact is not None
        if exact is None:
            self.integers = integers
        else:
            ideal = exact.float().reshape(*self.step.shape, self.group) / self.step.unsqueeze(-1) + self.zero
            q = integers.float()
            self.integers = nn.Parameter(q + (ideal.reshape(q.shape) - q).clamp_(-INSIDE, INSIDE))

    def scale(self) -> Tensor:
        return self.step * (1 + self.change)

    def chosen(self) -> Tensor:
        """Integers [rows, columns], float32 or uint8."""
        return self.integers.round().clamp(0, 2**self.bits - 1) if self.learned else self.integers

    def store_(self) -> None:
        """Write what was learned into the packed weight, scales rounded to their stored type."""
        with torch.no_grad():
            scales = self.scale().to(self.packed.scale_dtype)
            self.packed.restore_(self.chosen().to(torch.uint8), scales)


class TunableLinear(nn.Module):
    def __init__(self, grid: Grid, bias: Tensor | None) -> None:
        super().__init__()
        self.grid, self.bias = grid, bias

    @property
    def weight(self) -> Tensor:
        """The matrix it stands for, for layers that read it themselves (Mamba's time steps): of it only scales are trained."""
        g = self.grid
        offset = _offset(g.integers.detach(), g.zero, g.group, 2**g.bits - 1)
        return (offset * g.scale().unsqueeze(-1)).reshape(g.integers.shape).to(g.packed.dtype)

    def forward(self, x: Tensor) -> Tensor:
        g = self.grid
        y = _Linear.apply(x, g.scale(), g.integers, g.zero, g.group, 2**g.bits - 1, g.dtype)
        return y if self.bias is None else y + self.bias


class TunableEmbedding(nn.Module):
    """The rows of a tied table, in its present form; only the head's use of it is trained."""

    def __init__(self, grid: Grid, scale: float) -> None:
        super().__init__()
        self.grid, self.scale = grid, scale

    def forward(self, ids: Tensor) -> Tensor:
        g = self.grid
        flat = ids.reshape(-1)
        with torch.no_grad():
            q = (g.integers[flat].round().clamp(0, 2**g.bits - 1) if g.learned else g.integers[flat].float()).reshape(
                len(flat), -1, g.group
            )
            zero = g.zero[flat] if isinstance(g.zero, Tensor) else g.zero
            rows = q - zero
        return (rows * g.scale()[flat].unsqueeze(-1)).reshape(*ids.shape, -1).to(g.packed.dtype) * self.scale


class _Linear(torch.autograd.Function):
    """y = x W' with W made of integers and scales, both times; products in `dtype`, all else in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, integers: Tensor, zero: Any, group: int, highest: int, dtype: torch.dtype) -> Tensor:
        low = x.to(dtype)
        ctx.save_for_backward(low, scale, integers)
        ctx.zero, ctx.group, ctx.highest, ctx.above = zero, group, highest, x.dtype
        weight = (_offset(integers, zero, group, highest) * scale.unsqueeze(-1)).reshape(integers.shape)
        return nn.functional.linear(low, weight.to(dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, scale, integers = ctx.saved_tensors
        above = grads[0].to(x.dtype)
        q = _offset(integers, ctx.zero, ctx.group, ctx.highest)
        below = None
        if ctx.needs_input_grad[0]:
            below = (above @ (q * scale.unsqueeze(-1)).reshape(integers.shape).to(x.dtype)).to(ctx.above)
        weight = (above.flatten(0, -2).t() @ x.flatten(0, -2)).float().reshape(q.shape)
        for_scale = (weight * q).sum(-1)
        for_integers = None
        if ctx.needs_input_grad[2]:
            for_integers = (weight * scale.unsqueeze(-1)).reshape(integers.shape)
            # beyond the ends of the grid only the way back has a slope
            for_integers.masked_fill_((integers < 0) & (for_integers > 0), 0.0)
            for_integers.masked_fill_((integers > ctx.highest) & (for_integers < 0), 0.0)
        return below, for_scale, for_integers, None, None, None, None


def _offset(integers: Tensor, zero: Any, group: int, highest: int) -> Tensor:
    """q - zero as float32 [rows, groups, group]."""
    q = integers.round().clamp_(0, highest) if integers.is_floating_point() else integers.float()
    return q.reshape(q.shape[0], -1, group).sub_(zero)


def tunable_(module: nn.Module, exact: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Grid]:
    """Put trainable forms in the place of packed modules; gives every packed weight's grid under its first module's name.

    exact: for "weights", the unrounded weight of every packed linear that is to learn its integers. dtype: of products.
    """
    grids: dict[int, Grid] = {}
    names: dict[str, Grid] = {}
    packed = {name: m for name, m in module.named_modules(remove_duplicate=False) if isinstance(m, PackedLinear | PackedEmbedding)}
    tied = {id(m.packed) for m in packed.values() if isinstance(m, PackedEmbedding)}
    for name, part in packed.items():
        if id(part.packed) not in grids:
            if isinstance(part, PackedEmbedding) and not any(
                isinstance(m, PackedLinear) and m.packed is part.packed for m in packed.values()
            ):
                continue  # a table of its own: few of its rows are ever read
            grids[id(part.packed)] = names[name] = Grid(part.packed, None if id(part.packed) in tied else exact.get(name), dtype)
        grid = grids[id(part.packed)]
        form = TunableEmbedding(grid, part.scale) if isinstance(part, PackedEmbedding) else TunableLinear(grid, part.bias)
        module.set_submodule(name, form)
    return names


def packed_again_(module: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Undo `tunable_`: the packed modules stand in their places again."""
    for name, part in originals.items():
        module.set_submodule(name, part)
