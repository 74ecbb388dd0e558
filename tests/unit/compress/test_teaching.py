"""Fine-tuning: it learns, it starts from the probe, it resumes bit for bit, and it leaves its argument alone."""

from __future__ import annotations

import re

import pytest
import torch

from effkit.compress.fitting import steps_of_epoch
from effkit.compress.teaching import features, finetune, probe_, weighted_targets
from effkit.measure.answers import answers
from effkit.measure.tasks import macro_f1
from effkit.models.classifying import classifier
from effkit.models.texts.labelled import budget, split
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish


@pytest.fixture(scope="module")
def parts(reports):
    return split(reports)


@pytest.fixture
def base(tiny_encoder_folder, parts):
    return classifier(tiny_encoder_folder, parts.train.classes, device="cpu")


def f1_of(model, part):
    return macro_f1(part.labels, finish(answers(model, part.texts)).argmax(1).tolist(), len(part.classes))


def state_of(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_finetuning_learns_what_the_probe_alone_cannot(base, parts):
    labelled, _ = budget(parts.train, 24)
    before = state_of(base)
    probed = base.to()
    finish(probe_(probed, labelled.texts, weighted_targets(labelled), 64))
    tuned = finetune(base, labelled, parts.held_out, epochs=12, learning_rate=2e-3, batch=8)
    assert f1_of(base, parts.test) < f1_of(probed, parts.test) < f1_of(tuned, parts.test)
    assert f1_of(tuned, parts.test) > 0.8
    assert same(before, state_of(base))
    assert not any(p.requires_grad for p in base.module.parameters())
    assert tuned.checkpoint.hash != base.checkpoint.hash
    assert "Fine-tuned on" in tuned.checkpoint.notes[-1]


def test_embeddings_stay_and_the_rest_moves(base, parts):
    labelled, _ = budget(parts.train, 8)
    tuned, before = state_of(finetune(base, labelled, epochs=2, batch=8)), state_of(base)
    moved = {name for name in before if not torch.equal(before[name], tuned[name])}
    assert not any("_embeddings" in name for name in moved)
    assert any("layer.0" in name for name in moved)


def test_the_probe_is_the_logistic_regression_of_scikit_learn(base, parts):
    sklearn = pytest.importorskip("sklearn.linear_model")
    labelled, _ = budget(parts.train, 16)
    read = finish(features(base, labelled.texts))
    middle, length = read.mean(0), read.norm(dim=1).mean()
    reference = sklearn.LogisticRegression(C=10.0, max_iter=2000, tol=1e-8).fit(((read - middle) / length).numpy(), labelled.labels)
    probed = base.to()
    finish(probe_(probed, labelled.texts, weighted_targets(labelled), 64))
    ours = finish(answers(probed, labelled.texts)).softmax(-1)
    theirs = torch.tensor(reference.predict_proba(((read - middle) / length).numpy()))
    assert (ours - theirs).abs().max() < 5e-3


@pytest.mark.parametrize("patience", [None, 20])
def test_a_resumed_run_is_the_uninterrupted_one(base, parts, patience):
    labelled, _ = budget(parts.train, 8)
    given = {"epochs": 4, "batch": 8, "patience": patience, "seed": 3}
    whole = finetune(base, labelled, parts.held_out, **given)
    work = finetune.work(base, labelled, parts.held_out, **given)
    snapshot = None
    for event in work:
        if event.task == "finetune" and event.done == 5:
            snapshot = event.snapshot()
            break
    work.close()
    again = finetune(base, labelled, parts.held_out, **given, resume=snapshot)
    assert same(state_of(whole), state_of(again))
    assert not same(state_of(whole), state_of(finetune(base, labelled, parts.held_out, **given | {"seed": 4})))


def test_the_learning_rate_is_a_knob(base, parts):
    labelled, _ = budget(parts.train, 8)
    work = finetune.work(base, labelled, epochs=2, batch=8, probe=False)
    rates, change = [], None
    try:
        while True:
            event = work.send(change)
            change = {"learning_rate": 0.0} if event.task == "finetune" and event.done == 2 else None
            rates += [event.metrics["learning_rate"]] if "learning_rate" in event.metrics else []
    except StopIteration as end:
        tuned = end.value
    assert rates[0] > 0
    assert rates[2:]
    assert not any(rates[2:])
    assert tuned.checkpoint.notes[-1] == "learning_rate became 0 after step 2"


@pytest.mark.parametrize(("task", "at"), [("read", 0), ("answer", 0)])
def test_a_knob_that_is_turned_while_texts_are_read_is_heard(base, parts, task, at):
    """As whoever pauses at once and turns it, or while the held-out texts are answered."""
    labelled, _ = budget(parts.train, 8)
    work, change, turned = finetune.work(base, labelled, parts.held_out, epochs=2, batch=8), None, False
    try:
        while True:
            event = work.send(change)
            change = {"learning_rate": 0.0} if event.task == task and not turned else None
            turned = turned or change is not None
    except StopIteration as end:
        tuned = end.value
    assert tuned.checkpoint.notes[-1] == f"learning_rate became 0 after step {at}"


def test_each_text_is_read_once_an_epoch_with_little_padding():
    lengths = [3 + i % 40 for i in range(500)]
    steps = steps_of_epoch(lengths, 16, seed=1, epoch=0)
    assert sorted(i for rows in steps for i in rows) == list(range(500))
    padded = sum(max(lengths[i] for i in rows) * len(rows) for rows in steps)
    assert padded < 1.15 * sum(lengths)
    assert steps != steps_of_epoch(lengths, 16, seed=1, epoch=1)


def test_bad_input_is_told_in_full(base, tiny_llama, parts):
    labelled, _ = budget(parts.train, 8)
    with pytest.raises(BadInput, match=re.escape("epochs is 0. Allowed: a whole number of at least 1")):
        finetune(base, labelled, epochs=0)
    with pytest.raises(BadInput, match=r"is a causal-lm. Allowed: a classifier. Make one with classifier\(model, classes\)"):
        finetune(tiny_llama, labelled)
    with pytest.raises(BadInput, match="patience is set and no held-out set is given"):
        finetune(base, labelled, patience=2)


def test_a_causal_language_model_is_taught_too(tiny_llama, parts):
    model = finetune(classifier(tiny_llama, parts.train.classes, device="cpu"), parts.train, epochs=6, learning_rate=2e-3, batch=16)
    assert f1_of(model, parts.train) > 0.75
