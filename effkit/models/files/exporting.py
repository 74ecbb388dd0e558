"""The verb `export`: a model in a format that other programs read, with what that costs and changes said tensor by tensor.

A format enters through the table FORMATS (name -> "module:attribute" of an `Exporter`), a third party's through the
entry-point group "effkit.exporters". An exporter first plans: for every tensor what it becomes, its bytes, and whether the
numbers are the same. Only then is anything written, to a temporary name, and renamed at the end.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from effkit.spec.errors import BadInput, bytes_text, choice
from effkit.spec.files import atomic_file, atomic_folder
from effkit.spec.plugins import imported, table
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.sharing import parts_for_others

from ..model import Model

FORMATS = {
    "compressed-tensors": "effkit.models.exporters.compressed_tensors:COMPRESSED_TENSORS",
    "effkit": "effkit.models.exporters.own:OWN",
    "gguf": "effkit.models.exporters.gguf:GGUF",
}
ROOM = 32_000_000  # tokenizer and metadata


@dataclass(frozen=True)
class Placed:
    """What one stored tensor becomes.

    module:  its name in the model; name: in the file
    kind:    how the format stores it: "Q4_0", "4-bit group 32", "float32"
    bytes:   in the file; own_bytes: in effkit's format
    exact:   whether a reader sees the same numbers
    dense:   whether it was in few bits and is not any more
    why:     what changes or costs more, in words; "" where nothing does
    """

    module: str
    name: str
    kind: str
    bytes: int
    own_bytes: int
    exact: bool = True
    dense: bool = False
    why: str = ""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. `bytes`: of all tensors; `own_bytes`: of the same in effkit's format."""

    path: Path
    format: str
    tensors: tuple[Placed, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(placed.bytes for placed in self.tensors)

    @property
    def own_bytes(self) -> int:
        return sum(placed.own_bytes for placed in self.tensors)

    @property
    def exact(self) -> bool:
        """Whether a reader sees the very numbers that effkit computes with."""
        return all(placed.exact for placed in self.tensors)

    def __repr__(self) -> str:
        exact = "the same numbers" if self.exact else "not all numbers the same, see notes"
        return f"Exported({self.path.name!r}, {self.format}, {bytes_text(self.bytes)} (effkit: {bytes_text(self.own_bytes)}), {exact})"


class Exporter(Protocol):
    """A format. `suffix`: how the name of its file ends; "" for a folder."""

    name: str
    suffix: str

    def plan(self, model: Model, strict: bool) -> tuple[Placed, ...]:
        """What every tensor becomes. BadInput: a model that the format cannot hold at all."""
        ...

    def write(self, model: Model, plan: tuple[Placed, ...], part: Path) -> Work[None]:
        """Write to `part`, an empty file or folder, yielding after every tensor."""
        ...

    def ours(self, path: Path) -> bool:
        """Whether the file or folder at `path` was exported by effkit, and may be replaced."""
        ...


@long_work
def export(model: Model, path: str | Path, format: str = "compressed-tensors", *, strict: bool = False) -> Work[Exported]:
    """Write `model` so that other programs read it; `model` stays as it was.

    format: "compressed-tensors": a folder for transformers (with the package compressed-tensors), vLLM and vllm-ascend
            "gguf": one .gguf file for llama.cpp
            "effkit": a folder for `ek.load`, as `Model.save` writes it
    strict: refuse instead of rounding a number or storing in full what was in few bits; without it such tensors take the
            nearest the format has, and `Exported.notes` says what that changes and costs

    Weights in few bits keep their integers and scales wherever the format can hold them. Bytes follow the model's compute
    dtype where it cannot: `ek.export(model.to(dtype="bfloat16"), ...)` halves those.

    Raises BadInput (format, a model it cannot hold, a path that something else occupies), CannotWrite.
    """
    chosen = exporter(format)
    path = Path(os.path.expanduser(path))
    check_path(path, chosen)
    yield Progress("export", 0, 1, "tensors", "planning")
    plan = chosen.plan(model, strict)
    if strict:
        _refuse_changes(plan, chosen)
    needs = sum(placed.bytes for placed in plan) + ROOM
    with (atomic_file if chosen.suffix else atomic_folder)(path, needs=needs) as part:
        shared = replace(model, **parts_for_others(model.checkpoint, model.recipe, model.plans))  # formats write these beside the weights
        yield from chosen.write(shared, plan, part)
    yield Progress("export", len(plan), len(plan), "tensors", "written")
    return Exported(path, chosen.name, plan, notes(plan))


@cache
def formats() -> dict[str, str]:
    """Name -> "module:attribute" of every format, built in or brought by a plug-in."""
    return table("effkit.exporters", FORMATS)


def exporter(name: str) -> Exporter:
    """The exporter of that name. BadInput lists the names."""
    known = formats()
    if name not in known:
        raise choice("format", name, sorted(known))
    return imported(known[name])


def check_path(path: Path, chosen: Exporter) -> None:
    """Refuse a path that something else occupies, before anything is computed."""
    if chosen.suffix:
        if path.suffix != chosen.suffix:
            raise BadInput(f"the path of the {chosen.name} file is {str(path)!r}", f"Allowed: a name that ends in {chosen.suffix}")
        free = not path.exists() or (path.is_file() and (path.stat().st_size == 0 or chosen.ours(path)))
    else:
        free = not path.exists() or (path.is_dir() and (not any(path.iterdir()) or chosen.ours(path)))
    if not free:
        what = "file" if chosen.suffix else "folder, an empty one"
        raise BadInput(
            f"{str(path)!r} exists and was not exported by effkit",
            f"Allowed: a new {what}, or one that effkit exported as {chosen.name}",
            "Choose another name, or remove it first",
        )


def notes(plan: tuple[Placed, ...]) -> tuple[str, ...]:
    """One sentence for each thing that changes or costs more, with how many tensors it concerns and the bytes."""
    together: dict[str, list[Placed]] = defaultdict(list)
    for placed in plan:
        if placed.why:
            together[placed.why].append(placed)
    said = []
    for why, group in together.items():
        more = sum(placed.bytes - placed.own_bytes for placed in group)
        who = group[0].module if len(group) == 1 else f"{len(group)} tensors, such as {group[0].module}"
        said.append(f"{who}: {why}" + (f" ({bytes_text(more)} more than in effkit)" if more > 0 else ""))
    return tuple(said)


def _refuse_changes(plan: tuple[Placed, ...], chosen: Exporter) -> None:
    changed = [placed for placed in plan if placed.dense or not placed.exact]
    if changed:
        raise BadInput(
            f"strict is True and {len(changed)} of {len(plan)} tensors cannot be kept as they are in {chosen.name}: "
            + "; ".join(notes(tuple(changed))),
            "Allowed with strict: a model whose every number and every few-bit weight the format can hold",
            "Leave strict out, or quantize to what the format holds",
        )
