"""What a teacher says of a text, kept on disk for every later pass and run: its likeliest tokens, and all others as one.

Of k tokens the logits are kept, and of the others the logarithm of what they sum up to, log sum exp(logit / T), at ten
temperatures with its slope in 1/T; between two of them it is a cubic (Hermite), whose error is about 0.001 (largest of 512
positions of a story: 0.003). So a window is asked for once, whatever the number of passes, runs and temperatures: 50 of 49,152
tokens are 480 bytes a position instead of 197 kB. Divergences over these k + 1 outcomes are lower bounds of those over the
vocabulary (data processing inequality).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from effkit.measure.coding import rows_of_slice
from effkit.measure.reference import Shelf

SLOWNESS = tuple(i / 8 for i in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16))  # 1 / temperature, from 8 down to 0.5
FAR = -200.0  # logits this far below the largest one count for nothing


class Kept:
    """Tensors by name: on disk (shared by all runs, its size limited), or in memory where that cannot be written."""

    def __init__(self, key: str) -> None:
        self.shelf = Shelf(key)
        self._memory: dict[str, dict[str, Tensor]] = {}

    def of(self, name: str, ask: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is kept under `name`, on the CPU; if there is nothing yet, what `ask` gives."""
        found = self._memory.get(name) or self.shelf.load(name)
        if found is None:
            found = {key: tensor.cpu().contiguous() for key, tensor in ask().items()}
            if not self.shelf.save(name, found):
                self._memory[name] = found
        return found


def name_of(ids: list[Tensor]) -> str:
    """A name that only the same token ids have."""
    total = hashlib.sha256()
    for row in ids:
        total.update(row.cpu().to(torch.int64).numpy().tobytes() + b"|")
    return total.hexdigest()[:32]


@torch.no_grad()
def summary(logits: Tensor, k: int, slowness: tuple[float, ...]) -> dict[str, Tensor]:
    """Of logits [n, vocabulary]: tokens and logits [n, k], and `rest` [n, len(slowness), 2], value and slope, of the others."""
    k = min(k, logits.shape[-1] - 1)
    tokens = logits.topk(k, dim=-1).indices
    rest = torch.empty(len(logits), len(slowness), 2, device=logits.device)
    rows = rows_of_slice(logits)
    for part in (slice(start, start + rows) for start in range(0, len(logits), rows)):
        others = logits[part].float().scatter(-1, tokens[part], -torch.inf)
        largest = others.amax(-1, keepdim=True)
        others = (others - largest).clamp_(min=FAR)
        for i, slow in enumerate(slowness):
            p = (others * slow).exp_()
            total = p.sum(-1)
            rest[part, i, 0] = total.log() + largest[:, 0] * slow
            rest[part, i, 1] = (p * others).sum(-1) / total + largest[:, 0]
    return {"tokens": tokens.int(), "logits": logits.gather(-1, tokens).float(), "rest": rest}


def bundled_at(kept: dict[str, Tensor], temperature: float, slowness: tuple[float, ...]) -> Tensor:
    """Logits [n, k + 1] at this temperature, the last one for all other tokens together."""
    at, rest = 1 / temperature, kept["rest"]
    i = max(i for i, slow in enumerate(slowness) if slow <= at)
    value = rest[:, i, 0]
    if slowness[i] != at:
        gap = slowness[i + 1] - slowness[i]
        x = (at - slowness[i]) / gap
        value = (1 - x) ** 2 * ((1 + 2 * x) * value + x * gap * rest[:, i, 1])
        value = value + x**2 * ((3 - 2 * x) * rest[:, i + 1, 0] - (1 - x) * gap * rest[:, i + 1, 1])
    return torch.cat([kept["logits"], (value * temperature)[:, None]], dim=-1)


def reaches(temperature: float) -> bool:
    """Whether what is kept for all temperatures serves this one."""
    return SLOWNESS[0] <= 1 / temperature <= SLOWNESS[-1]
