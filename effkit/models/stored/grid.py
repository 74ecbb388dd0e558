"""Weights that were rounded before: on their old grid, rounding again loses nothing and measures nothing.

A group of 32 weights rounded to b bits holds at most 2^b different values; 32 ordinary float weights are nearly
always all different. (bfloat16 alone leaves about 25 of 32 different: far from the 16 of a 4-bit grid.)
"""

from __future__ import annotations

import torch
from torch import nn

BLOCK = 32
ROWS = 64


def grid_bits(weight: torch.Tensor) -> int | None:
    """The bits (2 to 4) of the coarsest grid on which nearly all groups of 32 consecutive inputs lie; None: no such grid."""
    if weight.dim() != 2 or weight.shape[1] < BLOCK or weight.device.type == "meta":
        return None
    rows = torch.linspace(0, weight.shape[0] - 1, min(ROWS, weight.shape[0]), device=weight.device).long()
    columns = weight.shape[1] // BLOCK * BLOCK
    blocks = weight[rows, :columns].reshape(-1, BLOCK).float().sort(dim=1).values
    spread = blocks[:, -1] > blocks[:, 0]  # blocks of one value (zeros) say nothing
    distinct = 1 + (blocks[spread].diff(dim=1) > 0).sum(dim=1)
    if len(distinct) < 8:
        return None
    for bits in (2, 3, 4):
        if (distinct <= 2**bits).float().mean() > 0.95:
            return bits
    return None


def grid_note(module: nn.Module) -> str | None:
    """A sentence for the Checkpoint if most linear weights lie on a low-bit grid, else None."""
    from transformers.pytorch_utils import Conv1D

    found = []
    for part in module.modules():
        if isinstance(part, nn.Linear):
            found.append(grid_bits(part.weight))
        elif isinstance(part, Conv1D):
            found.append(grid_bits(part.weight.T))
    bits = [b for b in found if b is not None]
    if not found or len(bits) < len(found) / 2:
        return None
    return (
        f"Its weights already lie on a {max(bits)}-bit grid: {max(bits)}-bit rounding on that grid will look lossless. "
        "To see what rounding costs, start from the unquantized checkpoint."
    )
