"""The coder and the answers, against references."""

from __future__ import annotations

import pytest
import torch

from effkit.measure.answers import answers
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
