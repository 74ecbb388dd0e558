"""What a run was called with, and what it returned, as JSON that another process can read back. No pickle.

Plain values stand as they are; everything else is {"is": kind, "of": ...}. A model that can be loaded again is only
named; other models, and tensors, are kept as safetensors beside the JSON, which costs time and so may be put off.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.intervals import Noun
from effkit.spec.progress import LongVerb, finish

Keep = Callable[[str], Path]


class Unwritable(Exception):
    """A value that has no form in JSON: the run works, but no other process can call it again."""


def encode(value: Any, name: str, keep: Keep | None) -> Any:
    """`value` as JSON. `keep(name)` gives the path for large values; None puts them off: {"is": "later"}.

    Raises Unwritable for what cannot be written down.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"is": "path", "of": str(value.absolute())}
    if isinstance(value, list):
        return [encode(item, f"{name}.{i}", keep) for i, item in enumerate(value)]
    if isinstance(value, tuple | set | frozenset):
        items = sorted(value) if not isinstance(value, tuple) else value
        return {"is": type(value).__name__, "of": [encode(item, f"{name}.{i}", keep) for i, item in enumerate(items)]}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise Unwritable(f"{name} has keys that are not text")
        return {"is": "dict", "of": {key: encode(item, f"{name}.{key}", keep) for key, item in value.items()}}
    if isinstance(value, Noun):
        return {"is": "noun", "type": _address(type(value)), "of": value.model_dump(mode="json")}
    if _is(value, "effkit.models.model", "Model"):
        return _encode_model(value, name, keep)
    if _is(value, "effkit.hardware.attached.device", "Device"):
        return {"is": "device", "of": str(value.torch)}
    if _is(value, "effkit.lab.records.store", "Store"):
        return {"is": "store", "of": str(value.path)}
    if _is(value, "torch", "Tensor"):
        if keep is None:
            return {"is": "later", "of": "Tensor"}
        path = keep(f"{name}.safetensors")
        from effkit.models.files.stamp import write_tensors

        write_tensors({"tensor": value.detach().cpu().contiguous()}, path)
        return {"is": "tensor", "of": path.name, "device": str(value.device)}
    if _is(value, "torch", "dtype") or _is(value, "torch", "device"):
        return {"is": f"torch.{type(value).__name__}", "of": str(value).removeprefix("torch.")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith("effkit."):
        fields = {f.name: encode(getattr(value, f.name), f"{name}.{f.name}", keep) for f in dataclasses.fields(value) if f.init}
        return {"is": "dataclass", "type": _address(type(value)), "of": fields}
    raise Unwritable(f"{name} is a {type(value).__module__}.{type(value).__qualname__}")


def decode(data: Any, folder: Path) -> Any:
    """The value that `encode` wrote; large values are read from `folder`."""
    if isinstance(data, list):
        return [decode(item, folder) for item in data]
    if not isinstance(data, dict):
        return data
    kind: str = data["is"]
    of: Any = data.get("of")
    if kind == "path":
        return Path(of)
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(item, folder) for item in of)
    if kind == "dict":
        return {key: decode(item, folder) for key, item in of.items()}
    if kind == "noun":
        return _ours(data["type"]).model_validate(of)
    if kind == "dataclass":
        return _ours(data["type"])(**{key: decode(item, folder) for key, item in of.items()})
    if kind == "model":
        return _decode_model(data, folder)
    if kind == "device":
        from effkit.hardware.attached.device import device

        return device(of)
    if kind == "store":
        from effkit.lab.records.store import Store

        return Store(of)
    if kind == "tensor":
        from safetensors.torch import load_file

        return load_file(folder / of)["tensor"].to(data["device"])
    if kind in ("torch.dtype", "torch.device"):
        import torch

        return getattr(torch, of) if kind == "torch.dtype" else torch.device(of)
    if kind == "later":
        raise Unavailable(
            f"the {of} this run was given had not been saved when its process ended",
            "Inputs that cannot be loaded again by name are saved some seconds into a run",
            "Start the run again",
        )
    if kind == "unwritable":
        raise Unavailable(f"this run cannot be called again from its folder: {of}", "Start the run again in the process that has the value")
    raise BadInput(f"the kind {kind!r} in {folder}", "This effkit does not know it", "Update effkit to read this run")


def named(verb: LongVerb, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, checked against the verb; its defaults are not written out."""
    return dict(inspect.signature(verb.work).bind(*args, **kwargs).arguments)


def written(value: Any, name: str) -> Any:
    """`encode` without anything large; what has no form in JSON says so in its place."""
    try:
        return encode(value, name, None)
    except Unwritable as reason:
        return {"is": "unwritable", "of": str(reason)}


def has_later(data: Any) -> bool:
    """Whether anything in encoded `data` was put off."""
    if isinstance(data, list):
        return any(map(has_later, data))
    if isinstance(data, dict):
        return data.get("is") == "later" or any(map(has_later, data.values()))
    return False


def verb_address(verb: LongVerb) -> str | None:
    """'module:name' under which another process finds `verb`, or None (defined in a notebook or a function)."""
    address = _address(verb.work)
    module, name = address.split(":")
    return address if module != "__main__" and getattr(sys.modules.get(module), name, None) is verb else None


def find_verb(address: str | None, name: str) -> LongVerb:
    if address is None:
        raise Unavailable(
            f"the verb {name!r} of this run was defined in a notebook or a script",
            "Only a verb that can be imported can be found by another process",
            "Start it again there",
        )
    try:
        verb = _found(address)
    except (ImportError, AttributeError) as error:
        raise Unavailable(f"the verb {address!r} of this run cannot be imported", str(error), "Install what defines it") from error
    if not isinstance(verb, LongVerb):
        raise BadInput(f"{address!r} is a {type(verb).__name__}", "Allowed: a long verb")
    return verb


def _encode_model(model: Any, name: str, keep: Keep | None) -> dict[str, Any]:
    about = {"device": str(model.device.torch), "dtype": str(model.dtype).removeprefix("torch."), "hash": model.checkpoint.hash}
    hint = model.reload_hint
    if hint is not None:
        return {"is": "model", "of": None, "hint": hint, **about}
    if keep is None:
        return {"is": "later", "of": "model"}
    path = model.save(keep(name))
    return {"is": "model", "of": Path(path).name, **about}


def _decode_model(data: dict[str, Any], folder: Path) -> Any:
    from effkit.models.loading import load

    if data["of"] is not None:
        return finish(load.work(str(folder / data["of"]), device=data["device"], dtype=data["dtype"]))
    hint = data["hint"]
    model = finish(
        load.work(hint["source"], device=data["device"], dtype=hint.get("dtype") or data["dtype"], revision=hint.get("revision"))
    )
    if model.checkpoint.hash != data["hash"]:
        raise BadInput(
            f"the weights of {hint['source']!r} have changed since this run began",
            "A run goes on only from the weights it began with",
            "Start the run again",
        )
    return model


def _is(value: Any, module: str, name: str) -> bool:
    """isinstance without importing: a value of a class from an unloaded module cannot exist."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and isinstance(value, found)


def _address(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _ours(address: str) -> Any:
    if address.partition(":")[0].split(".")[0] != "effkit":
        raise BadInput(f"the type {address!r} in a run folder", "Allowed: types of effkit")
    return _found(address)


def _found(address: str) -> Any:
    """What 'module:name' names. A public name of effkit is found though its file has moved since the run was written."""
    module, _, name = address.partition(":")
    if module.startswith("effkit."):
        home = importlib.import_module("effkit")
        if name in home.__all__:
            return getattr(home, name)
    return getattr(importlib.import_module(module), name)
