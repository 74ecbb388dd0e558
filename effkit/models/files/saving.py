"""A model as a folder, and back, bit for bit: model.safetensors, config.json, tokenizer files and effkit.json.

effkit.json tells what safetensors cannot: which modules were replaced and by what, which tensors are one and the same,
the checkpoint and the recipe. A model without replaced modules can also be read by transformers alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from effkit import __version__
from effkit.spec.errors import BadInput, CannotWrite
from effkit.spec.files import atomic_folder, parsed, upgrade, write_text
from effkit.spec.plan import Plan
from effkit.spec.recipe import Recipe, validated
from effkit.spec.record import Checkpoint
from effkit.spec.sharing import parts_for_others

from ..building import BUILDING
from ..checks import owners
from ..model import Model
from ..stored.storage import build, is_replaced
from .stamp import write_tensors

VERSION = 1
MANIFEST = "effkit.json"
WEIGHTS = "model.safetensors"
TOKENIZER_ROOM = 32_000_000


def save(model: Model, path: Path) -> Path:
    """Write `model` to the folder `path`, whole or not at all."""
    path = Path(os.path.expanduser(path))
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST).exists())):
        raise BadInput(
            f"{str(path)!r} exists and was not written by effkit",
            "Allowed: a new folder, an empty one, or one that effkit saved a model to",
            "Choose another name, or remove it first",
        )
    try:
        with atomic_folder(path, needs=model.stored_bytes + TOKENIZER_ROOM) as part:
            write_folder(model, part)
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(f"Cannot write {path}: {error.strerror or error}. Free some space or choose another folder.") from error
    return path


def write_folder(model: Model, part: Path) -> None:
    """Everything that `save` writes, into the empty folder `part`."""
    state = {name: tensor.detach() for name, tensor in model.module.state_dict().items()}
    owner = owners(state)
    write_tensors({name: state[name].contiguous().cpu() for name in state if owner[name] == name}, part / WEIGHTS)
    write_description(model, part)
    (part / MANIFEST).write_text(json.dumps(manifest(model, owner), indent=2), encoding="utf-8")


def write_description(model: Model, part: Path, **more: Any) -> None:
    """config.json (with `more` in it), generation_config.json and the tokenizer's files."""
    (part / "config.json").write_text(json.dumps({**_config(model), **more}, indent=2, sort_keys=True), encoding="utf-8")
    generation = getattr(model.module, "generation_config", None)
    if generation is not None:
        (part / "generation_config.json").write_text(generation.to_json_string(), encoding="utf-8")
    model.tokenizer.save_pretrained(part)


def manifest(model: Model, owner: dict[str, str]) -> dict[str, Any]:
    replaced = {name: m.storage_spec() for name, m in model.module.named_modules(remove_duplicate=False) if is_replaced(m)}  # type: ignore[operator]
    return {
        "version": VERSION,
        "effkit": __version__,
        "architecture": type(model.module).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        **_as_json(model.checkpoint, model.recipe, model.plans),
        "modules": replaced,
        "ties": {name: first for name, first in owner.items() if name != first},
    }


def share_(folder: Path) -> None:
    """Take out of effkit.json where the base and the texts lay on this machine, so that the folder can be handed on."""
    data = read_manifest(folder)
    told = _as_json(**parts_for_others(data["checkpoint"], data["recipe"], data["plans"]))
    write_text(folder / MANIFEST, json.dumps({**data, **told}, indent=2))


def _as_json(checkpoint: Checkpoint, recipe: Recipe, plans: Iterable[Plan]) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "plans": [plan.model_dump(mode="json") for plan in plans],
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of effkit.json, checked."""
    where = f"{MANIFEST} in {str(folder)!r}"
    try:
        data = parsed((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{where} cannot be read ({error})", "Allowed: a folder that effkit saved whole", "Save the model again") from None
    data = upgrade(data, VERSION, "saved model") if isinstance(data, dict) else {}
    missing = [key for key in ("architecture", "dtype", "checkpoint", "recipe", "plans", "modules", "ties") if key not in data]
    if missing:
        raise BadInput(f"{where} lacks {', '.join(missing)}", "Allowed: a folder that effkit saved whole", "Save the model again")
    data["checkpoint"] = validated(Checkpoint, data["checkpoint"], where)
    data["recipe"] = validated(Recipe, data["recipe"], where)
    data["plans"] = tuple(validated(Plan, plan, where) for plan in data["plans"])
    return data


def rebuilt(cls: Any, config: Any, data: dict[str, Any], tensors: dict[str, torch.Tensor], source: str) -> nn.Module:
    """The module that was saved: an empty one of its class, its replaced modules, then the stored tensors as they are."""
    config.dtype = getattr(torch, data["dtype"])
    with BUILDING, init_empty_weights(include_buffers=False):
        module: nn.Module = cls(config)
    for name, spec in data["modules"].items():
        module.set_submodule(name, build(spec))
    state = tensors | {name: tensors[first] for name, first in data["ties"].items() if first in tensors}
    expected = module.state_dict()
    missing = sorted(expected.keys() - state.keys())
    wrong = [name for name in sorted(expected.keys() & state.keys()) if expected[name].shape != state[name].shape]
    if missing or wrong:
        what = f"lacks {missing[0]}" if missing else f"holds {wrong[0]} with shape {tuple(state[wrong[0]].shape)}"
        raise BadInput(
            f"{WEIGHTS} of {source} {what}", "The weights must fit effkit.json and config.json beside them", "Save the model again"
        )
    module.load_state_dict({name: state[name] for name in expected}, strict=True, assign=True)
    for name, first in data["ties"].items():
        _tie(module, name, first)
    return module


def _tie(module: nn.Module, name: str, first: str) -> None:
    """Make `name` the very tensor that `first` is; where both stand in modules of one kind that share all, the very module."""
    (here, leaf), (there, source) = _split(name), _split(first)
    a, b = module.get_submodule(here), module.get_submodule(there)
    if a is b:
        return
    if leaf in a._parameters:
        a._parameters[leaf] = b._parameters[source]
    else:
        a._buffers[leaf] = b._buffers[source]
    own, other = ({**m._parameters, **m._buffers} for m in (a, b))
    if type(a) is type(b) and not list(a.children()) and own.keys() == other.keys() and all(own[k] is other[k] for k in own):
        module.set_submodule(here, b)


def _split(name: str) -> tuple[str, str]:
    path, _, leaf = name.rpartition(".")
    return path, leaf


def _config(model: Model) -> dict[str, Any]:
    config = model.config.to_dict()
    for unwanted in ("quantization_config", "_name_or_path", "auto_map"):
        config.pop(unwanted, None)
    return {**config, "architectures": [type(model.module).__name__], "dtype": str(model.dtype).removeprefix("torch.")}
