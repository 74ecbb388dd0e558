"""share of a notebook: nothing of it runs, saved cards bring their data alone, and a copy is put right for GitHub."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import nbformat
import pytest

import effkit as ek
from effkit.lab.pages.notebook import STATE, VIEW, body_of, repaired
from effkit.lab.pages.parts import all_cards
from effkit.lab.pages.writing import place
from effkit.spec.errors import BadInput

from .records import BASE, family, record
from .tags import Tags, rendered

NOTEBOOKS = sorted((Path(__file__).resolve().parents[3] / "notebooks").glob("*.ipynb"))


def notebook(*cells, widgets=None):
    made = nbformat.v4.new_notebook(cells=list(cells))
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    if widgets is not None:
        made.metadata["widgets"] = widgets
    return json.loads(nbformat.writes(made))


def code_cell(data, source="x = '<b>'"):
    return nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("display_data", data=data)])


def html_of(*cells, widgets=None) -> tuple[Tags, str]:
    text, _ = body_of(notebook(*cells, widgets=widgets), all_cards(), place)
    return Tags(text), text


def test_nothing_of_a_notebook_runs_or_asks():
    attacks = [
        "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "<img src='http://example.com/a.png' alt='a'>",
        "<a href='javascript:window.pwned=1'>x</a>", "<iframe src='http://example.com'></iframe>",
        "<form action='http://example.com'><input></form>",
        "<div style=\"background:url(http://example.com/x)\">x</div>", "<svg><script>window.pwned=1</script></svg>",
        "<base href='http://example.com'>",
        "<link rel=stylesheet href='http://example.com/x.css'>", "<meta http-equiv=refresh content='0;url=http://example.com'>",
        "<div class='ek-mount' data-card='0' id='ek-cards'>x</div>", "<object data='http://example.com'></object>",
        "<math><mi xlink:href='javascript:1'>",
    ]  # fmt: skip
    cells = [nbformat.v4.new_markdown_cell(f"# Title \u202e\n\n{attack}") for attack in attacks]
    cells += [code_cell({"text/html": attack, "text/plain": "x"}) for attack in attacks]
    cells += [code_cell({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='window.pwned=1'></svg>"})]
    cells += [code_cell({"application/javascript": "window.pwned=1", "text/plain": "x"})]
    cells += [
        nbformat.v4.new_code_cell(
            "1", outputs=[nbformat.v4.new_output("stream", text="\x1b[31mred\x1b[0m </pre><script>window.pwned=1</script>")]
        )
    ]
    found, text = html_of(*cells)
    for tag in ("script", "iframe", "form", "style", "link", "meta", "base", "object", "embed"):
        assert found.count(tag) == 0, tag
    for _, attrs in found.tags:
        assert not any(name.startswith("on") or name.startswith("data-") for name in attrs), attrs
        assert "url(" not in (attrs.get("style") or "")
        assert (attrs.get("src") or "data:image/").startswith("data:image/")
        assert (attrs.get("href") or "#").startswith(("#", "http"))
        assert not (attrs.get("id") or "").startswith("ek-")
        assert "ek-mount" not in (attrs.get("class") or "")
    assert "\u202e" not in text
    assert "red" in found.text


def states_of(*kinds: str) -> dict:
    state = {"config": {"models": []}, "_esm": "window.pwned = 1", "_css": "body{display:none}", "problem": {}}
    return {
        STATE: {
            "version_major": 2, "version_minor": 0,
            "state": {
                f"m{i}": {"model_name": "AnyModel", "model_module": "anywidget", "state": {**state, "_anywidget_id": kind}}
                for i, kind in enumerate(kinds)
            },
        }
    }  # fmt: skip


def test_a_saved_card_brings_its_data_and_never_its_script():
    cells = [code_cell({VIEW: {"model_id": f"m{i}"}, "text/plain": f"words {i}"}) for i in range(3)]
    cells.append(code_cell({VIEW: {"model_id": "m0"}, "text/plain": "again"}))
    widgets = states_of("effkit_widgets.byte_ledger.ByteLedger", "somebody.else.Chart", "effkit_widgets._base.Card")
    text, cards = body_of(notebook(*cells, widgets=widgets), all_cards(), place, first=4)
    assert [card.widget for card in cards] == ["ByteLedger"]
    assert "_esm" not in cards[0].state
    assert text.count('data-card="4"') == 2, "two views of one card share it"
    assert "pwned" not in text
    assert "words 1" in text, "a widget of another package stays in words"


def test_buffers_of_a_saved_card_are_put_back():
    widgets = states_of("effkit_widgets.run_monitor.RunMonitor")
    saved = widgets[STATE]["state"]["m0"]
    saved["state"] |= {"history": {"epoch": 1, "curves": {"loss": {}}}, "state": {"name": "done", "folder": "/home/somebody"}}
    saved["buffers"] = [
        {"data": base64.b64encode(b"12345678").decode(), "path": ["history", "curves", "loss", "x"], "encoding": "base64"},
        {"data": "!", "path": ["history", "nowhere", 3], "encoding": "base64"},
    ]
    _, (card,) = body_of(notebook(code_cell({VIEW: {"model_id": "m0"}}), widgets=widgets), all_cards(), place)
    assert card.state["history"]["curves"]["loss"] == {"x": b"12345678"}
    assert "folder" not in card.state["state"], "where a run lay is nobody's business"


@pytest.mark.parametrize(
    ("widgets", "kept", "said"),
    [
        ({STATE: {"m0": {"model_name": "A", "state": {}}, "version_major": 2}}, ["m0"], "1 widgets stood beside the key 'state'"),
        ({"m0": {"model_name": "A", "state": {}}}, ["m0"], "1 widgets stood beside"),
        ({"state": {"m0": {"model_name": "A", "state": {}}}, "version": "1"}, ["m0"], "1 widgets stood beside"),
        ({STATE: {}}, None, "held no state of any widget"),
        ({}, None, "held no state of any widget"),
        (None, None, None),
        (states_of("x.Y"), ["m0"], None),
    ],
)
def test_a_notebook_is_put_right_so_that_nbconvert_and_github_read_it(widgets, kept, said):
    from nbconvert import HTMLExporter

    given = notebook(code_cell({VIEW: {"model_id": "m0"}, "text/plain": "words"}), widgets=widgets)
    if said is not None:
        with pytest.raises(KeyError):  # what GitHub tells as "the 'state' key is missing from 'metadata.widgets'"
            HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(given), as_version=4))
    before = json.dumps(given)
    made, sentences = repaired(given)
    assert json.dumps(given) == before, "the notebook that was given is left as it was"
    assert [said in sentences[0]] == [True] if said else sentences == []
    states = made["metadata"].get("widgets", {}).get(STATE, {}).get("state")
    assert (None if states is None else list(states)) == kept
    HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(made), as_version=4))
    nbformat.validate(made)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebooks_open_on_github_and_so_do_copies_of_them(path, tmp_path):
    committed = json.loads(path.read_text(encoding="utf-8"))
    cards = rendered(committed)
    assert cards >= 1
    done = ek.share(path, tmp_path / "copy.ipynb")
    assert done.notes == (), "nothing was wrong with it, and its code names no folder of the machine that it was made on"
    copy = json.loads(done.path.read_text(encoding="utf-8"))
    assert rendered(copy) == cards
    assert copy["cells"] == committed["cells"]


def test_a_notebook_becomes_a_page_and_a_copy_for_github(tmp_path):
    source = tmp_path / "lesson.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# A *lesson* `x`\n\nprose"), code_cell({VIEW: {"model_id": "m0"}, "text/plain": "words"})]
    saved = states_of("effkit_widgets.byte_ledger.ByteLedger")
    broken = {STATE: saved[STATE]["state"]}
    source.write_text(json.dumps(notebook(*cells, widgets=broken)))
    done = ek.share(source, tmp_path / "lesson.html", records=[record("base", BASE)])
    assert (done.cards, done.records) == (("ByteLedger",), 1)
    text = done.path.read_text()
    assert "<title>A lesson x</title>" in text
    assert "Hide code" in text
    copied = ek.share(str(source), tmp_path / "copy.ipynb")
    assert "stood beside the key 'state'" in copied.notes[0]
    assert json.loads(copied.path.read_text())["metadata"]["widgets"][STATE]["state"].keys() == {"m0"}
    with pytest.raises(BadInput, match=r"ends in '\.ipynb'"):
        ek.share(family(), tmp_path / "records.ipynb")
    with pytest.raises(BadInput, match=r"title, records are given for a copy of a notebook.*Write a page \(.html\)"):
        ek.share(source, tmp_path / "other.ipynb", title="mine", records=family())
    assert not (tmp_path / "other.ipynb").exists()


def test_a_notebook_with_half_a_surrogate_pair_is_shared(tmp_path):
    source = tmp_path / "odd.ipynb"
    source.write_text(json.dumps(notebook(nbformat.v4.new_markdown_cell("# Half \ud83d of it"), nbformat.v4.new_code_cell("'\ud83d'"))))
    assert "Half  of it" in ek.share(source, tmp_path / "odd.html").path.read_text()
    copy = json.loads(ek.share(source, tmp_path / "copy.ipynb").path.read_text())
    assert copy["cells"] == json.loads(source.read_text())["cells"]


@pytest.mark.parametrize("name", ["page.html", "copy.ipynb"])
def test_outputs_of_a_shared_notebook_name_no_folder_and_prose_that_does_is_told(tmp_path, name):
    source, file = tmp_path / "lesson.ipynb", "/home/somebody/Project-Kestrel/notes.txt"
    outputs = [nbformat.v4.new_output("stream", text=f"read \x1b[32m{file}\x1b[0m")]
    outputs += [nbformat.v4.new_output("display_data", data={"text/html": f"<b>{file}</b>", "text/plain": file})]
    source.write_text(json.dumps(notebook(nbformat.v4.new_code_cell("read()", outputs=outputs))))
    done = ek.share(source, tmp_path / name)
    written = done.path.read_text()
    assert "Project-Kestrel" not in written
    assert "somebody" not in written
    assert "notes.txt" in written
    assert not done.notes
    source.write_text(json.dumps(notebook(nbformat.v4.new_code_cell(f"read('{file}')", outputs=outputs))))
    assert "cell 1 of the notebook names a folder" in " ".join(ek.share(source, tmp_path / name).notes)
