"""Students made from their teacher by leaving out layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from effkit.models.model import Model
from effkit.spec.plan import Plan
from effkit.spec.recipe import Prune, step_of

from .planning import kept_layers, layer_list, plan_prune


def prune(model: Model, layers: int | Sequence[int]) -> Model:
    """A new model with only some of the transformer layers; `model` stays as it was.

    layers: how many to keep (evenly spread, with the first and the last), or the indices to keep.
    Its quality is poor until it is distilled. Raises BadInput for layers that do not exist.
    """
    step = step_of(Prune, layers=layers if isinstance(layers, int) else tuple(layers))
    return pruned(model, step, plan_prune(model, step))


def pruned(model: Model, step: Prune, plan: Plan, weights: bool = True) -> Model:
    """`prune` for a validated step. weights=False copies the structure alone (meta tensors), for planning."""
    name, layers = layer_list(model)
    kept = kept_layers(step, len(layers))
    gone = [f"{name}.{i}" for i in range(len(layers)) if i not in kept]
    new = model.clone(without=gone if weights else [child for child, _ in model.module.named_children()])
    remaining = new.module.get_submodule(name)
    assert isinstance(remaining, nn.ModuleList)
    new.module.set_submodule(name, nn.ModuleList([remaining[i] for i in kept]))
    _renumber_(new, name, kept)
    return replace(new, recipe=model.recipe.then(step), plans=(*model.plans, plan))


def _renumber_(model: Model, name: str, kept: tuple[int, ...]) -> None:
    """Layers know their index (it addresses the KV cache), and the config counts them."""
    layers = model.module.get_submodule(name)
    for index, layer in enumerate(layers.children()):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = index  # type: ignore[assignment]
    for config in {id(c): c for c in (part.config for part in model.module.modules() if hasattr(part, "config"))}.values():
        if getattr(config, "num_hidden_layers", None) is not None:
            config.num_hidden_layers = len(kept)  # type: ignore[union-attr]
        kinds = getattr(config, "layer_types", None)
        if isinstance(kinds, list) and len(kinds) > max(kept):
            config.layer_types = [kinds[i] for i in kept]  # type: ignore[union-attr]
