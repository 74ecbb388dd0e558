"""What the folder of a run keeps: names, snapshots bit for bit, nothing half written; a disk that is full stops no work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import effkit as ek
from effkit.lab.runs.arguments import decode, encode, find_verb
from effkit.lab.runs.folder import RunFolder
from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.progress import Snapshot

from . import toys
from .test_attach import process
from .test_run import until


def test_a_public_name_is_found_though_its_file_has_moved(tmp_path):
    assert find_verb("effkit.an.older.place:quantize", "quantize") is ek.quantize
    plan = ek.Recipe(steps=(ek.Quantize(bits=4),))
    kept = encode(plan, "recipe", None)
    assert kept["type"] == "effkit.spec.recipe:Recipe"
    assert decode({**kept, "type": "effkit.an.older.place:Recipe"}, tmp_path) == plan
    with pytest.raises(Unavailable, match=r"the verb 'effkit\.an\.older\.place:nothing' of this run cannot be imported\."):
        find_verb("effkit.an.older.place:nothing", "nothing")


def test_snapshots_come_back_bit_for_bit(tmp_path):
    home = RunFolder(tmp_path / "run")
    home.create({})
    shared = torch.randn(4, 4)
    tensors = {
        "a": shared,
        "tied": shared,
        "part": torch.arange(100)[10:20],
        "across": torch.randn(3, 5).t(),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "half": torch.randn(5).bfloat16(),
        "one": torch.tensor(3.5, dtype=torch.float64),
        "none": torch.empty(0, 3),
    }
    home.save_snapshot(Snapshot(tensors, {"x": 1 / 3, "deep": {"list": [1, None, "é"]}}), 7, 1.5)
    snapshot, about = RunFolder(tmp_path / "run").load_snapshot()
    assert (about["events"], about["t"]) == (7, 1.5)
    assert snapshot.state == {"x": 1 / 3, "deep": {"list": [1, None, "é"]}}
    assert set(snapshot.tensors) == set(tensors)
    assert all(torch.equal(snapshot.tensors[k], tensors[k]) and snapshot.tensors[k].dtype == tensors[k].dtype for k in tensors)
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".safetensors", ".lock"}


def test_a_full_disk_stops_the_saving_and_not_the_work(tmp_path):
    code = """
import resource, torch
worker.SNAPSHOT_SECONDS = 0.01
toys.STAND_AT = 5
run = ek.start(toys.train, seed=5, steps=300, pause=0.002, folder=sys.argv[1])
asked = run._source.ask_snapshot()
toys.STAND_AT = 10
asked.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
toys.STAND_AT = None
result = run.wait()
print(torch.equal(result, toys.train(seed=5, steps=300)), run.state, run.notes)
run.saved.wait()
os._exit(0)
"""
    child = process(code, tmp_path / "run")
    said = child.stdout.readline()
    assert said.startswith("True done ['Nothing more of this run is saved, because "), said
    assert "could not be written" in said
    assert not [p for p in (tmp_path / "run").iterdir() if p.suffix in (".part", ".old")]
    assert not (tmp_path / "run" / "result").exists()
    run = ek.attach(tmp_path / "run")
    assert run.state == "interrupted"
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=5, steps=300))


def test_a_device_that_is_full_is_named_in_the_note(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr("effkit.lab.runs.worker.WRITE_SECONDS", 0.0)
    run = ek.start(toys.train, steps=2000, pause=0.002, folder=tmp_path / "run")
    run.pause()
    until(lambda: run.state == "paused" and (tmp_path / "run" / "state.json").exists())
    (tmp_path / "run" / "events.jsonl").unlink()
    (tmp_path / "run" / "events.jsonl").symlink_to("/dev/full")
    run.resume()
    until(lambda: run.notes)
    assert "because its events could not be written" in run.notes[0]
    assert "the disk is full. Free some space or choose another folder" in run.notes[0]
    assert run.state == "running"
    run.cancel()


def test_a_process_killed_while_it_made_its_folder_leaves_the_place_free(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "owner.lock").write_text('{"pid": 1}')
    (folder / ".call.json.x1y2.part").write_text('{"vers')
    with pytest.raises(BadInput, match="holds no run"):
        ek.attach(folder)
    holder = RunFolder(folder)
    assert holder.take()
    with pytest.raises(BadInput, match="another process begins a run"):
        ek.start(toys.count, folder=folder)
    holder.release()
    assert ek.start(toys.count, folder=folder).wait(120)["counted"] == 5
    assert not list(folder.glob(".*.part"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty"):
        ek.start(toys.count, folder=tmp_path / "other")
