"""SmoothQuant: 8 bits for weights and inputs alike, with what is hard about the inputs moved into the weights.

Single inputs of large magnitude make rounding a token's inputs to one scale lossy, while weights are easy to round. Input j
is divided by s_j = max|x_j|^a / max|W_j|^(1-a) with a = 1/2, folded into what makes it (see `folding`), and column j of the
weights is multiplied by it (Xiao et al. 2022, arXiv:2211.10438). Weights have a scale a row, inputs one a token, found as
they come.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effkit.models.stored.int8 import Int8Linear
from effkit.spec.errors import BadInput

from ..folding import factors, fold_layer_, pairs
from ..planning import as_matrix
from ..streaming import Stream, looked_at

if TYPE_CHECKING:
    from effkit.hardware.attached.device import Device
    from effkit.spec.recipe import Quantize

EXPONENT = 0.5


class SmoothQuant:
    name = "smooth"
    title = "SmoothQuant (W8A8)"
    summary = "8-bit weights and inputs; large inputs are evened out into the weights first."
    bits: tuple[int, ...] = (8,)
    group_sizes: tuple[int, ...] = ()
    reads = "inputs"

    def why_not(self, device: Device) -> str | None:
        return None

    def group_for(self, step: Quantize, columns: int) -> int:
        if step.group_size not in ("auto", None):
            raise BadInput(f"group_size for smooth is {step.group_size}", "Allowed: None (whole rows) or 'auto'")
        return columns

    def check(self, step: Quantize, rows: int, columns: int) -> str | None:
        if step.symmetric:
            raise BadInput("symmetric is True for smooth", "Allowed: False; its levels are always symmetric", "Leave symmetric out")
        return None

    def predicted_bytes(self, step: Quantize, rows: int, columns: int, group: int) -> int:
        return Int8Linear.predicted_bytes(rows, columns)

    def apply(self, step: Quantize, weight: Tensor, bias: Tensor | None, group: int, dtype: torch.dtype) -> Int8Linear:
        rows, columns = weight.shape
        module = Int8Linear(rows, columns, dtype, bias)
        module.store_(weight)
        return module

    def folds(
        self, stream: Stream, layer: nn.Module, index: int, formats: Mapping[str, tuple[int, int]], symmetric: bool
    ) -> Generator[None, None, dict[str, Tensor]]:
        """Factors by name; layer: a working copy that may be changed; formats: what will be rounded."""
        found: dict[str, Tensor] = {}
        for pair in pairs(stream, index):
            if not any(name in formats for name in pair.readers):
                continue
            seen = yield from looked_at(stream.see(layer, index, list(pair.readers)))
            if seen.largest is None:
                continue
            heaviest = torch.stack([as_matrix(layer.get_submodule(name)).float().abs().amax(0) for name in pair.readers]).amax(0)
            s = seen.largest.clamp(min=1e-5) ** EXPONENT / heaviest.clamp(min=1e-5) ** (1 - EXPONENT)
            own = factors(pair, s.clamp(1e-4, 1e4))
            found |= own
            fold_layer_(layer, own)  # the pairs behind it see it
        return found


METHOD = SmoothQuant()
