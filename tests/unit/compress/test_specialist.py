"""A specialist reads the domain's words as tokens, starts from its teacher, and is saved and loaded like any model."""

from __future__ import annotations

import pytest
import torch

from effkit.compress.distillation.specialist import embedded, specialist
from effkit.compress.fitting import Settings
from effkit.compress.pool import augmented
from effkit.compress.teaching import finetune, fitted
from effkit.measure.answers import answers
from effkit.models.classifying import classifier
from effkit.models.labelled import split
from effkit.models.loading import load
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish


@pytest.fixture(scope="module")
def parts(reports):
    return split(reports)


@pytest.fixture
def teacher(tiny_encoder_folder, parts):
    base = classifier(tiny_encoder_folder, parts.train.classes, device="cpu")
    return finetune(base, parts.train, epochs=6, learning_rate=2e-3, batch=8)


def test_a_frequent_word_becomes_one_token_and_a_rare_one_stays_in_pieces(teacher):
    texts = ["Turbofan leak near the wing"] * 3 + ["gearbox leak"]
    student = specialist(teacher, texts, hidden_size=16, ffn=32, window=64)
    assert student.tokenizer.tokenize("turbofan leak") == ["turbofan", "leak"]
    assert len(student.tokenizer.tokenize("gearbox")) == 7
    assert len(teacher.tokenizer.tokenize("turbofan")) == 8
    assert student.tokenizer("leak")["input_ids"][0] == student.tokenizer.cls_token_id
    assert student.config.vocab_size == len(student.tokenizer)
    assert student.config.id2label == teacher.config.id2label


def test_embeddings_keep_the_teachers_geometry(teacher, parts):
    words = ["pump", "valve", "oil", "wing", "crack", "rust"]
    whole = finish(embedded(teacher, words, 32))
    alone = torch.stack([teacher.module.bert(torch.tensor([teacher.tokens(w)])).last_hidden_state[0].mean(0) for w in words])
    reference = torch.pdist((alone - alone.mean(0)).detach())
    assert torch.allclose(torch.pdist(whole) / torch.pdist(whole)[0], reference / reference[0], atol=1e-3)


def test_a_distilled_specialist_agrees_with_its_teacher_on_new_texts_and_survives_saving(teacher, parts, tmp_path):
    student = specialist(teacher, parts.train.texts, hidden_size=16, ffn=32, window=64)
    said = finish(answers(teacher, parts.train.texts)).softmax(-1)
    done = finish(fitted(student, parts.train.texts, said, Settings(40, 5e-3, 16), 64))
    ours, theirs = finish(answers(done, parts.test.texts)), finish(answers(teacher, parts.test.texts))
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.9
    assert done.checkpoint.parameters < 0.5 * teacher.checkpoint.parameters
    again = load(done.save(tmp_path / "student"))
    assert torch.equal(finish(answers(again, parts.test.texts)), ours)


def test_other_tokenizers_are_refused(tiny_classifier):
    with pytest.raises(BadInput, match="Allowed: a BERT with a WordPiece tokenizer"):
        specialist(tiny_classifier, ["a"])


def test_augmented_texts_are_made_of_the_pools_words_and_follow_the_seed():
    pool = ["oil leak near the left pump", "crack in wing", ""]
    made = augmented(pool, 200, seed=1)
    assert len(made) == 200
    assert len(set(made)) > 25
    assert made == augmented(pool, 200, seed=1) != augmented(pool, 200, seed=2)
    assert {w for text in made for w in text.split()} <= {w for text in pool for w in text.split()}
    assert augmented([], 5) == augmented([""], 5) == []
