"""Exploring: a shared trial equals the same recipe alone, nothing that ended is lost, and limits are kept politely."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest

import effkit as ek
from effkit.compress.pipeline import compress
from effkit.lab.runs.folder import RunFolder
from effkit.lab.searching.bench import REST, Found, layout_of
from effkit.lab.searching.search import Search, read
from effkit.spec.errors import BadInput, Cancelled, Unavailable
from effkit.spec.exploration import Budget, Stage
from effkit.spec.progress import finish

TEXT = "The machine measures what it keeps and what it costs. " * 60
HOW = {"on": TEXT, "text": TEXT, "window": 64, "windows": 3, "prompt": 16, "new_tokens": 4, "repeats": 2}
ROUNDED = {"step": "quantize", "method": ["gptq", "rtn"], "group_size": 32, "embedding_bits": [8, 4], "samples": 4, "window": 64}
TUNED = {**ROUNDED, "method": "gptq", "tune": [None, "scales"], "tune_steps": 3}
STUDENT = [{"step": "prune", "layers": 2}, {"step": "distill", "steps": 3, "batch": 2, "window": 32}]
BITS = {"steps": [{"step": "quantize", "bits": [2, 3, 4, 5, 6, 8], "group_size": [16, 32]}]}


def alone(record: ek.Record, base: ek.Model) -> ek.Record:
    """The same recipe, made and measured by itself."""
    how = {name: value for name, value in HOW.items() if name != "text"}
    return ek.measure(compress(base, record.recipe, TEXT), base, **how, store=False)


def stripped(record: ek.Record) -> dict:
    """What must be equal: all but times, names, the surroundings, and the speed."""
    quality = record.quality.model_copy(update={"seconds": 0.0})
    return record.model_copy(
        update={"id": "", "created": "", "name": "", "environment": {}, "profile": None, "quality": quality}
    ).model_dump()


def stages(found: ek.Exploration) -> Counter:
    return Counter(stage.name for trial in found.trials for stage in trial.stages if stage.name != REST)


# sharing


@pytest.mark.parametrize(
    ("steps", "took"),
    [
        ([ROUNDED], {"quantize gptq": 1, "quantize rtn": 1, "round again": 2}),
        ([TUNED], {"quantize gptq": 1, "round again": 3}),
        ([*STUDENT, {**ROUNDED, "method": "rtn"}], {"prune": 1, "distill": 1, "quantize rtn": 1, "round again": 1}),
        ([{"step": "quantize", "bytes": [0.2, 0.3], "group_size": 32}], {"sensitivity": 1, "quantize rtn": 2}),
    ],
    ids=["rounding", "tuning", "student", "bytes"],
)
def test_a_shared_trial_equals_the_same_recipe_alone(tiny_llama, steps, took):
    found = ek.explore(tiny_llama, {"steps": steps, "seed": 3}, sampler="grid", **HOW)
    assert [trial.state for trial in found.trials] == ["done"] * len(found.trials)
    assert {name: count for name, count in stages(found).items() if name != "evaluate"} == took
    for trial in found.trials:
        assert stripped(trial.record) == stripped(alone(trial.record, tiny_llama))
    assert found.base.quality.retained == 1


def test_what_was_shared_on_disk_is_the_same_too(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr("effkit.lab.searching.bench.LONG", 0.0)  # tiny models are made in no time
    space = {"steps": [*STUDENT, {**ROUNDED, "method": ["gptq"]}]}
    ek.explore(tiny_llama, space, sampler="grid", trials=1, budget=10, study=tmp_path, **HOW)
    assert not list(tmp_path.glob("made/*"))  # all that was asked for is there
    work = ek.explore.work(tiny_llama, space, sampler="grid", trials=2, study=tmp_path, **HOW)
    assert finish(work).trials[1].state == "done"

    other = tmp_path / "other"
    work = ek.explore.work(tiny_llama, space, sampler="grid", study=other, **HOW)
    next(event for event in work if event.done == 1)
    work.close()  # as a kill between two trials would leave it
    assert len(list((other / "made").glob("*"))) == 2
    found = ek.explore(tiny_llama, space, sampler="grid", study=other, **HOW)
    assert stages(found) == {"prune": 1, "distill": 1, "quantize gptq": 1, "read": 1, "round again": 1, "evaluate": 2}
    assert stripped(found.trials[1].record) == stripped(alone(found.trials[1].record, tiny_llama))


def test_speed_is_measured_once_a_layout(tiny_llama):
    space = {"steps": [{"step": "quantize", "method": ["rtn", "search"], "bits": [4, 8], "group_size": 32}]}
    found = ek.explore(tiny_llama, space, ("bytes", "decode"), sampler="grid", **HOW)
    first, wide, same, wide_same = (trial.record for trial in found.trials)
    assert first.profile.timed_on is None
    assert wide.profile.timed_on is None
    assert same.profile.timed_on == first.id
    assert wide_same.profile.timed_on == wide.id
    assert same.profile.model_copy(update={"timed_on": None}) == first.profile
    assert first.profile.speed_ratio.value is not None
    assert found.base.profile is not None
    assert ek.explore(tiny_llama, space, sampler="grid", **HOW).trials[0].record.profile is None  # nothing asks for it


def test_a_layout_tells_shapes_and_storage_apart_and_not_values(tiny_llama):
    def layout(**step):
        return layout_of(ek.quantize(tiny_llama, group_size=32, **step))

    assert layout(method="rtn", bits=4) == layout(method="search", bits=4)
    different = [layout(bits=4), layout(bits=3), layout(bits=4, symmetric=True), layout(bits=4, embedding_bits=4)]
    different += [layout(method="nf4"), layout(method="hqq")]
    assert len({*different, layout_of(tiny_llama), layout_of(ek.prune(tiny_llama, 2))}) == 8


# keeping


def test_every_record_is_stored_and_a_second_call_adds_nothing(tiny_llama):
    found = ek.explore(tiny_llama, BITS, trials=4, **HOW)
    assert {r.id for r in ek.Store()} == {r.id for r in found.records}
    assert len(found.records) == 5
    assert found.ended == "all 4 trials were made"
    again = ek.explore(tiny_llama, BITS, trials=4, **HOW)
    assert again.trials == found.trials
    more = ek.explore(tiny_llama, BITS, trials=6, **HOW)
    assert more.trials[:4] == found.trials
    assert len(ek.Store()) == 7 == len(more.records)
    assert ek.explore(tiny_llama, BITS, **HOW).ended == "every recipe of the space was tried"
    assert read(found.folder).trials[:6] == more.trials


def test_a_recipe_that_fails_is_kept_with_its_reason_and_the_search_goes_on(tiny_llama, monkeypatch):
    from effkit.compress.quantization.methods import hqq

    def broken(*given, **options):
        raise RuntimeError("the kernel is out of order")

    monkeypatch.setattr(hqq.METHOD, "apply", broken)
    space = {"steps": [{"step": "quantize", "method": ["hqq", "nf4", "rtn"], "bits": [3, 4], "group_size": [32, 48]}]}
    found = ek.explore(tiny_llama, space, sampler="grid", **HOW)
    told = {trial.label: trial for trial in found.trials}
    assert told["hqq 4-bit g32"].reason == "RuntimeError: the kernel is out of order"
    assert "bits for nf4 is 3" in told["method nf4 bits 3 group_size 32"].reason
    assert "group_size is 48" in told["rtn 3-bit g48"].reason
    assert [trial.label for trial in found.trials if trial.state == "done"] == ["nf4 g32", "rtn 3-bit g32", "rtn 4-bit g32"]
    assert len(ek.Store()) == 4  # with the base
    assert len(found.trials) == 12
    assert found.frontier().base() == found.base


def test_what_is_not_promising_is_stopped_and_kept(tiny_llama):
    found = ek.explore(tiny_llama, BITS, sampler="grid", halving=(1,), eta=2, **HOW)
    stopped = [trial for trial in found.trials if trial.state == "stopped"]
    assert stopped
    assert all(trial.windows == 1 == trial.record.quality.windows and "on 1 of 3 windows" in trial.reason for trial in stopped)
    whole = [trial for trial in found.trials if trial.state == "done"]
    assert all(trial.windows == 3 == trial.record.quality.windows and len(trial.rungs) == 1 for trial in whole)
    assert stripped(whole[-1].record) == stripped(alone(whole[-1].record, tiny_llama))
    assert not {trial.number for trial in stopped} & {trial.number for trial in found.front()}
    assert len(ek.Store()) == 13


def test_every_sampler_tries_each_recipe_once_and_the_same_way_again(tiny_llama, tmp_path):
    for sampler in ("random", "tpe", "nsga2"):
        ways = [ek.explore(tiny_llama, BITS, trials=8, sampler=sampler, study=tmp_path / f"{sampler}{i}", **HOW) for i in range(2)]
        assert [trial.recipe for trial in ways[0].trials] == [trial.recipe for trial in ways[1].trials]
        assert len({trial.recipe.hash() for trial in ways[0].trials}) == 8


# going on

KILLED = """
import sys, effkit as ek
from tests.unit.lab.test_explore import BITS, HOW
if __name__ == "__main__":
    base = ek.load(sys.argv[1], device="cpu")
    for event in ek.explore.work(base, BITS, trials=8, sampler=sys.argv[3], study=sys.argv[2], **HOW):
        print(event.done, flush=True)
"""


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_kill_costs_the_trial_that_was_made_and_nothing_else(tiny_llama_folder, tiny_llama, tmp_path, sampler):
    root = str(ek.__file__).rpartition("/effkit/")[0]
    environment = {**os.environ, "PYTHONPATH": root}
    for after in ("2", "5"):
        command = [sys.executable, "-c", KILLED, str(tiny_llama_folder), str(tmp_path / "killed"), sampler]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == after:
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
        child.stdout.close()
        assert len(read(tmp_path / "killed").trials) >= int(after)
    with (tmp_path / "killed" / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker')  # as a kill in the middle of a line leaves it
    found = ek.explore(tiny_llama, BITS, trials=8, sampler=sampler, study=tmp_path / "killed", **HOW)
    whole = ek.explore(tiny_llama, BITS, trials=8, sampler=sampler, study=tmp_path / "whole", **HOW)
    assert [(t.number, t.draft, t.values) for t in found.trials] == [(t.number, t.draft, t.values) for t in whole.trials]
    assert {r.id for r in found.records} <= {r.id for r in ek.Store()}


def test_an_end_between_a_point_and_its_trial_costs_nothing(tiny_llama, tmp_path, monkeypatch):
    """A grid enqueues a point and then asks for it; a signal or a kill may come between the two."""
    import optuna

    ask, asked = optuna.Study.ask, []

    def ends(study, *args, **kwargs):
        asked.append(study)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(study, *args, **kwargs)

    def explored(folder) -> list:
        found = ek.explore(tiny_llama, BITS, trials=4, sampler="grid", study=tmp_path / folder, **HOW)
        return [(t.number, t.draft, t.values) for t in found.trials]

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "ask", ends)
        with pytest.raises(KeyboardInterrupt):
            explored("ended")
    assert "fixed_params" in (tmp_path / "ended" / "journal.log").read_text().splitlines()[-1], "a point waits in the journal"
    assert explored("ended") == explored("whole")


def test_a_run_of_it_pauses_is_cancelled_and_goes_on(tiny_llama, tmp_path):
    run = ek.start(ek.explore, tiny_llama, BITS, trials=8, study=tmp_path, **HOW)
    while (run.progress is None or run.progress.done < 2) and not run.done():
        time.sleep(0.01)
    run.cancel(keep=True)
    with pytest.raises(Cancelled):
        run.wait(120)
    assert run.saved.wait(120)
    kept = read(tmp_path).trials
    assert 2 <= len(kept) < 8
    run.resume()
    found = run.wait(120)
    assert found.trials[: len(kept)] == kept
    assert len(found.trials) == 8
    told = [event["details"]["trial"] for event in run.events if "trial" in event["details"]]
    assert told[-1]["record"] in {r.id for r in found.records}
    assert set(told[-1]["values"]) == {"bytes", "retained"}
    run.saved.wait(30)
    assert ek.attach(run.folder).result == found


def test_a_folder_holds_one_search_for_one_process(tiny_llama, tmp_path):
    ek.explore(tiny_llama, BITS, trials=1, study=tmp_path, **HOW)
    with pytest.raises(BadInput, match="lies an exploration with another sampler and space"):
        ek.explore(tiny_llama, {"steps": [{"step": "quantize"}]}, sampler="grid", study=tmp_path, **HOW)
    home = RunFolder(tmp_path)
    assert home.take()
    try:
        with pytest.raises(Unavailable, match="explores in it"):
            ek.explore(tiny_llama, BITS, trials=2, study=tmp_path, **HOW)
    finally:
        home.release()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="holds other things"):
        ek.explore(tiny_llama, BITS, trials=1, study=tmp_path / "full", **HOW)
    with pytest.raises(BadInput, match="holds no exploration"):
        read(tmp_path / "full")


# limits


class Timed:
    """An executor whose trials take 50 ms each and claim 100, by a clock that only they move; nothing is made."""

    dashboard = ""

    def __init__(self, now: list[float]) -> None:
        self.jobs: list = []
        self.now = now

    def capacity(self) -> int:
        return 1

    def submit(self, job) -> None:
        self.jobs.append(job)

    def wait(self):
        yield "waiting"
        self.now[0] += 0.05
        job = self.jobs[-1]
        return [Found(job.number, job.windows, None, "nothing was made", (Stage(name="quantize rtn", seconds=0.1),))]


def search(folder, **limits) -> Search:
    facts = {"objectives": ["bytes", "retained"], "sampler": "grid"}
    space = ek.Space.of({"steps": [{"step": "quantize", "bits": [2, 3, 4, 5, 6, 7, 8], "group_size": [16, 32, 64]}]})
    given = {"budget": Budget(), "trials": None, **limits}
    return Search(folder, facts, space, ("bytes", "retained"), "grid", (3,), 3.0, speed=False, store=None, **given)


def test_no_trial_is_begun_that_would_not_end_within_the_budget(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("effkit.lab.searching.bench.time", SimpleNamespace(perf_counter=lambda: now[0]))
    budget = Budget(price=0.48, price_per_hour=3600)  # about half a second
    one = search(tmp_path, budget=budget)
    one.open()
    try:
        finish(one.clock.counted(one.run(Timed(now))))
        assert len(one.done) == 8  # of 21: a ninth would begin at 0.4 s and is thought to end at 0.5 s
        assert one.ended.startswith("the budget holds no trial more")
        assert one.expected(one.space.draft(next(one.space.points()))) == 0  # made already
    finally:
        one.close()
    two = search(tmp_path, budget=Budget(minutes=0.013))  # what was put back is asked for first; time so far counts
    two.open()
    try:
        assert two.clock.seconds == pytest.approx(one.clock.seconds) == pytest.approx(0.4)
        finish(two.clock.counted(two.run(Timed(now))))
        assert sorted(two.done) == list(range(14))
    finally:
        two.close()


def test_a_budget_that_is_used_up_begins_nothing(tiny_llama):
    found = ek.explore(tiny_llama, BITS, budget=1e-6, **HOW)
    assert found.trials == ()
    assert found.base is not None
    assert "budget" in found.ended


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"objective": "size"}, "the objective is 'size'"),
        ({"budget": -1}, "minutes is -1"),
        ({"budget": {"price": 1}}, "without a price per hour"),
        ({"budget": "soon"}, "the budget is 'soon'"),
        ({"sampler": "tpee"}, r"the sampler is 'tpee'. .*Did you mean 'tpe'\?"),
        ({"halving": (3,)}, r"halving is \[3\]"),
        ({"halving": 2}, "halving is 2"),
        ({"eta": 1}, "eta is 1"),
        ({"trials": 0}, "trials is 0"),
        ({"objective": "decode", "speed": False}, "an objective is a speed"),
        ({"space": {"steps": [{"step": "quantize", "bits": 9}]}}, "bits is 9"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(tiny_llama, wrong, says):
    with pytest.raises(BadInput, match=says):
        ek.explore(tiny_llama, wrong.pop("space", BITS), **wrong, **HOW)
    assert len(ek.Store()) == 0


def test_only_a_base_is_explored(tiny_llama):
    with pytest.raises(BadInput, match="the base was already made by"):
        ek.explore(ek.quantize(tiny_llama), BITS, **HOW)
    with pytest.raises(BadInput, match=r"the base is a str\. .*ek.load"):
        ek.explore("smollm2-135m", BITS, **HOW)


def test_a_search_that_was_left_is_read_from_its_folder(tiny_llama, tmp_path):
    work = ek.explore.work(tiny_llama, BITS, trials=6, study=tmp_path, **HOW)
    next(event for event in work if event.done == 2)
    work.close()
    assert ek.read_records(tmp_path) == read(tmp_path).records
    assert len(ek.read_records(tmp_path)) == 3
    assert ek.share(tmp_path, tmp_path.with_suffix(".html")).records == 3
    code = "import sys, effkit as ek; print(len(ek.read_records(sys.argv[1])), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["3", "False"]


def test_what_a_kill_leaves_at_the_very_beginning_is_no_other_thing(tiny_llama, tmp_path):
    (tmp_path / ".study.json.abc123.part").write_text("{")
    found = ek.explore(tiny_llama, BITS, trials=1, study=tmp_path, **HOW)
    (tmp_path / "trials" / ".000001.json.abc123.part").write_text("{")
    assert len(ek.explore(tiny_llama, BITS, trials=2, study=tmp_path, **HOW).trials) == 2
    assert found.trials[0].state == "done"
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"facts": {}}', '{"id": 3, "facts": {"objectives": [], "sampler": "tpe"}}'])
def test_a_damaged_search_is_refused(tiny_llama, tmp_path, content):
    (tmp_path / "study.json").write_text(content)
    for look in (read, ek.read_records, lambda place: ek.explore(tiny_llama, BITS, study=place, **HOW)):
        with pytest.raises(BadInput, match=r"holds no exploration \(\w+ in study.json\)"):
            look(tmp_path)


def test_the_folder_is_readable_json(tiny_llama, tmp_path):
    ek.explore(tiny_llama, BITS, trials=1, study=tmp_path, **HOW)
    assert json.loads((tmp_path / "trials" / "000000.json").read_text())["state"] == "done"
    assert json.loads((tmp_path / "study.json").read_text())["facts"]["sampler"] == "tpe"
