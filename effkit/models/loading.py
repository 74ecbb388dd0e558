"""`load`: a model from a built-in name, a folder, a GGUF file or a hub id. Never runs code it finds, never opens a pickle.

The hash of the Checkpoint is taken from the weights as they are stored, before they are cast, so it is the same on
every device and in every dtype.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from effkit.hardware.attached.device import Device
from effkit.hardware.attached.device import device as find_device
from effkit.hardware.attached.memory import guard
from effkit.spec.errors import BadInput, choice
from effkit.spec.progress import Progress, Work, long_work

from .checks import refuse_bad_numbers
from .default import BUILT_IN, read_built_in
from .files.folder import PICKLES, pickle_refused, read_folder
from .files.gguf import read_gguf
from .files.hub import download
from .model import Model, compute_dtype, wrap
from .stored.grid import grid_note

DEFAULT = "smollm2-135m"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


class Raw(NamedTuple):
    """What a reader returns: a module in its stored dtype on the CPU, its tokenizer, and facts for the Checkpoint.

    `done`: the finished Model instead, where a saved effkit model was read.
    """

    module: Any
    tokenizer: Any
    facts: dict[str, Any]
    done: Model | None = None


@long_work
def load(
    name_or_path: str | Path = DEFAULT,
    *,
    device: str | torch.device | Device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
) -> Work[Model]:
    """Load a causal language model or a sequence classifier.

    name_or_path: "smollm2-135m" (built in, needs no network), a local folder with safetensors, a .gguf file, a folder
                  that `Model.save` wrote, or a Hugging Face id ("org/name"; honours HF_ENDPOINT and HF_HUB_OFFLINE)
    dtype:        "auto": float32 on the CPU, the checkpoint's own on an accelerator, and as it was saved for a saved
                  effkit model; or "float32", "bfloat16", "float16"
    revision:     branch, tag or commit of a hub model

    Raises BadInput (unknown name, pickle, damaged file, no tokenizer, remote code, NaN weights), Unavailable (no network,
    package missing, device not here), OutOfMemory. `ek.load().checkpoint.parameters` is 134515008.
    """
    target = find_device(device)
    wanted = None if str(dtype) == "auto" else compute_dtype(dtype, target)
    kind, place = locate(name_or_path)
    if revision is not None and kind != "hub":
        raise BadInput(f"revision is {revision!r} for {str(place)!r}", "Only models of a hub have revisions", "Leave it out")
    source, facts = str(place), {}
    yield Progress("load", 0, 1, "steps", f"looking at {source}")
    if kind == "hub":
        folder, facts = yield from download(source, revision)
        raw = yield from read_any(folder, source)
    elif kind == "built-in":
        raw = Raw(*(yield from read_built_in(source)))
    else:
        raw = yield from read_any(Path(place), source)
    model = yield from settle(raw, source, facts, target, wanted)
    asked = None if wanted is None else str(wanted).removeprefix("torch.")
    model.origin = {"source": source, "revision": model.checkpoint.revision if kind == "hub" else None, "dtype": asked or "auto"}
    if asked is None and raw.done is None:
        model.origin["dtype"] = str(model.dtype).removeprefix("torch.")
    yield Progress("load", 1, 1, "steps", "loaded")
    return model


def locate(name_or_path: str | Path) -> tuple[str, str]:
    """What a name means: ("built-in", name), ("local", absolute path) or ("hub", id)."""
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in BUILT_IN:
        return "built-in", name
    path = Path(os.path.expanduser(name))
    if name.strip() and path.exists():
        return "local", str(path.resolve())
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix in (".gguf", *PICKLES):
        raise BadInput(f"there is no model at {name!r}", "Allowed: an existing folder or .gguf file", "Check the path")
    if not HUB_ID.fullmatch(name):
        raise choice("the model", name, BUILT_IN, "Or give a folder, a .gguf file, or a Hugging Face id such as 'org/name'")
    return "hub", name


def read_any(path: Path, source: str) -> Work[Raw]:
    """Read a local folder or file, whatever of the known kinds it is."""
    if path.is_file():
        if path.suffix == ".gguf":
            return Raw(*(yield from read_gguf(path)))
        if path.suffix in PICKLES:
            raise pickle_refused([path], path.parent)
        raise BadInput(f"{str(path)!r} is a file", "Allowed: a .gguf file, or a folder with config.json, weights and tokenizer")
    return Raw(*(yield from read_folder(path, source)))


def settle(raw: Raw, source: str, facts: dict[str, Any], target: Device, wanted: torch.dtype | None) -> Work[Model]:
    """Check the weights, hash them, cast and move them."""
    if raw.done is not None:
        yield Progress("load", 0, 1, "steps", "checking the weights")
        refuse_bad_numbers(raw.done.module.state_dict().items(), source)
        same = wanted in (None, raw.done.dtype) and target.is_cpu
        return raw.done if same else raw.done.to(target, wanted)
    yield Progress("load", 0, 3, "steps", "checking the weights")
    refuse_bad_numbers(raw.module.state_dict().items(), source)
    note = grid_note(raw.module)
    yield Progress("load", 1, 3, "steps", "hashing the weights")
    facts = {**raw.facts, **facts}
    facts["notes"] = (*raw.facts.get("notes", ()), *facts.pop("more_notes", ()), *((note,) if note else ()))
    model = wrap(raw.module, raw.tokenizer, source, **facts)
    yield Progress("load", 2, 3, "steps", f"moving to {target}")
    if wanted is None:
        own = str(model.dtype).removeprefix("torch.")
        wanted = torch.float32 if target.is_cpu or own not in target.dtypes else model.dtype
    with guard(target, f"moving {source} to the device"):
        settle_(raw.module, target.torch, wanted)
    return model


def settle_(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Cast the floating parameters and move all, in place; buffers keep their type (see `model.moved`)."""
    fixed = {*(getattr(module, "_keep_in_fp32_modules", None) or ()), *(getattr(module, "_keep_in_fp32_modules_strict", None) or ())}
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not fixed.intersection(name.split(".")):
            parameter.data = parameter.data.to(device=device, dtype=dtype)
    module.to(device)
    config: Any = module.config
    config.dtype = dtype
