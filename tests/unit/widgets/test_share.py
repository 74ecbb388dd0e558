"""share: one file of escaped text, a policy of hashes, no address; its records come out again."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import effkit as ek
from effkit.lab.pages import parts
from effkit.lab.pages.parts import Grid, Shown, Story, Table, all_cards
from effkit.lab.pages.safe import cleaned, packed, policy
from effkit.lab.records.exchange import read_records
from effkit.spec.errors import BadInput, CannotWrite, Unavailable
from effkit.spec.exploration import Exploration, Trial
from effkit.spec.sharing import shareable
from effkit.spec.visible import visible
from effkit_widgets._base import STATIC

from .records import family, record
from .tags import HOSTILE, Tags
from .test_kit import NODE, needs_node


def hostile() -> list:
    records = family()
    return [one.model_copy(update={"name": f"{one.name} {HOSTILE}"}) for one in records]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page whose every name is an attack, with a title that is one too."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    ek.share(hostile(), path, title=HOSTILE, introduction=HOSTILE, licence=HOSTILE, citations=[HOSTILE])
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory):
    """The same page with plain names."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    ek.share(family(), path, title="plain", introduction="plain")
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
    done = subprocess.run([NODE, "--input-type=module"], input=code, capture_output=True, text=True, timeout=280)
    assert json.loads(done.stdout) == answers, done.stderr


def test_packed_data_cannot_end_a_script():
    text = packed({"name": "</script><script>alert(1)</script>"})
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    assert text == packed({"name": "</script><script>alert(1)</script>"}), "the same data gives the same text"


def test_hostile_names_become_text_and_nothing_else(page, plain_page):
    found, plain = Tags(page), Tags(plain_page)
    for tag in ("script", "img", "svg", "b", "iframe", "style", "meta"):
        assert found.count(tag) == plain.count(tag), tag
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert "<b>bold</b>" in found.text, "the name is shown as it is written"
    assert "[U+202E]gnp.exe" in found.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", page)


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
        ([1], "page.html", "a int is among the records"),
        (3.5, "page.html", "a float holds no records"),
        (str(tmp_path / "none.json"), "page.html", "there is no file"),
        (["lesson.ipynb", "records.json"], "page.html", "a notebook is among the records"),
        (family(), "x" * 250 + ".html", "the name is too long"),
    ):
        with pytest.raises((BadInput, CannotWrite), match=words):
            ek.share(what, tmp_path / path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(CannotWrite, match=r"it is a folder\. Choose another name"):
        ek.share(family(), tmp_path / "folder.html")


def test_what_has_no_place_on_the_page_is_refused_and_not_forgotten(tmp_path):
    import ipywidgets

    import effkit_widgets

    for given, words in (
        ({"records": family()[:1]}, "records is given beside records"),
        ({"cards": [ipywidgets.IntSlider()]}, "a IntSlider is among the cards"),
        ({"cards": [family()[0]]}, "a Record is among the cards"),
        ({"cards": 3}, "the cards are a int"),
    ):
        with pytest.raises(BadInput, match=words):
            ek.share(family(), tmp_path / "page.html", **given)
    assert list(tmp_path.iterdir()) == []
    done = ek.share(family(), tmp_path / "page.html", cards=effkit_widgets.FrontierBoard(family()))
    assert done.cards[-1] == "FrontierBoard"


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
    assert read_records(done.path) == tuple(shareable(one) for one in records)


def test_without_the_widgets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "effkit_widgets", None)
    for name in [name for name in sys.modules if name.startswith("effkit_widgets.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Unavailable, match=r"effkit_widgets is not installed. pip install effkit brings them"):
        all_cards()


class Others:
    """Cards of another package: one of a class of its own."""

    def story(self, material):
        own = [Shown("OtherChart", "Of another package", {"n": len(material.records)}, table=Table("n", ("n",), (("5",),)))]
        return Story(own + [Shown("OtherChart", "A live one", card.get_state()) for card in material.cards], ["why not"])

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
    live = type("OtherChart", (), {"get_state": lambda self: {"live": True}})()
    assert ek.share(family(), tmp_path / "page.html", cards=[live]).cards[-2:] == ("OtherChart", "OtherChart")


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout.strip() == "[]"


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
    ek.write_records(hostile(), tmp_path / "hostile.json")
    assert main(["replay", str(tmp_path / "hostile.json"), "--record", "nobody"]) == 2
    said = capsys.readouterr().err
    assert "[U+202E]gnp.exe" in said
    assert not re.search("[\x1b\u202a-\u202e\u2066-\u2069]", said), "a name that steers the terminal"
    assert main(["share", str(out), "--records", str(out), "--out", str(out)]) == 2
    assert "records is given beside records" in capsys.readouterr().err
