"""A record run again: the same comes out the same, and what was changed is named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import effkit as ek
from effkit.compress.pipeline import compress
from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.record import Record
from effkit.spec.replay import compared

TEXT = "The machine measures what it keeps and what it costs. " * 60
OTHER = "Nothing in this sentence was in the other one, and so its figures differ. " * 60
QUICK = {"window": 64, "windows": 3, "prompt": 16, "new_tokens": 4, "repeats": 2, "store": False}
STUDENT = ek.Recipe(
    steps=(ek.Prune(layers=2), ek.Distill(steps=4, window=16, batch=1, learning_rate=0.01), ek.Quantize(group_size=32)), seed=3
)
QUALITY = ("perplexity", "retained", "kl", "agreement")


@pytest.fixture(scope="module")
def made(tiny_llama_folder, tmp_path_factory):
    """A record of a student, with its text in a file and a base of its own that tests may change."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_llama_folder, folder / "base")
    (folder / "text.txt").write_text(TEXT)
    base = ek.load(folder / "base", device="cpu")
    return ek.measure(compress(base, STUDENT), base, folder / "text.txt", **QUICK)


@pytest.fixture
def own(made, tmp_path, tiny_llama_folder) -> Record:
    """The same record over files of this test."""
    shutil.copytree(tiny_llama_folder, tmp_path / "base")
    (tmp_path / "text.txt").write_text(TEXT)
    return made.model_copy(
        update={
            "checkpoint": made.checkpoint.model_copy(update={"source": str(tmp_path / "base")}),
            "quality": made.quality.model_copy(update={"text_source": str(tmp_path / "text.txt")}),
        }
    )


def verdicts(done: ek.Replay) -> dict[str, str]:
    return {outcome.figure: outcome.verdict for outcome in done.outcomes}


def with_seed(record: Record, seed: int) -> Record:
    return record.model_copy(update={"recipe": record.recipe.model_copy(update={"seed": seed}), "seed": seed})


def test_the_base_is_computed_again_and_not_taken_from_the_shelf(made):
    passes = [[event.message for event in ek.replay.work(made, speed=False)].count("base") for _ in range(2)]
    assert passes[0] == passes[1] > 0


def test_a_record_replays_as_the_same(made):
    done = ek.replay(Record.from_json(made.to_json()), speed=False)
    assert verdicts(done) == dict.fromkeys((*QUALITY, "bytes"), "same")
    assert done.ok
    assert done.same_weights is True
    assert done.changes == ()
    assert all(outcome.why == "" and outcome.causes == () for outcome in done.outcomes)
    assert done.again.quality.blocks == made.quality.blocks
    assert done.again.id != made.id
    assert ek.Replay.model_validate_json(done.model_dump_json()) == done


def test_speed_is_compared_with_the_settings_of_the_record(made):
    done = ek.replay(made)
    assert set(verdicts(done)) == {*QUALITY, "bytes", "first_token_ms", "output_token_ms", "decode", "prefill"}
    again, then = done.again.profile, made.profile
    assert (again.prompt, again.new_tokens, again.repeats, again.batch) == (then.prompt, then.new_tokens, then.repeats, then.batch)
    assert again.speed_ratio.value is not None
    assert all(outcome.causes == () for outcome in done.outcomes)


@pytest.mark.parametrize("changed", ["the record's", "as an argument"])
def test_another_seed_is_named(made, changed):
    done = ek.replay(with_seed(made, 8), speed=False) if changed == "the record's" else ek.replay(made, seed=8, speed=False)
    assert done.same_weights is False
    assert [(change.kind, change.then, change.now) for change in done.changes] == [("seed", "3", "8")]
    assert verdicts(done)["bytes"] == "same"
    for name in ("perplexity", "kl"):
        outcome = done.outcome(name)
        assert outcome.verdict != "same"
        assert outcome.causes == ("seed",)
        assert outcome.why == "seed: the seed was 3 and is 8"


def test_another_step_is_named(made):
    other = made.recipe.model_copy(update={"steps": (*made.recipe.steps[:2], ek.Quantize(group_size=32, bits=2))})
    done = ek.replay(made.model_copy(update={"recipe": other}), speed=False)
    assert done.outcome("bytes").verdict == "different"
    assert done.outcome("bytes").causes == done.outcome("kl").causes == ("recipe",)
    assert not done.ok


def with_version(record: Record, package: str, version: str) -> Record:
    packages = {**record.environment["packages"], package: version}
    return record.model_copy(update={"environment": {**record.environment, "packages": packages}})


def with_loss(record: Record, more: float) -> Record:
    """As if every block had been read that much worse, in nats a token."""
    q = record.quality
    nll = tuple(x + more for x in q.blocks.nll)
    perplexity = q.perplexity.model_copy(update={"value": q.perplexity.value * torch.tensor(more).exp().item()})
    return record.model_copy(
        update={"quality": q.model_copy(update={"perplexity": perplexity, "blocks": q.blocks.model_copy(update={"nll": nll})})}
    )


def test_another_version_is_named_whether_or_not_it_mattered(made):
    done = ek.replay(with_version(made, "transformers", "4.0.0"), speed=False)
    assert set(verdicts(done).values()) == {"same"}
    assert [(change.kind, change.what, change.then) for change in done.changes] == [("version", "transformers", "4.0.0")]
    assert "changed: version: transformers was 4.0.0" in done.table()

    done = ek.replay(with_loss(with_version(made, "transformers", "4.0.0"), 0.5), speed=False)
    assert done.outcome("perplexity").verdict == "different"
    assert done.outcome("perplexity").causes == ("version",)
    assert not done.ok


def test_a_figure_that_was_altered_is_told(made):
    outcome = ek.replay(with_loss(made, 0.5), speed=False).outcome("perplexity")
    assert (outcome.verdict, outcome.causes) == ("different", ())
    assert outcome.why.endswith("this figure may have been altered")


def test_a_figure_that_was_altered_and_not_its_blocks_is_told(made):
    quality = made.quality.model_copy(update={"perplexity": made.quality.perplexity.model_copy(update={"value": 1.5})})
    outcome = compared(made.model_copy(update={"quality": quality}), made).outcome("perplexity")
    assert (outcome.verdict, outcome.causes) == ("different", ())
    assert outcome.why.endswith("this figure may have been altered")


def test_altered_text_is_named(own, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT.replace("costs", "pays", 1))
    done = ek.replay(own, speed=False)
    assert [(change.kind, change.what) for change in done.changes] == [("data", "the text")]
    assert done.same_weights is True
    assert done.outcome("perplexity").verdict == "different"
    assert done.outcome("perplexity").causes == ("data",)
    assert done.outcome("bytes").verdict == "same"
    assert ek.replay(own, on=TEXT, speed=False).ok


def test_altered_weights_are_named(own, tmp_path):
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    save_file(tensors, path, {"format": "pt"})
    done = ek.replay(own, speed=False)
    assert [(change.kind, change.what) for change in done.changes] == [("data", "the checkpoint's hash")]
    assert done.outcome("perplexity").verdict != "same"
    assert done.outcome("perplexity").causes == ("data",)


def test_what_is_not_here_is_asked_for(own, made, tmp_path, tiny_llama):
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"cannot be loaded from where it came from.*model="):
        ek.replay(own, speed=False)
    assert ek.replay(own, model=tmp_path / "elsewhere", speed=False).ok
    assert ek.replay(own, model=tiny_llama, speed=False).ok
    spoken = made.model_copy(update={"quality": made.quality.model_copy(update={"text_source": "a string"})})
    with pytest.raises(BadInput, match=r"the text of .* is not here \(a string\)"):
        ek.replay(spoken, model=tiny_llama, speed=False)
    with pytest.raises(BadInput, match="was already made by"):
        ek.replay(made, model=ek.quantize(tiny_llama, group_size=32))


def test_a_record_of_before_there_were_fingerprints(made):
    data = json.loads(made.to_json())
    del data["fingerprint"]
    old = Record.from_json(json.dumps(data))
    done = ek.replay(old, speed=False)
    assert done.ok
    assert done.same_weights is None
    assert ek.replay(old, seed=8, speed=False).outcome("kl").causes == ("seed",)


def test_a_base_and_a_classifier(tiny_llama, tiny_classifier):
    base = ek.measure(tiny_llama, **QUICK)
    assert set(verdicts(ek.replay(base, speed=False)).values()) == {"same"}
    texts = [f"Report {i}: the pump {'leaks' if i % 2 else 'runs'}." for i in range(12)]
    small = ek.quantize(tiny_classifier, group_size=32)
    record = ek.measure(small, tiny_classifier, texts, window=32, prompt=16, repeats=2, store=False)
    done = ek.replay(record, on=texts)
    assert [done.outcome(name).verdict for name in ("retained", "kl", "agreement", "bytes")] == ["same"] * 4


def test_the_built_in_model_is_found_by_its_name():
    """Its revision says which package it came with, and is none that a hub could be asked for."""
    try:
        base = ek.load("smollm2-135m", device="cpu")
    except Unavailable as missing:
        pytest.skip(str(missing))
    record = ek.measure(base, **QUICK)
    assert record.checkpoint.revision
    assert set(verdicts(ek.replay(record, speed=False)).values()) == {"same"}


def elsewhere(record: Record, **quality) -> Record:
    """As if measured on another device, with other figures."""
    return record.model_copy(
        update={
            "profile": record.profile.model_copy(update={"device": "cuda:0 (a card)", "device_type": "cuda"}),
            "quality": record.quality.model_copy(update=quality),
        }
    )


def off(record: Record, kl: float) -> dict:
    q = record.quality
    mean = q.kl.mean.model_copy(update={"value": q.kl.mean.value + kl})
    blocks = q.blocks.model_copy(update={"kl": tuple(x + kl for x in q.blocks.kl)})
    return {"kl": q.kl.model_copy(update={"mean": mean}), "blocks": blocks}


def test_across_devices_the_noise_floor_decides(made):
    floor = made.quality.floor.kl.value
    assert floor > 0
    for more, verdict in ((0.9 * floor, "within tolerance"), (1.1 * floor, "different")):
        outcome = compared(elsewhere(made, **off(made, more)), made).outcome("kl")
        assert outcome.verdict == verdict
        assert outcome.causes == ("device",)
    near = made.model_copy(update={"quality": made.quality.model_copy(update=off(made, 0.9 * floor))})
    allowed = 0.9 * floor <= 1e-3 * made.quality.kl.mean.value
    assert (compared(near, made).outcome("kl").verdict == "within tolerance") == allowed  # on one device it must be closer


def test_times_differ_by_more_than_their_intervals(made):
    def timed(times: tuple[float, ...]) -> Record:
        from effkit.spec.intervals import mean_interval

        return made.model_copy(
            update={"profile": made.profile.model_copy(update={"time_per_output_token": mean_interval(times, unit="ms")})}
        )

    then = timed((10.0, 10.2, 9.8, 10.1, 9.9))
    then = then.model_copy(update={"environment": {**then.environment, "load": 0.1}})
    then = then.model_copy(update={"quality": then.quality.model_copy(update={"text": "0" * 64})})  # which no time hangs on
    for times, verdict in (
        ((10.5, 10.6, 10.4, 10.5, 10.5), "within tolerance"),
        ((20.0, 20.2, 19.8, 20.1, 19.9), "different"),
        ((5.0, 30.0, 6.0, 25.0, 8.0), "not distinguishable"),
    ):
        outcome = compared(then, timed(times)).outcome("output_token_ms")
        assert (outcome.verdict, outcome.causes) == (verdict, ())
        assert ("a load of 0.1 then, of " in outcome.why) == (verdict == "different")  # only what is different needs a reason


def test_nothing_is_taken_from_what_was_kept(tiny_llama):
    small = ek.quantize(tiny_llama, group_size=32)
    kept = ek.evaluate(small, tiny_llama, TEXT, window=64, windows=3)
    passes = {
        fresh: [e.details["pass"] for e in ek.evaluate.work(small, tiny_llama, TEXT, window=64, windows=3, fresh=fresh)]
        for fresh in (False, True)
    }
    assert "base" not in passes[False]
    assert passes[True].count("base") == passes[True].count("noise floor") == 3
    again = ek.evaluate(small, tiny_llama, TEXT, window=64, windows=3, fresh=True)
    assert again.model_copy(update={"seconds": 0.0}) == kept.model_copy(update={"seconds": 0.0})


def test_a_recipe_keeps_the_seeds_of_verbs_called_one_by_one(tiny_llama):
    student = ek.student(tiny_llama, layers=1, seed=1)
    trained = ek.distill(tiny_llama, student, steps=3, window=16, batch=1, learning_rate=0.01, seed=5)
    small = ek.quantize(trained, group_size=32)
    assert small.recipe.seed == 5
    again = compress(tiny_llama, small.recipe)
    assert again.recipe == small.recipe
    state = again.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in small.module.state_dict().items())


def test_a_whole_recipe_keeps_its_seed(tiny_llama):
    assert compress(tiny_llama, STUDENT).recipe == STUDENT
