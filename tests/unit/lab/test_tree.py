"""Branches and undo: every path is what an uninterrupted run with the same knobs would have been, and none is forgotten."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch

import effkit as ek
from effkit.lab.runs.run import attach, start
from effkit.lab.runs.tree import Tree
from effkit.spec.errors import BadInput
from effkit.spec.progress import long_work

from .toys import train

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
WAY = {"text": TEXT, "steps": 10, "window": 32, "batch": 2, "learning_rate": 3e-3, "seed": 3}


def at_step(run, step):
    """Let `run` go on, and pause it when it has done `step` steps."""
    run.pause(at=step)
    if run.state == "paused":
        run.resume()
    assert asyncio.run(run.paused()), f"it ended before step {step}"
    assert run.progress.done >= step


def weights(model):
    return model.module.state_dict()


def same(one, other):
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.fixture
def pair(tiny_llama):
    return tiny_llama, ek.prune(tiny_llama, layers=2)


def test_pause_change_resume_branch_undo_and_the_record_shows_the_tree(pair, tmp_path):
    run = start(ek.distill, *pair, **WAY, folder=tmp_path / "first")
    at_step(run, 3)
    split = run.progress.done
    other = run.branch(temperature=2.0)
    run.change(learning_rate=1e-5)
    run.resume()
    slow = run.wait()
    hot = other.wait()

    plain = ek.distill(*pair, **WAY)
    assert not same(slow, plain)
    assert not same(hot, plain)
    notes = (f"branched from run {run.id[:6]} at step {split}", f"temperature became 2 after step {split}")
    assert hot.plans[-1].notes == notes
    assert slow.plans[-1].notes == (f"learning_rate became 1e-05 after step {split}",)
    assert run.tree == other.tree
    assert run.tree["id"] == run.id
    (child,) = run.tree["children"]
    assert (child["id"], child["from_step"], child["change"]) == (other.id, split, {"temperature": 2.0})
    assert child["held_out"] is not None


def test_a_branch_without_changes_equals_its_parent_bit_for_bit(pair, tmp_path):
    run = start(ek.distill, *pair, **WAY, folder=tmp_path / "first")
    at_step(run, 4)
    twin = run.branch()
    run.resume()
    assert same(run.wait(), twin.wait())
    assert same(run.wait(), ek.distill(*pair, **WAY))
    assert twin.folder != run.folder


def test_undo_takes_the_last_change_back(pair, tmp_path):
    run = start(ek.distill, *pair, **WAY, folder=tmp_path / "first")
    at_step(run, 3)
    split = run.progress.done
    run.change(learning_rate=1.0)
    at_step(run, split + 2)
    run.undo(split)
    model = run.wait()
    assert same(model, ek.distill(*pair, **WAY))
    (undoing,) = run.tree["undone"]
    assert undoing.endswith(f"to step {split}")
    assert model.plans[-1].notes == (undoing,)
    assert [event["done"] for event in run.events] == list(range(11))


def test_a_finished_run_can_be_branched_from_later_by_another_process(pair, tmp_path):
    run = start(ek.distill, *pair, **WAY, folder=tmp_path / "first")
    at_step(run, 3)
    run.resume()
    run.wait()
    run.saved.wait()
    later = attach(tmp_path / "first")
    longer = later.branch(later.checkpoints()[0]["step"], steps=14).wait()
    assert longer.recipe.steps[-1].steps == 14


def test_mistakes_are_named(tmp_path):
    run = start(train, steps=100_000, pause=0.01, folder=tmp_path / "run")
    with pytest.raises(BadInput, match=r"there is no checkpoint at step 17. Checkpoints of this run: none. run.checkpoint_now"):
        run.branch(step=17)
    with pytest.raises(BadInput, match="there is no earlier checkpoint to go back to"):
        run.undo()
    with pytest.raises(BadInput, match="the knob of train is 'speed'"):
        run.branch(speed=3)
    run.cancel()
    with pytest.raises(BaseException, match="cancelled"):
        run.wait()


def test_only_the_last_checkpoints_are_kept(tmp_path):
    run = start(train, steps=100_000, pause=0.005, folder=tmp_path / "run")
    for _ in range(10):
        run.checkpoint_now()
    assert 1 <= len(list((tmp_path / "run").glob("kept-*"))) <= 8
    run.cancel()


def test_a_pause_at_a_step_is_there_and_nowhere_else(pair, tmp_path):
    begin = threading.Event()

    @long_work
    def waiting(teacher, student, way):
        """Distillation that begins once the first pause was asked for."""
        begin.wait(120)
        return (yield from ek.distill.work(teacher, student, **way))

    run = start(waiting, *pair, WAY, folder=tmp_path / "first")
    run.pause(at=4)
    begin.set()
    assert asyncio.run(run.paused())
    assert [point["step"] for point in run.checkpoints()] == [run.progress.done] == [4]
    run.pause(at=7)
    run.resume()
    assert asyncio.run(run.paused())
    assert run.progress.done == 7
    run.pause(at=11)
    run.resume()
    assert not asyncio.run(run.paused())  # it ended first
    assert same(run.wait(), ek.distill(*pair, **WAY))


def test_a_tree_is_drawn_a_line_a_run():
    node = {"verb": "distill", "state": "done", "step": 8, "from_step": 0, "change": {}, "undone": [], "held_out": 1.25, "children": []}
    inner = Tree(node | {"from_step": 6, "change": {"steps": 12}, "step": 12, "held_out": 1.0})
    late = Tree(node | {"from_step": 4, "change": {"temperature": 4.0, "mix": 0.5}, "held_out": None, "children": [inner]})
    early = Tree(node | {"from_step": 2, "state": "cancelled", "step": 3})
    whole = Tree(node | {"undone": ["undone: back from step 6 to step 4"], "children": [late, early]})
    assert str(whole).splitlines() == [
        "distill: done at step 8, held-out 1.250",
        "│  undone: back from step 6 to step 4",
        "├─ branched at step 2: cancelled at step 3, held-out 1.250",
        "└─ branched at step 4 with temperature 4, mix 0.5: done at step 8",
        "   └─ branched at step 6 with steps 12: done at step 12, held-out 1.000",
    ]
    assert json.loads(json.dumps(whole)) == whole
