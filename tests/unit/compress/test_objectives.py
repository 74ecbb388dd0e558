"""Objectives against torch's and against their known bounds and limits; transfer, teachers, rounding and written text."""

from __future__ import annotations

import math

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.losses import OBJECTIVES, forward_kl, hard_labels, jensen_shannon, reverse_kl, skew_kl
from effkit.compress.distillation.material import Batch
from effkit.compress.distillation.rounded import RoundedForward
from effkit.compress.distillation.sampling import continued
from effkit.compress.distillation.teachers import Teachers, bundled
from effkit.compress.distillation.transfer import Transfer, attending, default_map
from effkit.models.vocabulary import vocabulary_map
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
WAY = {"text": TEXT, "steps": 8, "window": 32, "batch": 2, "learning_rate": 3e-3, "hard": 0.0}


def logits(*shape, seed=0, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def kl(log_p, log_q):
    return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def held_out(work):
    found = []
    try:
        while True:
            event = next(work)
            if "held_out" in event.metrics:
                found.append(event.metrics["held_out"])
    except StopIteration as end:
        return found, end.value


# the divergences


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_objective_is_torchs_kl_between_the_right_distributions(temperature):
    s, t = logits(7, 11), logits(7, 11, seed=1)
    log_q, log_p = (s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1)
    mixed = (0.3 * log_p.exp() + 0.7 * log_q.exp()).log()
    square = temperature**2
    assert torch.allclose(reverse_kl(s, t, temperature), kl(log_q, log_p) * square, atol=1e-5)
    assert torch.allclose(skew_kl(s, t, temperature, 0.3), kl(log_p, mixed) * square, atol=1e-5)
    expected = 0.3 * kl(log_p, mixed) + 0.7 * kl(log_q, mixed)
    assert torch.allclose(jensen_shannon(s, t, temperature, 0.3), expected * square, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_zero_for_the_teacher_itself_and_positive_elsewhere(name):
    t = logits(5, 9)
    assert float(OBJECTIVES[name](t + 2.0, t, 2.0, 0.5)) == pytest.approx(0, abs=1e-6)
    assert float(OBJECTIVES[name](logits(5, 9, seed=4), t, 2.0, 0.5)) > 0.01


def test_bounds_and_limits():
    s, t = torch.eye(4) * 60, torch.eye(4).roll(1, 0) * 60  # each sure of another outcome
    assert float(jensen_shannon(s, t)) == pytest.approx(math.log(2), abs=1e-4)
    assert float(skew_kl(s, t, 1.0, 0.1)) == pytest.approx(math.log(10), abs=1e-4)
    assert float(forward_kl(s, t)) > 50
    s, t = logits(5, 9, scale=1.0), logits(5, 9, seed=1, scale=1.0)
    assert float(skew_kl(s, t, 1.0, 1e-6)) == pytest.approx(float(forward_kl(s, t)), rel=1e-3)
    assert float(jensen_shannon(s, t, 1.0, 1e-4) / 1e-4) == pytest.approx(float(forward_kl(s, t)), rel=0.02)


def test_forward_covers_and_reverse_seeks():
    """Two bumps of the teacher: the student that covers both is better forward, the one on a single bump is better in reverse."""
    t = torch.tensor([0.49, 0.01, 0.01, 0.49]).log()
    covering = torch.tensor([0.25, 0.25, 0.25, 0.25]).log()
    seeking = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    assert forward_kl(covering, t) < forward_kl(seeking, t)
    assert reverse_kl(covering, t) > reverse_kl(seeking, t)


def test_hard_labels_is_cross_entropy_over_known_labels():
    s, labels = logits(3, 4, 6), torch.tensor([[1, -100, 2, 0], [-100] * 4, [5, 5, -100, 3]])
    expected = torch.nn.functional.cross_entropy(s.reshape(-1, 6), labels.reshape(-1), ignore_index=-100)
    assert torch.allclose(hard_labels(s, labels), expected)
    assert float(hard_labels(s, torch.full((3, 4), -100))) == 0


@pytest.mark.parametrize(
    "options",
    [{"objective": name} for name in ("reverse-kl", "jensen-shannon", "skew-kl", "hard-labels")]
    + [
        {"hard": 0.5},
        {"hidden": 1.0},
        {"attention": 1.0},
        {"top_k": 20},
        {"source": "teacher"},
        {"source": "student"},
        {"autocast": "bfloat16"},
    ]
    + [{"quantize": ek.Quantize(bits=4, group_size=32)}],
    ids=str,
)
def test_a_student_comes_closer_in_every_way_and_resumes_bit_for_bit(tiny_llama, options):
    student = ek.prune(tiny_llama, layers=2)
    way = {**WAY, **options, "steps": 16}
    curve, whole = held_out(ek.distill.work(tiny_llama, student, **way))
    labels = "hard" in options or options.get("objective") == "hard-labels"  # the random teacher knows nothing of the text
    assert curve[-1] != curve[0] if labels else curve[-1] < curve[0]
    work = ek.distill.work(tiny_llama, student, **way)
    for _ in range(6):
        event = next(work)
    kept = event.snapshot()
    work.close()
    resumed = finish(ek.distill.work(tiny_llama, student, **way, resume=kept))
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor)


# teachers


def test_several_teachers_are_averaged_as_probabilities(tiny_llama):
    second = ek.quantize(tiny_llama, bits=3, group_size=32)
    student = ek.prune(tiny_llama, layers=1)
    batch = Batch(torch.arange(5, 25)[None])
    said = Teachers([tiny_llama, second], student, 32).say(batch, 2.0)
    each = [torch.softmax(model.logits(batch.ids) / 2, -1) for model in (tiny_llama, second)]
    assert torch.allclose(torch.softmax(said.logits / 2, -1), (each[0] + each[1]) / 2, atol=1e-6)


def test_divergence_over_fewer_outcomes_is_a_lower_bound():
    s, t = logits(6, 50), logits(6, 50, seed=1)
    whole, tokens = float(forward_kl(s, t)), t.argsort(-1, descending=True)
    parts = [float(forward_kl(bundled(s, tokens[:, :k], 1.0), bundled(t, tokens[:, :k], 1.0))) for k in (1, 5, 20, 49)]
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(whole, rel=1e-5)


def test_a_student_without_the_teachers_tokens_is_refused(tiny_llama, stories15m):
    other = ek.load(str(stories15m), device="cpu")
    assert vocabulary_map(tiny_llama, tiny_llama) is None
    with pytest.raises(
        BadInput, match=r"the vocabularies differ \(teacher 32000 tokens, student 259\).*such as '.+'.*Allowed: teacher and"
    ):
        vocabulary_map(tiny_llama, other)


# from inside


def test_the_default_map_takes_the_last_layer_of_each_stretch():
    assert default_map(2, 6) == ((0, 2), (1, 5))
    assert default_map(6, 6) == tuple((i, i) for i in range(6))
    assert default_map(1, 7) == ((0, 6),)


def test_transfer_is_zero_for_the_same_model_and_its_default_attention_comes_back(tiny_llama):
    same = Transfer(tiny_llama, tiny_llama, None, 0)
    before = tiny_llama.config._attn_implementation
    with attending(tiny_llama), torch.no_grad():
        out = tiny_llama.module(input_ids=torch.arange(5, 25)[None], output_hidden_states=True, output_attentions=True)
    assert tiny_llama.config._attn_implementation == before
    assert float(same.hidden(out.hidden_states, out.hidden_states, None)) == 0
    assert float(same.attention(out.attentions, out.attentions, None)) == pytest.approx(0, abs=1e-6)
    moved = [state.roll(1, 1) for state in out.hidden_states]
    assert float(same.hidden(moved, out.hidden_states, None)) > 0.1


def test_a_layer_map_that_names_no_layer_is_refused(tiny_llama):
    with pytest.raises(BadInput, match=r"layer_map holds \(0, 7\). Allowed: student layers 0 to 1, teacher layers 0 to 2"):
        ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **WAY, hidden=1.0, layer_map=[(0, 7)])


# quantization-aware


def test_the_forward_pass_is_the_one_of_the_quantized_student(tiny_llama):
    step = ek.Quantize(bits=4, group_size=32, embedding_bits=8)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        rounded = RoundedForward(tiny_llama, step)(input_ids=ids).logits
    assert torch.allclose(rounded, ek.quantize(tiny_llama, bits=4, group_size=32).logits(ids), atol=1e-5)


def test_training_with_rounding_makes_a_better_quantized_student(tiny_llama):
    step = ek.Quantize(bits=2, group_size=32, embedding_bits=None)
    student = ek.prune(tiny_llama, layers=2)
    way = {**WAY, "steps": 24}
    kept = {}
    for name, extra in (("after", {}), ("aware", {"quantize": step})):
        trained = ek.distill(tiny_llama, student, **way, **extra)
        stored = ek.quantize(trained, bits=2, group_size=32, embedding_bits=None)
        kept[name] = ek.evaluate(stored, tiny_llama, TEXT[:2000], window=32, windows=8, floor=False).kl.mean.value
    assert kept["aware"] < 0.9 * kept["after"]


# written text, pieces, and stopping early


def test_written_text_keeps_its_beginning_is_scored_after_it_and_follows_its_seed(tiny_llama):
    batch = Batch(torch.arange(5, 45).reshape(2, 20))
    state = torch.get_rng_state()
    one, two, other = (continued(tiny_llama, batch, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.ids.shape == (2, 20)
    assert torch.equal(one.ids[:, :10], batch.ids[:, :10])
    assert torch.equal(one.ids, two.ids)
    assert not torch.equal(one.ids, other.ids)
    assert one.scored[0].tolist() == [False] * 9 + [True] * 10 + [False]


def test_pieces_of_a_step_make_the_same_step(tiny_llama, monkeypatch):
    student = ek.prune(tiny_llama, layers=2)
    whole = ek.distill(tiny_llama, student, **{**WAY, "batch": 4})
    monkeypatch.setattr("effkit.compress.distillation.training.PIECE", 1.0)
    events = list(ek.distill.work(tiny_llama, student, **{**WAY, "batch": 4}))
    in_pieces = ek.distill(tiny_llama, student, **{**WAY, "batch": 4})
    assert sum(event.message.startswith("step 1") for event in events) == 3  # between four windows
    for name, tensor in whole.module.state_dict().items():
        assert torch.allclose(in_pieces.module.state_dict()[name], tensor, atol=1e-4)


def test_patience_keeps_the_best_student(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    way = {**WAY, "steps": 200, "learning_rate": 0.03, "patience": 2}
    curve, kept = held_out(ek.distill.work(tiny_llama, student, **way))
    assert len(curve) < 11
    assert "measurements brought no better held-out loss" in kept.plans[-1].notes[-1]
    assert curve[-3] == min(curve)


def test_references_say_what_a_constant_answer_costs(tiny_llama):
    first = next(e for e in ek.distill.work(tiny_llama, ek.prune(tiny_llama, layers=2), **WAY) if "references" in e.details)
    references = first.details["references"]
    assert references["teacher"] == 0
    assert references["constant answer"] > 0


def test_samples_stand_side_by_side(tiny_llama):
    events = list(ek.distill.work(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, "steps": 2}, prompts=["The pump"]))
    told = [event.details["samples"] for event in events if "samples" in event.details]
    assert len(told) == 3
    assert all(sample["teacher"] == tiny_llama.generate("The pump", 16) for (sample,) in told)


def test_a_diverging_run_is_taken_back_with_half_the_learning_rate(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    work = ek.distill.work(tiny_llama, student, **WAY)
    events = [next(work) for _ in range(4)]
    # one poisoned update, as a spike would make it
    work.gi_yieldfrom.gi_yieldfrom.gi_frame.f_locals["training"].weights.named["model.layers.0.mlp.up_proj.weight"].data.fill_(float("nan"))
    model = finish(work)
    (note,) = model.plans[-1].notes
    assert note == f"the loss was not finite at step {events[-1].done + 1}: back to step {events[-1].done} with learning_rate 0.0015"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.module.state_dict().values())


# classifiers


def test_a_classifier_learns_texts_with_some_labels(tiny_classifier):
    texts = TEXT.split(". ")
    student = ek.prune(tiny_classifier, layers=1)
    curve, _ = held_out(ek.distill.work(tiny_classifier, student, text=texts, steps=20, window=32, batch=8, learning_rate=3e-3))
    assert curve[-1] < curve[0]
    labels = [i % 3 if i % 2 else None for i in range(len(texts))]
    mixed = ek.distill(tiny_classifier, student, text=texts, labels=labels, hard=1.0, steps=4, window=32, batch=8)
    assert mixed.recipe.steps[-1].hard == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0]}, "there are 1 labels and"),
        ({"labels": [7] * 60}, r"a label is 7. Allowed: 0 to 2"),
        ({"hard": 1.0}, "hard labels are asked for and none are given"),
        ({"source": "teacher"}, "source is 'teacher'. Allowed for a classifier: 'text'"),
        ({"text": "one"}, "the text holds 1 text. Training a classifier needs at least 2"),
    ],
)
def test_a_classifiers_mistakes_are_named(tiny_classifier, change, message):
    with pytest.raises(BadInput, match=message):
        ek.distill(tiny_classifier, ek.prune(tiny_classifier, layers=1), **{"text": TEXT.split(". "), "steps": 2, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "kl"}, "objective is 'kl'"),
        ({"mix": 1.5}, "mix is 1.5"),
        ({"top_k": 0}, "top_k is 0. Allowed: input should be greater than or equal to 1"),
        ({"labels": [1]}, "labels were given"),
        ({"quantize": ek.Quantize(method="nf4")}, "quantize has method 'nf4'. Allowed inside distill: 'rtn'"),
        ({"patience": 0}, "patience is 0"),
    ],
)
def test_a_language_models_mistakes_are_named(tiny_llama, change, message):
    with pytest.raises(BadInput, match=message):
        ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, **change})


# what was found while measuring


def test_a_checkpoints_own_generation_settings_change_nothing(tiny_llama):
    """transformers fills in from generation_config.json whatever a call leaves open: a chat model's 0.7 and 1.1, say."""
    asking = tiny_llama.clone()
    for name, value in {"temperature": 0.01, "top_p": 0.1, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_p": 0.9}.items():
        setattr(asking.module.generation_config, name, value)
    batch = Batch(torch.arange(5, 45).reshape(2, 20))
    assert torch.equal(continued(asking, batch, 1).ids, continued(tiny_llama, batch, 1).ids)
    assert asking.generate("The pump", 24) == tiny_llama.generate("The pump", 24)


def test_a_student_writes_without_dropout(tiny_llama):
    student = tiny_llama.clone()
    for layer in student.module.model.layers:
        layer.self_attn.attention_dropout = 0.9
    student.module.train()
    batch = Batch(torch.arange(5, 45).reshape(2, 20))
    assert torch.equal(continued(student, batch, 1).ids, continued(tiny_llama, batch, 1).ids)
    assert student.module.training


@pytest.mark.parametrize("options", [{"hidden": 1.0}, {"hidden": 1.0, "attention": 1.0}, {}])
def test_a_step_asks_the_teacher_once(tiny_llama, options):
    counted, student = [], ek.prune(tiny_llama, layers=2)
    hook = tiny_llama.module.register_forward_hook(lambda *_: counted.append(1))
    try:
        work = ek.distill.work(tiny_llama, student, **{**WAY, **options, "steps": 30})
        next(work)
        before = len(counted)
        next(work)
        next(work)
    finally:
        hook.remove()
    assert len(counted) - before == 2


def test_a_batch_is_tokenized_once_for_models_with_one_tokenizer(tiny_classifier):
    student = ek.prune(tiny_classifier, layers=1)
    batch = Batch(texts=("a pump", "a longer valve"))
    ours, theirs = batch.inputs(student, 32), batch.inputs(tiny_classifier, 32)
    assert ours["input_ids"] is theirs["input_ids"]
    assert batch.inputs(student, 4)["input_ids"].shape[1] == 4


def test_a_pass_over_the_text_is_drawn_once(tiny_llama, monkeypatch):
    from effkit.compress.distillation.training import _order

    _order.cache_clear()
    drawn, real = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **options: drawn.append(n) or real(n, **options))
    ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **WAY)  # 16 windows of a text of over 50: one pass
    assert len(drawn) == 1


def test_a_run_that_is_taken_back_keeps_the_knobs(tiny_llama):
    work = ek.distill.work(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, "steps": 40})
    events = [next(work) for _ in range(6)]
    work.send({"temperature": 2.0})
    training = work.gi_yieldfrom.gi_yieldfrom.gi_frame.f_locals["training"]
    training.weights.named["model.layers.0.mlp.up_proj.weight"].data.fill_(float("nan"))
    assert "the loss was not finite" in next(work).message
    assert training.done < events[-1].done + 1
    assert training.step.temperature == 2.0


def test_a_step_does_not_ask_what_memory_there_is(tiny_llama, monkeypatch):
    from effkit.hardware.attached import device

    asked, real = [], device.total_memory
    monkeypatch.setattr(device, "total_memory", lambda *given: asked.append(1) or real(*given))
    work = ek.distill.work(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, "steps": 40})
    next(work), next(work)
    asked.clear()
    next(work)
    assert not asked
