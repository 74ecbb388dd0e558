"""An attack to name things by, and what a browser would make of a page that shows it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import nbformat

HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'><svg onload=window.pwned=1> "
    '\u202egnp.exe\u2066 \x1b[31mred\x1b[0m \x1b]8;;http://example.com\x07link\x1b]8;;\x07 & "quoted" <!-- <b>bold</b> javascript:alert(1)'
)


class Tags(HTMLParser):
    """What a browser would make of a page: tags with attributes, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.skip = "", 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self.skip else data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def rendered(notebook: dict) -> int:
    """How many cards nbconvert draws of a saved notebook, after all that GitHub asks of one: it is valid, its widgets have the key
    'state', every card that an output shows is in it, and the whole page is made with their states inside."""
    from nbconvert import HTMLExporter

    nbformat.validate(notebook)
    kind = "application/vnd.jupyter.widget-{}+json"
    states = notebook["metadata"]["widgets"][kind.format("state")]["state"]
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    shown = [data[kind.format("view")]["model_id"] for output in outputs if kind.format("view") in (data := output.get("data", {}))]
    assert set(shown) <= states.keys()
    page, _ = HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(notebook), as_version=4))
    found = re.findall(rf'<script type="{re.escape(kind.format("state"))}">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    assert json.loads(found[0])["state"].keys() == states.keys()
    assert page.count(f'<script type="{kind.format("view")}">') == len(shown)
    return len(set(shown))
