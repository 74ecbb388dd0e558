"""A measurement as one record: compared with its parts done by hand, and kept."""

from __future__ import annotations

import os
import re
import sqlite3

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput, Cancelled
from effkit.spec.record import Record

TEXT = "The machine measures what it keeps and what it costs. " * 60
QUICK = {"on": TEXT, "window": 64, "windows": 3, "prompt": 16, "new_tokens": 4, "repeats": 2}


@pytest.fixture
def small(tiny_llama):
    return ek.quantize(tiny_llama, method="rtn", bits=4, group_size=32)


def test_a_record_holds_what_its_parts_say(tiny_llama, small):
    record = ek.measure(small, tiny_llama, **QUICK)
    quality = ek.evaluate(small, tiny_llama, TEXT, window=64, windows=3)
    assert record.quality.model_copy(update={"seconds": 0.0}) == quality.model_copy(update={"seconds": 0.0})
    assert record.name == "rtn 4-bit g32"
    assert record.recipe == small.recipe
    assert record.checkpoint == tiny_llama.checkpoint
    assert (record.profile.prompt, record.profile.new_tokens, record.profile.repeats, record.profile.batch) == (16, 4, 2, 1)
    assert record.environment["threads"] == torch.get_num_threads()
    assert record.environment["effkit"] == ek.__version__


def test_bytes_are_counted_from_the_tensors(tiny_llama, small, tmp_path):
    cost = ek.measure(small, tiny_llama, **QUICK).cost
    state = small.module.state_dict()
    tensors = {(t.data_ptr(), t.numel()): t for t in state.values()}.values()
    assert cost.bytes == sum(t.numel() * t.element_size() for t in tensors) == cost.predicted_bytes
    assert sum(cost.ledger.values()) == cost.bytes
    assert cost.base_bytes == tiny_llama.stored_bytes
    assert 4 < cost.bits_per_weight < 12
    assert cost.compression > 3


def test_a_base_is_measured_against_itself(tiny_llama):
    record = ek.measure(tiny_llama, **QUICK)
    assert record.name == "base"
    assert record.quality.retained == 1
    assert record.quality.kl.mean.value == 0
    assert (record.cost.predicted_bytes, record.cost.compression, record.cost.bits_per_weight) == (None, 1.0, 32.0)


def test_a_compressed_model_without_a_base_is_left_uncompared(small):
    record = ek.measure(small, name="alone", **QUICK)
    assert record.name == "alone"
    assert record.quality.kl is None
    assert record.quality.perplexity.value is not None
    assert record.cost.compression > 3


def test_records_are_stored_where_asked(tiny_llama, tmp_path):
    own = ek.Store(tmp_path / "own.sqlite")
    first = ek.measure(tiny_llama, store=own, **QUICK)
    second = ek.measure(tiny_llama, store=tmp_path / "own.sqlite", **QUICK)
    ek.measure(tiny_llama, store=False, **QUICK)
    assert list(own) == [first, second]
    assert len(ek.Store()) == 0
    third = ek.measure(tiny_llama, **QUICK)
    assert list(ek.Store()) == [third]
    assert Record.from_json(third.to_json()) == third


def test_a_store_that_cannot_be_written_is_found_before_the_work(tiny_llama, tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("no database " * 100)
    work = ek.measure.work(tiny_llama, store=path, **QUICK)
    with pytest.raises(BadInput, match="is not a store of records"):
        next(work)


def test_a_store_that_fails_at_the_end_loses_no_record(tiny_llama, tmp_path):
    path = tmp_path / "s.sqlite"
    work = ek.measure.work(tiny_llama, store=path, **QUICK)
    next(work)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.warns(UserWarning, match=re.escape("The record was measured but not stored: the store")):
        record = ek.spec.progress.finish(work)
    assert record.quality.retained == 1


def test_through_a_run_and_cancelled(tiny_llama, small, tmp_path):
    run = ek.start(ek.measure, small, tiny_llama, folder=tmp_path / "run", **QUICK)
    record = run.wait(120)
    assert list(ek.Store()) == [record]
    assert {e["task"] for e in run.events} == {"evaluate", "profile"}
    assert run.saved.wait(20)
    assert ek.attach(tmp_path / "run").result == record

    run = ek.start(ek.measure, small, tiny_llama, **{**QUICK, "repeats": 100_000})
    run.cancel()
    with pytest.raises(Cancelled):
        run.wait(60)
    assert len(ek.Store()) == 1


def test_a_classifier(tiny_classifier):
    texts = [f"Report {i}: the pump {'leaks' if i % 2 else 'runs'}." for i in range(12)]
    record = ek.measure(tiny_classifier, on=texts, window=32, prompt=16, repeats=2)
    assert record.quality.retained == 1
    assert record.quality.perplexity.value is None
    assert record.profile.new_tokens == 0


def test_a_text_that_a_recipe_reads_is_hashed_once_and_anew_where_it_changed(tiny_llama, tmp_path, monkeypatch):
    from effkit.lab.records import measuring

    file = tmp_path / "my notes.txt"
    file.write_text(TEXT)
    recipe = ek.Recipe(steps=(ek.Quantize(method="gptq", calibration=str(file)),))
    os.utime(file, (1e9, 1e9))
    read, real = [], measuring.read_text
    monkeypatch.setattr(measuring, "read_text", lambda path: read.append(path) or real(path))
    first = measuring.texts_read(recipe)
    assert first == measuring.texts_read(recipe) == {str(file): real(file).hash}
    assert len(read) == 1
    file.write_text(TEXT.replace("costs", "takes"))
    assert measuring.texts_read(recipe) == {str(file): real(file).hash} != first
    file.write_text(TEXT.replace("costs", "bears"))  # as long as before, and at once: its time may be the same
    assert measuring.texts_read(recipe) == {str(file): real(file).hash}
    file.unlink()
    assert measuring.texts_read(recipe) == {}, "the name of a file that is gone is no text"
    with pytest.raises(BadInput, match=r"there is no text file '.*my notes\.txt'"):
        real(str(file))
