"""The store of records: what is added stays, whoever else writes, and what cannot be used is said."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import effkit as ek
from effkit.spec.errors import BadInput, CannotWrite
from effkit.spec.intervals import Estimate
from effkit.spec.recipe import Quantize, Recipe
from effkit.spec.record import Blocks, Checkpoint, Cost, Quality, Record

FOLDER = Path(__file__).parent


def record(name="rtn 4-bit", source="toy", steps=None, bytes=1000):
    one = Estimate(value=1.25, low=1.2, high=1.3, n=8)
    quality = Quality(
        perplexity=one, base_perplexity=one, perplexity_ratio=one, agreement=one, text="abc", tokens=64, window=8, windows=8,
        blocks=Blocks(tokens=8, nll=(0.1, 1 / 3), kl=(1e-9, 2.5)),
    )  # fmt: skip
    return Record(
        name=name,
        checkpoint=Checkpoint(source=source, hash=source * 2, architecture="Llama"),
        recipe=Recipe(steps=(Quantize(),) if steps is None else steps),
        quality=quality,
        cost=Cost(bytes=bytes, base_bytes=4000, bits_per_weight=4.5, ledger={"mlp": bytes}),
        environment={"python": "3.11", "threads": 2},
    )


def test_a_record_comes_back_as_it_was(tmp_path):
    store = ek.Store(tmp_path / "deep" / "records.sqlite")
    assert (len(store), list(store), store.path.parent.exists()) == (0, [], False)
    first, second = store.add(record()), store.add(record("base", steps=()))
    again = ek.Store(store.path)
    assert list(again) == [first, second]
    assert again.get(first.id) == first == again.get(first.id[:12])
    assert again.records(name="base") == [second]
    assert again.records(checkpoint="toytoy", recipe=first.recipe.hash()) == [first]
    assert again.records(checkpoint="other") == []
    again.remove(first.id)
    assert list(store) == [second]
    assert repr(store) == f"Store({str(store.path)!r}, 1 records)"
    with sqlite3.connect(store.path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_default_is_in_the_users_folder(home):
    ek.Store().add(record())
    assert (home / "records.sqlite").exists()
    assert len(ek.Store()) == 1


def test_unknown_ids_are_refused(tmp_path):
    store = ek.Store(tmp_path / "s.sqlite")
    store.add(record())
    for wrong in ("nope", "", "%"):
        with pytest.raises(BadInput, match=r"no record with the id .* Allowed: an id of one of the 1 records in"):
            store.get(wrong)
    with pytest.raises(BadInput, match="no record with the id 'nope'"):
        store.remove("nope")


def test_four_processes_add_fifty_each_and_nothing_is_lost(tmp_path):
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from lab.test_store import record
from effkit.lab.records.store import Store
store = Store(sys.argv[2])
sys.stdin.readline()
for i in range(50):
    store.add(record(f"{sys.argv[3]}-{i}"))
assert "torch" not in sys.modules
"""
    path = tmp_path / "records.sqlite"
    command = [sys.executable, "-c", code, str(FOLDER.parent), str(path)]
    writers = [subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, text=True) for i in range(4)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(120) for writer in writers] == [0] * 4
    names = [r.name for r in ek.Store(path)]
    assert sorted(names) == sorted(f"{i}-{j}" for i in range(4) for j in range(50))


def test_a_newer_store_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "s.sqlite"
    ek.Store(path).add(record())
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    message = r"has version 7\. This effkit reads versions 1 to 1\. Update effkit, or give another path: Store\(path\)\."
    with pytest.raises(BadInput, match=message):
        list(ek.Store(path))
    with pytest.raises(BadInput, match=message):
        ek.Store(path).add(record())


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at as one " * 30)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE cats (name)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(BadInput, match=r"is not a store of records: .*\. Allowed: a file that Store made, or a new path\."):
            ek.Store(path).add(record())
        with pytest.raises(BadInput, match="is not a store of records"):
            ek.Store(path).records()
        assert path.read_bytes() == before


def test_a_corrupt_row_is_reported_and_the_others_are_read(tmp_path):
    store = ek.Store(tmp_path / "s.sqlite")
    first, bad, newer, last = (store.add(record(str(i))) for i in range(4))
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE records SET json = substr(json, 1, 40) WHERE id = ?", (bad.id,))
        database.execute("""UPDATE records SET json = replace(json, '"version":1', '"version":9') WHERE id = ?""", (newer.id,))
    assert store.records() == [first, last]
    assert [id for id, _ in store.unreadable] == [bad.id, newer.id]
    assert "this is not a record" in store.unreadable[0][1]
    assert "Update effkit to read it" in store.unreadable[1][1]
    with pytest.raises(BadInput, match="this is not a record"):
        store.get(bad.id)


def test_a_read_only_store_is_read_and_says_that_it_cannot_be_written():
    with tempfile.TemporaryDirectory() as name:
        folder, me = Path(name), os.geteuid()
        path = folder / "s.sqlite"
        kept = ek.Store(path).add(record())
        path.chmod(0o444)
        folder.chmod(0o555)
        try:
            if me == 0:
                os.seteuid(65534)  # root may write everywhere
            assert list(ek.Store(path)) == [kept]
            with pytest.raises(
                CannotWrite, match=r"Cannot write the store .*: it .*\. Choose another path: Store\(path\)\. It keeps what it had\."
            ):
                ek.Store(path).add(record())
            with pytest.raises(CannotWrite, match=r"Cannot write the store .*: it cannot be opened there"):
                ek.Store(folder / "new.sqlite").add(record())
            with pytest.raises(CannotWrite, match=r"Cannot write .*: permission denied"):
                ek.Store(folder / "deeper" / "new.sqlite").add(record())
        finally:
            if me == 0:
                os.seteuid(0)
            folder.chmod(0o755)
        assert list(ek.Store(path)) == [kept]


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import resource
from lab.test_store import record
from effkit.lab.records.store import Store
from effkit.spec.errors import CannotWrite
store = Store(sys.argv[2])
store.add(record("kept"))
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    for i in range(100):
        store.add(record(f"more {i}"))
except CannotWrite as error:
    print(i, error)
"""
    path = tmp_path / "s.sqlite"
    out = subprocess.run([sys.executable, "-c", code, str(FOLDER.parent), str(path)], capture_output=True, text=True, timeout=280)
    assert "Free some space" in out.stdout, out
    added = int(out.stdout.split()[0])
    assert [r.name for r in ek.Store(path)] == ["kept", *(f"more {i}" for i in range(added))]
    ek.Store(path).add(record("after"))
