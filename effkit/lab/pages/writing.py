"""The page as one file: template, styles, scripts, the cards' data, the records; and the records out of such a file again.

Everything is inside: no address is asked, so that the page opens from a disk without a network and looks the same in ten years.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from effkit import __version__
from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.frontier import Frontier
from effkit.spec.places import short_name
from effkit.spec.receipt import receipt_of
from effkit.spec.recipe import validated
from effkit.spec.record import Record
from effkit.spec.sharing import without_folders
from effkit.spec.visible import visible

from ..records.crate import UNSTATED
from .citations import citations_of
from .parts import Cards, Shown, Story
from .safe import cleaned, packed, policy

HERE = Path(__file__).parent
RECORDS = re.compile(r'<script type="application/octet-stream" id="ek-records">([A-Za-z0-9+/=]*)</script>')
LIMIT = 200_000_000  # bytes of records unpacked
PAGE_COLOURS = ("ground", "ink", "muted", "rule", "grid", "wash", "shade", "accent", "alarm", "quantized", "pruned", "mlp", "combined")


@dataclass(frozen=True)
class Words:
    """What the author says: title, a lead, the licence of the page, works to cite besides those of the recipes."""

    title: str
    introduction: str = ""
    licence: str | None = None
    citations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A card with the anchor of its section and its number in the page's data."""

    id: str
    number: int
    card: Shown


def page(
    words: Words,
    story: Story,
    records: Sequence[Record],
    drawn: Cards,
    file: str,
    body: str = "",
    inside: Iterable[Shown] = (),
    code: bool = False,
) -> str:
    """The whole page as text. `body`: HTML of a notebook, made safe already; `inside`: the cards that stand in it, numbered after
    those of `story`; `file`: the page's own name, for the commands on it."""
    from markupsafe import Markup

    story = Story([_here(card) for card in story.cards], [without_folders(why) for why in story.missing])
    told = [*story.cards, *inside]
    widgets = [card.widget for card in told]
    program = f"{drawn.program(widgets)}\n{_asset('page.js')}"
    style = f"{_palette(drawn)}\n{_asset('page.css')}\n{drawn.style(widgets)}\n{PAPER}"
    assert not re.search(r"</(script|style)|<!--", program + style, re.IGNORECASE), "a script or style would end too early"
    receipts = [receipt_of(record, file) for record in records]
    figures = [Placed(f"figure-{i}", i, card) for i, card in enumerate(story.cards)]
    receipt = next((one for one in figures if one.card.widget == "Receipt" and receipts), None)
    figures = [one for one in figures if one is not receipt]
    sections = [(one.id, one.card.title) for one in figures]
    sections += [("receipts", "Receipt")] if receipts else []
    data = [{"widget": card.widget, "state": cleaned(card.state), "grid": _grid(card)} for card in told]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            policy=policy([program], [style]),
            version=__version__,
            title=words.title,
            introduction=words.introduction,
            kicker=_kicker(records, bool(body)),
            recorded=recorded_words(records, told),
            verdict=_verdict(records),
            sections=[*sections, ("about", "Citation and licence")],
            figures=figures,
            receipt=receipt,
            body=Markup(body),
            code=code,
            receipts=receipts,
            command=f"effkit replay {receipts[0].command.split(' ', 2)[2]}" if receipts else "",
            licence=words.licence or UNSTATED,
            bases=_bases(records),
            citations=[*words.citations, *citations_of(records)],
            missing=story.missing,
            day=datetime.datetime.now(datetime.UTC).date().isoformat(),
            data=packed(data),
            records=packed([record.model_dump(mode="json") for record in records]) if records else "",
            style=Markup(style),
            program=Markup(program),
        )
    )


def read_page(path: Path) -> tuple[Record, ...]:
    """The records that a shared page holds. BadInput where it holds none, or not whole. Nothing of the page is run."""
    found = RECORDS.search(path.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise BadInput(f"the page {path.name!r} holds no records", "Allowed: a page that ek.share wrote of records")
    try:
        unpack = zlib.decompressobj(wbits=31)
        data = unpack.decompress(base64.b64decode(found[1], validate=True), LIMIT)
        if unpack.unconsumed_tail:
            raise BadInput(f"the records in {path.name!r} are too large", f"Allowed: at most {bytes_text(LIMIT)} unpacked")
        several = json.loads(data)
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"the records in {path.name!r} are damaged ({error})", "Allowed: a whole page", "Get the file again") from None
    return tuple(validated(Record, each, path.name) for each in several)


def recorded_words(records: Sequence[Record], cards: Sequence[Shown] = ()) -> str:
    """Where and when: "Recorded on cpu (...), 2026-11-25." Simulated devices are named as such."""
    found = []
    for record in records:
        where = record.profile or record.fingerprint
        name = where.device if where is not None and where.device else "an unknown device"
        simulated = record.profile is not None and record.profile.simulated
        found.append((f"{name}, simulated" if simulated else name, record.created[:10]))
    if not records:
        found = [pair for card in cards for pair in _places(card.state)]
    if not found:
        return "Recorded; every figure says where."
    days = sorted({day for _, day in found if day})
    day = "" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}"
    return f"Recorded on {'; '.join(dict.fromkeys(name for name, _ in found))}{day}."


def _places(state: Any) -> Iterator[tuple[str, str]]:
    """Device and day wherever a card's traits name both."""
    if isinstance(state, Mapping):
        device, date = state.get("device"), state.get("date")
        if isinstance(device, str) and isinstance(date, str) and device and date:
            yield device, date[:10]
        for value in state.values():
            yield from _places(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _places(value)


def _kicker(records: Sequence[Record], notebook: bool) -> str:
    count = f"{len(records)} record{'' if len(records) == 1 else 's'}" if records else ""
    bases = ", ".join(dict.fromkeys(short_name(record.checkpoint.source) for record in records))
    return ", ".join(part for part in ("a notebook" if notebook else "", f"{count} of {bases}" if count else "") if part)


def _verdict(records: Sequence[Record]) -> str:
    """The frontier's sentence, where there is a base to be a share of."""
    board = Frontier(records)
    base = next((record for record in records if not record.recipe.steps), None)
    if base is None or len(records) < 2 or not all(board.point(base) or ()):
        return ""
    return board.verdict(quality=0.9, cost=0.1)  # what the project asks of every model


def _bases(records: Sequence[Record]) -> list[tuple[str, ...]]:
    found = {record.checkpoint.hash: record.checkpoint for record in records}
    return [(short_name(c.source), c.revision or "none named", c.licence or "not stated", c.hash) for c in found.values()]


def _grid(card: Shown) -> dict[str, Any] | None:
    return None if card.grid is None else {"axes": cleaned(card.grid.axes), "columns": cleaned(card.grid.columns())}


def _here(card: Shown) -> Shown:
    """The card with words and table that name none of the author's folders, as `cleaned` does for its traits."""
    table = card.table
    if table is not None:
        table = replace(table, rows=tuple(tuple(without_folders(cell) for cell in row) for row in table.rows))
    return replace(card, title=without_folders(card.title), said=without_folders(card.said), table=table)


def place(number: int, card: Shown) -> str:
    """Where the script mounts a card, and its table for readers without script: HTML."""
    return str(_templates().get_template("twin.html.j2").module.place(number, _here(card)))  # type: ignore[attr-defined]


@cache
def _templates() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown, keep_trailing_newline=True
    )


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """What every expression of the template passes: text of records and notebooks without codes that mislead."""
    return visible(value) if type(value) is str else value


def _palette(drawn: Cards) -> str:
    def block(theme: str) -> str:
        colours = drawn.colours(theme)
        return "{" + ";".join(f"--{name}:{colours[name]}" for name in PAGE_COLOURS) + "}"

    dark = block("dark")
    return f':root{block("light")}\nhtml[data-theme="dark"]{dark}\n@media (prefers-color-scheme: dark){{html[data-theme="auto"]{dark}}}'


PAPER = "@media print { html, html[data-theme] { color-scheme: light; } }"
