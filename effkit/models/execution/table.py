"""What each linear layer of a model runs on, and why: `model.execution()`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from effkit.spec.errors import bytes_text
from effkit.spec.visible import escaped

from .engines import DEQUANTIZE, Work


@dataclass(frozen=True)
class Executed:
    """One linear layer. `extra_bytes`: what its engine derives in memory besides the stored bytes, when it first runs."""

    module: str
    engine: str
    why: str
    extra_bytes: int = 0


@dataclass(frozen=True)
class Execution:
    """All linear layers of a model on their device and in their dtype."""

    rows: tuple[Executed, ...]

    @property
    def engines(self) -> dict[str, int]:
        """How many modules run on each engine, the most used first."""
        return dict(Counter(row.engine for row in self.rows).most_common())

    @property
    def extra_bytes(self) -> int:
        return sum(row.extra_bytes for row in self.rows)

    def groups(self) -> list[tuple[str, str, int, str]]:
        """(engine, why, how many modules, the first one's name), in the order of the model."""
        seen: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            seen.setdefault((row.engine, row.why), []).append(row.module)
        return [(engine, why, len(names), names[0]) for (engine, why), names in seen.items()]

    def __repr__(self) -> str:
        lines = [f"{count} x {engine} ({name}{', ...' if count > 1 else ''}): {why}" for engine, why, count, name in self.groups()]
        return "\n".join([*lines, f"derived in memory, stored nowhere: {bytes_text(self.extra_bytes)}"])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{escaped(engine)}</td><td>{count}</td><td>{escaped(name)}{', ...' if count > 1 else ''}</td>"
            f"<td>{escaped(why)}</td></tr>"
            for engine, why, count, name in self.groups()
        )
        head = "<tr><th>Engine</th><th>Modules</th><th>Such as</th><th>Why</th></tr>"
        return f"<table><caption>Derived in memory, stored nowhere: {bytes_text(self.extra_bytes)}</caption>{head}{cells}</table>"


def execution_of(module: nn.Module, dtype: torch.dtype) -> Execution:
    """The table for inputs of `dtype`."""
    from effkit.models.stored.packed import PackedLinear

    rows = []
    for name, part in module.named_modules():
        if isinstance(part, PackedLinear):
            choice = part.choice(dtype)
            if part.engine is not None:
                rows.append(Executed(name, part.engine, f"asked for: engine is {part.engine!r}"))
            elif choice.engine is None:
                rows.append(Executed(name, DEQUANTIZE, choice.why))
            else:
                rows.append(Executed(name, choice.name, choice.why, choice.engine.extra_bytes(Work.of(part.packed, dtype))))
        elif str(getattr(part, "kind", "")).startswith("bnb-"):
            rows.append(Executed(name, "bitsandbytes", "its own storage, multiplied by its own operators"))
        elif type(part).__name__ in ("Linear", "Conv1D"):
            rows.append(Executed(name, "dense", "not packed"))
    return Execution(tuple(rows))
