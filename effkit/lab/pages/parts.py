"""What a shared page is made of, and the door through which the cards come in: whoever draws them answers `Cards`.

effkit does not import the widgets. They enter as a plug-in does, through the table of name -> "module:attribute" below; a third
party brings cards of its own through the entry-point group "effkit.pages".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from effkit.spec.errors import Unavailable
from effkit.spec.plugins import imported, table

if TYPE_CHECKING:
    from effkit.spec.allocation import Sensitivity
    from effkit.spec.exploration import Exploration
    from effkit.spec.record import Record

NUMBER = re.compile(r"[-+−$]?\d[\d,.]*(?:e[-+]?\d+)?(?:[ %×x].*|\[.*)?$")
ABSENT = "$absent"  # in a column of answers: this one has no such value
PAGES = {"cards": "effkit_widgets.pages:CARDS"}


@dataclass(frozen=True)
class Table:
    """A table in plain HTML: what a card shows, for readers without JavaScript and for paper. All cells are text."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> frozenset[int]:
        """The columns that hold few numbers: they begin at the left, where one begins to read."""
        cells = [[text for text in column if text not in ("", "unavailable", "never", "-", "–")] for column in zip(*self.rows, strict=True)]
        return frozenset(i for i, texts in enumerate(cells) if 2 * sum(bool(NUMBER.match(text)) for text in texts) < len(texts))


@dataclass(frozen=True)
class Grid:
    """What a card's kernel would answer for every combination of some settings, computed beforehand.

    axes: setting -> its values; figures: one answer a combination, the last axis varying fastest
    """

    axes: Mapping[str, Sequence[Any]]
    figures: Sequence[Any]

    def columns(self) -> list[tuple[list[str | int], list[Any]]]:
        """The same by column: (path within an answer, its value in each; ABSENT where it has none). Packs to half the size."""
        found: dict[tuple[str | int, ...], list[Any]] = {}
        for number, answer in enumerate(self.figures):
            for path, value in _leaves(answer):
                found.setdefault(path, [ABSENT] * len(self.figures))[number] = value
        return [(list(path), values) for path, values in found.items()]


def _leaves(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value with its path; what is empty is a value itself."""
    within = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    if not within or not data:
        yield path, data
    for key, value in within:
        yield from _leaves(value, (*path, key))


@dataclass(frozen=True)
class Shown:
    """One card of the page. widget: its class; state: its traits; said: its message in words; table: its twin."""

    widget: str
    title: str
    state: Mapping[str, Any]
    said: str = ""
    table: Table | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Material:
    """What `ek.share` was given to show. model: whatever describes one (a Model, an Architecture, a config); cards: live widgets.

    file: what the page is called, for the commands on it; exploration: where the records come from, with what failed in it
    """

    records: tuple[Record, ...] = ()
    file: str = "page.html"
    model: Any = None
    sensitivity: Sensitivity | None = None
    cards: tuple[Any, ...] = ()
    exploration: Exploration | None = None


@dataclass
class Story:
    """What the page tells: cards in their order, and why some are not there."""

    cards: list[Shown] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Cards(Protocol):
    """What draws cards: the twin of a widget package. Scripts and styles are its own, never those of a notebook."""

    def story(self, material: Material) -> Story:
        """The cards that this material is enough for; of its live `cards` those that it owns."""
        ...

    def restored(self, kind: str, state: Mapping[str, Any]) -> Shown | None:
        """The card of a saved notebook: `kind` is what it calls its class. None where it is of another package."""
        ...

    def owns(self, widget: str) -> bool:
        """Whether cards of this class are its own."""
        ...

    def program(self, widgets: Iterable[str]) -> str:
        """A script that adds {class: {render}} of these widgets to the constant EFFKIT_CARDS, and leaves no other name behind."""
        ...

    def style(self, widgets: Iterable[str]) -> str:
        """The styles of these widgets, each part once."""
        ...

    def colours(self, theme: str) -> dict[str, str]:
        """The palette of "light" or "dark" by name, for the page around the cards."""
        ...


class _Together:
    """Those of several packages as one. The first is effkit's own: its colours are the page's, and its names come first."""

    def __init__(self, several: Sequence[Cards]) -> None:
        self._several = tuple(several)

    def story(self, material: Material) -> Story:
        told = [one.story(material) for one in self._several]
        return Story([card for one in told for card in one.cards], [why for one in told for why in one.missing])

    def restored(self, kind: str, state: Mapping[str, Any]) -> Shown | None:
        return next((card for one in self._several if (card := one.restored(kind, state)) is not None), None)

    def owns(self, widget: str) -> bool:
        return any(one.owns(widget) for one in self._several)

    def program(self, widgets: Iterable[str]) -> str:
        return "\n".join(["const EFFKIT_CARDS = {};", *(one.program(own) for one, own in self._shares(widgets))])

    def style(self, widgets: Iterable[str]) -> str:
        return "\n".join(one.style(own) for one, own in self._shares(widgets))

    def colours(self, theme: str) -> dict[str, str]:
        return self._several[0].colours(theme)

    def _shares(self, widgets: Iterable[str]) -> list[tuple[Cards, list[str]]]:
        left, found = list(dict.fromkeys(widgets)), []
        for one in self._several:
            found.append((one, [widget for widget in left if one.owns(widget)]))
            left = [widget for widget in left if not one.owns(widget)]
        return found


def all_cards() -> Cards:
    """Whoever draws cards here: effkit's widgets, then those of plug-ins. Raises Unavailable where the widgets are not installed."""
    places = table("effkit.pages", PAGES)
    own = [places.pop(name) for name in PAGES]
    return _Together([_drawn(place) for place in (*own, *places.values())])


def _drawn(place: str) -> Cards:
    try:
        return imported(place)
    except ModuleNotFoundError as error:
        package = place.partition(".")[0]
        missing = (error.name or package).partition(".")[0]
        if missing not in (package, "anywidget", "ipywidgets", "traitlets"):
            raise
        source = "effkit" if place in PAGES.values() else package
        raise Unavailable(
            "the cards of the page",
            f"{missing} is not installed",
            f"pip install {source} brings them; in a checkout, put its folder widgets/ on the path",
        ) from None
