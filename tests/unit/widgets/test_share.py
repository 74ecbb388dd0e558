"""share: one file of escaped text, a policy of hashes, no address; its records come out again; notebooks lose what could run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

import effkit as ek
from effkit.lab.exchange import read_records
from effkit.lab.pages import parts
from effkit.lab.pages.notebook import STATE, VIEW, body_of, repaired
from effkit.lab.pages.parts import Grid, Shown, Story, Table, all_cards
from effkit.lab.pages.safe import cleaned, packed, policy, visible
from effkit.lab.pages.writing import place
from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.exploration import Exploration, Trial
from effkit_widgets._base import STATIC

from .records import BASE, family, record
from .test_kit import NODE, needs_node

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


def hostile() -> list:
    records = family()
    return [one.model_copy(update={"name": f"{one.name} {HOSTILE}"}) for one in records]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page whose every name is an attack, with a title that is one too."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    ek.share(hostile(), path, title=HOSTILE, introduction=HOSTILE, licence=HOSTILE, citations=[HOSTILE])
    return path.read_text(encoding="utf-8")


def test_what_misleads_is_shown_or_gone():
    assert visible("a\u202eb\u2066c\u200fd") == "a[U+202E]b[U+2066]c[U+200F]d"
    assert visible("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07\x9b2Kx\x00\x08") == "red linkx"
    assert visible("plain ünïcode 日本語 עברית\n\ttab") == "plain ünïcode 日本語 עברית\n\ttab"
    assert cleaned({"a\u202e": ["\x1b[0mx", b"\x00\xff", float("nan"), None, 1]}) == {"a[U+202E]": ["x", {"$bytes": "AP8="}, None, None, 1]}


@needs_node
def test_answers_by_column_are_the_answers():
    answers = [{"a": [1, None, {"b": []}], "c": "x"}, {"a": [2], "c": None, "d": {}}, {"a": [], "c": "<b>"}]
    grid = Grid({"n": [1, 2, 3]}, answers)
    source = (Path(parts.__file__).parent / "page.js").read_text().partition("// one answer")[2].partition("// --- a model")[0]
    code = f"// {source}\nconsole.log(JSON.stringify([0, 1, 2].map((at) => answerAt({json.dumps(grid.columns())}, at))))"
    done = subprocess.run([NODE, "--input-type=module"], input=code, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == answers, done.stderr


def test_packed_data_cannot_end_a_script():
    text = packed({"name": "</script><script>alert(1)</script>"})
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    assert text == packed({"name": "</script><script>alert(1)</script>"}), "the same data gives the same text"


def test_hostile_names_become_text_and_nothing_else(page):
    found = Tags(page)
    plain = Tags(ek_page_of_plain_names())
    for tag in ("script", "img", "svg", "b", "iframe", "style", "meta"):
        assert found.count(tag) == plain.count(tag), tag
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert "<b>bold</b>" in found.text, "the name is shown as it is written"
    assert "[U+202E]gnp.exe" in found.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", page)


def ek_page_of_plain_names(tmp=[]) -> str:  # noqa: B006 - made once
    if not tmp:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            ek.share(family(), Path(folder, "page.html"), title="plain", introduction="plain")
            tmp.append(Path(folder, "page.html").read_text(encoding="utf-8"))
    return tmp[0]


def test_the_policy_names_the_scripts_and_styles_by_their_hash(page):
    told = Tags(page)
    given = next(attrs["content"] for tag, attrs in told.tags if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in given.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in rules["script-src"] + rules["style-src"]
    for tag, rule in (('script type="module"', "script-src"), ("style", "style-src")):
        body = re.search(rf"<{tag}>(.*?)</{tag.split()[0]}>", page, re.DOTALL)
        assert body is not None
        assert f"'sha256-{base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()}'" == rules[rule]
    assert policy([], []).count("'none'") == 5


def test_a_page_names_no_address(page):
    asked = [value for tag, attrs in Tags(page).tags if tag != "a" for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert asked == []
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_everything_is_readable_without_a_script(page):
    told = Tags(page)
    assert told.count("table") >= 4
    records = family()
    for one in records:
        assert one.name in told.text
        assert one.recipe.hash() in told.text
    assert "recorded on cpu (toy)" in told.text
    assert f"{records[1].quality.perplexity_ratio.value:.3g}"[:4] in told.text


def test_records_come_out_of_the_page_as_they_went_in(tmp_path):
    records = hostile()
    done = ek.share(records, tmp_path / "page.html")
    assert read_records(done.path) == tuple(records)
    assert (done.records, done.bytes) == (5, done.path.stat().st_size)
    cut = tmp_path / "cut.html"
    cut.write_text(done.path.read_text().replace('id="ek-records">H4', 'id="ek-records">I4'))
    with pytest.raises(BadInput, match=r"the records in 'cut\.html' are damaged"):
        read_records(cut)
    empty = tmp_path / "empty.html"
    empty.write_text("<p>nothing</p>")
    with pytest.raises(BadInput, match=r"the page 'empty\.html' holds no records"):
        read_records(empty)


def test_what_cannot_be_shared_is_said(tmp_path):
    for what, path, words in (
        ([], "page.html", "there is nothing to show"),
        (family(), "page.pdf", "the file 'page.pdf' ends in '.pdf'"),
        ([1], "page.html", "a int is among what is to be shared"),
        (3.5, "page.html", "a float is to be shared"),
        (str(tmp_path / "none.json"), "page.html", "there is no file"),
    ):
        with pytest.raises(BadInput, match=words):
            ek.share(what, tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_says_which_figures_it_lacks_and_why(tmp_path):
    other = record("other text", family()[1].recipe, 300_000, 0.95)
    other = other.model_copy(update={"quality": other.quality.model_copy(update={"text": "another"})})
    done = ek.share([record("base"), other], tmp_path / "page.html")
    assert "CostCard" not in done.cards
    assert any("What is kept and what it costs" in note for note in done.notes)
    assert "What is not here" in Tags(done.path.read_text()).text


def test_a_search_is_shown_with_what_failed_in_it(tmp_path):
    base, *made = family()
    trials = [
        Trial(number=i, label=one.name, draft={}, recipe=one.recipe, state="done", values=(1.0, 1.0), record=one)
        for i, one in enumerate(made)
    ]
    trials.append(Trial(number=9, label="too deep", draft={}, state="failed", reason="the <b>layer</b> is not there"))
    found = Exploration(objectives=("bytes", "retained"), base=base, trials=tuple(trials))
    (tmp_path / "exploration.json").write_text(found.to_json())
    for what in (found, tmp_path, tmp_path / "exploration.json"):
        done = ek.share(what, tmp_path / "page.html")
        assert read_records(done.path) == found.records
        text = Tags(done.path.read_text()).text
        assert "failed: the <b>layer</b> is not there" in text
        assert "measured" in text


def test_the_shape_of_the_base_is_found_where_the_records_say(tmp_path, tiny_llama_folder):
    began = {"source": str(tiny_llama_folder)}
    records = [one.model_copy(update={"checkpoint": one.checkpoint.model_copy(update=began)}) for one in family()]
    assert {"Roofline", "StackCompare"} <= set(ek.share(records, tmp_path / "page.html").cards)
    base, *made = family()
    base = base.model_copy(
        update={"profile": base.profile.model_copy(update={"architecture": ek.architecture(tiny_llama_folder).to_dict()})}
    )
    assert "Roofline" in ek.share([base, *made], tmp_path / "page.html").cards
    done = ek.share(family(), tmp_path / "page.html")
    assert "Roofline" not in done.cards
    assert any("the base's shape is not known here" in note for note in done.notes)


def test_the_folders_of_the_author_are_not_on_the_page(tmp_path):
    folder = "/home/somebody/models/mine"
    records = [one.model_copy(update={"checkpoint": one.checkpoint.model_copy(update={"source": folder})}) for one in family()]
    done = ek.share(records, tmp_path / "page.html")
    text = done.path.read_text()
    (data,) = re.findall(r'id="ek-cards">([A-Za-z0-9+/=]+)<', text)
    assert "somebody" not in text
    assert "somebody" not in gzip.decompress(base64.b64decode(data)).decode()
    assert read_records(done.path) == tuple(records), "the records are whole: a replay on the author's machine finds its base"


def test_without_the_widgets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "effkit_widgets", None)
    for name in [name for name in sys.modules if name.startswith("effkit_widgets.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Unavailable, match=r"effkit_widgets is not installed. pip install effkit brings them"):
        all_cards()


class Others:
    """Cards of another package: one of a class of its own."""

    def story(self, material):
        return Story(
            [Shown("OtherChart", "Of another package", {"n": len(material.records)}, table=Table("n", ("n",), (("5",),)))], ["why not"]
        )

    def restored(self, kind, state):
        return Shown("OtherChart", "Another", dict(state)) if kind == "other.Chart" else None

    def owns(self, widget):
        return widget == "OtherChart"

    def program(self, widgets):
        return "EFFKIT_CARDS.OtherChart = { render() {} };" if list(widgets) else ""

    def style(self, widgets):
        return ""

    def colours(self, theme):
        raise AssertionError("the page's colours are effkit's")


def test_cards_of_another_package_come_in_by_the_same_door(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "OTHERS", Others(), raising=False)
    monkeypatch.setattr("effkit.lab.pages.parts.table", lambda group, own: {"others": f"{__name__}:OTHERS", **own})
    done = ek.share(family(), tmp_path / "page.html")
    assert done.cards[0] == "FrontierExplorer"
    assert done.cards[-1] == "OtherChart"
    assert "why not" in done.notes
    assert "EFFKIT_CARDS.OtherChart = { render() {} };" in done.path.read_text()
    assert all_cards().restored("other.Chart", {"a": 1}).widget == "OtherChart"


def test_each_card_finds_its_sheets_in_the_order_that_it_has_alone():
    import effkit_widgets

    names = effkit_widgets.__all__
    whole = all_cards().style(names)
    for name in names:
        own = str(getattr(effkit_widgets, name)._css)
        sheets = [text for path in STATIC.glob("*.css") if (text := path.read_text()) in own]
        assert sorted(sheets, key=own.index) == sorted(sheets, key=whole.index), name
        assert all(whole.count(text) == 1 for text in sheets)


def test_share_imports_no_widget_until_it_is_called():
    code = (
        "import sys, effkit.lab.share; print([m for m in sys.modules if m.startswith(('effkit_widgets', 'torch', 'nbconvert', 'jinja2'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


# notebooks


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


def test_the_command_shares_and_replays_name_one_record(tmp_path, capsys):
    from effkit.cli import main

    ek.write_records(family(), tmp_path / "records.json")
    out = tmp_path / "page.html"
    assert main(["share", str(tmp_path / "records.json"), "--out", str(out), "--title", "T", "--cite", "A work"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["records"], told["path"]) == (5, str(out))
    assert "A work" in out.read_text()
    assert main(["replay", str(out)]) == 2
    assert "holds 5 records" in capsys.readouterr().err
    assert main(["replay", str(out), "--record", "nobody"]) == 2
    assert "none of the records" in capsys.readouterr().err
