"""Pruning and distillation: the loss is what its formula says, it falls, nothing given is changed, and it resumes bit for bit."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.losses import forward_kl
from effkit.compress.distillation.material import texts_for, windows_for
from effkit.compress.distillation.pruning.depth import kept_layers
from effkit.compress.distillation.training import Training
from effkit.compress.pipeline import compress
from effkit.spec.errors import BadInput
from effkit.spec.progress import Snapshot, finish
from effkit.spec.recipe import Distill

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
WAY = {"text": TEXT, "steps": 12, "window": 32, "batch": 2, "learning_rate": 3e-3, "hard": 0.0}


def losses(work):
    events, result = [], None
    try:
        while True:
            events.append(next(work))
    except StopIteration as end:
        result = end.value
    return events, result


def frozen(snapshot: Snapshot) -> Snapshot:
    return Snapshot({k: t.clone() for k, t in snapshot.tensors.items()}, dict(snapshot.state))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_forward_kl_is_the_libraries_kl(temperature):
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 5, 11, generator=g, requires_grad=True), torch.randn(2, 5, 11, generator=g)
    log_q, log_p = ((x / temperature).log_softmax(-1).reshape(-1, 11) for x in (s, t))
    expected = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    got = forward_kl(s, t, temperature)
    assert torch.allclose(got, expected * temperature**2, atol=1e-6)
    # the gradient by hand: T (q - p) / positions
    (gradient,) = torch.autograd.grad(got, s)
    by_hand = ((s / temperature).softmax(-1) - (t / temperature).softmax(-1)) * temperature / 10
    assert torch.allclose(gradient, by_hand, atol=1e-6)


@pytest.mark.parametrize(("layers", "kept"), [(1, (0,)), (2, (0, 29)), (3, (0, 14, 29)), (30, tuple(range(30))), ((5, 3), (3, 5))])
def test_kept_layers_are_spread_with_first_and_last(layers, kept):
    assert kept_layers(ek.Prune(layers=layers), 30) == kept


def test_prune_keeps_the_chosen_layers_and_the_teacher(tiny_llama):
    before = tiny_llama.logits([[5, 6, 7]])
    student = ek.prune(tiny_llama, layers=[0, 2])
    assert student.module.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in student.module.model.layers] == [0, 1]
    assert torch.equal(student.module.model.layers[1].mlp.up_proj.weight, tiny_llama.module.model.layers[2].mlp.up_proj.weight)
    assert student.plans[-1].bytes_after == student.stored_bytes
    assert tiny_llama.module.config.num_hidden_layers == 3
    assert torch.equal(tiny_llama.logits([[5, 6, 7]]), before)
    assert len(student.generate("hello", new_tokens=4)) >= 0  # the KV cache finds its layers


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, "layers is 0. Allowed: 1 to 3"),
        (4, "layers is 4. Allowed: 1 to 3"),
        ([0, 3], r"layers is \[0, 3\]. Allowed: different indices from 0 to 2"),
        ([1, 1], "Allowed: different indices"),
        ([], "at least one"),
    ],
)
def test_wrong_layers_are_named(tiny_llama, layers, message):
    with pytest.raises(BadInput, match=message):
        ek.prune(tiny_llama, layers=layers)


def test_the_student_comes_closer_and_nothing_given_is_changed(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    given = [*tiny_llama.module.state_dict().values(), *student.module.state_dict().values()]
    before = [t.clone() for t in given]
    events, trained = losses(ek.distill.work(tiny_llama, student, **WAY))
    held = [e.metrics["held_out"] for e in events if "held_out" in e.metrics]
    assert held[-1] < 0.8 * held[0]
    assert [e.done for e in events] == list(range(13))
    assert all("loss" in e.metrics for e in events[1:])
    assert trained.recipe.label() == "2 layers + distilled 12 steps"
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))
    assert not any(p.requires_grad for p in trained.module.parameters())
    assert torch.equal(trained.module.get_input_embeddings().weight, student.module.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("way", "weight"),
    [
        ({}, 0.2), ({"hard": 0.0}, 0.0), ({"hard": 0.7}, 0.7), ({"objective": "hard-labels"}, 1.0), ({"objective": "reverse-kl"}, 0.0),
        ({"source": "student"}, 0.0),
    ],
)  # fmt: skip
def test_the_next_token_counts_a_little_beside_the_teacher(tiny_llama, way, weight):
    """The loss is the objective and that share of the cross-entropy; by default where it was measured to help."""
    student = ek.prune(tiny_llama, layers=2)
    step = Distill(window=32, batch=2, **way)
    run = Training.begin((tiny_llama,), student.clone(), step, windows_for(student, TEXT, 32), 0)
    assert run.hard == weight
    if way.get("source") or way.get("objective") == "reverse-kl":
        return
    batch = run.batch()
    ours, theirs = student.logits(batch.ids), tiny_llama.logits(batch.ids)
    kl = 0.0 if way.get("objective") else forward_kl(ours, theirs)
    nll = torch.nn.functional.cross_entropy(ours[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten())
    for _ in run.train_():
        pass
    assert run.loss == pytest.approx(float(kl + weight * nll), rel=1e-5)


def test_a_classifier_has_no_next_token(tiny_classifier):
    step, texts = Distill(window=32, batch=2), ["a pump", "a valve", "an engine"]
    assert Training.begin((tiny_classifier,), tiny_classifier.clone(), step, texts_for(texts, None, 3), 0).hard == 0.0


def test_train_all_moves_the_embedding_too(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    trained = ek.distill(tiny_llama, student, **{**WAY, "steps": 2}, train="all")
    assert not torch.equal(trained.module.get_input_embeddings().weight, student.module.get_input_embeddings().weight)
    assert trained.module.get_output_embeddings().weight is trained.module.get_input_embeddings().weight


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_it_resumes_bit_for_bit(tiny_llama, stop):
    student = ek.prune(tiny_llama, layers=2)
    events, whole = losses(ek.distill.work(tiny_llama, student, **WAY, seed=3))
    work = ek.distill.work(tiny_llama, student, **WAY, seed=3)
    for _ in range(stop + 1):
        event = next(work)
    kept = frozen(event.snapshot())
    work.close()
    more, resumed = losses(ek.distill.work(tiny_llama, student, **WAY, seed=3, resume=kept))
    assert [e.metrics for e in more] == [e.metrics for e in events[stop + 1 :]]
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor)


def test_dropout_resumes_bit_for_bit_too(tiny_classifier):
    student = ek.prune(tiny_classifier, layers=1)
    way = {**WAY, "steps": 6, "text": TEXT.split(". ")}
    events, _ = losses(ek.distill.work(tiny_classifier, student, **way))
    work = ek.distill.work(tiny_classifier, student, **way)
    for _ in range(4):
        event = next(work)
    kept = frozen(event.snapshot())
    work.close()
    torch.rand(10)  # the global random state moves on; the run must not care
    more, _ = losses(ek.distill.work(tiny_classifier, student, **way, resume=kept))
    assert [e.metrics for e in more] == [e.metrics for e in events[4:]]


def test_a_knob_acts_on_the_next_step_and_is_noted(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    plain, _ = losses(ek.distill.work(tiny_llama, student, **WAY))
    work = ek.distill.work(tiny_llama, student, **WAY)
    for _ in range(5):
        next(work)
    changed = work.send({"learning_rate": 1e-5})
    assert changed.metrics["learning_rate"] == 1e-5
    assert changed.metrics["loss"] == plain[5].metrics["loss"]
    assert next(work).metrics["loss"] != plain[6].metrics["loss"]
    assert finish(work).plans[-1].notes == ("learning_rate became 1e-05 after step 4",)


def test_a_cancel_leaves_the_student_as_it_was(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    before = student.logits([[5, 6, 7]])
    work = ek.distill.work(tiny_llama, student, **WAY)
    for _ in range(4):
        next(work)
    work.close()
    assert torch.equal(student.logits([[5, 6, 7]]), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"steps is 0. Allowed"),
        ({"temperature": 0}, r"temperature is 0. Allowed"),
        ({"learning_rate": -1}, r"learning_rate is -1. Allowed"),
        ({"train": "some"}, r"train is 'some'. Allowed"),
        ({"text": ""}, r"empty"),
        ({"text": "too short"}, r"window"),
    ],
)
def test_mistakes_are_named(tiny_llama, change, message):
    with pytest.raises(BadInput, match=message):
        ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, **change})


def test_a_quantized_student_would_train_nothing(tiny_llama):
    with pytest.raises(BadInput, match="this step would train nothing"):
        ek.distill(tiny_llama, ek.quantize(ek.prune(tiny_llama, layers=2)), **WAY, train="blocks")


def test_other_vocabularies_are_refused(tiny_llama, stories15m):
    with pytest.raises(BadInput, match="the vocabularies differ"):
        ek.distill(ek.load(str(stories15m), device="cpu"), tiny_llama, **WAY)


def test_divergence_is_said(tiny_llama):
    with pytest.raises(ek.EffkitError, match=r"The loss is not finite at step \d+: training diverged. Lower the learning rate"):
        ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, "learning_rate": 1e18, "steps": 40})


RECIPE = ek.Recipe(steps=(ek.Prune(layers=2), ek.Distill(steps=6, window=32, batch=2, learning_rate=1e-3), ek.Quantize(bits=4)), seed=5)


def test_a_recipe_is_its_steps(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    trained = ek.distill(tiny_llama, student, text=TEXT, steps=6, window=32, batch=2, learning_rate=1e-3, seed=5)
    by_hand = ek.quantize(trained, bits=4)
    made = compress(tiny_llama, RECIPE, text=TEXT)
    assert made.recipe.steps == RECIPE.steps
    assert torch.equal(made.logits([[5, 6, 7]]), by_hand.logits([[5, 6, 7]]))
    plans = ek.plan(tiny_llama, RECIPE)
    assert [p.bytes_after for p in plans] == [p.bytes_after for p in made.plans]
    assert plans[-1].bytes_after == made.stored_bytes


@pytest.mark.parametrize("stop", [1, 4, 9, 12])
def test_a_recipe_resumes_in_the_middle_of_any_step(tiny_llama, stop):
    whole = compress(tiny_llama, RECIPE, text=TEXT)
    work = compress.work(tiny_llama, RECIPE, text=TEXT)
    for _ in range(stop + 1):
        event = next(work)
    kept = frozen(event.snapshot())
    work.close()
    _, resumed = losses(compress.work(tiny_llama, RECIPE, text=TEXT, resume=kept))
    assert torch.equal(resumed.logits([[5, 6, 7]]), whole.logits([[5, 6, 7]]))
    assert resumed.recipe.steps == whole.recipe.steps
    assert len(resumed.plans) == 3


def test_the_last_steps_mistake_is_found_before_the_first_begins(tiny_llama):
    with pytest.raises(BadInput, match="group_size is 48"):
        next(compress.work(tiny_llama, ek.Recipe(steps=(ek.Prune(layers=2), ek.Quantize(group_size=48)))))
    with pytest.raises(BadInput, match="a distill step follows no prune step"):
        next(compress.work(tiny_llama, ek.Recipe(steps=(ek.Distill(),)), text=TEXT))
