"""What is written about effkit is true: the reference builds without a warning, and the pages name what is there."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_harness import module
from test_house import LIBRARY, MODULES, ROOT, SURFACE

docs = module("tools/build_docs.py")
TEXTS = ("README.md", "CONTRIBUTING.md")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The API reference, built as `make docs` builds it, in a process of its own: any warning of pdoc's fails it."""
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run([sys.executable, "tools/build_docs.py", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_public_name_has_a_place_in_the_reference(reference):
    import effkit

    page = (reference / "effkit.html").read_text(encoding="utf-8")
    assert [name for name in SURFACE if f'id="{name}"' not in page] == []
    words = re.sub(r"\W+", "", html.unescape(re.sub("<[^>]+>", "", page)))
    first = {name: getattr(effkit, name).__doc__.strip().partition("\n")[0] for name in SURFACE}
    assert [name for name, line in first.items() if re.sub(r"\W+", "", line) not in words] == []
    assert [door for door in docs.DOORS if not (reference / f"{door.replace('.', '/')}.html").exists()] == []


class Asked(HTMLParser):
    """The addresses that a page asks by itself; a link that a reader may follow is none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            asked = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
            self.found += [value for value in asked if not value.startswith("data:")]


def asked(page: str) -> list[str]:
    parser = Asked()
    parser.feed(page)
    styles = re.findall(r"@import[^;]+;|url\(\s*['\"]?(?!data:|['\"]?#)[^)]+\)", page)
    return [address for address in [*parser.found, *styles] if re.search(r"(^|['\"(\s])(https?:)?//", address)]


def test_no_page_asks_an_address(reference):
    pages = sorted(reference.rglob("*.html"))
    assert len(pages) >= len(docs.PACKAGES) + len(docs.DOORS)
    assert {page.name: found for page in pages if (found := asked(page.read_text(encoding="utf-8")))} == {}
    assert asked('<script src="https://cdn.example/x.js"></script><a href="https://example.org">') == ["https://cdn.example/x.js"]
    assert asked('<link href="//fonts.example/a.css"><style>@import "https://x.example";</style>') != []
    machine = re.compile(r"\b0x[0-9a-f]{6,}\b|" + re.escape(str(ROOT)))
    assert [page.name for page in pages if machine.search(page.read_text(encoding="utf-8"))] == []


def test_a_public_name_without_a_docstring_is_found(monkeypatch):
    import effkit

    class Bare:
        def method(self) -> None: ...

    monkeypatch.setattr(effkit, "Model", Bare)
    assert {"effkit.Model", "effkit.Model.method"} <= set(docs.undocumented("effkit"))


@pytest.mark.parametrize("text", TEXTS)
def test_the_paths_that_a_text_names_are_there(text):
    content = (ROOT / text).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.:-])((?:effkit|widgets|notebooks|data|tests|tools|docs)/[\w./-]*\w)", content))
    assert len(named) > 5
    assert [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()] == []


def test_the_map_of_the_house_names_every_room():
    content = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^  (\w+)/ ", content, re.MULTILINE)
    assert sorted(rooms) == sorted(path.name for path in LIBRARY.iterdir() if path.is_dir() and (path / "__init__.py").exists())
    folders = re.findall(r"^(\w+)/ ", content, re.MULTILINE)
    assert set(folders) == {"effkit", "widgets", "notebooks", "data", "docs", "tests", "tools"}


def test_the_tour_names_every_notebook():
    content = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"notebooks/(\w+)\.ipynb", content))
    assert named == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_contributing_names_every_entry_point_group_and_is_short():
    content = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    groups = {group for path in MODULES for group in re.findall(r'table\("(effkit\.\w+)"', path.read_text(encoding="utf-8"))}
    assert groups == {"effkit.methods", "effkit.exporters", "effkit.engines", "effkit.datasets", "effkit.storage", "effkit.pages"}
    assert [group for group in sorted(groups) if f"`{group}`" not in content] == []
    places = content.partition("\n### ")[2].partition("\n## ")[0]
    sections = {part.partition("\n")[0]: part.splitlines()[1:] for part in places.split("\n### ")}
    assert len(sections) == 8
    assert {title: count for title, lines in sections.items() if not 1 < (count := len(lines)) < 10} == {}


def test_the_tools_of_the_reference_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(name.startswith("pdoc") for name in project["optional-dependencies"]["test"])
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "\npdoc==" in pinned
    assert "\nmarkdown2==" in pinned
