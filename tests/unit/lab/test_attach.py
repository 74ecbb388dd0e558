"""Runs whose process was killed, or that another process works on: seen again, taken up again, never by two at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput, Cancelled, EffkitError, Unavailable

from . import toys
from .test_run import until

HERE = Path(__file__).parent


def process(code: str, *words: object, **options) -> subprocess.Popen:
    """Another process that runs `code`, with ek and toys at hand; words arrive in sys.argv[1:]."""
    head = "import sys, os, time, pathlib, effkit as ek, effkit.lab.runs.worker as worker\nfrom lab import toys\n"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, words)], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


# Every event is written at once, and what is called with a number waits until so many are.
WRITTEN = """
worker.WRITE_SECONDS = 0.0
def written(count):
    while not events.exists() or events.read_bytes().count(b"\\n") < count: time.sleep(0.01)
events = pathlib.Path(sys.argv[1]) / "events.jsonl"
"""


def killed(code: str, *words: object) -> None:
    """Run `code` until it prints a line, then kill it as the system does."""
    child = process(code, *words)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "now"
    child.kill()
    child.wait(120)


# A checkpoint after at least ten steps, and twenty steps more; "long": it goes on, otherwise it stands still there.
TRAIN = (
    WRITTEN
    + """
toys.STAND_AT, long = 0, len(sys.argv) > 2
run = ek.start(toys.train, seed=5, steps=100_000 if long else 400, pause=0.002, folder=sys.argv[1])
run.pause(at=10)
toys.STAND_AT = None if long else 30
while run.state != "paused": time.sleep(0.01)
run.checkpoint_now()
run.resume()
written(30)
print("now", flush=True)
time.sleep(60)
"""
)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    killed(TRAIN, tmp_path / "run")
    run = ek.attach(tmp_path / "run")
    assert run.state == "interrupted"
    assert not run.done()
    seen = list(run.events)
    assert run.progress.done == seen[-1]["done"] == len(seen) == 30
    with pytest.raises(Unavailable, match=r"was interrupted.*run\.resume\(\) goes on with it"):
        run.wait()
    kept = int(run._home.snapshots()[-1].name.split("-")[1])
    assert kept == 10
    run.resume()
    result = run.wait(120)
    assert torch.equal(result, toys.train(seed=5, steps=400))
    assert run.events[:kept] == seen[:kept]
    assert [e["done"] for e in run.events] == list(range(1, 401))
    plain = [e.metrics["loss"] for e in toys.train.work(seed=5, steps=400)]
    assert [e["metrics"]["loss"] for e in run.events] == plain
    assert run.saved.wait(120)

    again = ek.attach(tmp_path / "run")
    assert (again.state, again.events, again.id) == ("done", run.events, run.id)
    assert torch.equal(again.wait(), result)
    with pytest.raises(BadInput, match="the run is done"):
        again.resume()


def test_snapshots_come_by_themselves(tmp_path):
    code = """
worker.SNAPSHOT_SECONDS, toys.STAND_AT = 0.05, 300
run = ek.start(toys.train, seed=5, steps=400, pause=0.002, folder=sys.argv[1])
while not any(p.startswith("snapshot") for p in os.listdir(sys.argv[1])): time.sleep(0.01)
print("now", flush=True)
time.sleep(60)
"""
    killed(code, tmp_path / "run")
    run = ek.attach(tmp_path / "run")
    assert run._home.snapshots()
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=5, steps=400))


def test_a_killed_run_without_snapshots_begins_anew(tmp_path):
    code = """
toys.STAND_AT = 5
run = ek.start(toys.count, to=60, pause=0.01, folder=sys.argv[1])
written(5)
print("now", flush=True)
time.sleep(60)
"""
    killed(WRITTEN + code, tmp_path / "run")
    run = ek.attach(tmp_path / "run")
    assert run.state == "interrupted"
    assert len(run.events) == 5
    run.resume()
    assert run.wait(120) == {"counted": 60, "by": os.getpid()}
    assert [e["done"] for e in run.events] == list(range(1, 61))


def test_a_torn_last_line_is_left_out(tmp_path):
    run = ek.start(toys.train, steps=5, folder=tmp_path / "run")
    run.wait(120)
    assert run.saved.wait(120)
    events = tmp_path / "run" / "events.jsonl"
    events.write_text(events.read_text() + '{"task": "train", "don')
    del run
    assert [e["done"] for e in ek.attach(tmp_path / "run").events] == [1, 2, 3, 4, 5]


def test_arguments_that_take_long_to_save_are_there_once_they_are_needed(tmp_path):
    code = """
import torch
toys.STAND_AT = 5
run = ek.start(toys.train, seed=5, steps=400, pause=0.002, weights=torch.full((3, 8), 0.5), folder=sys.argv[1])
while len(run.events) < 5: time.sleep(0.01)
if len(sys.argv) > 2:
    asked = run._source.ask_snapshot()
    toys.STAND_AT = 10
    asked.wait()
print("now", flush=True)
time.sleep(60)
"""
    killed(code, tmp_path / "soon")
    run = ek.attach(tmp_path / "soon")
    run.resume()
    with pytest.raises(Unavailable, match=r"the Tensor this run was given had not been saved when its process ended.*Start the run again"):
        run.wait(120)
    assert run.state == "interrupted"
    assert run.error.next == "Start the run again"

    killed(code, tmp_path / "late", "wait")
    run = ek.attach(tmp_path / "late")
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=5, steps=400, weights=torch.full((3, 8), 0.5)))


def test_a_live_run_elsewhere_is_followed_and_left_alone(tmp_path):
    child = process(TRAIN, tmp_path / "run", "long")
    assert child.stdout.readline().strip() == "now"
    run = ek.attach(tmp_path / "run")
    assert run.state == "running"
    seen = len(run.events)
    assert seen >= 10
    until(lambda: len(run.events) > seen)
    message = (
        rf"is worked on by another process \(pid {child.pid}\)\. One process at a time works on a run; from here it can only be watched\."
    )
    for ask in (run.pause, run.cancel, run.resume, run.checkpoint_now, lambda: run.change(learning_rate=0.1)):
        with pytest.raises(Unavailable, match=message):
            ask()
    with pytest.raises(TimeoutError):
        run.wait(0.1)
    child.kill()
    child.wait(120)
    until(lambda: run.state == "interrupted")
    run.cancel()
    assert run.state == "cancelled"
    assert not run._home.snapshots()
    with pytest.raises(Cancelled):
        run.wait()


def test_a_followed_run_ends_with_its_result(tmp_path):
    child = process(
        "run = ek.start(toys.train, seed=5, steps=300, pause=0.003, folder=sys.argv[1]); print('now', flush=True); run.wait()",
        tmp_path / "run",
    )
    assert child.stdout.readline().strip() == "now"
    run = ek.attach(tmp_path / "run")
    assert torch.equal(run.wait(120), toys.train(seed=5, steps=300))
    assert len(run.events) == 300
    assert child.wait(120) == 0


def test_of_two_only_one_resumes(tmp_path):
    killed(TRAIN, tmp_path / "run", "long")
    code = """
run = ek.attach(sys.argv[1])
sys.stdin.readline()
try:
    run.resume()
    print("resumed", run.state, flush=True)
except ek.EffkitError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(0)
sys.stdin.readline()
os._exit(0)
"""
    both = [process(code, tmp_path / "run", stdin=subprocess.PIPE) for _ in range(2)]
    for child in both:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = sorted(child.stdout.readline().strip() for child in both)
    for child in both:
        child.kill()
        child.wait(120)
    assert said[1] == "resumed running"
    assert re.match(r"Unavailable: the run in .* is worked on by another process \(pid \d+\)\. One process at a time", said[0])


def test_a_script_that_ends_leaves_its_run_to_be_resumed(tmp_path):
    child = process(
        "run = ek.start(toys.train, seed=5, steps=300, pause=0.005, mark=sys.argv[2], folder=sys.argv[1])\n"
        "while len(run.events) < 10: time.sleep(0.01)",
        tmp_path / "run",
        tmp_path / "mark",
    )
    assert child.wait(120) == 0
    assert (tmp_path / "mark").read_text() == "closed"
    run = ek.attach(tmp_path / "run")
    assert run.state == "interrupted"
    assert len(run.events) >= 10
    assert run._home.snapshots()[-1].name == f"snapshot-{len(run.events):06d}"
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=5, steps=300))


def test_a_script_that_ends_waits_for_its_result_to_be_saved(tmp_path):
    code = """
import torch
save = worker.RunFolder.save_result
worker.RunFolder.save_result = lambda *given: (time.sleep(1), save(*given))  # a slow disk
run = ek.start(toys.measure_nothing, torch.arange(3000), folder=sys.argv[1])
run.wait()
assert not run.saved.is_set()
"""
    child = process(code, tmp_path / "run")
    assert child.wait(120) == 0
    assert torch.equal(ek.attach(tmp_path / "run").wait(), torch.arange(3000))


def test_a_failed_run_shows_why_to_others(tmp_path):
    run = ek.start(toys.count, fail_at=2, folder=tmp_path / "run")
    with pytest.raises(BadInput):
        run.wait(120)
    assert run.saved.wait(120)
    again = ek.attach(tmp_path / "run")
    assert (again.state, again.error) == ("failed", run.error)
    with pytest.raises(EffkitError, match=r"the number 2\. Allowed: any other\. Count without it\."):
        again.wait()
    with pytest.raises(BadInput, match="the run is failed"):
        again.resume()


def test_a_failed_run_with_a_snapshot_can_be_tried_again(tmp_path):
    target = tmp_path / "mark"
    target.mkdir()  # the toy cannot write its mark, so it fails at its end
    run = ek.start(toys.train, seed=4, steps=300, pause=0.001, mark=target, folder=tmp_path / "run")
    run.checkpoint_now(120)
    with pytest.raises(IsADirectoryError):
        run.wait(120)
    assert run.saved.wait(120)
    target.rmdir()
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=4, steps=300))


def test_attach_gives_the_run_that_works_here(tmp_path):
    run = ek.start(toys.train, steps=1000, pause=0.002, folder=tmp_path / "run")
    assert ek.attach(tmp_path / "run") is run
    run.cancel()


def test_what_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match=r"holds no run .*\. Allowed: the folder of a run, as run\.folder gives it"):
            ek.attach(folder)
    ek.start(toys.count, folder=tmp_path / "run").wait(120)
    call = tmp_path / "run" / "call.json"
    call.write_text(call.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(BadInput, match=r"has version 9\. This effkit reads 1\. Update effkit"):
        ek.attach(tmp_path / "run")


def test_a_verb_that_others_cannot_import_says_so(tmp_path):
    code = """
from effkit.spec.progress import long_work, Progress
@long_work
def mine():
    for i in range(1000):
        time.sleep(0.01)
        yield Progress("mine", i, 1000)
run = ek.start(mine, folder=sys.argv[1])
written(11)
print("now", flush=True)
time.sleep(60)
"""
    killed(WRITTEN + code, tmp_path / "run")
    run = ek.attach(tmp_path / "run")
    assert len(run.events) > 10
    with pytest.raises(Unavailable, match="the verb 'mine' of this run was defined in a notebook or a script"):
        run.resume()
    assert run.state == "interrupted"
