"""`share`: records or a notebook as one page that opens from a disk, without a network, and still answers.

The cards of the page are those of the notebook, on recorded data: budgets are solved and axes chosen in the page itself, sliders
look up what was projected beforehand. The page holds the records whole, so that `effkit replay page.html --record ID` runs one
again. What may come from anyone is escaped, and a policy keeps everything but the page's own script from running.

    ek.share(ek.Store(), "page.html", title="SmolLM2 at four bits", model=base, sensitivity=ek.sensitivity(base))
    ek.share("lesson.ipynb", "lesson.html")
    ek.share("lesson.ipynb", "for-github.ipynb")      # a copy that GitHub can show
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effkit.spec.allocation import Sensitivity
from effkit.spec.errors import BadInput, EffkitError, bytes_text
from effkit.spec.exploration import Exploration
from effkit.spec.files import write_text
from effkit.spec.record import Record
from effkit.spec.sharing import shareable, without_folders

from .pages.notebook import body_of, has_code, placeless, read_notebook, repaired, title_of, without_heading
from .pages.parts import Cards, Material, Shown, all_cards
from .pages.writing import Words, page, place
from .records.exchange import read_exploration, records_of

ALLOWED = "Allowed: records, as ek.measure returns them and ek.Store holds them; files that hold some; or one notebook (.ipynb)"


@dataclass(frozen=True)
class Shared:
    """What `share` wrote. cards: the figures in their order; notes: what is not there and why, or what was put right."""

    path: Path
    bytes: int
    cards: tuple[str, ...] = ()
    records: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = ", ".join(self.cards) or "no figures"
        return "\n".join([f"{self.path.name}, {bytes_text(self.bytes)}: {what}", *(f"note: {note}" for note in self.notes)])


def share(
    what: Record | Iterable[Record | str | Path] | str | Path,
    path: str | Path,
    *,
    title: str | None = None,
    introduction: str = "",
    model: Any = None,
    sensitivity: Sensitivity | str | Path | None = None,
    cards: Any = (),
    records: Record | Iterable[Record | str | Path] | str | Path = (),
    licence: str | None = None,
    citations: Iterable[str] = (),
) -> Shared:
    """Write `what` to `path` as one page (.html), whole or not at all; a notebook also as a copy that GitHub shows (.ipynb).

    what:   a Record, several (an ek.Store, an Exploration, whatever has `.records`), files as ek.read_records reads them, or one notebook
    title, introduction: words of the author; plain text
    model:  what describes the base (a Model, an Architecture, a config, a folder): the roofline and the two stacks are drawn for it;
            None: the base's own record, or what lies where the records say that they began
    sensitivity: of ek.sensitivity, or a JSON file of one: the map of layers, whose budget is solved in the page
    cards:  one live widget or several, shown as they are now after the page's own; one of a class that the page makes takes its place
    records: beside a notebook: what its page holds and lists in its receipt, given as `what` is
    licence: under which the page is shared; citations: works to cite besides those that the records name

    Raises BadInput (nothing to show, another ending, an argument that has no place there), Unavailable (the widgets are not
    installed), CannotWrite.
    """
    path = Path(os.path.expanduser(path))
    notebook = _notebook(what)
    if path.suffix.lower() == ".ipynb" and notebook is not None:
        given = {"title": title, "introduction": introduction, "model": model, "sensitivity": sensitivity, "cards": cards}
        _refuse_unused({**given, "records": records, "licence": licence, "citations": citations})
        return _copy(notebook, path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"the file {path.name!r} ends in {path.suffix!r}", "Allowed: .html; for a notebook also .ipynb")
    if notebook is None and _is_given(records):
        raise BadInput(
            "records is given beside records", "Allowed: beside a notebook", "Give all of them as the first: share([*these, *those], ...)"
        )
    drawn = all_cards()
    cards = _checked(cards, drawn)
    held = _records(records) if notebook is not None else _records(what)
    described, found, search = _described(model, held), _sensitivity(sensitivity), _exploration(what)
    held = tuple(shareable(record) for record in held)
    material = Material(held, path.name, described, found and shareable(found), cards, search and shareable(search))
    inside: list[Shown] = []
    code, body, told = False, "", []
    if notebook is None:
        story = drawn.story(material)
        if not held and not story.cards:
            raise BadInput("there is nothing to show", ALLOWED)
        heading = _title(held)
    else:
        story = drawn.story(replace(material, records=()))
        opened, told = placeless(read_notebook(notebook))
        body, inside = body_of(opened, drawn, place, len(story.cards))
        if title is None:
            body = without_heading(body)  # it is the page's title
        heading, code = title_of(opened, notebook.stem), has_code(opened)
    words = Words(
        title=title or heading,
        introduction=introduction,
        licence=licence,
        citations=(citations,) if isinstance(citations, str) else tuple(citations),
    )
    text = page(words, story, held, drawn, path.name, body, inside, code)
    write_text(path, text)
    names = tuple(card.widget for card in (*story.cards, *inside))
    return Shared(path, len(text.encode()), names, len(held), (*map(without_folders, story.missing), *told))


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str | tuple | list) and not value)


def _refuse_unused(given: Mapping[str, Any]) -> None:
    """A copy is the notebook and nothing else."""
    named = [name for name, value in given.items() if _is_given(value)]
    if named:
        raise BadInput(
            f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} given for a copy of a notebook",
            "Allowed for a copy (.ipynb): the notebook and where it goes",
            "Write a page (.html), which has a place for it, or leave it out",
        )


def _checked(cards: Any, drawn: Cards) -> tuple[Any, ...]:
    """The live cards, each of a class that somebody here draws."""
    several = (cards,) if hasattr(cards, "get_state") else cards
    if not isinstance(several, Iterable):
        raise BadInput(f"the cards are a {type(cards).__name__}", "Allowed: a card of effkit_widgets, or several")
    several = tuple(several)
    for card in several:
        if not hasattr(card, "get_state") or not drawn.owns(type(card).__name__):
            raise BadInput(
                f"a {type(card).__name__} is among the cards",
                "Allowed: cards of effkit_widgets, and of packages that bring their own (entry points in the group effkit.pages)",
            )
    return several


def _copy(notebook: Path, path: Path) -> Shared:
    made, said = repaired(read_notebook(notebook))
    made, named = placeless(made)
    said += named
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        text = json.dumps(made, indent=1) + "\n"  # half a surrogate pair is JSON, and no UTF-8
    write_text(path, text)
    return Shared(path, len(text.encode()), notes=tuple(said))


def _notebook(what: Any) -> Path | None:
    if isinstance(what, str | Path) and Path(what).suffix.lower() == ".ipynb":
        return Path(os.path.expanduser(what))
    return None


def _records(what: Any) -> tuple[Record, ...]:
    """All records in their order, each once."""
    if any(_notebook(one) is not None for one in (what if isinstance(what, list | tuple) else ())):
        raise BadInput("a notebook is among the records", ALLOWED, "Give the notebook alone, and the records beside it: records=...")
    return tuple({record.id: record for record in records_of(what, ALLOWED)}.values())


def _exploration(what: Any) -> Exploration | None:
    """The search that the records come from, where it is given whole."""
    if isinstance(what, str | Path):
        return read_exploration(what)
    return what if isinstance(what, Exploration) else None


def _described(model: Any, records: tuple[Record, ...]) -> Any:
    """What describes the base: as given, its own record, or a config that lies where the records began; None where none is found."""
    for record in records:
        if model is None and not record.recipe.steps and record.profile is not None and record.profile.architecture is not None:
            return record
    sources = {record.checkpoint.source for record in records}
    source = model if isinstance(model, str) else sources.pop() if model is None and len(sources) == 1 else None
    if source is None or (Path(os.path.expanduser(source)) / "config.json").is_file():
        return model if source is None else Path(os.path.expanduser(source))
    from effkit.models.default import BUILT_IN, built_in_config

    if source not in BUILT_IN:
        return model
    try:
        return built_in_config(source)
    except EffkitError:
        if model is not None:
            raise
        return None


def _sensitivity(given: Any) -> Sensitivity | None:
    if given is None or isinstance(given, Sensitivity):
        return given
    if not isinstance(given, str | Path):
        raise BadInput(f"the sensitivity is a {type(given).__name__}", "Allowed: what ek.sensitivity returns, or a JSON file of it")
    try:
        return Sensitivity.model_validate_json(Path(os.path.expanduser(given)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{str(given)!r} is not a sensitivity ({str(error).splitlines()[0]})",
            "Allowed: a JSON file of one",
            "ek.sensitivity(model).model_dump_json() gives its text",
        ) from None


def _title(records: tuple[Record, ...]) -> str:
    from effkit.spec.places import short_name

    bases = list(dict.fromkeys(short_name(record.checkpoint.source) for record in records))
    if not bases:
        return "What each choice costs and keeps"
    return f"{bases[0]}: what each choice costs and keeps" if len(bases) == 1 else f"{len(bases)} models: what each choice costs and keeps"
