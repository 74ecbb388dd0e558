"""The claim on a tiny teacher: all figures there, the same for the same seed, and a verdict that follows from them."""

from __future__ import annotations

import pytest

from effkit.compress.teaching import finetune
from effkit.lab import claim as module
from effkit.models.classifying import classifier
from effkit.models.texts.labelled import split
from effkit.spec.claim import Claim, Contender
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "STUDENT_STEPS", 60)
    monkeypatch.setattr(module, "LEAST_TEXTS", 400)
    monkeypatch.setattr(module, "TIMED", 10)


@pytest.fixture
def teacher(tiny_encoder_folder, reports):
    parts = split(reports)
    return finetune(classifier(tiny_encoder_folder, reports.classes, device="cpu"), parts.train, epochs=8, learning_rate=2e-3, batch=8)


def test_from_rows_to_a_verdict(quick, teacher, reports):
    kept = {}
    result = module.claim(reports, 16, teacher=teacher, window=64, kept=kept)
    assert list(result.contenders) == ["teacher", "student", "linear", "distilled linear", "majority"]
    f1 = {name: one.macro_f1.value for name, one in result.contenders.items()}
    assert f1["student"] > 0.9 > 0.5 > f1["majority"]
    assert f1["linear"] > 0.9
    assert result.retained.low <= result.retained.value <= result.retained.high
    assert result.labelled == 48
    assert result.labelled + result.pool == len(kept["split"].train)
    assert result.bytes_ratio > 0
    assert result.cost_ratio > 0
    assert result.contenders["teacher"].forms["eager"] > 0
    assert Claim.model_validate_json(result.model_dump_json()) == result
    again = module.claim(reports, 16, teacher=teacher, window=64)
    assert [one.macro_f1 for one in again.contenders.values()] == [one.macro_f1 for one in result.contenders.values()]


def test_a_teacher_without_a_student_is_refused_before_anything_is_read(reports, tiny_classifier):
    work = module._Trial(reports, 16, 0, 64)
    with pytest.raises(BadInput, match="Allowed: a BERT with a WordPiece tokenizer"):
        next(work.teach(tiny_classifier))


def test_no_training_sees_held_out_or_test(quick, teacher, reports):
    parts = split(reports)
    work = module._Trial(reports, 16, 0, 64)
    work.models["teacher"] = teacher
    for _ in work.distill():
        pass
    hidden = {*parts.test.texts, *parts.held_out.texts}
    assert not hidden & {*work.texts, *work.labelled.texts, *work.pool}
    assert set(work.labelled.texts) <= set(work.texts)


def made(**given) -> Claim:
    def one(name, f1, rate, behind=False):
        return Contender(name=name, macro_f1=Estimate(value=f1, low=f1 - 0.02, high=f1 + 0.02), bytes=1, rate=rate, behind=behind)

    student = given.pop("student", 0.67)
    few = {"retained": Estimate(value=student / 0.7, low=student / 0.7 - 0.03, high=student / 0.7 + 0.03)}
    few |= {"latency_ratio": 0.08, "latency_ratio_whole": 0.09, "bytes_ratio": 0.05, "cost_ratio": 0.03} | given
    contenders = [
        one("teacher", 0.7, 100), one("student", student, 2000, student < 0.66),
        one("linear", few.pop("linear", 0.6), 3000, few.pop("linear_behind", True)),
        one("majority", 0.05, None, True),
    ]  # fmt: skip
    return Claim(
        data="d", data_hash="h", classes=3, labels_per_class=8, labelled=24, pool=9, test=99, contenders={c.name: c for c in contenders},
        seconds=1.0, **({"above_chance": Estimate(value=0.9, low=0.8, high=1.0)} | few),
    )  # fmt: skip


def test_the_verdict_may_be_no_and_names_the_cheapest_that_is_as_good():
    good = made()
    assert good.holds
    assert good.cheapest == "student"
    assert good.verdict().startswith(
        "Yes: the student keeps 96% of its teacher's macro-F1 (95% interval 93% to 99%) at 8.0% of its latency"
    )
    assert "Use the student: it is the cheapest that the data cannot tell from the best (the teacher)." in good.verdict()
    slow = made(latency_ratio=0.12)
    assert not slow.holds
    assert slow.verdict().startswith("No: ")
    poor = made(student=0.6)
    assert not poor.holds
    assert poor.cheapest == "teacher"
    assert "nothing cheaper comes so close" in poor.verdict()
    unsure = made(student=0.645)
    assert unsure.holds
    assert "do not settle it" in unsure.verdict()
    linear = made(linear=0.69, linear_behind=False)
    assert linear.cheapest == "linear"
    assert "the distillation was not needed here" in linear.verdict()


def test_a_teacher_that_is_no_better_than_guessing_has_nothing_to_keep():
    """A student as bad as its teacher keeps 100%, and that is no success."""
    guess = made(student=0.7, above_chance=Estimate(value=1.3))
    assert not guess.holds
    assert guess.verdict().startswith("No: on 99 test texts the data cannot tell the teacher (macro-F1 0.7")
    assert "nothing that a student could keep" in guess.verdict()
    assert "100%" not in guess.verdict()
    assert not made(student=0.7, above_chance=Estimate.unavailable()).holds
    linear = made(student=0.5, linear=0.9, linear_behind=False, above_chance=Estimate(value=1.3))
    assert "Use the linear model: it scores best" in linear.verdict()


def test_what_was_dropped_is_told_and_a_students_window_is_no_longer_than_its_teachers(quick, teacher, reports):
    rows = [*zip(reports.texts, (reports.classes[i] for i in reports.labels), strict=True), ("pump", ""), ("", "leak")]
    kept = {}
    result = module.claim(rows, 16, teacher=teacher, window=4096, kept=kept)
    assert "1 row without text was dropped." in " ".join(result.notes)
    assert kept["student"].window == kept["teacher"].window == 64


def test_of_very_many_labels_those_are_read_that_the_steps_can_read(reports):
    """With all labels of a large set the teacher would read each of them, for hours."""
    once = [(text, reports.classes[label]) for text, label in zip(reports.texts, reports.labels, strict=True)]
    rows = [(f"{text} {i}", kind) for i in range(20) for text, kind in once] + [("a rare case", "rare"), ("another rare case", "rare")]
    work = module._Trial(module.read_labelled(rows), None, 0, 32)
    few = work._readable(steps=10)
    assert 640 <= len(few) <= 641
    assert few.balance["rare"] == work.labelled.balance["rare"]
    assert "trained on" in work.notes[-1]
    assert work._readable(steps=1000) is work.labelled


def test_of_long_texts_others_are_made_from_what_is_read(quick, teacher, reports):
    """Made from the whole, most would begin as their originals do, and the teacher would read those again."""
    rows = [
        (f"{text} " + " ".join(f"word{i}" for i in range(500)), reports.classes[label])
        for text, label in zip(reports.texts, reports.labels, strict=True)
    ]
    work = module._Trial(module.read_labelled(rows), 16, 0, 32)
    work.models["teacher"] = teacher
    for _ in work.distill():
        pass
    new = work.texts[-100:]
    assert max(len(text.split()) for text in new) <= 32
    assert len({text.split()[0] for text in new}) > 20
    assert "word400" not in work.models["student"].tokenizer.get_vocab()


def test_too_little_data_is_refused():
    with pytest.raises(BadInput, match="texts to learn from and 0 to test on"):
        module.claim([("oil leak", "a"), ("wing crack", "b")], 1, teacher="minilm-l6")
