"""Which heads, FFN channels and residual channels stay: those that matter most on a little text.

A channel that a linear reads (FFN, heads, pooled) counts for mean |activation| x norm of the weights that read it, the
score of Wanda (Sun et al. 2023, arXiv:2306.11695) summed over outputs; a channel of the residual stream for its mean
|activation| after the norms (Minitron: Muralidharan et al. 2024, arXiv:2407.14679). Heads that share a key and a value
stand or fall together. A norm that sees fewer channels finds another mean and spread: its weight and bias are corrected
so that, on the measured text, what stays comes out as it did; exactly so where what goes is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from effkit.hardware.attached.memory import guard
from effkit.models.ledger import layer_of
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.recipe import Prune

from .axes import OWN_HEAD_SIZE, width_axes
from .cutting import Kept
from .scratch import ffn_name, ffn_of, head_dim_of

READ = ("ffn", "heads", "pooled")


class Width(NamedTuple):
    """Sizes of a model. groups: its key-value heads, as many as its heads where none are shared."""

    hidden_size: int
    ffn: int
    heads: int
    groups: int


@dataclass
class Statistics:
    """Of each channel, on average over tokens: by label (and layer), and by the name of a norm."""

    scores: dict[tuple[str, int | None], torch.Tensor] = field(default_factory=dict)
    after: dict[str, torch.Tensor] = field(default_factory=dict)  # |output| of a norm
    mean: dict[str, torch.Tensor] = field(default_factory=dict)  # input of a norm
    square: dict[str, torch.Tensor] = field(default_factory=dict)  # input of a norm, squared


def width_of(model: Model) -> Width:
    config, heads = model.config, model.config.num_attention_heads
    return Width(config.hidden_size, ffn_of(config), heads, getattr(config, "num_key_value_heads", None) or heads)


def new_width(model: Model, step: Prune) -> Width:
    """The sizes that the step asks for. BadInput, with what is allowed, for those that this architecture cannot have."""
    config, old = model.config, width_of(model)
    heads, shared, size = old.heads, old.heads // old.groups, head_dim_of(config)
    new = Width(step.hidden_size or old.hidden_size, step.ffn or old.ffn, step.heads or heads, old.groups)
    for name, wanted, most in (("ffn", new.ffn, old.ffn), ("hidden_size", new.hidden_size, old.hidden_size)):
        if wanted > most:
            raise BadInput(f"{name} is {wanted}", f"Allowed: 1 to {most}, what the model has")
    if config.model_type not in OWN_HEAD_SIZE:
        if step.hidden_size is None and new.heads != heads:
            raise BadInput(
                f"heads is {step.heads} for a {config.model_type} and hidden_size is not given",
                f"Allowed: heads together with hidden_size, which is heads x {size} in this architecture; or layers, ffn, vocabulary",
                f"Give hidden_size={new.heads * size} too",
            )
        if new.hidden_size % size or (step.heads is not None and step.heads * size != new.hidden_size):
            given = f"hidden_size is {new.hidden_size}" + (f" and heads is {step.heads}" if step.heads else "")
            raise BadInput(given, f"Allowed in a {config.model_type}: hidden_size = heads x {size}, up to {config.hidden_size}")
        new = new._replace(heads=new.hidden_size // size)
    if new.heads > heads or new.heads % shared:
        raise BadInput(f"heads is {new.heads}", f"Allowed: {_multiples(shared, heads)}" + (f" (groups of {shared})" if shared > 1 else ""))
    return new._replace(groups=new.heads // shared)


def kept_width(model: Model, step: Prune, texts: Sequence[torch.Tensor] | None, seed: int) -> Kept:
    """Which channels stay. texts: token ids [batch, time] to measure on; None: the first ones, where only shapes count."""
    config, axes = model.config, width_axes(model)
    old, new = width_of(model), new_width(model, step)
    found = Statistics() if texts is None else measure(model, axes, texts)
    size, shared, layers = head_dim_of(config), old.heads // old.groups, range(config.num_hidden_layers)
    chooser = torch.Generator().manual_seed(seed) if step.by == "random" else None

    def best(total: int, count: int, scores: torch.Tensor | None) -> torch.Tensor:
        if chooser is not None:
            return torch.randperm(total, generator=chooser)[:count].sort().values
        if scores is None:
            return torch.arange(count)
        return scores.argsort(descending=True, stable=True)[:count].sort().values

    kept: dict[str, Any] = {}
    if new.ffn < old.ffn:
        kept["ffn"] = tuple(best(old.ffn, new.ffn, found.scores.get(("ffn", layer))) for layer in layers)
    if new.groups < old.groups:
        scores = [found.scores.get(("heads", layer)) for layer in layers]
        groups = [best(old.groups, new.groups, None if s is None else s.view(-1, shared * size).sum(1)) for s in scores]
        kept["groups"] = tuple(_channels(chosen, size) for chosen in groups)
        kept["heads"] = tuple(_channels(chosen, shared * size) for chosen in groups)
        kept["qkv"] = tuple(torch.cat([index + part * old.heads * size for part in range(3)]) for index in kept["heads"])
    changes = _changes(config, new)
    if new.hidden_size == old.hidden_size:
        return Kept(axes=kept, changes=changes)
    after = torch.stack(list(found.after.values())).mean(0) if found.after else None
    kept["hidden"] = best(old.hidden_size, new.hidden_size, after)
    kept["pooled"] = best(old.hidden_size, new.hidden_size, found.scores.get(("pooled", None)))
    return Kept(axes=kept, changes=changes, norms=dict(_corrections(model, found, kept["hidden"])))


def _changes(config: Any, new: Width) -> dict[str, Any]:
    """What changes in the config."""
    changes = {"hidden_size": new.hidden_size, "num_attention_heads": new.heads, ffn_name(config): new.ffn}
    if getattr(config, "num_key_value_heads", None):
        changes["num_key_value_heads"] = new.groups
    if config.model_type in OWN_HEAD_SIZE:
        changes["head_dim"] = head_dim_of(config)
    return changes


def measure(model: Model, axes: Mapping[str, tuple[str, ...]], texts: Sequence[torch.Tensor]) -> Statistics:
    """Run the texts through the model and watch every linear that reads a prunable channel, and every norm."""
    found, tokens, hooks = Statistics(), 0, []

    def add(sums: dict[Any, torch.Tensor], key: Any, values: torch.Tensor, rows: int) -> None:
        total = values.detach().float().flatten(0, -2).sum(0).cpu() / rows
        sums[key] = sums[key] + total if key in sums else total

    def reader(key: tuple[str, int | None]) -> Any:
        return lambda module, args: add(found.scores, key, args[0].abs(), args[0][..., 0].numel())

    def norm(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            rows = output[..., 0].numel()
            add(found.after, name, output.abs(), rows)
            add(found.mean, name, args[0], rows)
            add(found.square, name, args[0].float().square(), rows)

        return hook

    readers = dict(_readers(axes))
    for name, labels in axes.items():
        if labels == ("hidden",) and name.endswith(".weight"):
            module = name.removesuffix(".weight")
            hooks.append(model.module.get_submodule(module).register_forward_hook(norm(module)))
    for name, key in readers.items():
        hooks.append(model.module.get_submodule(name).register_forward_pre_hook(reader(key)))
    try:
        with guard(model.device, "measuring the importance of channels"):
            for ids in texts:
                model.logits(ids)
                tokens += 1
    finally:
        for hook in hooks:
            hook.remove()
    for name, key in readers.items():
        weight, labels = model.module.get_parameter(f"{name}.weight"), axes[f"{name}.weight"]
        found.scores[key] = found.scores[key] * weight.detach().float().norm(dim=1 - labels.index(key[0])).cpu() / tokens
    for sums in (found.after, found.mean, found.square):
        for name in sums:
            sums[name] = sums[name] / tokens
    return found


def _readers(axes: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, int | None]]]:
    """(module, (label, layer)) of the linears whose inputs are what can be pruned: o_proj, down_proj, classifier."""
    for name, labels in axes.items():
        reads = [label for label in READ if label in labels]
        if len(labels) == 2 and reads and _is_input(name, labels, reads[0], axes):
            yield name.removesuffix(".weight"), (reads[0], layer_of(name))


def _is_input(name: str, labels: tuple[str, ...], label: str, axes: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a matrix reads `label` rather than writes it: its bias, or its place in the table, runs over the other axis."""
    bias = axes.get(f"{name.removesuffix('.weight')}.bias")
    if bias is not None:
        return bias != (label,)
    return labels.index(label) == 1  # without a bias: a Linear, whose columns are inputs


def _corrections(model: Model, found: Statistics, hidden: torch.Tensor) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
    """(parameter, (gain, shift)) of every norm: the weight x (new spread / old spread), the bias + what the mean moved by."""
    for name in found.square:
        part: Any = model.module.get_submodule(name)
        mean, square = found.mean[name], found.square[name]
        if not isinstance(part, nn.LayerNorm):
            gain = (square[hidden].mean() / square.mean()).sqrt()
            yield f"{name}.weight", (gain, torch.zeros(()))
            continue
        old, new = (square.mean() - mean.mean() ** 2, square[hidden].mean() - mean[hidden].mean() ** 2)
        yield f"{name}.weight", ((new / old).sqrt(), torch.zeros(()))
        moved = (mean[hidden].mean() - mean.mean()) / old.sqrt()
        yield f"{name}.bias", (torch.ones(()), moved * part.weight.detach().float().cpu()[hidden])


def _channels(blocks: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of blocks -> indices of their channels, `size` each."""
    return (blocks[:, None] * size + torch.arange(size)).flatten()


def _multiples(of: int, up_to: int) -> str:
    return f"multiples of {of} up to {up_to}" if of > 1 else f"1 to {up_to}"
