"""The cards' way into `ek.share`: which of them a pile of records is enough for, and their scripts as one program for one page.

effkit finds `CARDS` through its table of pages (effkit/lab/pages/parts.py); nothing of effkit imports this. A card of the page is
the card of the notebook: the same class makes its traits, and its script is the same text, taken out of static/.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

import effkit_widgets
from effkit.hardware.projected.projection import shape_of
from effkit.lab.pages.parts import Grid, Material, Shown, Story
from effkit.spec.allocation import Sensitivity
from effkit.spec.errors import EffkitError
from effkit.spec.frontier import Frontier, figure_of
from effkit.spec.record import Record

from . import theme
from ._base import STATIC, Card, script, short_name
from ._projected import ProjectedCard
from .layer_map import START_BITS, told_map
from .twins import caption_of, sentence_of, twin_of

LOCAL = ("folder", "dashboard")  # of a run's state: where it lies on the author's machine is nobody's business
PRIVATE = ("local",)  # traits that hold nothing else
NAMES = re.compile(r"^(?:const|let|class|(?:async )?function) (\w+)", re.MULTILINE)
QUALITY = 0.9  # the student of the cost card is the smallest model that keeps so much, if one does
ROWS = 16  # more methods than these side by side nobody compares: then only those that no other beats in bytes and in KL
OTHERS, NEAR = 4, 0.8  # beside those two on a cost card: so many models of the front, which keep so much


class _Cards:
    def story(self, material: Material) -> Story:
        told = Story()
        own = [card for card in material.cards if self.owns(type(card).__name__)]  # the others are of other packages
        given = {type(card).__name__ for card in own}
        for name, make in self._made(material):
            if name in given:
                continue  # the author's own, with the author's settings
            try:
                made = make()
            except (EffkitError, OSError) as error:
                told.missing.append(f"{caption_of(name)}: {error}")
                continue
            if made is not None:
                told.cards.append(made)
        told.cards += [shown(card) for card in own]
        if material.records and material.model is None and not given & {"Roofline", "StackCompare"}:
            told.missing.append(
                f"{caption_of('Roofline')}, {caption_of('StackCompare')}: the base's shape is not known here; give it as model="
            )
        return told

    def _made(self, material: Material) -> Iterator[tuple[str, Callable[[], Shown | None]]]:
        records = list(material.records)
        if records:
            yield "FrontierExplorer", lambda: shown(effkit_widgets.FrontierExplorer(material.exploration or records))
            if any(record.recipe.steps for record in records):
                yield "MethodTable", lambda: _methods(records)
                yield "CostCard", lambda: _cost_card(records)
                yield "ByteLedger", lambda: _ledger(records)
        if material.sensitivity is not None:
            found = material.sensitivity
            yield "LayerMap", lambda: _layer_map(found, records)
        if material.model is not None:
            model, name = material.model, _name_of(records)
            yield "Roofline", lambda: shown(effkit_widgets.Roofline(shape_of(model), name=name))
            yield "StackCompare", lambda: shown(effkit_widgets.StackCompare(shape_of(model), name=name))
        if records:
            yield "Receipt", lambda: shown(effkit_widgets.Receipt(records, file=material.file))

    def restored(self, kind: str, state: Mapping[str, Any]) -> Shown | None:
        package, _, name = kind.partition(".")
        name = name.rpartition(".")[2]
        if package != "effkit_widgets" or name not in effkit_widgets.__all__:
            return None
        return _shown(name, state, None)

    def program(self, widgets: Iterable[str]) -> str:
        """Kit and charts once, as a function, so that every card has strings of its own as it has in a notebook."""
        kit = script()
        names = ", ".join(dict.fromkeys(NAMES.findall(kit)))
        parts = [f"{{\nfunction effkitKit() {{\n{kit}\nreturn {{ {names} }};\n}}"]
        for name in dict.fromkeys(widgets):
            module = str(getattr(effkit_widgets, name)._esm)
            if not module.startswith(kit) or module.count("\nexport default {") != 1:
                raise AssertionError(f"the script of {name} is not the kit, the charts, and one `export default`")
            own = module[len(kit) :].replace("\nexport default {", f"\nEFFKIT_CARDS.{name} = {{")
            parts.append(f"{{\nconst {{ {names} }} = effkitKit();\n{own.strip()}\n}}")
        return "\n".join([*parts, "}"])

    def owns(self, widget: str) -> bool:
        return widget in effkit_widgets.__all__

    def style(self, widgets: Iterable[str]) -> str:
        """Every sheet once, in an order in which each card has its own sheets as it has them alone."""
        sheets = {path.stem: path.read_text(encoding="utf-8") for path in sorted(STATIC.glob("*.css"))}
        before: dict[str, set[str]] = {}
        for name in dict.fromkeys(widgets):
            own = str(getattr(effkit_widgets, name)._css)
            order = sorted((stem for stem, text in sheets.items() if text in own), key=lambda stem: own.index(sheets[stem]))
            for first, then in zip([None, *order], order, strict=False):
                before.setdefault(then, set()).update([first] if first else [])
        return "\n".join(sheets[stem] for stem in TopologicalSorter(before).static_order())

    def colours(self, theme_name: str) -> dict[str, str]:
        return theme.colours(theme_name)


CARDS = _Cards()


def shown(card: Card) -> Shown:
    """A card as a page holds it: its traits as they are now, and what its kernel would answer to its sliders."""
    grid = card.recorded_answers() if isinstance(card, ProjectedCard) else None
    return _shown(type(card).__name__, card.get_state(), grid)


def _traits(kind: type[Card]) -> dict[str, Any]:
    """The traits that the card's script reads, those that its classes name themselves, with what stands in them at first."""
    named = {name for base in kind.__mro__ if issubclass(base, Card) for name in vars(base)}
    traits = kind.class_traits(sync=True)
    return {name: traits[name].default() for name in named & traits.keys() if not name.startswith("_")}


def _shown(name: str, state: Mapping[str, Any], grid: Grid | None) -> Shown:
    first = _traits(getattr(effkit_widgets, name))  # a notebook that an older version saved lacks some
    kept = {key: value if key in PRIVATE else state.get(key, value) for key, value in first.items()}
    if isinstance(kept.get("state"), Mapping):
        kept["state"] = {key: value for key, value in kept["state"].items() if key not in LOCAL}
    return Shown(name, caption_of(name), kept, sentence_of(name, kept), twin_of(name, kept), grid)


def _name_of(records: list[Record]) -> str:
    return short_name(records[0].checkpoint.source) if records else ""


def _base_and_best(records: list[Record]) -> tuple[Record, Record] | None:
    """The base's record, and the smallest model that keeps QUALITY of it, or else the one that keeps most."""
    board = Frontier(records)
    base = next((record for record in records if not record.recipe.steps), None)
    made = [record for record in records if record.recipe.steps and board.point(record)]
    if base is None or not made:
        return None
    kept = [record for record in made if (figure_of(record, "retained").value or 0) >= QUALITY]
    best = min(kept, key=lambda r: r.cost.bytes) if kept else max(made, key=lambda r: figure_of(r, "retained").value or 0)
    return base, best


def _methods(records: list[Record]) -> Shown:
    """All compressed models where they are few; else those of the front, with the base that their bytes are compared with."""
    made = [record for record in records if record.recipe.steps]
    if len(made) <= ROWS:
        return shown(effkit_widgets.MethodTable(records))
    bases = [record for record in records if not record.recipe.steps]
    front = [record for record in Frontier(records, "bytes", "kl").front() if record.recipe.steps][-ROWS:]
    told = shown(effkit_widgets.MethodTable([*bases, *(front or made[:ROWS])]))
    return dataclasses.replace(told, title=f"{told.title}: those of the front")


def _cost_card(records: list[Record]) -> Shown | None:
    pair = _base_and_best(records)
    if pair is None:
        return None
    base, best = pair
    names = {base.name, best.name}
    others = []
    for record in Frontier(records).front():
        near = (figure_of(record, "retained").value or 0) >= NEAR and record.profile is not None
        if near and record.name not in names and len(others) < OTHERS:
            names.add(record.name)
            others.append(record)
    return shown(effkit_widgets.CostCard(base, best, others))


def _ledger(records: list[Record]) -> Shown | None:
    pair = _base_and_best(records)
    if pair is None or not all(record.cost.ledger for record in pair):
        return None
    models = [
        {
            "name": record.name, "total": record.cost.bytes, "bits": record.cost.bits_per_weight, "categories": record.cost.ledger,
            "layers": [],
        }
        for record in pair
    ]  # fmt: skip
    return _shown("ByteLedger", {"config": {"models": models, "categories": list(theme.CATEGORIES)}, "problem": {}}, None)


def _layer_map(found: Sensitivity, records: list[Record]) -> Shown:
    """The map without its model: the page solves every budget by itself; a record of the same widths is its measurement."""
    near = {m.module: min(m.choices, key=lambda c: (abs(c.bits - START_BITS), c.bits)).bits for m in found.modules}
    budget = found.at(near).bytes
    chosen = found.allocate(budget)
    state = {
        "config": {"name": short_name(found.source), "base_bytes": found.largest, "method": "search"},
        "map": told_map(found, lambda kind: False),
        "choice": {"bits": chosen.bits, "pinned": [], "budget": budget},
        "verified": list(_verified(found, records)),
        "state": {"name": "idle"} | _where(records),
        "history": {"epoch": 0, "curves": {}},
        "problem": {},
    }
    return _shown("LayerMap", state, None)


def _verified(found: Sensitivity, records: list[Record]) -> Iterator[dict[str, Any]]:
    for record in records:
        if not record.plans or len(record.recipe.steps) != 1:
            continue
        bits = {m.module: m.bits for m in record.plans[-1].modules if m.action == "quantize" and m.bits is not None}
        kl = figure_of(record, "kl")
        if {m.module for m in found.modules} != set(bits) or kl.value is None:
            continue
        try:
            predicted = found.at({name: int(value) for name, value in bits.items()})
        except EffkitError:
            continue  # in widths that the sensitivities were not found for: no measurement of this map
        yield {"bits": predicted.bits, "bytes": record.cost.bytes, "predicted": predicted.kl, "kl": [kl.value, kl.low, kl.high]}


def _where(records: list[Record]) -> dict[str, str]:
    for record in records:
        if record.profile is not None:
            return {"device": record.profile.device, "date": record.created}
    return {}
