"""A backward pass that may be left between two layers: the forward pass is cut after some of them, the way back goes piece by piece.

Each layer's output is exchanged for a leaf with the same values, whose gradient is where the next piece begins. The operations
are those of one backward pass, so the gradients are the same bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from torch import Tensor, nn


class Stages:
    """Cuts after every `every`-th of `layers`; `backward` follows a forward pass made inside `cutting`."""

    def __init__(self, layers: Sequence[nn.Module], every: int) -> None:
        self.layers = list(layers)[every - 1 : -1 : every]
        self.cuts: list[tuple[Tensor, Tensor]] = []

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        self.cuts.clear()
        handles = [layer.register_forward_hook(self._cut) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def backward(self) -> Generator[None, None, None]:
        """What is left to do after `loss.backward()`; yields before each piece."""
        while self.cuts:
            output, leaf = self.cuts.pop()
            yield
            output.backward(leaf.grad)

    def _cut(self, layer: nn.Module, given: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if not first.requires_grad:
            return None
        leaf = first.detach().requires_grad_()
        self.cuts.append((first, leaf))
        return (leaf, *output[1:]) if isinstance(output, tuple) else leaf
