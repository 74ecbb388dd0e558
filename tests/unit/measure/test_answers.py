"""The coder and the answers, against references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effkit.measure.answers import answers
from effkit.measure.coder import Coder
from effkit.models.classifying import classifier
from effkit.spec.errors import BadInput
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


def test_lines_are_read_by_word_and_a_long_text_as_far_as_its_window(model, monkeypatch):
    coder = Coder(model, 16)
    coder.checked = 64  # as after so many texts that agreed
    lines, long = "oil leak\r\n\tleft pump\nfire", "\n".join(f"{word}{i}" for i in range(900) for word in ("bolt", "crack"))
    right = model.tokenizer([lines, long, f"a\x0b{lines}"], truncation=True, max_length=16)["input_ids"]
    with monkeypatch.context() as patch:
        patch.setattr(coder, "whole", lambda text: pytest.fail("the tokenizer was asked"))
        assert [coder(lines), *coder.many([long])] == right[:2]
    assert len(coder.words) < 30
    assert coder(f"a\x0b{lines}") == right[2]  # such a character parts no words


def test_the_coder_asks_a_tokenizer_that_does_not_read_word_by_word(tiny_classifier):
    coder = Coder(tiny_classifier, 64)
    assert not coder.by_word
    assert coder("oil leak") == tiny_classifier.tokenizer("oil leak")["input_ids"]
    assert len(coder("x" * 99)) == 64
    assert len(coder("")) == 1


def test_answers_in_batches_are_those_of_each_text_alone(model):
    alone = torch.cat([model.logits([model.tokenizer(t, truncation=True, max_length=64)["input_ids"]]) for t in TEXTS])
    assert torch.allclose(finish(answers(model, TEXTS, 64, batch=4)), alone, atol=1e-5)


MANY = ["pump", "a longer text about a belt that is worn", "", "relay " * 60, "x", "pump", "valve and seal"]


def probabilities(model, texts, **options):
    return finish(answers(model, texts, **options)).softmax(-1).numpy()


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_any_batch_and_order_gives_the_same_probabilities(kind, tiny_classifier, tiny_llama):
    model = tiny_classifier if kind == "encoder" else classifier(tiny_llama, ["a", "b", "c"], device="cpu")
    found = probabilities(model, MANY, batch=1)
    assert found.shape == (7, 3)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-5
    for batch in (2, 3, 7, 64):
        assert np.abs(probabilities(model, MANY, batch=batch) - found).max() < 1e-5
    order = [4, 0, 6, 2, 5, 1, 3]
    assert np.abs(probabilities(model, [MANY[i] for i in order]) - found[order]).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() > 1e-3
    for i in (0, 1, 6):
        alone = model.logits([model.tokens(MANY[i])]).softmax(-1)[0].numpy()
        assert np.abs(alone - found[i]).max() < 1e-5
    assert probabilities(model, []).shape == (0, 3)


def test_a_classifier_without_padding_reads_one_text_at_a_time(tiny_llama):
    model = classifier(tiny_llama, ["a", "b", "c"], device="cpu")
    found = probabilities(model, MANY)
    model.config.pad_token_id = None
    assert np.abs(probabilities(model, MANY) - found).max() < 1e-5


def test_answering_is_work_between_whose_yields_the_model_is_valid(tiny_classifier):
    tiny_classifier.module.train()
    events = list(answers(tiny_classifier, MANY, batch=2))
    assert [(e.done, e.total) for e in events][-1] == (7, 7)
    assert tiny_classifier.module.training
    tiny_classifier.module.eval()


def test_what_cannot_be_classified(tiny_llama, tiny_classifier):
    with pytest.raises(BadInput, match=r"is a causal-lm model\. Allowed: a sequence classifier\."):
        probabilities(tiny_llama, MANY)
    with pytest.raises(BadInput, match=r"^the texts hold 3, a int\. Allowed: strings\.$"):
        probabilities(tiny_classifier, ["a", 3])
    with pytest.raises(BadInput, match=r"^batch is 0\. "):
        probabilities(tiny_classifier, MANY, batch=0)
    tiny_classifier.module.classifier.bias.data[0] = float("nan")
    with pytest.raises(BadInput, match=r"^the logits of .* are not finite\."):
        probabilities(tiny_classifier, MANY)
