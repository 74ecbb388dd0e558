"""A notebook as the body of a page: its prose, code and outputs by nbconvert, its cards from the states that it was saved with.

What a notebook holds may come from anyone, so none of its scripts is kept, also not those that it saved for its widgets: a card is
drawn by the installed package's own script, and only its data is the notebook's. Markup passes bleach with the list of tags below
(nbconvert's own list knows neither paragraphs nor headings), without any address that a browser would ask by itself and without the
names that the page uses.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, Unavailable, bytes_text
from effkit.spec.files import levels, parsed
from effkit.spec.sharing import without_folders
from effkit.spec.visible import ANSI, visible

from .parts import Cards, Shown

STATE, VIEW = "application/vnd.jupyter.widget-state+json", "application/vnd.jupyter.widget-view+json"
LIMIT = 200_000_000  # bytes of a notebook
PROGRAMS = ("image/", "application/javascript", "_esm", "_css")  # outputs and traits that are no sentences
GONE = ("script", "style", "link", "meta", "base", "iframe", "object", "embed", "frame", "template", "noscript", "svg", "math", "textarea")
TAGS = {
    "a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "col", "colgroup", "dd", "del", "details", "dfn", "div", "dl",
    "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark", "ol", "p",
    "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "time",
    "tr", "u", "ul", "var", "wbr",
}  # fmt: skip
PLAIN = {
    "class", "id", "title", "alt", "width", "height", "colspan", "rowspan", "scope", "align", "lang", "dir", "start", "style", "open",
}  # fmt: skip
STYLES = (
    "color",
    "background-color",
    "font-weight",
    "font-style",
    "text-align",
    "text-decoration",
    "width",
    "height",
    "border",
    "padding",
    "margin",
)


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook at `path` as plain JSON. BadInput where there is none."""
    if not path.is_file():
        raise BadInput(f"there is no file {str(path)!r}", "Allowed: a notebook (.ipynb), records", "Check the path")
    if path.stat().st_size > LIMIT:
        raise BadInput(f"{path.name} has {bytes_text(path.stat().st_size)}", f"Allowed: notebooks of at most {bytes_text(LIMIT)}")
    try:
        found = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path.name} is not a notebook ({error})", "Allowed: a saved Jupyter notebook, format 4") from None
    for _ in levels(found, path.name):
        pass  # what follows recurses
    if not isinstance(found, dict) or found.get("nbformat") != 4 or not _has_cells(found):
        raise BadInput(
            f"{path.name} is not a notebook of format 4", "Allowed: a saved Jupyter notebook, format 4", "Save it again in JupyterLab"
        )
    return found


def _has_cells(notebook: Mapping[str, Any]) -> bool:
    """Whether its parts are of the kinds that the format gives them."""
    cells, metadata = notebook.get("cells"), notebook.get("metadata", {})
    if not isinstance(cells, list) or not all(isinstance(part, dict) for part in (metadata, *cells)):
        return False
    outputs = [cell.get("outputs", []) for cell in cells]
    return all(isinstance(several, list) and all(isinstance(one, dict) for one in several) for several in outputs)


def repaired(notebook: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A copy whose widget metadata GitHub and nbconvert can read, and what was put right, in sentences; [] where nothing was wrong.

    nbconvert reads metadata.widgets[STATE]["state"] and fails with "the 'state' key is missing from 'metadata.widgets'" where a
    program has saved the models beside that key, or nothing at all (jupyter/nbconvert, WidgetsDataTypeFilter).
    """
    made, said = copy.deepcopy(dict(notebook)), []
    metadata = made.setdefault("metadata", {})
    if "widgets" not in metadata:
        return made, said
    widgets = metadata["widgets"]
    saved = widgets.get(STATE) if isinstance(widgets, Mapping) else None
    if isinstance(saved, Mapping) and isinstance(saved.get("state"), Mapping):
        return made, said
    models = {}
    for place in (saved, widgets):
        if isinstance(place, Mapping) and isinstance(place.get("state"), Mapping):
            models = place["state"]  # as ipywidgets 6 saved it
            break
        if isinstance(place, Mapping) and (found := {key: value for key, value in place.items() if _is_model(value)}):
            models = found  # as some programs save it: without the key that names them
            break
    if models:
        metadata["widgets"] = {STATE: {"state": dict(models), "version_major": 2, "version_minor": 0}}
        said.append(f"the states of {len(models)} widgets stood beside the key 'state', and now stand under it")
    else:
        del metadata["widgets"]
        said.append("metadata.widgets held no state of any widget, and was taken out")
    return made, said


def placeless(notebook: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A copy whose outputs, widgets and metadata name no folder of the author's machine. Prose and code are the author's own words:
    they stay, and a sentence says which cells name one."""
    made = copy.deepcopy(dict(notebook))
    made["metadata"] = _placeless(made.get("metadata", {}))
    named = []
    for number, cell in enumerate(made["cells"], 1):
        for field in ("outputs", "metadata"):
            if field in cell:
                cell[field] = _placeless(cell[field])
        source = _text(cell.get("source"))
        if without_folders(source) != source:
            named.append(number)
    if not named:
        return made, []
    which = f"cell{'s' if len(named) > 1 else ''} {', '.join(map(str, named[:10]))}{' and more' if len(named) > 10 else ''}"
    told = "name a folder of your machine, in your own words: they are as you wrote them"
    told = told if len(named) > 1 else "names a folder of your machine, in your own words: it is as you wrote it"
    return made, [f"{which} of the notebook {told}"]


def _placeless(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        if key.startswith(PROGRAMS):
            return value
        parts = re.split(f"({ANSI.pattern})", value)  # a path in a traceback follows a colour's code
        return "".join(part if i % 2 else without_folders(part) for i, part in enumerate(parts))
    if isinstance(value, Mapping):
        binary = value.get("encoding") in ("base64", "hex")
        return {k: v if binary and k == "data" else _placeless(v, k) for k, v in value.items()}
    return [_placeless(v, key) for v in value] if isinstance(value, list) else value


def _is_model(value: Any) -> bool:
    return isinstance(value, Mapping) and "model_name" in value and "state" in value


def title_of(notebook: Mapping[str, Any], instead: str) -> str:
    """The first heading of the prose."""
    for cell in notebook["cells"]:
        if cell.get("cell_type") == "markdown":
            found = re.search(r"^#{1,3}\s+(.+?)\s*#*$", _text(cell.get("source")), re.MULTILINE)
            if found:
                return visible(re.sub(r"[*_`]|<[^>]*>", "", found[1]))
    return instead


def without_heading(body: str) -> str:
    """The body without its first heading, which `title_of` found."""
    return re.sub(r"<h[123]\b[^>]*>.*?</h[123]>", "", body, count=1, flags=re.DOTALL)


def has_code(notebook: Mapping[str, Any]) -> bool:
    return any(cell.get("cell_type") == "code" and _text(cell.get("source")).strip() for cell in notebook["cells"])


def body_of(notebook: Mapping[str, Any], drawn: Cards, mount: Any, first: int = 0) -> tuple[str, list[Shown]]:
    """The notebook's cells as HTML that may stand in the page, and the cards in it. What they say stays: see `placeless`.

    mount(number, card) -> HTML for the place of a card, which is numbered from `first`
    """
    made, secret = repaired(notebook)[0], secrets.token_hex(8)
    states = _states(made)
    cards: list[Shown] = []
    numbers: dict[str, int] = {}
    marks: dict[str, str] = {}
    made.get("metadata", {}).pop("widgets", None)
    for cell in made["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data")
            if not isinstance(data, dict):
                continue
            view = data.pop(VIEW, None)
            data.pop("application/javascript", None)
            if view is None:
                continue
            id = str(view.get("model_id", "")) if isinstance(view, Mapping) else ""
            if id not in numbers:
                card = drawn.restored(*states[id]) if id in states else None
                if card is None:
                    continue  # of another package, or saved without its state: its words stay
                numbers[id] = first + len(cards)
                cards.append(card)
            mark = f"ekmount{secret}x{len(marks)}x"
            marks[mark] = mount(numbers[id], cards[numbers[id] - first])
            output["data"] = {"text/html": f"<p>{mark}</p>"}
    html = _harmless(_exported(made))
    for mark, place in marks.items():
        html = html.replace(f"<p>{mark}</p>", place)
    return html, cards


def _exported(notebook: dict[str, Any]) -> str:
    """nbconvert's HTML of the cells, not yet clean."""
    try:
        import nbformat
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise Unavailable("a page of a notebook", f"{error.name} is not installed", "pip install nbconvert") from None
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    exporter.embed_images = False  # it would read files that the notebook names
    try:
        return exporter.from_notebook_node(nbformat.reads(json.dumps(notebook), as_version=4))[0]  # joins what was saved line by line
    except (KeyError, AttributeError, TypeError, ValueError, AssertionError, nbformat.ValidationError) as error:
        what = f"the notebook cannot be read ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
        raise BadInput(what, "Allowed: a saved Jupyter notebook", "Save it again in JupyterLab") from error


def _harmless(html: str) -> str:
    """Cells with the tags and attributes of prose alone, and with pictures that the notebook itself holds."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for tag in soup.find_all(GONE):
        tag.decompose()  # with what stands in it, which bleach would leave as text
    for tag in soup.find_all(True):
        if "id" in tag.attrs:
            tag.attrs["id"] = f"nb-{tag.attrs['id']}"
        if str(tag.attrs.get("href", "")).startswith("#"):
            tag.attrs["href"] = f"#nb-{tag.attrs['href'][1:]}"
        if "class" in tag.attrs:
            tag.attrs["class"] = " ".join(name for name in tag.get_attribute_list("class") if name and not name.startswith("ek-"))
        if tag.name == "img" and not _inside(tag.attrs.get("src")):
            tag.replace_with(f"[picture not included: {tag.attrs.get('alt') or tag.attrs.get('src') or 'without a name'}]")
    clean = bleach.clean(
        str(soup), tags=TAGS, attributes=_kept, protocols=("http", "https", "mailto", "data"), strip=True,
        css_sanitizer=CSSSanitizer(allowed_css_properties=STYLES),
    )  # fmt: skip
    # bleach writes attributes in double quotes, so that text outside tags is what is left to look at for what misleads the reader
    return re.sub(r"<pre(?=[ >])", '<pre tabindex="0"', visible(clean))  # a long line scrolls, also from the keyboard


def _kept(tag: str, name: str, value: str) -> bool:
    if name == "src":
        return tag == "img" and _inside(value)
    if name == "href":
        return tag == "a" and not value.strip().lower().startswith("data:")
    return name in PLAIN


def _inside(address: Any) -> bool:
    return bool(re.match(r"data:image/(png|jpeg|gif|webp|svg\+xml)[;,]", str(address or "").strip(), re.IGNORECASE))


def _states(notebook: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Of a `repaired` notebook: model id -> (what its class is called, its traits with their binary parts put back)."""
    models = notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    found = {}
    for id, model in models.items():
        state = model.get("state") if isinstance(model, Mapping) else None
        if isinstance(state, Mapping) and isinstance(state.get("_anywidget_id"), str):
            whole = copy.deepcopy(dict(state))
            buffers = model.get("buffers")
            for part in buffers if isinstance(buffers, list) else ():
                if isinstance(part, Mapping):
                    _put(whole, part)
            found[id] = (whole["_anywidget_id"], whole)
    return found


def _put(state: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Put a saved buffer where its path says; one that leads nowhere is left out, and the card says that something is missing."""
    import base64
    import binascii

    path, encoding = part.get("path"), part.get("encoding")
    if not isinstance(path, list) or not path or encoding not in ("base64", "hex"):
        return
    if not all(isinstance(step, str | int) for step in path):
        return
    try:
        raw = str(part.get("data", ""))
        data = base64.b64decode(raw) if encoding == "base64" else bytes.fromhex(raw)
    except (binascii.Error, ValueError):
        return
    place: Any = state
    for step in path[:-1]:
        try:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        except (IndexError, TypeError, KeyError):
            return
    if isinstance(place, dict) or (isinstance(place, list) and isinstance(path[-1], int) and 0 <= path[-1] < len(place)):
        place[path[-1]] = data


def _text(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")
