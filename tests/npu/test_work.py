"""The verbs on the simulated Ascend machine: the same results as on the CPU, through Huawei's own torch_npu.

Nothing measured here is a claim about real hardware: the driver is fake and the kernels are the CPU's. What is tested is
that effkit's code is right for a device that is neither the CPU nor CUDA: where tensors lie, what is waited for, what
happens when memory ends.
"""

from __future__ import annotations

import gc

import pytest
import torch

import effkit as ek
from effkit.models.classifying import classifier
from effkit.spec.errors import OutOfMemory

TEXT = " ".join(f"The pump was opened {n} times before its seal gave way and the crew wrote down why." for n in range(60))


@pytest.fixture
def base(tiny_llama_folder) -> ek.Model:
    """The tiny Llama on the first NPU, float32."""
    return ek.load(str(tiny_llama_folder), device="npu:0", dtype="float32")


def ids(model: ek.Model, count: int = 48) -> torch.Tensor:
    return torch.tensor([model.tokens(TEXT)[:count]], device=model.device.torch)


def held(npu: int) -> int:
    """Bytes that an NPU cannot give back: what torch's allocator still holds after all caches are emptied."""
    gc.collect()
    torch.npu.empty_cache()
    return torch.npu.memory_reserved(npu)


def near(model: ek.Model, other: ek.Model, tolerance: float = 1e-5) -> None:
    ours, theirs = model.logits(ids(model)).cpu(), other.logits(ids(other)).cpu()
    assert (ours - theirs).abs().max() <= tolerance


def parameters(model: ek.Model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.module.state_dict().items()}


def test_a_model_loads_onto_the_npu_and_agrees_with_the_cpu(base, tiny_llama, machine):
    assert str(base.device) == "npu:0"
    assert {p.device.type for p in base.module.parameters()} == {"npu"}
    before = machine.launches
    near(base, tiny_llama)
    assert machine.launches > before  # the device did it
    assert base.generate("The pump", 8) == tiny_llama.generate("The pump", 8)


def test_auto_takes_the_npu(tiny_llama_folder):
    model = ek.load(str(tiny_llama_folder))
    assert str(model.device) == "npu:0"


def test_a_classifier_agrees_with_the_cpu(tiny_classifier_folder, tiny_classifier):
    near(ek.load(str(tiny_classifier_folder), device="npu", dtype="float32"), tiny_classifier)


def test_models_move_between_devices(base, tiny_llama):
    for place in ("npu:1", "cpu"):
        moved = base.to(device=place)
        assert str(moved.device) == place
        near(moved, tiny_llama)
    assert str(base.device) == "npu:0"


METHODS = [("rtn", 4), ("rtn", 3), ("rtn", 8), ("nf4", 4), ("int8", 8), ("hqq", 3)]
STREAMED = ["gptq", "search", "awq", "learned", "smooth"]


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_quantizing_gives_what_it_gives_on_the_cpu(base, tiny_llama, method, bits):
    here = ek.quantize(base, method=method, bits=bits, group_size=None if method == "int8" else 32)
    there = ek.quantize(tiny_llama, method=method, bits=bits, group_size=None if method == "int8" else 32)
    assert here.stored_bytes == there.stored_bytes == here.plans[-1].bytes_after
    assert {t.device.type for t in here.module.state_dict().values()} == {"npu"}
    near(here, there, 1e-2 if method == "int8" else 1e-4)  # int8 rounds activations too, so a last bit may tip a step
    difference = (here.logits(ids(here)) - base.logits(ids(base))).abs().max()
    assert difference > 1e-3  # it did something


def test_rotated_weights_are_what_they_are_on_the_cpu(base, tiny_llama):
    here, there = (ek.quantize(model, bits=3, group_size=32, rotate=True) for model in (base, tiny_llama))
    assert here.plans[-1].notes == there.plans[-1].notes
    near(here, there, 1e-4)


@pytest.mark.parametrize("method", STREAMED)
def test_methods_that_read_text_give_what_they_give_on_the_cpu(base, tiny_llama, method):
    form = {} if method == "smooth" else {"bits": 3, "group_size": 32}
    few = {**form, "calibration": TEXT, "samples": 12, "window": 64, "learn_steps": 5}  # more tokens than inputs
    here, there = (ek.quantize(model, method, **few) for model in (base, tiny_llama))
    assert here.stored_bytes == there.stored_bytes == here.plans[-1].bytes_after
    assert {t.device.type for t in here.module.state_dict().values()} == {"npu"}
    ours, theirs = here.logits(ids(here)).cpu(), there.logits(ids(there))
    # a last bit of a sum may tip a rounding, so single weights (of "smooth" inputs too) may differ by a step
    assert (ours - theirs).square().mean() < (0.3 if method == "smooth" else 0.05) * (
        theirs - tiny_llama.logits(ids(tiny_llama))
    ).square().mean()


@pytest.mark.parametrize("tune", ["scales", "weights"])
def test_tuning_on_the_npu_helps(base, tune):
    small = ek.quantize(base, bits=2, group_size=32, calibration=TEXT, window=32, tune=tune, tune_steps=4)
    assert "KL on held-out calibration text" in small.plans[-1].notes[-1]
    assert {t.device.type for t in small.module.state_dict().values()} == {"npu"}


def test_sensitivity_on_the_npu_is_what_it_is_on_the_cpu(base, tiny_llama):
    here, there = (ek.sensitivity(m, TEXT, samples=2, window=32, group_size=32) for m in (base, tiny_llama))
    assert [m.choice(3).bytes for m in here.modules] == [m.choice(3).bytes for m in there.modules]
    assert [m.choice(3).kl for m in here.modules] == pytest.approx([m.choice(3).kl for m in there.modules], rel=0.05, abs=1e-6)


def test_the_base_survives_quantizing(base, tiny_llama):
    ek.quantize(base, method="rtn", bits=2, group_size=32)
    near(base, tiny_llama)


def test_a_quantized_model_saved_on_the_npu_loads_anywhere(base, tmp_path):
    small = ek.quantize(base, method="rtn", bits=4, group_size=32)
    folder = small.save(tmp_path / "small")
    again = ek.load(str(folder), device="npu:0")
    assert torch.equal(again.logits(ids(again)), small.logits(ids(small)))
    near(ek.load(str(folder), device="cpu"), small)


def distilled(teacher: ek.Model, **way) -> tuple[ek.Model, list[float]]:
    student = ek.prune(teacher, layers=2)
    losses = []
    work = ek.distill.work(teacher, student, text=TEXT, steps=5, window=32, batch=2, learning_rate=3e-4, seed=3, **way)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value, losses
        if "loss" in event.metrics:
            losses.append(event.metrics["loss"])


WAYS = [
    {},
    {"objective": "jensen-shannon", "hard": 0.5},
    {"hidden": 1.0, "attention": 1.0},
    {"top_k": 20},
    {"quantize": ek.Quantize(group_size=32)},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way) or "forward-kl")
def test_five_distillation_steps_equal_the_cpus(base, tiny_llama, way):
    here, losses = distilled(base, **way)
    there, expected = distilled(tiny_llama, **way)
    assert len(losses) >= 5
    assert losses == pytest.approx(expected, abs=1e-5)
    ours, theirs = parameters(here), parameters(there)
    start = parameters(ek.prune(tiny_llama, layers=2))
    assert ours.keys() == theirs.keys()
    # Adam divides by the gradient's size, so where it almost vanishes the last digits of the rest's mass show
    closest = 2e-5 if "top_k" in way else 1e-5
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= closest
    assert max(float((ours[name] - start[name]).abs().max()) for name in ours) > 1e-4  # it trained
    near(here, there)


def test_a_student_whose_tokens_are_words_learns_what_it_learns_on_the_cpu(tiny_encoder_folder):
    texts = [f"Turbofan {kind} near the wing, found on day {n}" for n in range(12) for kind in ("leak", "crack", "fire")]
    shape = {"layers": 1, "hidden_size": 16, "heads": 2, "ffn": 32, "vocabulary": 200, "embeddings": "words", "window": 64}
    found = []
    for device in ("cpu", "npu:0"):
        teacher = classifier(tiny_encoder_folder, ["leak", "crack", "fire"], device=device)
        student = ek.student(teacher, **shape, text=texts)
        assert str(student.device).startswith(device[:3])
        found.append(parameters(student))
        student.module.load_state_dict(found[0])  # both learn from the same start
        for part in student.module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0  # another device draws other numbers
        way = {"steps": 5, "batch": 16, "window": 64, "train": "all", "schedule": "linear", "word_dropout": 0.2}
        found.append(parameters(ek.distill(teacher, student, texts, **way)))
    made, learnt, made_there, learnt_there = found
    assert max(float((made[name] - made_there[name]).abs().max()) for name in made) <= 1e-4  # a decomposition is more sensitive
    assert max(float((learnt[name] - learnt_there[name]).abs().max()) for name in made) <= 1e-5
    assert max(float((learnt[name] - made[name]).abs().max()) for name in made) > 1e-4


def test_training_in_float16_scales_its_loss(base):
    _, losses = distilled(base, autocast="float16")
    exact = distilled(base)[1]
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(exact, rel=0.02)


def test_evaluating_gives_what_it_gives_on_the_cpu(base, tiny_llama):
    here = ek.evaluate(ek.quantize(base, bits=3, group_size=32), base=base, on=TEXT, window=64, windows=4)
    there = ek.evaluate(ek.quantize(tiny_llama, bits=3, group_size=32), base=tiny_llama, on=TEXT, window=64, windows=4)
    assert here.perplexity.value == pytest.approx(there.perplexity.value, rel=1e-3)
    assert here.kl is not None
    assert there.kl is not None
    assert here.kl.mean.value == pytest.approx(there.kl.mean.value, rel=1e-2)
    assert here.agreement.value == pytest.approx(there.agreement.value, abs=0.02)
    assert here.floor is not None  # bfloat16 runs on the npu


def test_a_model_on_the_second_npu_is_evaluated_against_a_base_on_the_first(base):
    small = ek.quantize(base, bits=3, group_size=32)
    apart = ek.evaluate(small.to(device="npu:1"), base=base, on=TEXT, window=64, windows=2)
    together = ek.evaluate(small, base=base, on=TEXT, window=64, windows=2)
    assert apart.kl is not None
    assert together.kl is not None
    assert apart.kl.mean.value == pytest.approx(together.kl.mean.value, rel=1e-3)


def test_profiling_says_simulated_and_waits_for_the_device(base, machine):
    plain = ek.profile(base, prompt=16, new_tokens=4, repeats=2, warmup=1)
    assert plain.simulated
    assert "simulated" in plain.device
    assert plain.timing == "device events"
    assert plain.memory.allocated is not None
    assert plain.memory.allocated >= base.stored_bytes
    assert plain.memory.reserved is not None
    assert plain.memory.reserved >= plain.memory.allocated
    before = machine.launches
    with machine.having(op_ns=1_000_000):
        slow = ek.profile(base, prompt=16, new_tokens=4, repeats=2, warmup=0)
    kernels = (machine.launches - before) / (2 * 4)
    assert slow.time_per_output_token.value is not None
    assert slow.time_per_output_token.value >= 0.7 * kernels  # ms: a millisecond a kernel; launching alone takes less


def test_measuring_makes_a_record_that_says_simulated(base, home):
    small = ek.quantize(base, bits=4, group_size=32)
    record = ek.measure(small, base=base, on=TEXT, window=64, windows=2, prompt=16, new_tokens=4, repeats=2)
    assert record.profile is not None
    assert record.profile.simulated
    assert "simulated" in record.to_json()
    assert any("simulated" in name for name in record.environment["devices"])
    assert record.cost.bytes == record.cost.predicted_bytes == small.stored_bytes
    assert record.environment["packages"]["torch_npu"]
    kept = ek.Store().get(record.id)
    assert kept.profile is not None
    assert kept.profile.simulated


def test_out_of_memory_while_profiling_has_figures_and_the_model_survives(base, machine):
    expected = base.logits(ids(base))
    with machine.having(capacity=held(0) + (4 << 20)), pytest.raises(OutOfMemory) as caught:
        ek.profile(base, prompt=200, new_tokens=2, batch=256, repeats=1, warmup=0)
    error = caught.value
    assert error.device == "npu:0"
    assert error.asked
    assert error.total
    assert "while profiling with batch 256" in str(error)
    assert "the base model is as it was" in str(error)
    assert torch.equal(base.logits(ids(base)), expected)


def test_out_of_memory_while_loading_is_one_exception(tiny_llama_folder, machine):
    kept = []

    def load(copies: int) -> None:
        for _ in range(copies):
            kept.append(ek.load(str(tiny_llama_folder), device="npu:0", dtype="float32"))

    with machine.having(capacity=held(0)), pytest.raises(OutOfMemory, match="Out of memory on npu:0 while"):
        load(200)
    load(1)
    assert str(kept[-1].device) == "npu:0"


def test_the_two_npus_keep_their_work_apart(tiny_llama_folder, tiny_llama):
    first, second = torch.npu.memory_allocated(0), torch.npu.memory_allocated(1)
    model = ek.load(str(tiny_llama_folder), device="npu:1", dtype="float32")
    assert torch.npu.memory_allocated(0) == first
    assert torch.npu.memory_allocated(1) >= second + model.stored_bytes
    small = ek.quantize(model, method="rtn", bits=4, group_size=32)
    assert {str(t.device) for t in small.module.state_dict().values()} == {"npu:1"}
    near(model, tiny_llama)
    profile = ek.profile(small, prompt=8, new_tokens=2, repeats=1, warmup=0)
    assert profile.device.startswith("npu:1 ")


def test_tokens_are_compared_as_on_the_cpu(base, tiny_llama):
    text = TEXT[:120]
    ours = ek.compare_tokens(ek.quantize(base, bits=4, group_size=32), base, text)
    theirs = ek.compare_tokens(ek.quantize(tiny_llama, bits=4, group_size=32), tiny_llama, text)
    assert [one.text for one in ours.tokens] == [one.text for one in theirs.tokens]
    assert ours.mean_kl == pytest.approx(theirs.mean_kl, rel=1e-2)
    assert all(a.kl == pytest.approx(b.kl, rel=0.05, abs=1e-4) for a, b in zip(ours.tokens[1:], theirs.tokens[1:], strict=True))


@pytest.mark.parametrize(("format", "name", "file"), [("compressed-tensors", "out", "model.safetensors"), ("gguf", "out.gguf", "")])
def test_an_export_from_the_npu_is_the_same_file(format, name, file, base, tiny_llama, tmp_path, monkeypatch):
    from effkit.models.exporters import gguf_metadata

    monkeypatch.setattr(gguf_metadata, "_tokenizer", lambda writer, model: None)  # bytes without merges: not what this is about
    written = []
    for model in (base, tiny_llama):
        small = ek.quantize(model, bits=4, group_size=32)
        folder = tmp_path / str(model.device).partition(":")[0]
        done = ek.export(small, folder / name, format)
        written.append((done.path / file if file else done.path).read_bytes())
    assert written[0] == written[1]


def test_the_price_of_a_simulated_npu_is_the_users_and_its_power_is_unknown(base):
    speed = ek.profile(base, prompt=16, new_tokens=4, repeats=2)
    assert ek.price(speed).per_1000_queries.value is None  # no public price of an Ascend device was found
    paid = ek.price(speed, per_hour=1.5)
    assert paid.per_1000_queries.value > 0
    assert paid.energy_per_query.how == "unavailable"
    assert "simulated" in str(paid)
    assert "simulated" in str(ek.fleet(speed, 1e4, latency_ms=60_000, per_hour=1.5, seeds=2))


def test_a_projection_is_of_the_catalogues_device_and_never_of_the_simulated_one(base, tiny_llama_folder):
    """Shape and catalogue decide it, not where the model lies; nothing is run, so nothing is called measured."""
    here = ek.project(base, on="ascend-910b2", batch=4)
    assert here == ek.project(tiny_llama_folder, on="ascend-910b2", batch=4)
    assert here.time_per_output_token.how == "modelled"
    assert "(projected)" in str(here)
    assert "a few published rows" in here.basis
    assert here.parts["launches"] > ek.project(base, on="h100-sxm", batch=4).parts["launches"]


def test_a_record_of_the_npu_is_run_again_there(base, tiny_llama_folder):
    small = ek.quantize(base, group_size=32)
    given = {"window": 64, "windows": 2, "prompt": 16, "new_tokens": 2, "repeats": 2, "store": False}
    record = ek.measure(small, base, TEXT, **given)
    done = ek.replay(record, on=TEXT, speed=False)
    assert done.ok
    assert done.same_weights is True
    assert done.again.fingerprint.device == record.fingerprint.device == record.profile.device
    there = ek.replay(record, on=TEXT, speed=False, device="cpu")
    assert {change.kind for change in there.changes} == {"device"}
    assert all(outcome.verdict != "different" for outcome in there.outcomes)


def test_a_shared_page_of_the_npu_says_simulated(base, tmp_path):
    record = ek.measure(ek.quantize(base, group_size=32), base, TEXT, window=64, windows=2, prompt=16, new_tokens=2, repeats=2, store=False)
    page = ek.share(record, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert f"Recorded on {record.profile.device}, simulated, " in page
    assert "these times say nothing of the device" in page


def test_a_search_on_the_npu_finds_what_it_finds_on_the_cpu(base, tiny_llama):
    rounded = {"step": "quantize", "method": ["rtn", "gptq"], "group_size": 32, "embedding_bits": [8, 4], "samples": 2, "window": 32}
    space = {"steps": [rounded]}
    given = {"on": TEXT, "text": TEXT, "window": 64, "windows": 2, "prompt": 16, "new_tokens": 2, "repeats": 2, "sampler": "grid"}
    there = ek.explore(base, space, ("bytes", "decode"), store=False, **given)
    assert [trial.state for trial in there.trials] == ["done"] * 4
    assert all(trial.record.profile.simulated for trial in there.trials)
    here = ek.explore(tiny_llama, space, store=False, **given)
    assert there.folder != here.folder  # another device is another search
    assert [trial.values[0] for trial in there.trials] == [trial.values[0] for trial in here.trials]
    for a, b in zip(there.trials, here.trials, strict=True):
        assert a.record.quality.kl.mean.value == pytest.approx(b.record.quality.kl.mean.value, rel=1e-3)
