"""The two benches on a tiny model: choose, plan, start, cancel, measure, and what the page is told."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput, Cancelled
from effkit.spec.recipe import Distill, Prune, Quantize
from effkit_widgets import DistillLab, QuantizeLab

from .test_live import click, points, until

TEXT = " ".join(f"the quick brown fox {i} jumps over the lazy dog" for i in range(400))
FEW = {"window": 64, "windows": 2, "prompt": 8, "new_tokens": 3, "repeats": 2}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(model, before) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


@pytest.fixture
def bench(tiny_llama):
    return QuantizeLab(tiny_llama, store=False, on=TEXT, measuring=FEW)


def test_the_plan_is_there_at_once_and_follows_the_choice(bench, tiny_llama):
    assert bench.plan["before"] == tiny_llama.stored_bytes
    four = bench.plan["after"]
    bench.choice = {**bench.choice, "bits": 8}
    assert bench.plan["after"] > four
    assert bench.plan["label"] == Quantize(bits=8).label()
    alone = ek.plan(tiny_llama, Quantize(bits=8))
    assert (bench.plan["after"], bench.plan["seconds"], bench.plan["peak"]) == (alone.bytes_after, alone.seconds, alone.peak_bytes)
    assert sum(row[8] for row in bench.plan["rows"]) == bench.plan["after"]
    assert {row[3] for row in bench.plan["rows"]} == {"quantize", "keep"}
    assert all(row[9] for row in bench.plan["rows"] if row[3] == "keep")


def test_an_impossible_choice_is_told_and_cannot_start(bench):
    bench.choice = {**bench.choice, "group_size": 48}
    assert bench.plan == {}
    assert "48" in bench.problem["what"]
    with pytest.raises(BadInput, match="48"):
        bench.start()
    click(bench, "start", choice=dict(bench.choice))
    assert "48" in bench.problem["what"]
    assert bench.run is None
    bench.choice = {**bench.choice, "group_size": 32}
    assert bench.problem == {}
    assert bench.plan["after"] > 0
    with pytest.raises(BadInput, match=r"the option of QuantizeLab.start is 'bit'. .*Did you mean 'bits'"):
        bench.start(bit=4)


def test_methods_are_offered_with_what_fits_the_model(bench):
    offered = {m["name"]: m for m in bench.config["methods"]}
    assert set(offered) >= {"rtn", "nf4", "fp4", "int8"}
    assert offered["rtn"]["bits"] == [2, 3, 4, 5, 6, 7, 8]
    assert offered["rtn"]["groups"] == ["auto", 32, 64, None]  # rows of 64
    assert offered["nf4"]["bits"] == [4]
    assert all(m["groups"] and m["title"] and m["summary"] for m in offered.values())


def test_quantize_measure_and_land(bench, tiny_llama):
    before = weights(tiny_llama)

    async def main():
        bench._loop = asyncio.get_running_loop()
        click(bench, "start", choice={**bench.choice, "group_size": 32})
        small = await bench
        assert small is bench.result
        assert [r.recipe.kind() for r in bench.records] == ["base", "quantized"]
        bench.start(method="nf4")
        assert bench.result is None
        await bench

    asyncio.run(main())
    assert bench.problem == {}
    assert bench.state["name"] == "done"
    assert bench.state["stage"] == [2, 2]
    assert [p["kind"] for p in bench.points] == ["base", "quantized", "quantized"]
    assert bench.record is bench.records[-1]
    assert bench.record.recipe.steps[0].method == bench.choice["method"] == "nf4"
    assert bench.result.stored_bytes == bench.record.cost.bytes == bench.plan["after"]
    acting = [row for row in bench.plan["rows"] if row[3] == "quantize"]
    told = sorted(x for kind in bench.history["curves"] for x in points(bench.history, kind)[0])
    assert told == list(range(1, len(acting) + 1))
    for kind in bench.history["curves"]:  # each point stands for a module of its kind
        assert all(acting[int(x) - 1][1] == kind for x in points(bench.history, kind)[0])
    assert "of the base's quality" in bench.sentence
    assert same(tiny_llama, before)
    assert "QuantizeLab('tiny-llama')" in repr(bench)


def test_cancel_leaves_the_base_and_makes_nothing(bench, tiny_llama, held):
    before = weights(tiny_llama)
    run = bench.start()
    with pytest.raises(BadInput, match="a run is going on"):
        bench.start()
    bench.cancel()
    held.set()
    with pytest.raises(Cancelled):
        bench.wait(120)
    assert run.state == "cancelled"
    assert (bench.result, bench.record, bench.records) == (None, None, ())
    assert same(tiny_llama, before)
    assert bench.wait.__self__.start() is not run
    assert bench.wait(120).stored_bytes == bench.plan["after"]


def test_options_are_checked_before_any_work(tiny_llama):
    with pytest.raises(BadInput, match=r"the option in measuring is 'windws'.*Did you mean 'windows'"):
        QuantizeLab(tiny_llama, measuring={"windws": 2})
    with pytest.raises(BadInput, match="the option in measuring is 'store'"):
        DistillLab(tiny_llama, measuring={"store": False})
    with pytest.raises(BadInput, match=r"the option in training is 'bach'.*Did you mean 'batch'"):
        DistillLab(tiny_llama, training={"bach": 2})


def test_a_measurement_that_fails_is_told(tiny_llama):
    bench = QuantizeLab(tiny_llama, store=False, on="too short", measuring=FEW)
    bench.start()
    with pytest.raises(BadInput):
        bench.wait(120)
    assert bench.state["name"] == "failed"
    assert bench.problem["what"]
    assert bench.result is not None  # what was made is not thrown away


def test_distill_measure_and_say_what_was_kept(tiny_llama):
    before = weights(tiny_llama)
    bench = DistillLab(tiny_llama, text=TEXT, store=False, on=TEXT, measuring=FEW, training={"window": 32, "batch": 2})
    assert bench.choice["layers"] == 2
    assert bench.plan["after"] == ek.plan(tiny_llama, Prune(layers=2)).bytes_after
    assert bench.run is None

    async def main():
        bench._loop = asyncio.get_running_loop()
        run = bench.start(steps=12, layers=1)
        click(bench, "pause")
        await until(lambda: bench.state["name"] == "paused" or run.done())
        turned = {**bench.choice, "temperature": 2.0, "learning_rate": 1e-3}
        thread = threading.Thread(target=lambda: setattr(bench, "choice", turned))  # a field changed in the browser
        thread.start()
        thread.join()
        if not run.done():
            click(bench, "resume")
        assert await bench is bench.student
        return run

    run = asyncio.run(main())
    assert bench.problem == {}
    assert bench.run is run
    assert len(points(bench.history, "loss")[0]) == 12
    held_out = points(bench.history, "held_out")[0]
    assert (held_out[0], held_out[-1]) == (0, 12)
    assert bench.record.recipe.kind() == "distilled"
    assert [type(step) for step in bench.student.recipe.steps] == [Prune, Distill]
    assert "predicts this text better than its teacher" in bench.verdict, "a teacher of random weights knows no text"
    assert any("change" in event for event in run.events) or run.events[-1]["done"] == 12
    assert same(tiny_llama, before)
    assert repr(bench) == "DistillLab('tiny-llama')"


def test_the_weight_of_the_text_begins_as_the_library_has_it_and_follows_the_objective(tiny_llama, tiny_classifier):
    bench = DistillLab(tiny_llama, text=TEXT, store=False, on=TEXT, measuring=FEW, training={"window": 32, "batch": 2})
    assert bench.choice["hard"] is None
    assert bench.config["hard"] == {"forward-kl": 0.2, "reverse-kl": 0.0, "jensen-shannon": 0.0, "skew-kl": 0.0, "hard-labels": 1.0}
    assert set(DistillLab(tiny_classifier, store=False).config["hard"].values()) == {0.0, 1.0}
    assert DistillLab(tiny_llama, store=False, training={"source": "student"}).config["hard"]["forward-kl"] == 0.0
    run = bench.start(steps=6, layers=1)
    bench.wait(120)
    plain = ek.start(ek.distill, tiny_llama, ek.prune(tiny_llama, 1), TEXT, steps=6, window=32, batch=2)
    plain.wait(120)
    assert run.curve("loss") == plain.curve("loss")
    # a knob that is turned back is told as the number that it stands for
    assert bench._spelt({"objective": "forward-kl", "hard": None}) == {"objective": "forward-kl", "hard": 0.2}
    assert bench._spelt({"objective": "reverse-kl", "hard": None})["hard"] == 0.0
    assert bench._spelt({"objective": "forward-kl", "hard": 0.7})["hard"] == 0.7


def test_an_impossible_student_is_told(tiny_llama):
    bench = DistillLab(tiny_llama, store=False)
    bench.choice = {**bench.choice, "layers": 7}
    assert bench.plan == {}
    assert "7" in bench.problem["what"]
    bench.choice = {**bench.choice, "layers": 2, "temperature": -1}
    assert "temperature" in bench.problem["what"]
    with pytest.raises(BadInput):
        bench.start(layers=0)
    with pytest.raises(BadInput, match=r"the option of DistillLab.start is 'epochs'"):
        bench.start(epochs=3)


def test_reference_lines_and_samples_come_while_it_trains(tiny_llama):
    bench = DistillLab(
        tiny_llama, text=TEXT, store=False, on=TEXT, measuring=FEW, training={"window": 32, "batch": 2}, references={"untrained": 3},
        prompts=("the quick", "over"),
    )  # fmt: skip
    assert bench.lines == {"untrained": 3.0}
    assert bench.samples == {}
    run = bench.start(steps=10, layers=1)
    student = bench.wait(120)
    assert bench.lines["teacher"] == 0.0
    told = next(event["details"]["references"] for event in run.events if "references" in event["details"])
    assert bench.lines == {**told, "untrained": 3.0}
    assert told["constant answer"] > 0
    assert bench.samples["step"] == 10
    assert [row["prompt"] for row in bench.samples["rows"]] == ["the quick", "over"]
    assert bench.samples["rows"][0]["teacher"] == tiny_llama.generate("the quick", 16)
    assert bench.samples["rows"][0]["student"] == student.generate("the quick", 16)
    bench.start(steps=2, layers=1)
    assert (bench.samples, bench.verdict) == ({}, "")  # of the last run
    assert bench.lines == {"untrained": 3.0}
    bench.cancel()


def test_no_prompts_no_samples_and_a_reference_is_a_number(tiny_llama, tiny_classifier):
    assert DistillLab(tiny_classifier, store=False)._prompts == ()
    assert len(DistillLab(tiny_llama, store=False)._prompts) == 2
    with pytest.raises(BadInput, match=r"the reference 'majority' is nan\. Allowed: a number, in nats"):
        DistillLab(tiny_llama, references={"majority": float("nan")})
    with pytest.raises(BadInput, match="the option in training is 'prompts'"):
        DistillLab(tiny_llama, training={"prompts": ["a"]})


def test_a_run_that_goes_back_takes_its_curve_back(tiny_llama):
    bench = DistillLab(tiny_llama, store=False)

    def event(done, **metrics):
        bench._take({"task": "distill", "done": done, "metrics": metrics, "details": {}})

    for done in range(6):
        event(done, loss=1.0 / (done + 1), held_out=float(done))
    told, epoch = bench._curves.news(), bench._curves.epoch
    assert told is not None
    event(2)
    event(3, loss=9.0)
    assert bench._curves["loss"] == ([0, 1, 2, 3], [1.0, 1 / 2, 1 / 3, 9.0])
    assert bench._curves["held_out"] == ([0, 1, 2], [0.0, 1.0, 2.0])
    assert bench._curves.epoch == epoch + 1
    assert {tuple(part) for part in bench._curves.news()[0]["curves"]} == {("loss", 0), ("held_out", 0)}  # told from the beginning


def test_branch_undo_and_show_from_the_card(tiny_llama):
    bench = DistillLab(
        tiny_llama, text=TEXT, store=False, on=TEXT, measuring=FEW, training={"window": 32, "batch": 2}, prompts=()
    )  # fmt: skip

    async def pause_at(step):
        await until(lambda: bench.state.get("done", 0) >= step)
        click(bench, "pause")
        await until(lambda: bench.state["name"] == "paused")

    async def main():
        bench._loop = asyncio.get_running_loop()
        first = bench.start(steps=400, layers=1)
        await pause_at(3)
        at = first.progress.done
        await until(lambda: bench.state["checkpoints"])
        assert bench.state["checkpoints"] == [at]
        # a knob turned while it is paused waits for what comes next: here a branch, which takes it along
        bench.choice = {**bench.choice, "temperature": 3.0}
        click(bench, "branch", step=None)
        await until(lambda: bench.run is not first)
        assert bench.problem == {}
        second = bench.run
        await until(lambda: len(bench.tree) == 2)
        assert first.state == "paused"
        assert [(node["number"], node["from"], node["change"], node["shown"]) for node in bench.tree] == [
            (1, 0, {}, False),
            (2, at, {"temperature": 3.0}, True),
        ]
        assert "folder" not in str(bench.tree)
        await pause_at(at + 2)
        assert bench._curves["held_out:1"][0][0] == 0
        assert bench._curves["loss"][0][: at + 1] == list(range(1, at + 2))  # its parent's story up to there, then its own
        checkpoint = second.progress.done
        click(bench, "resume")
        await pause_at(checkpoint + 2)
        reached = second.progress.done
        click(bench, "undo", step=None)
        await until(lambda: bench.tree[1]["undone"] or bench.problem)
        assert bench.problem == {}
        assert bench.tree[1]["undone"] == [f"undone: back from step {reached} to step {checkpoint}"]
        await pause_at(checkpoint + 1)
        steps = bench._curves["loss"][0]
        assert steps == list(range(1, len(steps) + 1))  # what was undone is not drawn, and what came instead is
        # back to the first, which goes on with the knob as it was
        click(bench, "show", run=first.id)
        await until(lambda: bench.tree[0]["shown"])
        assert [node["shown"] for node in bench.tree] == [True, False]
        assert bench.choice["temperature"] == 1.0  # the fields show what this one works with
        with pytest.raises(BadInput, match="the run is 'x'"):
            bench.show("x")
        click(bench, "resume")
        await until(lambda: bench.state.get("done", 0) > at)
        with pytest.raises(BadInput, match="Pause it first"):
            bench.branch()
        await pause_at(at + 1)
        assert not any("change" in event for event in first.events)
        click(bench, "cancel")
        await until(lambda: bench.state["name"] == "cancelled")
        second.cancel()

    asyncio.run(main())


def test_a_branch_of_a_finished_run_is_measured_too_and_both_stay(tiny_llama, held):
    bench = DistillLab(tiny_llama, text=TEXT, store=False, on=TEXT, measuring=FEW, training={"window": 32, "batch": 2}, prompts=())
    first = bench.start(steps=12, layers=1)
    first.pause()
    held.set()
    assert asyncio.run(first.paused())
    bench.resume()
    one = bench.wait(120)
    record = bench.record
    second = bench.branch(steps=first.checkpoints()[0]["step"] + 3, learning_rate=1e-3)
    assert bench.choice["learning_rate"] == 1e-3
    two = bench.wait(120)
    assert two is not one
    assert bench.record.id != record.id
    assert bench.verdict
    assert two.recipe.steps[-1].steps == first.checkpoints()[0]["step"] + 3
    assert bench.show(first.id) is first
    assert bench.wait(120) is one
    assert bench.record is record  # shown again, not measured again
    assert [node["state"] for node in bench.tree] == ["done", "done"]
    assert second.id == bench.tree[1]["id"]


def test_objective_and_weight_are_chosen_and_the_weight_can_be_turned(tiny_llama, held):
    options = {"window": 32, "batch": 2, "objective": "reverse-kl", "hard": 0.5}
    bench = DistillLab(tiny_llama, text=TEXT, store=False, on=TEXT, measuring=FEW, training=options, prompts=())
    assert (bench.choice["objective"], bench.choice["hard"]) == ("reverse-kl", 0.5)
    run = bench.start(steps=12, layers=1)
    run.pause()
    held.set()
    assert asyncio.run(run.paused())
    bench.choice = {**bench.choice, "hard": 2.0}
    bench.resume()
    student = bench.wait(120)
    assert student.recipe.steps[-1].objective == "reverse-kl"
    assert [event["change"] for event in run.events if "change" in event] == [{"hard": 2.0}]
    bench.choice = {**bench.choice, "objective": "kl"}
    assert "objective is 'kl'" in bench.problem["what"]


def test_nobody_keeps_more_than_all():
    """On text that the teacher does not know the student's better perplexity is no share that was kept."""
    from effkit_widgets.distill_lab import _verdict

    from .records import record

    assert (
        _verdict(record("a", retained=0.93, bytes=200_000))
        == "The student keeps 93.0% of the teacher's quality at 20.0% of the teacher's bytes."
    )
    better = _verdict(record("b", retained=3.046, bytes=200_000))
    assert "304" not in better
    assert "predicts this text better than its teacher (perplexity 6.57 against 20)" in better
    assert "no share of the teacher's quality" in better
    level = _verdict(record("c", retained=1.002, bytes=200_000))
    assert "cannot tell the student from its teacher" in level
    assert "100.2%" not in level
