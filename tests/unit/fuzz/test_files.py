"""Files from anywhere: GGUF and safetensors heads, tables, crates. Read, or refused with what to do; never a blow-up of memory."""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from widgets.records import family

from effkit.lab.pages.notebook import STATE, VIEW, body_of, placeless, read_notebook, repaired, title_of
from effkit.lab.pages.parts import all_cards
from effkit.lab.pages.writing import place as mount
from effkit.lab.records.crate import METADATA, read_crate, write_crate
from effkit.lab.records.exchange import read_records
from effkit.lab.share import share
from effkit.models.files.folder import check_safetensors, read_tensors
from effkit.models.files.header import read_header
from effkit.models.files.stamp import read_record
from effkit.models.texts.tables import read_table
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish

from .hostile import JSON, WORDS, altered, damaged, refused_or_read


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def whole_gguf(place) -> bytes:
    """A whole GGUF file of 600 bytes with each kind of metadata."""
    path = place / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("a.text", "x")
    writer.add_array("an.array", ["a", "bc"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_custom_alignment(32)
    writer.add_tensor("w", np.ones((4, 32), np.float32))
    writer.add_tensor("b", np.ones(8, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def read_gguf_head(path) -> None:
    """The head, and the bytes of every tensor that it names."""
    header = read_header(path)
    for tensor in header.tensors:
        header.raw(tensor)


@given(st.data())
def test_a_damaged_gguf_is_read_or_refused(place, whole_gguf, data):
    path = place / "damaged.gguf"
    path.write_bytes(damaged(data.draw, whole_gguf))
    with refused_or_read():
        read_gguf_head(path)


@given(st.binary(max_size=300), st.sampled_from([2, 3]))
def test_any_bytes_after_the_magic_are_refused(place, content, version):
    path = place / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", version) + content)
    with refused_or_read():
        read_gguf_head(path)


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def head(pairs: bytes, count: int, tensors: bytes = b"", number: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, number, count) + pairs + tensors


ONE_TENSOR = text("w") + struct.pack("<IQIQ", 1, 8, 0, 0)
TRAPS = {
    "alignment 0": head(text("general.alignment") + struct.pack("<II", 4, 0), 1, ONE_TENSOR, 1) + bytes(64),
    "an alignment of text": head(text("general.alignment") + struct.pack("<I", 8) + text("32"), 1, ONE_TENSOR, 1) + bytes(64),
    "a negative alignment": head(text("general.alignment") + struct.pack("<Ii", 5, -32), 1, ONE_TENSOR, 1) + bytes(64),
    "lists in lists": head(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000, 1) + bytes(64),
    "a list of 2**60 bytes": head(text("a") + struct.pack("<IIQ", 9, 0, 2**60), 1) + bytes(64),
    "2**60 tensors": head(b"", 0, ONE_TENSOR, 2**60) + bytes(64),
    "4 billion dimensions": head(b"", 0, text("w") + struct.pack("<I", 2**32 - 1), 1) + bytes(64),
    "a row of half a block": head(b"", 0, text("w") + struct.pack("<IQIQ", 1, 17, 8, 0), 1) + bytes(64),
    "no dimension": head(b"", 0, text("w") + struct.pack("<IIQ", 0, 8, 0), 1) + bytes(64),
    "sizes whose product overflows": head(b"", 0, text("w") + struct.pack("<IQQQIQ", 3, 2**63, 2**63, 0, 0, 0), 1) + bytes(64),
    "two tensors of one name": head(b"", 0, ONE_TENSOR * 2, 2) + bytes(64),
    "eight bytes": b"GGUF" + struct.pack("<I", 3),
    "a list of 20 million bytes": head(text("a") + struct.pack("<IIQ", 9, 0, 20_000_000), 1, ONE_TENSOR, 1) + bytes(20_000_100),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_in_a_gguf_head_are_refused(tmp_path, name):
    path = tmp_path / "trap.gguf"
    path.write_bytes(TRAPS[name])
    with refused_or_read(refused=True):
        read_gguf_head(path)


WHOLE_SAFETENSORS = save({"w": np.ones((4, 8), np.float32), "b": np.ones(8, np.float16)}, {"format": "pt"})
START = int.from_bytes(WHOLE_SAFETENSORS[:8], "little") + 8


def read_weights(path) -> None:
    check_safetensors(path)
    finish(read_tensors([path], "it"))


def safetensors_of(header: str | bytes, body: bytes) -> bytes:
    header = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return len(header).to_bytes(8, "little") + header + body


@given(st.data())
def test_damaged_safetensors_are_read_or_refused(place, data):
    path = place / "damaged.safetensors"
    path.write_bytes(damaged(data.draw, WHOLE_SAFETENSORS))
    for read in (read_weights, read_record):
        with refused_or_read():
            read(path)


@given(st.data())
def test_an_altered_header_of_safetensors_is_read_or_refused(place, data):
    path = place / "altered.safetensors"
    header = altered(data.draw, json.loads(WHOLE_SAFETENSORS[8:START]))
    path.write_bytes(safetensors_of(json.dumps(header), WHOLE_SAFETENSORS[START:]))
    for read in (read_weights, read_record):
        with refused_or_read():
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + b"{}", (99_000_000).to_bytes(8, "little") + b"{}", safetensors_of("[" * 200_000, b""),
        safetensors_of('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}', b""),
        safetensors_of('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, ' + "9" * 5000 + "]}}", b""),
        safetensors_of('{"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
        safetensors_of('{"w": {"dtype": "F32", "shape": [99], "data_offsets": [0, 8]}}', bytes(8)), b"", b"\0" * 8,
    ],
)  # fmt: skip
def test_traps_in_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "trap.safetensors"
    path.write_bytes(content)
    for read in (read_weights, read_record):
        with refused_or_read(refused=True):
            read(path)


CELLS = st.text(max_size=8) | st.sampled_from(['"', '""', '"a\nb"', ";", "\t", "\0", "=1+1", "\r", "\u202e", "é"])
TABLES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6).map("\n".join)
LINES = st.lists(JSON.map(json.dumps) | WORDS | st.builds(lambda a, b: json.dumps({"text": a, "label": b}), JSON, JSON), max_size=6)


def read_rows(path, content: bytes, suffix: str) -> None:
    path = path / f"table{suffix}"
    path.write_bytes(content)
    with refused_or_read():
        labelled = read_table(path, "text", "label")
        assert len(labelled) >= 2
        assert labelled.hash
        assert str(labelled.card())


@given(
    TABLES | TABLES.map(lambda rest: "text,label\n" + rest),
    st.sampled_from([".csv", ".tsv"]),
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
)
def test_any_table_is_read_or_refused(place, content, suffix, code):
    read_rows(place, content.encode(code, "surrogatepass"), suffix)


@given(LINES)
def test_any_json_lines_are_read_or_refused(place, lines):
    read_rows(place, "\n".join(lines).encode("utf-8", "surrogatepass"), ".jsonl")


@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_any_bytes_are_read_as_a_table_or_refused(place, content, suffix):
    read_rows(place, content, suffix)


@pytest.mark.parametrize("line", ["[" * 200_000, '{"text":' * 100_000, '{"text": "a", "label": ' + "9" * 5000 + "}", "NaN", '{"text": 1}'])
def test_lines_that_break_parsers_are_refused(tmp_path, line):
    path = tmp_path / "trap.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n' + line + "\n")
    with refused_or_read(refused=True):
        read_table(path, None, None)


CARD = {"_anywidget_id": "effkit_widgets.byte_ledger.ByteLedger", "config": {"models": [], "categories": []}, "problem": {}}
BUFFER = {"data": "AA==", "path": ["config", "x"], "encoding": "base64"}
SAVED = {"model_name": "AnyModel", "model_module": "anywidget", "state": CARD, "buffers": [BUFFER]}
OUTPUT = {"output_type": "display_data", "metadata": {}, "data": {VIEW: {"model_id": "m0"}, "text/plain": ["a", "b"]}}
CELL = {"cell_type": "code", "metadata": {}, "source": "1", "execution_count": 1, "outputs": [OUTPUT]}
PROSE = {"cell_type": "markdown", "metadata": {}, "source": ["# T"]}
STATES = {STATE: {"state": {"m0": SAVED}, "version_major": 2, "version_minor": 0}}
LESSON = {"nbformat": 4, "nbformat_minor": 4, "metadata": {"widgets": STATES}, "cells": [PROSE, CELL]}


WHERE = ("metadata", "widgets", STATE, "state", "m0")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("nbformat_minor",), None), (("nbformat_minor",), -1), (("cells",), [1]), (("cells", 0, "source"), [1]),
        (("cells", 1, "outputs"), {}), (("cells", 1, "outputs", 0), 3), (("cells", 1, "outputs", 0, "data"), []), (("metadata",), []),
        (("metadata", "widgets"), 3), ((*WHERE, "buffers"), None), ((*WHERE, "buffers", 0), 3), ((*WHERE, "buffers", 0, "path"), [[]]),
        ((*WHERE, "state", "config", "categories"), [1]), ((*WHERE, "state", "config", "categories"), [[]]), ((*WHERE, "state"), []),
    ],
)  # fmt: skip
def test_an_altered_notebook_is_shared_or_refused(tmp_path, at, value):
    """Each of these once ended with another error: found by trying odd values in every place of it."""
    lesson = json.loads(json.dumps(LESSON))
    holder = lesson
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = value
    (tmp_path / "lesson.ipynb").write_text(json.dumps(lesson))
    with contextlib.suppress(BadInput):
        opened, _ = placeless(repaired(read_notebook(tmp_path / "lesson.ipynb"))[0])
        body, _ = body_of(opened, all_cards(), mount)
        assert isinstance(title_of(opened, "x") + body, str)


@pytest.mark.parametrize("content", ["[" * 200_000, "[" * 500 + "]" * 500, '{"nbformat": 4, "cells": [1]}', "\ufeff", "{}", "\0"])
def test_what_is_no_notebook_is_refused(tmp_path, content):
    (tmp_path / "lesson.ipynb").write_text(content)
    with refused_or_read(refused=True):
        share(tmp_path / "lesson.ipynb", tmp_path / "lesson.html")


@given(st.data())
def test_a_damaged_page_is_read_or_refused(place, data):
    whole = place / "whole.html"
    if not whole.exists():
        share(family()[:2], whole)
    path = place / "damaged.html"
    path.write_bytes(damaged(data.draw, whole.read_bytes()))
    with refused_or_read():
        read_records(path)


@pytest.fixture(scope="module")
def crate(place) -> dict[str, bytes]:
    with zipfile.ZipFile(write_crate(family()[:2], place / "whole.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@given(st.data())
def test_a_damaged_crate_is_read_or_refused(place, crate, data):
    path = place / "damaged.zip"
    path.write_bytes(damaged(data.draw, (place / "whole.zip").read_bytes()))
    with refused_or_read():
        read_crate(path)


def test_a_crate_with_a_damaged_name_is_refused(place, crate):
    path = place / "name.zip"
    whole = bytearray((place / "whole.zip").read_bytes())
    whole[6:8], whole[32] = b"\0\x08", 0xCD  # the first entry's own head: a name in UTF-8 that is none
    path.write_bytes(whole)
    with refused_or_read(refused=True):
        read_crate(path)


@given(st.data())
def test_a_crate_with_altered_metadata_is_read_or_refused(place, crate, data):
    path = place / "altered.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in crate.items():
            new = json.dumps(altered(data.draw, json.loads(content))) if name == METADATA else content
            archive.writestr(name, new)
    with refused_or_read():
        read_crate(path)


@given(st.text(max_size=12) | st.sampled_from(["../x", "/x", "..\\x", "C:x", "a/../../x", "records/.."]), st.binary(max_size=60))
def test_a_crate_with_any_name_is_read_or_refused(place, crate, name, content):
    path = place / "named.zip"
    before = {p.name for p in place.iterdir()} | {path.name}
    try:
        with zipfile.ZipFile(path, "w") as archive:
            for known, each in {**crate, name: content}.items():
                archive.writestr(known, each)
    except (ValueError, IndexError):
        return  # Python writes no such name
    with refused_or_read():
        read_crate(path)
    assert {p.name for p in place.iterdir()} == before, "something was unpacked"
