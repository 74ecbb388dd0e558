"""Forms of execution give the model's own answers, and the timing tells a large model from a small one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from effkit.measure.linear import Linear
from effkit.measure.serving import ServedLinear, best_form, interleaved, throughput
from effkit.models.classifying import classifier
from effkit.models.model import wrap
from effkit.spec.progress import finish

TEXTS = ["oil leak left pump", "crack in wing near bolt", "smoke and heat during flight", "rust", "engine fire " * 12] * 8


@pytest.fixture
def model(tiny_encoder_folder):
    return classifier(tiny_encoder_folder, ["x", "y", "z"], device="cpu")


def test_every_form_is_tried_and_the_best_gives_the_models_answers(model):
    served, p50 = finish(best_form(model, TEXTS, 64))
    assert {"eager", "traced", "traced bfloat16", "traced int8"} <= set(p50)
    assert p50["traced"] < p50["eager"]
    assert served.form != "eager"
    assert served.agreement >= 0.98
    right = [int(model.logits([model.tokens(t)]).argmax()) for t in TEXTS]
    assert np.mean([served.answer(t) == r for t, r in zip(TEXTS, right, strict=True)]) >= 0.98
    coded = [served.coder(t) for t in TEXTS[:5]]
    with torch.inference_mode():
        padded = served.together(*served.coder.batch(coded)).argmax(-1).tolist()
    assert np.mean(np.array(padded) == right[:5]) >= 0.8


def test_interleaved_times_tell_six_layers_from_one_and_count_the_tokenizer(model):
    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 8, 128, 512
    torch.manual_seed(0)
    large = wrap(type(model.module)(config), model.tokenizer, "large")
    served = {"small": finish(best_form(model, TEXTS, 64))[0], "large": finish(best_form(large, TEXTS, 64))[0]}
    served["linear"] = ServedLinear(Linear(TEXTS).fit_(TEXTS, np.eye(3)[[0, 1, 2, 0, 1] * 8]))
    times = finish(interleaved(served, TEXTS[:10], rounds=5))
    assert times["small"]["p50"] < times["large"]["p50"]
    assert times["small"]["p50"] <= times["small"]["p90"]
    rates = finish(throughput(served, TEXTS, batch=8))
    assert rates["small"] > rates["large"]
    assert rates["linear"] > 0


def test_int8_stores_a_quarter_of_the_linears(model):
    from effkit.measure.serving import _served

    one = _served(model, "traced int8", TEXTS[0], 64)
    assert not one.why_not
    linears = sum(m.weight.numel() for m in model.module.modules() if isinstance(m, torch.nn.Linear))
    assert one.stored_bytes == pytest.approx(model.stored_bytes - 3 * linears, abs=200)


def test_linear_learns_soft_targets_as_scikit_learn_learns_labels():
    sklearn = pytest.importorskip("sklearn.linear_model")
    labels = np.array([0, 1, 2, 0, 1] * 8)
    ours = Linear(TEXTS).fit_(TEXTS, np.eye(3)[labels], iterations=500)
    theirs = sklearn.LogisticRegression(C=30.0, max_iter=2000, tol=1e-8).fit(ours.features.transform(TEXTS), labels)
    z = ours.logits(TEXTS)
    p = np.exp(z - z.max(1, keepdims=True))
    assert np.abs(p / p.sum(1, keepdims=True) - theirs.predict_proba(ours.features.transform(TEXTS))).max() < 0.01
    soft = np.tile([0.2, 0.5, 0.3], (40, 1))
    z = Linear(TEXTS).fit_(TEXTS, soft, iterations=500).logits(TEXTS)
    p = np.exp(z - z.max(1, keepdims=True))
    assert np.allclose(p / p.sum(1, keepdims=True), soft, atol=0.01)
