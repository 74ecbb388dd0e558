"""Coder, answers, macro-F1 and its bootstrap, against references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effkit.measure.answers import Scores, _scores, answers
from effkit.measure.coder import Coder
from effkit.models.classifying import classifier
from effkit.spec.progress import finish


@pytest.fixture
def model(tiny_encoder_folder):
    return classifier(tiny_encoder_folder, ["x", "y", "z"], device="cpu")


TEXTS = ["Oil leak, left pump!", "", "  CRACK\tin wing-tip  near\nbolt", "été 12/3 [SEP] engine", "smoke " * 80, "日本 oil"]


def test_the_coder_gives_what_the_tokenizer_gives(model):
    coder = Coder(model, 64)
    assert coder.by_word
    for text in TEXTS * 2:
        assert coder(text) == model.tokenizer(text, truncation=True, max_length=64)["input_ids"], text
    assert coder.by_word
    assert coder.words


def test_the_coder_asks_a_tokenizer_that_does_not_read_word_by_word(tiny_classifier):
    coder = Coder(tiny_classifier, 64)
    assert not coder.by_word
    assert coder("oil leak") == tiny_classifier.tokenizer("oil leak")["input_ids"]
    assert len(coder("x" * 99)) == 64
    assert len(coder("")) == 1


def test_answers_in_batches_are_those_of_each_text_alone(model):
    alone = torch.cat([model.logits([model.tokenizer(t, truncation=True, max_length=64)["input_ids"]]) for t in TEXTS])
    assert torch.allclose(finish(answers(model, TEXTS, 64, batch=4)), alone, atol=1e-5)


def test_the_scores_are_those_of_scikit_learn_over_the_classes_among_the_labels():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    for classes in (2, 5, 30):
        labels, said = draw.integers(0, classes, 50), draw.integers(0, classes, 50)
        wanted = metrics.f1_score(labels, said, average="macro", zero_division=0, labels=np.unique(labels))
        assert Scores(labels, range(50), classes).f1(said).value == pytest.approx(wanted)
        assert _scores(np.ones((1, 50)), labels, said, classes)[0] == pytest.approx(wanted)


def test_intervals_are_paired_and_wider_for_whole_groups():
    draw = np.random.default_rng(1)
    labels = np.repeat(draw.integers(0, 3, 60), 5)
    good = np.where(np.repeat(draw.random(60), 5) < 0.85, labels, (labels + 1) % 3)
    worse = np.where(draw.random(300) < 0.1, (labels + 1) % 3, good)
    single, grouped = Scores(labels, range(300), 3), Scores(labels, np.repeat(range(60), 5).tolist(), 3)
    width = [s.f1(good).high - s.f1(good).low for s in (single, grouped)]
    assert 1.5 * width[0] < width[1]
    assert single.n == 300
    assert grouped.n == 60
    same = grouped.ratio(good, good)
    assert same.value == same.low == same.high == 1.0
    assert grouped.ratio(worse, good).high < 1.0
    assert grouped.behind(worse, good)
    assert not grouped.behind(good, worse)
    assert grouped.ratio(good, (labels + 1) % 3).value is None
