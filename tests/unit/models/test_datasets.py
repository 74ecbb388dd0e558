"""Text: where it comes from, how it is split, and which windows of it are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from effkit.models.texts.datasets import PARTS, read_text, windows
from effkit.spec.errors import BadInput

LONG = "The quick brown fox jumps over the lazy dog. " * 40


def pieces(text: str, words: int = 13) -> set[str]:
    found = text.split()
    return {" ".join(found[i : i + words]) for i in range(len(found) - words + 1)}


def test_the_default_is_technical_english_in_three_disjoint_parts():
    parts = {part: read_text(None, part) for part in PARTS}
    assert all(len(text.text) > 30_000 for text in parts.values()), "each part is long enough to measure on"
    assert len({text.hash for text in parts.values()}) == 3
    assert read_text(None).hash == parts["test"].hash
    assert "pydoc_data.topics" in parts["test"].source
    of = {part: pieces(text.text) for part, text in parts.items()}
    for part in ("test", "held-out"):
        for other in set(PARTS) - {part}:
            shared = len(of[part] & of[other]) / len(of[part])
            assert shared < 0.005, f"{shared:.1%} of the 13-word pieces of {part} stand in {other} too"


def test_unknown_part():
    with pytest.raises(BadInput, match=r"^part is 'tests'\. Allowed: 'train', 'held-out', 'test'\. Did you mean 'test'\?"):
        read_text(None, "tests")


def test_text_itself_file_list_and_text_agree(tmp_path):
    (tmp_path / "a.txt").write_text(LONG, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("one", "two")) + "\n\n")
    assert read_text(LONG).hash == read_text(tmp_path / "a.txt").hash == read_text(str(tmp_path / "a.txt")).hash == read_text([LONG]).hash
    assert read_text(tmp_path / "b.jsonl").documents == ("one", "two")
    assert read_text(["one", "two"]).text == "one\n\ntwo"
    assert read_text(read_text("hello")).documents == ("hello",)
    assert read_text(["one", "  ", "two"]).documents == ("one", "two")


def test_a_file_whose_name_has_spaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my notes.md").write_text("# hello")
    assert read_text("my notes.md").text == "# hello"


@pytest.mark.parametrize("text", ["to be and/or not to be", "~nobody knows", "nul \0 byte", "ü" * 240 + "/", "line\nline.txt"])
def test_what_only_looks_a_little_like_a_path_is_text(text):
    assert read_text(text).text == text


@pytest.mark.parametrize("name", ["nowhere.txt", "some/where", "data.jsonl", "/tmp/nothing-here.md"])
def test_a_path_that_does_not_exist(name):
    with pytest.raises(BadInput, match=rf"^there is no text file '{name}'\. Allowed: an existing file \(\.txt, \.md, \.jsonl\), or the"):
        read_text(name)


@pytest.mark.parametrize("what", ["", "  \n ", [], ["", " "]])
def test_empty_text(what):
    with pytest.raises(BadInput, match=r"^the text \(given texts?\) is empty\. Allowed: text with at least one window"):
        read_text(what)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(BadInput, match=r"the text \(empty\.txt\) is empty"):
        read_text(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(BadInput, match=r"cannot be read .*Allowed: UTF-8 text"):
        read_text(tmp_path / "latin.txt")
    (tmp_path / "weights.bin").write_bytes(b"\x80")
    with pytest.raises(BadInput, match=r"'weights\.bin' ends in '\.bin'\. Allowed: \.txt, \.md, \.jsonl"):
        read_text(tmp_path / "weights.bin")
    (tmp_path / "bad.jsonl").write_text('{"text": "ok"}\n{"words": "no"}\n')
    with pytest.raises(BadInput, match=r"line 2 of 'bad\.jsonl' has no field 'text'"):
        read_text(tmp_path / "bad.jsonl")


def test_a_list_that_holds_other_things():
    with pytest.raises(BadInput, match=r"^the text holds 3, a int\. Allowed: a string"):
        read_text(["a", 3])  # type: ignore[list-item]


def test_windows_are_spread_evenly_and_never_overlap(tiny_llama):
    text = read_text(LONG)
    ids = tiny_llama.tokens(text.text)
    for count in (1, 2, 5, 7, None):
        batch = windows(text, tiny_llama, 64, count)
        assert batch.shape == (count or len(ids) // 64, 64)
        assert batch.dtype == torch.long
        starts = []
        for row in batch.tolist():
            begin = (starts[-1] + 64) if starts else 0
            found = next((i for i in range(begin, len(ids) - 63) if ids[i : i + 64] == row), None)
            assert found is not None, "every window is a piece of the text, after the one before"
            starts.append(found)
    assert torch.equal(windows(text, tiny_llama, 64, 5), windows(text, tiny_llama, 64, 5))


def test_windows_reach_from_the_first_token_to_the_last(tiny_llama):
    numbers = read_text("".join(chr(33 + i % 90) for i in range(1000)))
    ids = tiny_llama.tokens(numbers.text)
    batch = windows(numbers, tiny_llama, 10, 4)
    assert batch[0].tolist() == ids[:10]
    assert batch[-1].tolist() == ids[-10:]


def test_more_windows_than_fit_gives_all_that_fit(tiny_llama):
    assert windows(read_text("x" * 100), tiny_llama, 30, 50).shape == (3, 30)


def test_a_tokenizer_will_do_for_a_model(tiny_llama):
    text = read_text(LONG)
    assert torch.equal(windows(text, tiny_llama.tokenizer, 32, 3), windows(text, tiny_llama, 32, 3))


def test_windows_that_cannot_be(tiny_llama):
    text = read_text("short")
    with pytest.raises(BadInput, match=r"^the text \(given text\) has 5 tokens, fewer than one window of 64\. Allowed: at least 64"):
        windows(text, tiny_llama, 64)
    with pytest.raises(BadInput, match=r"^window is 257 tokens\. This model reads at most 256 at once"):
        windows(read_text(LONG), tiny_llama, 257)
    for length in (0, 1, 2.5):
        with pytest.raises(BadInput, match=rf"^window is {length}\. Allowed: a whole number of at least 2"):
            windows(text, tiny_llama, length)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"^windows is 0\. Allowed"):
        windows(text, tiny_llama, 2, 0)


def test_a_tokenizer_of_another_model_is_noticed(tiny_llama):
    model = tiny_llama.clone()
    model.module.config.vocab_size = 40
    with pytest.raises(BadInput, match=r"the tokenizer made the token \d+\. This model knows tokens 0 to 39\. The tokenizer belongs"):
        windows(read_text(LONG), model, 32)
