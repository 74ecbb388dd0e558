"""Every trial of a search on two axes of your choice, and behind each point what it is and the code that makes it.

explorer = FrontierExplorer(records); explorer
explorer = FrontierExplorer(ek.Store())          # follows the file: what another process adds lands too
explorer = FrontierExplorer(ek.start(ek.explore, base, space)); found = await explorer    # trials land as they end
explorer.chosen_record, explorer.compared        # what the reader has picked
explorer.code                                    # the lines that make the chosen model

Nothing that a reader does in the card needs a kernel: all data travels as plain JSON in `points`, `details` and `maps`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets as t

from effkit.lab.records.store import Store
from effkit.lab.runs.run import Run
from effkit.spec.code import code_of, said, tilde
from effkit.spec.errors import BadInput, choice
from effkit.spec.exploration import Exploration, Trial
from effkit.spec.frontier import FIGURES
from effkit.spec.recipe import Recipe, from_json, validated
from effkit.spec.record import Checkpoint, Record
from effkit.spec.sharing import shareable, texts_of

from ._base import place_of, refuse_unknown, script, short_name, style
from ._frontier import FIELDS, FRONTIER, FrontierCard, fields, point
from ._live import LiveCard

WATCH = 1.0  # seconds between two looks at a store
A_SECOND = 2000  # points that are sent a second while a search goes on
OPTIONS = ("records", "x", "y", "quality", "cost", "colour", "shape", "size", "samples")
WEIGHTS = ("attention", "mlp", "embeddings", "head", "other")  # kinds of modules that stand on a map of bits


class FrontierExplorer(FrontierCard, LiveCard):
    """A scatter of records with everything about the chosen one beside it; colour, shape and size follow the recipe.

    records: records, an Exploration, a Store (which is followed), or a Run of ek.explore (its trials land as they end)
    x, y, quality, cost: as in FrontierBoard
    colour, shape, size: what they follow: "kind", "device", or a field of the recipe such as "method", "bits", "steps"; size also a
             figure. shape "": it says what the colour says
    samples: {record id: [(prompt, output), ...]} to show with a record

    chosen, against: id of the chosen point, and of the one it is compared with; "" for none
    details: {id: {"steps", "code", "ledger", "base_bytes", "map", "tokens", "text", "samples"}}
    local:   {name of a folder: where it lies}, so that the code can be run here; a page for others leaves it out
    maps:    {"layouts": [modules], "maps": [[layout, bits]]}: bits by module, each different map once
    Raises BadInput for an unknown option or axis, or something that holds no records.
    """

    _esm = script(*FRONTIER, "live", "layer_grid", "explorer_details", "frontier_explorer")
    _css = style("frontier", "live", "layer_grid", "explorer")

    details = t.Dict().tag(sync=True)
    local = t.Dict().tag(sync=True)
    maps = t.Dict().tag(sync=True)
    encoding = t.Dict().tag(sync=True)
    chosen = t.Unicode().tag(sync=True)
    against = t.Unicode().tag(sync=True)

    _watcher: asyncio.Task[None] | None = None
    _closed = False

    def __init__(
        self,
        records: Iterable[Record] | Exploration | Store | Run = (),
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
        said_fields = {name for names in FIELDS.values() for name in names}
        for option, value, more in (("colour", colour, ()), ("shape", shape, ("",)), ("size", size, ("", *FIGURES))):
            if value not in (allowed := ("kind", "device", *sorted(said_fields), *more)):
                raise choice(option, value, allowed)
        self._made_with = (x, y)
        self._samples = {key: [list(pair) for pair in pairs] for key, pairs in (samples or {}).items()}
        self._told: dict[str, dict[str, Any]] = {}
        self._maps = Maps()
        self._lost: list[dict[str, Any]] = []
        self._source = records if isinstance(records, Store) else None
        self._row, self._seen = 0, ()
        self._folder, self._due, self._landed, self._landed_at = "", False, set[str](), 0.0
        run = records if isinstance(records, Run) else None
        found = records if isinstance(records, Exploration) else None
        first: Iterable[Record] = ()
        if isinstance(records, Exploration):
            first = records.records
        elif isinstance(records, Store):
            first = self._news()
        elif isinstance(records, Iterable):
            first = records
        elif run is None:
            allowed = "Allowed: records, an Exploration, a Store, or a Run of ek.explore"
            raise BadInput(f"the records are a {type(records).__name__}", allowed)
        super().__init__(first, x, y, quality, cost, config={"run": run is not None})
        self.encoding = {"colour": colour, "shape": shape, "size": size}
        if found is not None:
            self._take_trials(found.trials, found.base)
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
        record = self._record(self.chosen)
        return record.code() if record is not None else str(self.details.get(self.chosen, {}).get("code", ""))

    def lost(
        self,
        recipe: Recipe | None,
        reason: str,
        checkpoint: Checkpoint | None = None,
        *,
        stopped: bool = False,
        id: str = "",
        name: str = "",
        record: Record | None = None,
    ) -> None:
        """Show a trial that is no result: it failed, or was stopped early. From any thread.

        record: what was measured of one that was stopped: shown hollow, and never on the front
        """
        key = id or f"lost-{len(self._lost) + 1}"
        label = recipe.label() if recipe else name
        bare = {
            "id": key, "name": name or label, "kind": recipe.kind() if recipe else "combined", "recipe": label,
            "fields": fields(recipe) if recipe else {}, "figures": {}, "device": "", "date": "", "simulated": False, "slower": "",
        }  # fmt: skip
        drawn = {**(point(record) if record is not None else bare), "id": key, "n": -len(self._lost) - 1, "ties": None}
        drawn |= {"state": "stopped" if stopped else "failed", "reason": reason}
        recipe = recipe and _shared(recipe)
        self._told[key] = {"steps": _steps(recipe) if recipe else []}
        if recipe is not None and checkpoint is not None:
            self._told[key]["code"] = code_of(recipe, short_name(checkpoint.source), checkpoint.revision)

        def put() -> None:
            self._lost = [*(p for p in self._lost if p["id"] != key), drawn]
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
            sources = {short_name(r.checkpoint.source): tilde(r.checkpoint.source) for r in self._records}
            for recipe in [r.recipe for r in self._records]:
                sources |= dict(zip(texts_of(_shared(recipe)), map(tilde, texts_of(recipe)), strict=True))
            self.local = {short: full for short, full in sources.items() if short != full}
            self.maps = {"layouts": self._maps.layouts, "maps": list(self._maps.maps)}
            self.details = {id: self._told[id] for id in shown}

    # a search that goes on: its folder has a file for each trial that ended

    def _take(self, event: dict[str, Any]) -> None:
        if event["task"] == "explore":
            self._folder = event["details"].get("folder", self._folder)
            self._due = self._due or "trial" in event["details"] or not self._records

    def _look_at(self, run: Run) -> None:
        super()._look_at(run)
        ended = self._at_rest
        if self._folder and (ended or (self._due and time.monotonic() - self._landed_at > len(self._records) / A_SECOND)):
            self._land(Path(self._folder))
            self._landed_at, self._due = time.monotonic(), False
        if ended and not self.chosen:
            self.chosen = self._best()

    def _described(self, name: str, run: Run) -> dict[str, Any]:
        """With the address of the cluster's dashboard, while there is one."""
        link = run.progress.details.get("dashboard", "") if run.progress and name in ("running", "paused") else ""
        return {**super()._described(name, run), **({"dashboard": link} if link else {})}

    def _land(self, folder: Path) -> None:
        """Take in the base and the trials that are in the folder and were not seen yet, also those of an earlier sitting."""
        base = folder / "base.json"
        known = next((r for r in self._records if not r.recipe.steps), None)
        first = Record.from_json(base.read_text(encoding="utf-8")) if known is None and base.exists() else known
        new = sorted(path for path in (folder / "trials").glob("*.json") if path.name not in self._landed)
        self._landed |= {path.name for path in new}
        self._take_trials([from_json(Trial, path.read_text(encoding="utf-8"), "trial") for path in new], first)

    def _take_trials(self, trials: Iterable[Trial], base: Record | None) -> None:
        own = [trial for trial in trials if trial.record is None or all(trial.record.id != r.id for r in self._records)]
        done = [trial.record for trial in own if trial.state == "done" and trial.record is not None]
        if base is not None and all(base.id != r.id for r in self._records):
            done.insert(0, base)
        for trial in own:
            if trial.state != "done":
                checkpoint = base.checkpoint if base is not None else None
                found = {"stopped": trial.state == "stopped", "id": f"trial {trial.number}", "name": trial.label, "record": trial.record}
                self.lost(trial.recipe or _drafted(trial.draft), trial.reason, checkpoint, **found)
        if done:
            self.extend(done)

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
    quality, recipe = record.quality, _shared(record.recipe)
    return {
        "steps": _steps(recipe),
        "code": code_of(recipe, short_name(record.checkpoint.source), record.checkpoint.revision),
        "ledger": dict(record.cost.ledger),
        "base_bytes": record.cost.base_bytes,
        **({"tokens": quality.tokens, "text": short_name(quality.text_source)} if quality else {}),
    }


def _shared(recipe: Recipe) -> Recipe:
    """Without the folders of its texts: they stand in `local`, which no page holds. Most recipes name no text."""
    return shareable(recipe) if texts_of(recipe) else recipe


def _drafted(draft: Mapping[str, Any]) -> Recipe | None:
    """The recipe that a trial's draft says; None where it leaves something to be found, such as bits for a budget of bytes."""
    try:
        return validated(Recipe, dict(draft), "the draft")
    except BadInput:
        return None


def _steps(recipe: Recipe) -> list[list[Any]]:
    """[[step, {field: value}], ...] of what each step says beyond the defaults, as JSON."""
    told = []
    for step in recipe.steps:
        plain = step.model_dump(mode="json")
        told.append([step.step, {name: plain.get(name, value) for name, value in said(step, recipe.seed).items()}])
    return told
