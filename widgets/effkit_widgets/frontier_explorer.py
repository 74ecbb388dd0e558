"""Every trial of a search on two axes of your choice, and behind each point what it is and the code that makes it.

explorer = FrontierExplorer(records); explorer
explorer = FrontierExplorer(ek.Store())          # follows the file: what another process adds lands too
explorer.chosen_record, explorer.compared        # what the reader has picked
explorer.code                                    # the lines that make the chosen model

Nothing that a reader does in the card needs a kernel: all data travels as plain JSON in `points`, `details` and `maps`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import traitlets as t

from effkit.lab.run import Run
from effkit.lab.store import Store
from effkit.spec.code import code_of, said
from effkit.spec.errors import BadInput
from effkit.spec.recipe import Recipe
from effkit.spec.record import Checkpoint, Record

from ._base import place_of, refuse_unknown, script, short_name, style
from ._frontier import FRONTIER, FrontierCard, fields
from ._live import LiveCard

WATCH = 1.0  # seconds between two looks at a store
OPTIONS = ("records", "x", "y", "quality", "cost", "colour", "shape", "size", "samples")
WEIGHTS = ("attention", "mlp", "embeddings", "head", "other")  # kinds of modules that stand on a map of bits


class FrontierExplorer(FrontierCard, LiveCard):
    """A scatter of records with everything about the chosen one beside it; colour, shape and size follow the recipe.

    records: records, a Store (which is followed), or a Run of a search (which is followed; its trials land as they end)
    x, y, quality, cost: as in FrontierBoard
    colour, shape, size: what they follow: "kind", "device", or a field of the recipe such as "method", "bits", "steps"; size also a
             figure. shape "": it says what the colour says
    samples: {record id: [(prompt, output), ...]} to show with a record

    chosen, against: id of the chosen point, and of the one it is compared with; "" for none
    details: {id: {"steps", "code", "ledger", "base_bytes", "map", "tokens", "text", "samples"}}
    maps:    {"layouts": [modules], "maps": [[layout, bits]]}: bits by module, each different map once
    Raises BadInput for an unknown option or axis, or something that holds no records.
    """

    _esm = script(*FRONTIER, "live", "layer_grid", "explorer_details", "frontier_explorer")
    _css = style("frontier", "live", "layer_grid", "explorer")

    details = t.Dict().tag(sync=True)
    maps = t.Dict().tag(sync=True)
    encoding = t.Dict().tag(sync=True)
    chosen = t.Unicode().tag(sync=True)
    against = t.Unicode().tag(sync=True)

    _watcher: asyncio.Task[None] | None = None
    _closed = False

    def __init__(
        self,
        records: Iterable[Record] | Store | Run = (),
        x: str = "bytes",
        y: str = "retained",
        *,
        quality: float = 0.9,
        cost: float = 0.5,
        colour: str = "kind",
        shape: str = "",
        size: str = "",
        samples: Mapping[str, Sequence[tuple[str, str]]] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("FrontierExplorer", unknown, OPTIONS)
        self._made_with = (x, y)
        self._samples = {key: [list(pair) for pair in pairs] for key, pairs in (samples or {}).items()}
        self._told: dict[str, dict[str, Any]] = {}
        self._maps = Maps()
        self._lost: list[dict[str, Any]] = []
        self._source = records if isinstance(records, Store) else None
        run = records if isinstance(records, Run) else None
        self._row, self._seen = 0, ()
        first = [] if run is not None else self._news() if self._source is not None else records
        if not isinstance(first, Iterable):
            raise BadInput(f"the records are a {type(first).__name__}", "Allowed: records, a Store, or a Run of a search")
        super().__init__(first, x, y, quality, cost, config={"run": run is not None})
        self.encoding = {"colour": colour, "shape": shape, "size": size}
        self._tell_details()
        self.chosen = self._best()
        self.observe(lambda _: self._tell_details(), names=["points"])
        if self._source is not None:
            self._watch()
        if run is not None:
            self._show_run(run)

    @property
    def chosen_record(self) -> Record | None:
        """The record of the chosen point; None where none is chosen, or it has no record."""
        return self._record(self.chosen)

    @property
    def compared(self) -> tuple[Record, Record] | None:
        """The two records that are compared; None where none are."""
        a, b = self._record(self.chosen), self._record(self.against)
        return None if a is None or b is None or a is b else (a, b)

    @property
    def code(self) -> str:
        """The lines of Python that make the chosen model; "" where none is chosen."""
        return str(self.details.get(self.chosen, {}).get("code", ""))

    def lost(self, recipe: Recipe, reason: str, checkpoint: Checkpoint, *, stopped: bool = False, id: str = "", name: str = "") -> None:
        """Show a trial that has no figures: it failed, or was stopped early. From any thread."""
        key = id or f"lost-{len(self._lost) + 1}"
        point = {
            "id": key, "name": name or recipe.label(), "kind": recipe.kind(), "recipe": recipe.label(), "fields": fields(recipe),
            "figures": {}, "device": "", "date": "", "simulated": False, "slower": "", "n": -len(self._lost) - 1, "ties": {},
            "state": "stopped" if stopped else "failed", "reason": reason,
        }  # fmt: skip
        self._told[key] = {"steps": _steps(recipe), "code": code_of(recipe, checkpoint.source, checkpoint.revision)}

        def put() -> None:
            self._lost = [*(p for p in self._lost if p["id"] != key), point]
            self.points = self._all_points()

        self._soon(put)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        super().close()

    def _all_points(self) -> list[dict[str, Any]]:
        return [*super()._all_points(), *self._lost]

    def _best(self) -> str:
        """The id of what the budget picks, to begin with; "" where there is no base to take a share of."""
        try:
            found = self.frontier.pick(**self._shares)
        except BadInput:
            return ""
        return found.id if found else ""

    def _record(self, id: str) -> Record | None:
        return next((r for r in self._records if r.id == id), None) if id else None

    def _tell_details(self) -> None:
        for record in self._records:
            if record.id not in self._told:
                self._told[record.id] = {**_detail(record), "map": self._maps.of(record)}
                if record.id in self._samples:
                    self._told[record.id]["samples"] = self._samples[record.id]
        shown = [*(r.id for r in self._records), *(p["id"] for p in self._lost)]
        if set(shown) != set(self.details):
            self.maps = {"layouts": self._maps.layouts, "maps": list(self._maps.maps)}
            self.details = {id: self._told[id] for id in shown}

    # a store that others write to

    def _watch(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: setattr(self, "_watcher", asyncio.ensure_future(self._watching(), loop=self._loop)))

    async def _watching(self) -> None:
        while not self._closed:
            await asyncio.sleep(WATCH)
            self.refresh()

    def refresh(self) -> None:
        """Take in what was added to the store since the last look; a card in a kernel does so by itself."""
        found = self._news()
        if found:
            self.extend(found)

    def _news(self) -> list[Record]:
        """What the store has got since the last look."""
        if self._source is None or (stamp := self._source.stamp()) == self._seen:
            return []
        self._seen = stamp
        found, self._row = self._source.since(self._row)
        return found

    def __repr__(self) -> str:
        return f"FrontierExplorer(x={self._made_with[0]!r}, y={self._made_with[1]!r})"


class Maps:
    """Bits by module of many records: each list of modules and each different map is kept once."""

    def __init__(self) -> None:
        self.layouts: list[list[dict[str, Any]]] = []
        self.maps: list[list[Any]] = []
        self._layouts: dict[tuple[str, ...], int] = {}
        self._known: dict[tuple[int, tuple[Any, ...]], int] = {}

    def of(self, record: Record) -> int | None:
        """The number of the record's map; None where no plan says bits."""
        plan = next((plan for plan in reversed(record.plans) if plan.step.step == "quantize"), None)
        if plan is None:
            return None
        modules = [m for m in plan.modules if m.kind in WEIGHTS and len(m.shape) > 1]
        bits = tuple(int(m.bits) if m.action == "quantize" and m.bits else None for m in modules)
        names = tuple(m.module for m in modules)
        if names not in self._layouts:
            self._layouts[names] = len(self.layouts)
            self.layouts.append([{"name": m.module, "kind": m.kind, **place_of(m.module)} for m in modules])
        key = (self._layouts[names], bits)
        if key not in self._known:
            self._known[key] = len(self.maps)
            self.maps.append([key[0], list(bits)])
        return self._known[key]


def _detail(record: Record) -> dict[str, Any]:
    """What the card shows of a record beyond its point."""
    quality = record.quality
    return {
        "steps": _steps(record.recipe),
        "code": record.code(),
        "ledger": dict(record.cost.ledger),
        "base_bytes": record.cost.base_bytes,
        **({"tokens": quality.tokens, "text": short_name(quality.text_source)} if quality else {}),
    }


def _steps(recipe: Recipe) -> list[list[Any]]:
    """[[step, {field: value}], ...] of what each step says beyond the defaults, as JSON."""
    told = []
    for step in recipe.steps:
        plain = step.model_dump(mode="json")
        told.append([step.step, {name: plain.get(name, value) for name, value in said(step, recipe.seed).items()}])
    return told
