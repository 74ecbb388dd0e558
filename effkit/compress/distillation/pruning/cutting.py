"""A smaller model from a larger one: every parameter indexed along its axes, put into a module built for the new shape.

What stays is decided elsewhere (depth, width, vocabulary) and arrives as `Kept`. The module is built from the changed
config just as a saved model is, so that what is returned here and what `load` gives after `save` are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from effkit.hardware.attached.memory import guard
from effkit.models.files.saving import rebuilt
from effkit.models.layers import layer_list
from effkit.models.ledger import layer_of
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput

Axes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Kept:
    """What stays of a model, as indices into it in ascending order; None: all.

    layers:     of the list of layers
    axes:       one index for the whole model ("hidden", "pooled") or one for each layer ("ffn", "heads", "groups", "qkv")
    vocabulary: token ids
    changes:    what changes in the config with the axes
    norms:      parameter name -> (gain, shift): how a norm is corrected for the channels that it no longer sees
    notes:      what the choice rests on, for the plan
    """

    layers: tuple[int, ...] | None = None
    axes: Mapping[str, torch.Tensor | tuple[torch.Tensor, ...]] = field(default_factory=dict)
    vocabulary: torch.Tensor | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    norms: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def index(self, label: str, layer: int | None) -> torch.Tensor | None:
        if label == "vocabulary":
            return self.vocabulary
        index = self.axes.get(label)
        return index[layer] if isinstance(index, tuple) and layer is not None else index  # type: ignore[return-value]


def cut(
    model: Model,
    kept: Kept,
    axes: Axes,
    changes: Mapping[str, Any],
    how: Literal["copied", "shared", "shapes"] = "copied",
) -> Model:
    """A new model with what `kept` names, under `model`'s recipe and tokenizer.

    axes:    parameter name -> what each of its axes runs over; parameters without an entry stay whole
    changes: what changes in the config besides the number of layers
    how:     "copied" weights; "shared" with `model` where they stay whole, for a look that ends soon; "shapes" alone, on
             the meta device, for planning
    """
    name_of, layer_number = new_names(model, kept)
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    with guard(_device(model), "pruning the model"):
        for name, tensor in model.module.state_dict(keep_vars=True).items():
            new_name = name_of(name)
            if new_name is None:
                continue
            if id(tensor) in first:
                ties[new_name] = first[id(tensor)]
                continue
            first[id(tensor)] = new_name
            tensors[new_name] = _part(tensor.detach(), name, layer_number(name), kept, axes.get(name, ()), how)
        module = _built(model, _config(model, kept, changes), tensors, ties, name_of)
        if how != "shapes":
            module.to(_device(model))
    return replace(model, module=module, origin=None)


def refuse_few_bits(model: Model, what: str) -> None:
    """Weights in few bits cannot be indexed by channels or tokens."""
    name = next((name for name, part in model.module.named_modules() if is_replaced(part)), None)
    if name is not None:
        raise BadInput(
            f"{what} of a model whose {name} is stored in few bits",
            "Allowed on quantized weights: layers",
            "Prune first, quantize afterwards",
        )


def _part(
    tensor: torch.Tensor, name: str, layer: int | None, kept: Kept, labels: tuple[str, ...], how: Literal["copied", "shared", "shapes"]
) -> torch.Tensor:
    indices = [(axis, index) for axis, label in enumerate(labels) if (index := kept.index(label, layer)) is not None]
    if how == "shapes":
        shape = list(tensor.shape)
        for axis, index in indices:
            shape[axis] = len(index)
        return torch.empty(shape, dtype=tensor.dtype, device="meta")
    new = tensor
    for axis, index in indices:
        new = new.index_select(axis, index.to(tensor.device))
    if name in kept.norms:
        gain, shift = (part.to(new) for part in kept.norms[name])
        new = new * gain + shift
    return new.clone() if new is tensor and how == "copied" else new


def new_names(model: Model, kept: Kept) -> tuple[Callable[[str], str | None], Callable[[str], int | None]]:
    """Old name -> new name, or None for what goes; old name -> index of its layer."""
    if kept.layers is None:
        return (lambda name: name), layer_of
    path, _ = layer_list(model)
    place = {old: new for new, old in enumerate(kept.layers)}

    def number(name: str) -> int | None:
        rest = name.removeprefix(f"{path}.")
        return int(rest.split(".")[0]) if rest != name and rest.split(".")[0].isdecimal() else None

    def rename(name: str) -> str | None:
        layer = number(name)
        if layer is None:
            return name
        _, _, inside = name.removeprefix(f"{path}.").partition(".")
        return f"{path}.{place[layer]}" + (f".{inside}" if inside else "") if layer in place else None

    return rename, number


def _config(model: Model, kept: Kept, changes: Mapping[str, Any]) -> Any:
    config = copy.deepcopy(model.config)
    if kept.layers is not None:
        kinds = getattr(config, "layer_types", None)
        if isinstance(kinds, list) and len(kinds) > max(kept.layers):
            config.layer_types = [kinds[i] for i in kept.layers]
        config.num_hidden_layers = len(kept.layers)
    for name, value in changes.items():
        setattr(config, name, value)
    return checked(config)


def checked(config: Any) -> Any:
    """The config, if its own rules allow it: some architectures want hidden_size to be a multiple of the heads."""
    try:
        type(config).from_dict(config.to_dict())
    except (StrictDataclassError, ValueError, TypeError) as error:
        why = str(error).strip().splitlines()[-1].removeprefix("    ValueError: ").strip(" .")
        raise BadInput(
            f"the new shape is not one that {config.model_type} allows ({why})", "Allowed: shapes that its config accepts"
        ) from None
    return config


def _built(model: Model, config: Any, tensors: dict[str, torch.Tensor], ties: dict[str, str], name_of: Callable[[str], str | None]) -> Any:
    specs = {
        new_name: part.storage_spec()  # type: ignore[operator]
        for name, part in model.module.named_modules(remove_duplicate=False)
        if is_replaced(part) and (new_name := name_of(name)) is not None
    }
    data = {"dtype": str(model.dtype).removeprefix("torch."), "modules": specs, "ties": ties}
    module: Any = rebuilt(type(model.module), config, data, tensors, f"the pruned {model.checkpoint.source}")
    generation = getattr(model.module, "generation_config", None)
    if generation is not None:
        module.generation_config = copy.deepcopy(generation)
    return module.eval().requires_grad_(False)


def _device(model: Model) -> torch.device:
    return next(iter(model.module.state_dict().values())).device


def is_meta(module: nn.Module) -> bool:
    """Whether there are only shapes: a model as the plan of a recipe sees it."""
    return any(tensor.device.type == "meta" for tensor in module.state_dict().values())
