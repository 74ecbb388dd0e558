"""Quantization-aware distillation: the student computes with rounded weights while full-precision ones are trained.

In every forward pass a weight w is replaced by round(w), exactly as the Quantize step will store it, and gradients pass
through the rounding as if it were not there (straight-through estimator; Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.recipe import Quantize

from ..quantization.planning import as_matrix, plan_quantize
from ..quantization.rounding import round_to_nearest, scale_type


class RoundedForward:
    """Calls a student's module with the weights rounded that `step` would quantize."""

    def __init__(self, student: Model, step: Quantize) -> None:
        if step.method != "rtn":
            raise BadInput(
                f"quantize has method {step.method!r}", "Allowed inside distill: 'rtn'", "Distill first and quantize afterwards for others"
            )
        self.module, self.symmetric = student.module, step.symmetric
        self.planned = {
            p.module: (int(p.bits or step.bits), p.group_size, isinstance(student.module.get_submodule(p.module), nn.Embedding))
            for p in plan_quantize(student, step).acting()
        }

        self._settled: dict[str, Tensor] = {}

    def __call__(self, **inputs: object):
        return self.call(self.weights(), **inputs)

    def call(self, weights: dict[str, Tensor], **inputs: object):
        """The module's output with what `weights()` gave, for several calls between which nothing is trained."""
        return torch.func.functional_call(self.module, weights, (), inputs, tie_weights=True)

    def weights(self) -> dict[str, Tensor]:
        """The rounded weights by name, with gradients to the full ones. What is not trained is rounded once."""
        found = dict(self._settled)
        for name, (bits, group, embedding) in self.planned.items():
            if f"{name}.weight" in found:
                continue
            part = self.module.get_submodule(name)
            weight: Tensor = part.weight  # type: ignore[assignment]
            matrix = as_matrix(part)
            rounded = _rounded(matrix, bits, group or matrix.shape[1], self.symmetric and not embedding)
            if matrix.shape != weight.shape or matrix.stride() != weight.stride():  # GPT-2 stores the transpose
                rounded = rounded.t()
            if weight.requires_grad:
                found[f"{name}.weight"] = weight + (rounded - weight).detach()
            else:
                found[f"{name}.weight"] = self._settled[f"{name}.weight"] = rounded
        return found


@torch.no_grad()
def _rounded(matrix: Tensor, bits: int, group: int, symmetric: bool) -> Tensor:
    """What the packed weight will stand for, in the matrix's type."""
    kind = scale_type(matrix, bits)
    integers, scales, zeros = round_to_nearest(matrix, bits, group, symmetric, kind)
    offset = 2 ** (bits - 1) if zeros is None else zeros.float().unsqueeze(-1)
    grouped = integers.float().reshape(matrix.shape[0], -1, group)
    return ((grouped - offset) * scales.float().unsqueeze(-1)).reshape(matrix.shape).to(matrix.dtype)
