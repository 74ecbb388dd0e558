"""What a student takes over from inside its teacher: hidden states and attention, layer by mapped layer.

hidden     mean square difference of the states after a layer over the teacher's mean square; where widths differ, a linear
           map from the student's states is trained along (TinyBERT, Jiao et al. 2019, arXiv:1909.10351)
attention  KL of the teacher's attention to the student's, averaged over heads (MiniLM, Wang et al. 2020, arXiv:2002.10957)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effkit.models.model import Model
from effkit.spec.errors import BadInput

TINY = 1e-9


def default_map(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Each layer of the student stands for a stretch of the teacher's and is compared with the last of it.

    >>> default_map(2, 6)
    ((0, 2), (1, 5))
    """
    return tuple((i, -(-(i + 1) * teacher // student) - 1) for i in range(student))


class Transfer:
    """Compares the insides of two models on the same tokens. `maps`: trainable linear maps, one a pair, where widths differ."""

    def __init__(self, teacher: Model, student: Model, pairs: Sequence[tuple[int, int]] | None, seed: int) -> None:
        layers = student.config.num_hidden_layers, teacher.config.num_hidden_layers
        self.pairs = tuple(pairs) if pairs is not None else default_map(*layers)
        for ours, theirs in self.pairs:
            if not (0 <= ours < layers[0] and 0 <= theirs < layers[1]):
                raise BadInput(
                    f"layer_map holds ({ours}, {theirs})",
                    f"Allowed: student layers 0 to {layers[0] - 1}, teacher layers 0 to {layers[1] - 1}",
                )
        widths = student.config.hidden_size, teacher.config.hidden_size
        self.maps = nn.ModuleList()
        if widths[0] != widths[1]:
            generator = torch.Generator().manual_seed(seed)
            for _ in self.pairs:
                linear = nn.Linear(*widths, bias=False)
                with torch.no_grad():
                    linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * widths[0] ** -0.5)
                self.maps.append(linear)
        self.maps.to(student.device.torch)

    def hidden(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Hidden states [batch, time, width], those of the embedding first. 0: equal; about 2 for unrelated ones."""
        losses = []
        for at, (i, j) in enumerate(self.pairs):
            state = ours[i + 1] if not len(self.maps) else self.maps[at](ours[i + 1])
            wanted = theirs[j + 1].to(state.device).float()
            gap, size = (state.float() - wanted).square().mean(-1), wanted.square().mean(-1)
            losses.append(_mean(gap, mask) / (_mean(size, mask) + TINY))
        return torch.stack(losses).mean()

    def attention(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Attention [batch, heads, time, time]: KL in nats, averaged over heads first."""
        losses = []
        for i, j in self.pairs:
            p, q = theirs[j].float().mean(1).to(ours[i].device), ours[i].float().mean(1)
            losses.append(_mean((p * (torch.log(p + TINY) - torch.log(q + TINY))).sum(-1), mask))
        return torch.stack(losses).mean()


@contextlib.contextmanager
def attending(*models: Model) -> Iterator[None]:
    """Inside, the models compute attention so that it can be seen; kernels that never hold it as a matrix are put aside."""
    before: list[tuple[Any, str]] = []
    try:
        for model in models:
            module: Any = model.module
            before.append((module, module.config._attn_implementation))
            module.set_attn_implementation("eager")
        yield
    finally:
        for module, kind in before:
            module.set_attn_implementation(kind)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the positions that count."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1)
