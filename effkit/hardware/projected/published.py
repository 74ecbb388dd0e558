"""Speeds that others have published, as facts with their sources: what projections are held against and points on a roofline.

    for row in published("rtx-4090"):
        print(row.model, row.format, row.metric, row.value, row.source)

They lie in `data/published.toml`, their models in `data/architectures.toml` (as the few fields of a transformers config that decide
bytes and operations), so that all of it works without a network. Nothing is fitted to them, but for the rows that say so (`use`):
the time that a kernel takes to start on Ascend.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Noun
from effkit.spec.places import shipped_file
from effkit.spec.recipe import validated

from .catalogue import accelerator
from .known import known_config, known_models

METRICS = ("tpot_ms", "ttft_ms", "output_rate", "decode_rate", "prefill_rate")


class Published(Noun):
    """One published figure. `config`: of the model, as transformers names its fields; `batch`: of all devices together.

    metric: "tpot_ms", "ttft_ms" (ms), "output_rate", "decode_rate" (output tokens a second with and without prefill), "prefill_rate"
    graph:  a whole step of decoding is started as one graph; told for Ascend only
    disaggregated: prompts are read on other devices; accepted: tokens that a step of speculative decoding yields
    floor:  the figure is the least that a nightly test demands; use: what constant it was used for, if any
    """

    device: str
    backend: str
    model: str
    config: dict[str, Any]
    format: str
    batch: int = Field(ge=1)
    prompt: int = Field(ge=0)
    new_tokens: int = Field(ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    attention_data_parallel: int = Field(default=1, ge=1)
    expert_parallel: bool = False
    graph: bool = False
    disaggregated: bool = False
    accepted: float = Field(default=1.0, ge=1)
    metric: Literal["tpot_ms", "ttft_ms", "output_rate", "decode_rate", "prefill_rate"]
    value: float = Field(gt=0)
    floor: bool = False
    use: Literal["", "launch"] = ""
    text: str = ""
    note: str = ""
    source: str
    address: str
    date: str

    @property
    def stack(self) -> str:
        return accelerator(self.device).stack


def published(device: str | None = None, stack: str | None = None) -> tuple[Published, ...]:
    """All published rows, or those of a device of the catalogue or of a stack ("cuda", "ascend")."""
    name = accelerator(device).name if device else None
    return tuple(row for row in _rows() if name in (None, row.device) and stack in (None, row.stack))


def read_published(path: str | Path) -> tuple[Published, ...]:
    """Read and check a file of published rows. Raises BadInput for an unknown source, model, device or field."""
    told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    rows = []
    for group in told["groups"]:
        source = _one(told["sources"], group.get("source"), "the source")
        shared = {"device": accelerator(group["device"]).name, "backend": group["backend"], "note": group.get("note", "")}
        for given in group["rows"]:
            metrics = [name for name in METRICS if name in given]
            if len(metrics) != 1:
                raise BadInput(f"a row of {source['title']!r} has the figures {metrics}", f"Allowed: one of {', '.join(METRICS)}")
            figure = {"metric": metrics[0], "value": given[metrics[0]], "config": _config(given.get("model"))}
            rest = {key: value for key, value in given.items() if key not in METRICS}
            origin = {"source": source["title"], "address": source["address"], "date": source["date"]}
            rows.append(validated(Published, {**shared, **figure, **rest, **origin}, f"a row of {source['title']!r}"))
    return tuple(rows)


def _one(table: dict[str, Any], key: Any, what: str) -> Any:
    if key not in table:
        raise choice(what, key, table)
    return table[key]


def _config(model: Any) -> dict[str, Any]:
    found = known_config(str(model))
    if found is None:
        raise choice("the model", model, known_models())
    return found


@functools.cache
def _rows() -> tuple[Published, ...]:
    return read_published(shipped_file("published.toml"))
