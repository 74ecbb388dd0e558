"""effkit's own format, by the same door as the others: what `Model.save` writes and `ek.load` reads, bit for bit."""

from __future__ import annotations

from pathlib import Path

from effkit.spec.progress import Progress, Work

from ..files.exporting import Placed
from ..files.saving import MANIFEST, write_folder
from ..model import Model


class Own:
    name = "effkit"
    suffix = ""

    def plan(self, model: Model, strict: bool) -> tuple[Placed, ...]:
        entries = model.ledger().entries
        return tuple(Placed(e.module, f"{e.module}.{e.tensor}", e.dtype, e.bytes, e.bytes) for e in entries)

    def write(self, model: Model, plan: tuple[Placed, ...], part: Path) -> Work[None]:
        write_folder(model, part)
        yield Progress("export", len(plan), len(plan), "tensors", "written")

    def ours(self, path: Path) -> bool:
        return (path / MANIFEST).exists()


OWN = Own()
