"""Runs in one process: what can be asked of one, what it answers, what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import signal
import threading
import time
import weakref

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput, Cancelled, CannotWrite, Unavailable
from effkit.spec.progress import Progress, finish, long_work

from . import toys


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def test_result_equals_the_plain_call_bit_for_bit(tmp_path):
    run = ek.start(toys.train, seed=3, steps=30, folder=tmp_path / "run")
    assert torch.equal(run.wait(120), toys.train(seed=3, steps=30))
    assert (run.state, run.done(), run.error, run.notes) == ("done", True, None, [])
    assert [e["done"] for e in run.events] == list(range(1, 31))
    assert run.progress == Progress("train", 30, 30, metrics=run.events[-1]["metrics"])
    times = [e["t"] for e in run.events]
    assert times == sorted(times)
    assert times[-1] <= round(run.elapsed, 4), "an event's time is kept to a tenth of a millisecond"
    assert repr(run) == "Run('train', done, 30 of 30 steps)"


def test_events_are_on_disk_line_by_line(tmp_path):
    run = ek.start(toys.train, steps=5, folder=tmp_path / "run")
    run.wait(120)
    assert run.saved.wait(120)
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.events
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["call.json", "events.jsonl", "owner.lock", "result", "state.json"]


def test_cancel_closes_the_generator_and_leaves_no_result(tmp_path):
    mark = tmp_path / "mark"
    base = torch.ones(3, 8)
    run = ek.start(toys.train, steps=100_000, weights=base, pause=0.001, mark=mark, folder=tmp_path / "run")
    until(lambda: len(run.events) > 3)
    run.cancel()
    with pytest.raises(Cancelled, match=r"train was cancelled\. Its arguments are as they were and no partial result is left\."):
        run.wait(120)
    assert run.state == "cancelled"
    assert mark.read_text() == "closed"
    assert run.result is None
    assert torch.equal(base, torch.ones(3, 8))
    assert run.saved.wait(120)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["call.json", "events.jsonl", "owner.lock", "state.json"]
    run.cancel()  # nothing more happens
    with pytest.raises(BadInput, match="the run is cancelled"):
        run.resume()


def test_cancel_answers_within_one_yield():
    gate, steps = threading.Event(), []

    @long_work
    def gated():
        for i in range(100):
            steps.append(i)
            gate.wait(120)
            yield Progress("gated", i, 100)

    run = ek.start(gated)
    until(lambda: steps == [0])
    run.cancel()
    gate.set()
    with pytest.raises(Cancelled):
        run.wait(120)
    assert steps == [0]


def test_pause_and_resume_go_on_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "STAND_AT", 5)
    run = ek.start(toys.train, seed=1, steps=200, folder=tmp_path / "run")
    until(lambda: len(run.events) == 5)
    run.pause()
    monkeypatch.setattr(toys, "STAND_AT", None)
    until(lambda: run.state == "paused")
    seen, elapsed = len(run.events), run.elapsed
    until(lambda: list((tmp_path / "run").glob("snapshot-*/state.json")))
    time.sleep(0.1)
    assert (len(run.events), run.elapsed, run.done()) == (seen, elapsed, False)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "paused"
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=1, steps=200))
    assert len(run.events) == 200


def test_cancel_while_paused():
    run = ek.start(toys.train, steps=1000, pause=0.001)
    run.pause()
    until(lambda: run.state == "paused")
    run.cancel()
    with pytest.raises(Cancelled):
        run.wait(120)


def test_cancel_that_keeps_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "STAND_AT", 5)
    run = ek.start(toys.train, seed=2, steps=150, folder=tmp_path / "run")
    until(lambda: len(run.events) == 5)
    run.cancel(keep=True)
    monkeypatch.setattr(toys, "STAND_AT", None)
    with pytest.raises(Cancelled):
        run.wait(120)
    assert 5 <= len(run.events) < 150
    run.resume()
    assert torch.equal(run.wait(120), toys.train(seed=2, steps=150))
    assert [e["done"] for e in run.events] == list(range(1, 151))


def test_a_changed_knob_reaches_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "STAND_AT", 5)
    run = ek.start(toys.train, steps=60, learning_rate=0.1, folder=tmp_path / "run")
    run.pause()
    monkeypatch.setattr(toys, "STAND_AT", None)
    until(lambda: run.state == "paused")
    at = run.progress.done
    assert run.knobs == ("learning_rate",)
    run.change(learning_rate=0.02)
    run.resume()
    result = run.wait(120)
    assert run.events[at]["change"] == {"learning_rate": 0.02}
    assert [i for i, e in enumerate(run.events) if "change" in e] == [at]

    work = toys.train.work(steps=60, learning_rate=0.1)
    event = next(work)
    while event.done < 60:
        event = work.send({"learning_rate": 0.02} if event.done == at else None)
    with pytest.raises(StopIteration) as end:
        next(work)
    assert torch.equal(result, end.value.value)
    assert not torch.equal(result, toys.train(steps=60, learning_rate=0.1))


def test_unknown_and_impossible_knobs_are_refused_at_once():
    run = ek.start(toys.train, steps=1000, pause=0.001)
    try:
        with pytest.raises(
            BadInput, match=re.escape("the knob of train is 'learningrate'. Allowed: 'learning_rate'. Did you mean 'learning_rate'?")
        ):
            run.change(learningrate=0.2)
        for bad in (0, -1.0, float("nan"), float("inf"), "fast", True):
            with pytest.raises(BadInput, match="Allowed: a number above 0"):
                run.change(learning_rate=bad)
    finally:
        run.cancel()


def test_a_knob_may_be_what_its_verb_allows():
    ek.distill.check_knobs({"hard": 0.0, "hidden": 0, "temperature": 2.0, "mix": 0.5})
    for name, bad, told in (
        ("temperature", 0.0, "greater than 0"),
        ("hard", -0.1, "greater than or equal to 0"),
        ("mix", 1.0, "less than 1"),
    ):
        with pytest.raises(BadInput, match=f"distill: {name} is .*{told}"):
            ek.distill.check_knobs({name: bad})
    with pytest.raises(BadInput, match=r"the knob hard is nan\. Allowed: a number\.$"):
        ek.distill.check_knobs({"hard": float("nan")})


def test_a_failure_is_the_verbs_own_error():
    run = ek.start(toys.count, to=5, fail_at=2)
    with pytest.raises(BadInput, match=re.escape("the number 2. Allowed: any other. Count without it.")):
        run.wait(120)
    assert run.state == "failed"
    assert (run.error.what, run.error.why, run.error.next) == ("the number 2", "Allowed: any other", "Count without it")
    assert "toys.py" in run.error.traceback
    assert len(run.events) == 2


def test_an_error_while_closing_is_a_failure():
    run = ek.start(toys.stubborn)
    until(lambda: run.events)
    run.cancel()
    with pytest.raises(OSError, match="the tidying failed"):
        run.wait(120)
    assert run.state == "failed"


def test_failed_work_lets_go_of_its_memory():
    class Big:
        pass

    alive = []

    @long_work
    def hold():
        big = Big()
        alive.append(weakref.ref(big))
        yield Progress("hold", 1, 2)
        raise ValueError("no")

    run = ek.start(hold)
    with pytest.raises(ValueError, match="no"):
        run.wait(120)
    assert run.saved.wait(120)
    gc.collect()
    assert alive[0]() is None


class Late(set):
    """What a worker's thread leaves last of all, left once `looked` is set."""

    def __init__(self):
        self.looked = threading.Event()

    def discard(self, worker):
        self.looked.wait(60)
        super().discard(worker)


def test_arguments_and_snapshots_are_let_go_before_all_is_said_to_be_saved(monkeypatch):
    working = Late()
    monkeypatch.setattr("effkit.lab.runs.worker._working", working)
    weights = torch.zeros(3, 8)
    gone = weakref.ref(weights)
    run = ek.start(toys.train, steps=3, weights=weights)
    run.wait(120)
    assert run.saved.wait(120)
    del weights
    gc.collect()
    there = gone()
    working.looked.set()
    assert there is None
    assert run.progress.snapshot is None


def test_wait_gives_up_after_its_timeout_and_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(toys, "STAND_AT", 5)
    run = ek.start(toys.train, steps=20)
    with pytest.raises(TimeoutError, match=r"train is still running after 0\.01 s; it goes on"):
        run.wait(0.01)
    monkeypatch.setattr(toys, "STAND_AT", None)
    assert run.wait(120) is run.result is not None


def test_a_keyboard_interrupt_ends_only_the_waiting(monkeypatch):
    monkeypatch.setattr(toys, "STAND_AT", 5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    try:
        run = ek.start(toys.train, steps=20)

        def interrupted():  # the signal comes in here, however late
            threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
            run.wait(120)

        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.state == "running"
    monkeypatch.setattr(toys, "STAND_AT", None)
    assert torch.equal(run.wait(120), toys.train(steps=20))


def test_await_leaves_the_loop_free():
    beats = 0

    @long_work
    def beaten():
        """Ends once the loop has beaten ten times; if the loop is not free, it cannot."""
        end = time.monotonic() + 60
        while beats < 10 and time.monotonic() < end:
            time.sleep(0.01)
            yield Progress("beaten", min(beats, 10), 10)
        return beats

    async def main():
        run = ek.start(beaten)

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        task = asyncio.create_task(beat())
        result = await run
        task.cancel()
        failed = ek.start(toys.count, fail_at=1)
        with pytest.raises(BadInput):
            await failed
        return result

    assert asyncio.run(main()) >= 10


def test_seconds_left_is_unknown_before_the_third_step():
    gate = threading.Semaphore(0)

    @long_work
    def gated():
        for i in range(10):
            gate.acquire(timeout=280)
            time.sleep(0.02)
            yield Progress("gated", i + 1, 10)

    run = ek.start(gated)
    for step in range(1, 10):
        gate.release()
        until(lambda step=step: len(run.events) == step)
        left = run.seconds_left
        assert (left is None) == (step < 3)
    for _ in range(10):
        gate.release()
    run.wait(120)
    assert run.seconds_left is None


def test_start_refuses_what_is_no_long_work():
    with pytest.raises(BadInput, match=r"the verb is 'len', a builtin_function_or_method\. Allowed: long work, such as ek\.load"):
        ek.start(len, [1])
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        ek.start(toys.count, upto=3)


def test_a_given_folder_must_be_usable(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", "/proc/effkit-run"):
        with pytest.raises((CannotWrite, BadInput, OSError), match=r"Cannot write|is a file|No such file"):
            ek.start(toys.count, folder=folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("x")
    with pytest.raises(BadInput, match=r"is not empty\. Allowed: a new or an empty folder"):
        ek.start(toys.count, folder=tmp_path / "full")
    assert (tmp_path / "full" / "thing").read_text() == "x"


def test_without_a_usable_default_folder_it_works_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EFFKIT_HOME", str(tmp_path / "file"))
    run = ek.start(toys.count, to=3)
    assert run.wait(120)["counted"] == 3
    assert "Nothing of this run is saved, because its folder could not be made" in run.notes[0]
    assert "Choose another folder" in run.notes[0]


def test_checkpoint_now(tmp_path):
    run = ek.start(toys.train, steps=5000, pause=0.001, folder=tmp_path / "run")
    first = run.checkpoint_now(120)
    second = run.checkpoint_now(120)
    assert second.name > first.name
    assert not first.exists()
    run.pause()
    until(lambda: run.state == "paused")
    assert run.checkpoint_now(120).exists()
    run.cancel()
    with pytest.raises(Unavailable, match="count has no snapshots"):
        ek.start(toys.count).checkpoint_now()
    with pytest.raises(Cancelled):
        run.wait(120)
    with pytest.raises(BadInput, match=r"the run is cancelled\. Only a run that is going on can be asked"):
        run.checkpoint_now()


def test_many_runs_at_once():
    runs = [ek.start(toys.train, seed=i, steps=20) for i in range(6)]
    assert all(torch.equal(run.wait(120), finish(toys.train.work(seed=i, steps=20))) for i, run in enumerate(runs))
    assert len({run.folder for run in runs}) == 6


def test_a_teacher_is_made_live(tiny_encoder_folder, reports, tmp_path):
    """Fine-tuning is a run like others: paused, a knob turned, cancelled so that it can go on, and taken up again from its folder."""
    base = ek.classifier(tiny_encoder_folder, reports.classes, device="cpu")
    run = ek.start(ek.finetune, base, reports, epochs=4, learning_rate=1e-3, batch=16, folder=tmp_path / "run")
    until(lambda: len([e for e in run.events if e["task"] == "finetune"]) > 3)
    run.pause()
    until(lambda: run.state == "paused")
    at = len(run.events)
    run.change(learning_rate=5e-4)
    run.resume()
    until(lambda: len(run.events) > at + 1)
    run.cancel(keep=True)
    with pytest.raises(Cancelled):
        run.wait(20)
    again = ek.attach(tmp_path / "run")
    again.resume()
    teacher = again.wait(60)
    assert again.events[-1]["done"] == 60
    assert "learning_rate became 0.0005" in " ".join(teacher.checkpoint.notes)
