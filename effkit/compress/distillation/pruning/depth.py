"""Which transformer layers stay: evenly spread ones, those that change their input most, or random ones.

A layer's influence is 1 - cosine(hidden state before it, after it), averaged over tokens: ShortGPT (Men et al. 2024,
arXiv:2403.03853). Layers lean on each other, so the least influential one is taken out and the rest measured anew,
until as many are left as asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from effkit.hardware.attached.memory import guard
from effkit.models.layers import layer_list
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work
from effkit.spec.recipe import Prune

from .cutting import Kept, cut


def kept_layers(step: Prune, total: int, seed: int = 0) -> tuple[int, ...]:
    """Indices that stay where nothing needs measuring. A number keeps that many, evenly spread, with the first and the last."""
    if isinstance(step.layers, int):
        count = step.layers
        if not 1 <= count <= total:
            raise BadInput(f"layers is {count}", f"Allowed: 1 to {total}, or a list of indices from 0 to {total - 1}")
        if step.by == "random":
            drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
            return tuple(sorted(drawn.tolist()))
        if count == 1:
            return (0,)
        return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))
    chosen = step.layers or ()
    if not chosen or len(set(chosen)) != len(chosen) or any(not 0 <= i < total for i in chosen):
        raise BadInput(f"layers is {list(chosen)}", f"Allowed: different indices from 0 to {total - 1}, at least one")
    return tuple(sorted(chosen))


def influential_layers(model: Model, count: int, texts: Sequence[torch.Tensor]) -> Work[tuple[tuple[int, ...], tuple[float, ...]]]:
    """(indices of the `count` layers that stay, influence of every layer in the whole model). Ties go to the later layer."""
    _, layers = layer_list(model)
    left = list(range(len(layers)))
    current, at_first = model, None
    while True:
        influence = block_influence(current, texts)
        at_first = at_first or tuple(influence)
        if len(left) == count:
            return tuple(left), at_first
        least = min(range(len(left)), key=lambda i: (influence[i], -i))
        del left[least]
        yield Progress("prune", len(layers) - len(left), len(layers) - count, "layers", "measuring the influence of layers")
        current = cut(model, Kept(layers=tuple(left)), {}, {}, how="shared")


def block_influence(model: Model, texts: Sequence[torch.Tensor]) -> list[float]:
    """1 - cosine(hidden in, hidden out) of every layer, mean over all tokens of `texts` (ids [batch, time])."""
    _, layers = layer_list(model)
    sums, tokens = [0.0] * len(layers), 0

    def watch(index: int):
        def hook(_: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor | tuple) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output if isinstance(output, torch.Tensor) else output[0]
            sums[index] += float((1 - torch.cosine_similarity(before.float(), after.float(), dim=-1)).sum())

        return hook

    hooks = [layer.register_forward_hook(watch(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        base: Any = model.module.base_model  # type: ignore[union-attr]  (without the head: only hidden states are wanted)
        with torch.inference_mode(), guard(model.device, "measuring the influence of layers"):
            for ids in texts:
                base(input_ids=ids.to(model.device.torch))
                tokens += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    return [total / tokens for total in sums]
