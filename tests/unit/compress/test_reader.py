"""What a classifier's texts are read with: the same ids as the tokenizer's own, each text tokenized once, bounded in memory."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.distillation import material, teachers
from effkit.compress.distillation.material import Batch, Reader, texts_for
from effkit.compress.distillation.teachers import Teachers, apart
from effkit.compress.distillation.training import Training
from effkit.spec.recipe import Distill
from tests.unit.compress.test_prune_vocabulary import REPORTS, STORY, STRANGE, wordpiece

ODD = [
    "seal worn", "seal\x1cworn", "seal\x85worn", "seal\u00a0worn\tand\nold", "[SEP] seal [MASK]worn", "Ünwörn\u0301 ΣΑΣ", "x" * 300,
    "漢字worn", "\u200bseal\u200b", STRANGE, STORY, "!?...", "a-b_c",
]  # fmt: skip


def tokenized(model, texts, window):
    """As transformers does it."""
    found = model.tokenizer(list(texts), padding=len(texts) > 1, truncation=True, max_length=min(window, model.window), return_tensors="pt")
    return found["input_ids"], found["attention_mask"]


def same(found, expected) -> bool:
    return all(torch.equal(ours, theirs) and ours.dtype == theirs.dtype for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_are_the_tokenizers_own(kind, side, tiny_classifier):
    model = wordpiece() if kind == "wordpiece" else tiny_classifier
    model.tokenizer.padding_side = side
    # more than the coder checks, so that its word by word reading is what is tested
    texts = [*REPORTS, *(f"{report} Seen again." for report in REPORTS), *ODD]
    for window in (8, 64):
        reader = Reader(model, window)
        for _ in range(2):  # the second time from memory
            for start in range(0, len(texts), 16):
                assert same(reader.batch(texts[start : start + 16]), tokenized(model, texts[start : start + 16], window))
        assert same(reader.batch(texts[:1]), tokenized(model, texts[:1], window))


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_weights_come_out_bit_for_bit_as_with_the_tokenizer_in_every_step(kind, tiny_classifier, monkeypatch):
    teacher = wordpiece() if kind == "wordpiece" else tiny_classifier
    student = ek.prune(teacher, layers=1)
    way = {"text": REPORTS, "steps": 8, "batch": 8, "window": 32, "train": "all", "learning_rate": 3e-3}
    remembered = ek.distill(teacher, student, **way)
    monkeypatch.setattr(Reader, "batch", lambda self, texts: tokenized(teacher, texts, 32))
    anew = ek.distill(teacher, student, **way)
    for name, tensor in anew.module.state_dict().items():
        assert torch.equal(remembered.module.state_dict()[name], tensor)
        assert not tensor.is_floating_point() or torch.isfinite(tensor).all()


def test_each_text_is_tokenized_once_for_teacher_and_student(tiny_classifier, monkeypatch):
    """Whatever the steps, and held-out texts too."""
    counted, tokenizer = [], type(tiny_classifier.tokenizer)
    real = tokenizer.__call__
    monkeypatch.setattr(tokenizer, "__call__", lambda self, text, **more: counted.append(text) or real(self, text, **more))
    monkeypatch.setattr("effkit.compress.distillation.training.ANSWERS", 0)  # the teacher is asked in every step
    student = ek.prune(tiny_classifier, layers=1)
    before = len(counted)
    ek.distill(tiny_classifier, student, REPORTS, steps=30, batch=8, window=32)
    told = [text for given in counted[before:] for text in ([given] if isinstance(given, str) else given)]
    assert sorted(told) == sorted(REPORTS)


def test_memory_is_bounded_whatever_the_pool(tiny_classifier):
    texts = [f"seal {i} of the pump was worn" for i in range(200)]
    reader = Reader(tiny_classifier, 32, limit=1000)
    for start in range(0, 200, 20):
        assert same(reader.batch(texts[start : start + 20]), tokenized(tiny_classifier, texts[start : start + 20], 32))
    assert 0 < len(reader.kept) < 40
    assert sum(len(ids) + material.OVERHEAD for ids in reader.kept.values()) == reader.held <= 1000


def test_parts_and_held_out_batches_share_what_was_read(tiny_classifier):
    texts = texts_for(REPORTS, None, 3)
    texts.batch([0, 1, 2, 3]).parts(2)[1].inputs(tiny_classifier, 32)
    texts.held()[0].inputs(tiny_classifier, 32)
    (reader,) = texts.readers.values()
    assert set(reader.kept) == {*texts.train[2:4], *texts.held_out[:16]}
    assert Batch(texts=("a",)).readers == {}


def test_what_steps_will_read_is_read_before_the_first_one(tiny_classifier):
    student = ek.prune(tiny_classifier, layers=1)
    step = Distill(steps=2, batch=8, window=32)
    training = Training.begin((tiny_classifier,), student, step, texts_for(REPORTS, None, 3), 0)
    for _ in training.read_():
        pass
    (reader,) = training.material.readers.values()
    read = [text for training.done in range(2) for text in training.batch().texts]
    assert sorted(reader.kept) == sorted(read)
    assert len(read) == 16 < len(training.material.train)


def test_short_texts_are_cut_off_where_the_fewest_tokens_are_left():
    mask = (torch.arange(20) < torch.tensor([4, 20, 6, 5])[:, None]).long()
    short, long = apart(mask, 10**9)
    assert (short[0].tolist(), short[1]) == ([0, 3, 2], 6)
    assert (long[0].tolist(), long[1]) == ([1], 20)
    for better_whole in (mask.flip(1), torch.ones(4, 20).long(), mask[1:2], mask[:, :5]):
        assert apart(better_whole, 10**9) == []
    assert apart(mask, int(teachers.WORTH / 42) - 1) == []  # 42 tokens are spared
    assert apart(mask, int(teachers.WORTH / 42) + 1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_teacher_says_the_same_of_texts_read_apart(side, tiny_classifier, monkeypatch):
    monkeypatch.setattr(teachers, "WORTH", 0.0)
    tiny_classifier.tokenizer.padding_side = side
    batch = Batch(texts=("seal worn", STORY, "oil", "crack near the wing", STORY[:40]))
    whole = tiny_classifier.logits(*batch.inputs(tiny_classifier, 64).values())
    read, forward = [], tiny_classifier.module.forward
    monkeypatch.setattr(tiny_classifier.module, "forward", lambda **given: read.append(given["input_ids"].shape) or forward(**given))
    said = Teachers((tiny_classifier,), tiny_classifier, 64).say(batch, 1.0).logits
    assert len(read) == (2 if side == "right" else 1)
    assert torch.allclose(said, whole, atol=1e-5)
