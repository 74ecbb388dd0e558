"""Round to nearest on searched scales: each group's range is chosen for the least error of the layer's output.

With the mean square of every input on calibration text as its weight, the error of a group's weights is the error that
they make in the output, inputs taken as uncorrelated. The range that covers the largest weight is one of those tried, so a
group is never worse than by round to nearest in this measure (the idea of llama.cpp's importance matrix; for ranges see
Nagel et al. 2021, arXiv:2106.08295, section 3.1).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch

from ..rounding import Rounded, fit, nearest
from .rtn import RoundToNearest

if TYPE_CHECKING:
    from ..streaming import Seen

CHUNK = 1 << 20  # weights whose ranges are searched between two yields


class Search(RoundToNearest):
    name = "search"
    title = "Searched scales"
    summary = "Round to nearest, with each group's range chosen for the inputs of calibration text."
    reads = "inputs"

    def choose(
        self, weight: torch.Tensor, seen: Seen, bits: int, group: int, symmetric: bool, scale_dtype: torch.dtype
    ) -> Generator[None, None, Rounded]:
        return searched(weight, seen.mean_square, bits, group, symmetric, scale_dtype)


def searched(
    weight: torch.Tensor, importance: torch.Tensor | None, bits: int, group_size: int, symmetric: bool, scale_dtype: torch.dtype
) -> Generator[None, None, Rounded]:
    """Integers, scales and zero points for a weight [rows, columns]; importance: [columns], or None for all alike."""
    parts = []
    count = max(1, CHUNK // weight.shape[1])
    for start in range(0, len(weight), count):
        part = weight[start : start + count].float()
        scales, zeros = fit(part, bits, group_size, symmetric, scale_dtype, importance)
        parts.append(on_grid(part, scales, zeros, bits))
        yield
    integers, scales, zeros = zip(*parts, strict=True)
    return Rounded(torch.cat(integers), torch.cat(scales), None if symmetric else torch.cat(zeros))


def on_grid(weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int) -> Rounded:
    """The nearest integers of a weight [rows, columns] on a given grid [rows, groups]."""
    zero = 2.0 ** (bits - 1) if zeros is None else zeros.float().unsqueeze(-1)
    grouped = weight.float().reshape(*scales.shape, -1)
    integers = (nearest(grouped, scales, zeros, bits) + zero).round().to(torch.uint8).reshape(weight.shape)
    return Rounded(integers, scales, zeros)


METHOD = Search()
