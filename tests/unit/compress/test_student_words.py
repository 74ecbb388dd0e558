"""A student whose tokens are words of the domain: it starts from its teacher, and a recipe makes, trains and rounds it."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.distillation import training
from effkit.compress.distillation.material import NO_LABEL, texts_for
from effkit.compress.distillation.pruning.words import embedded
from effkit.compress.fitting import Settings
from effkit.compress.pipeline import compress
from effkit.compress.pool import augmented
from effkit.compress.teaching import finetune, fitted
from effkit.measure.answers import answers
from effkit.models.classifying import classifier
from effkit.models.texts.labelled import split
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish
from effkit.spec.recipe import Distill, Quantize, Recipe, Student, step_of

SHAPE = {"layers": 1, "hidden_size": 16, "heads": 2, "ffn": 32, "vocabulary": 8000, "embeddings": "words", "window": 64}


@pytest.fixture(scope="module")
def parts(reports):
    return split(reports)


@pytest.fixture
def teacher(tiny_encoder_folder, parts):
    base = classifier(tiny_encoder_folder, parts.train.classes, device="cpu")
    return finetune(base, parts.train, epochs=6, learning_rate=2e-3, batch=8)


def test_a_frequent_word_becomes_one_token_and_a_rare_one_stays_in_pieces(teacher):
    texts = ["Turbofan leak near the wing"] * 3 + ["gearbox leak"]
    student = ek.student(teacher, **SHAPE, text=texts)
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
    assert float(whole[:, : len(words)].std()) == pytest.approx(1, abs=1e-5)  # six words have no more directions
    reference = torch.pdist((alone - alone.mean(0)).detach())
    assert torch.allclose(torch.pdist(whole) / torch.pdist(whole)[0], reference / reference[0], atol=1e-3)


def test_its_plan_tells_all_before_and_it_is_saved_and_loaded_like_any_model(teacher, parts, tmp_path):
    texts = list(parts.train.texts)
    student = ek.student(teacher, **SHAPE, text=texts)
    plan = student.plans[-1]
    assert plan == ek.plan(teacher, step_of(Student, **SHAPE), texts)
    assert (plan.bytes_before, plan.bytes_after) == (teacher.stored_bytes, student.stored_bytes)
    assert [m.module for m in plan.acting("project")] == ["bert.embeddings.word_embeddings"]
    assert plan.notes[0].startswith(f"{len(student.tokenizer)} tokens, ")
    again = ek.load(student.save(tmp_path / "student"))
    assert again.recipe == student.recipe
    assert again.recipe.label() == "new student of 1 layer, hidden 16, 2 heads, ffn 32, 8000 words"
    assert again.tokenizer.tokenize("turbofan leak") == student.tokenizer.tokenize("turbofan leak")
    assert torch.equal(finish(answers(again, parts.test.texts)), finish(answers(student, parts.test.texts)))


def recipe(path, **last) -> Recipe:
    """The student of the claim as steps, in small; its texts in a file, one a line."""
    path.write_text("\n".join(last.pop("texts")), encoding="utf-8")
    return Recipe(
        steps=(
            step_of(Student, **SHAPE, text=str(path)),
            Distill(
                steps=400, batch=16, window=64, learning_rate=5e-3, train="all", schedule="linear", word_dropout=0.1, augment=300,
                text=str(path),
            ),
            Quantize(bits=8, embedding_bits=8),
        ),
        seed=2,
    )  # fmt: skip


def test_one_recipe_makes_it_trains_it_and_rounds_it(teacher, parts, tmp_path):
    steps = recipe(tmp_path / "pool.txt", texts=parts.train.texts)
    plans = ek.plan(teacher, steps)
    done = compress(teacher, steps)
    assert plans[-1].bytes_after == done.stored_bytes < 0.15 * teacher.stored_bytes
    assert [plan.step for plan in done.plans] == list(steps.steps)
    ours, theirs = finish(answers(done, parts.test.texts)), finish(answers(teacher, parts.test.texts))
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.9


def test_it_is_searched_and_run_again_like_any_recipe(teacher, parts, tmp_path, home):
    whole = recipe(tmp_path / "pool.txt", texts=parts.train.texts)
    steps = [{"step": step.step} | step.model_dump(exclude_defaults=True) for step in whole.steps]
    steps[1]["steps"], steps[2]["bits"] = 30, [4, 8]
    way = {"on": list(parts.test.texts), "window": 64}
    found = ek.explore(teacher, {"steps": steps}, ("bytes", "kl"), trials=2, study=tmp_path / "study", store=False, speed=False, **way)
    first = found.trials[0].record
    assert first is not None
    assert 'embeddings="words", window=64' in first.code()
    again = ek.replay(first, teacher.save(tmp_path / "teacher"), on=way["on"], speed=False)
    assert str(again).endswith("The model came out bit for bit as it was.")


def driven(work):
    """(metrics of all events, the snapshot after three steps, the model)."""
    seen, kept = [], None
    try:
        while True:
            event = next(work)
            seen.append(dict(event.metrics))
            if event.done == 3 and event.metrics:
                kept = event.snapshot()
    except StopIteration as end:
        return seen, kept, end.value


WAY = {"steps": 40, "batch": 16, "window": 64, "train": "all", "schedule": "linear", "word_dropout": 0.2, "seed": 4}


def test_it_goes_on_bit_for_bit_where_it_was_interrupted(teacher, parts):
    texts = list(parts.train.texts)
    student = ek.student(teacher, **SHAPE, text=texts)
    whole, kept, model = driven(ek.distill.work(teacher, student, texts, **WAY))
    assert kept is not None
    rest, _, again = driven(ek.distill.work(teacher, student, texts, **WAY, resume=kept))
    assert [m for m in rest if m] == [m for m in whole if m][4:]
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], tensor)
    rates = [m["learning_rate"] for m in whole if "learning_rate" in m]
    assert rates[3] == max(rates) == 3e-4
    assert rates[-1] == pytest.approx(3e-4 / 36)  # zero after the last


def test_each_text_is_asked_once_and_the_answer_is_the_same(teacher, parts, monkeypatch):
    texts = list(parts.train.texts)
    student = ek.student(teacher, **SHAPE, text=texts)
    asked = []
    handle = teacher.module.register_forward_pre_hook(lambda _, given, named: asked.append(len(named["input_ids"])), with_kwargs=True)
    once, _, _ = driven(ek.distill.work(teacher, student, texts, **WAY))
    assert WAY["steps"] * WAY["batch"] > 2 * len(texts) > sum(asked)
    monkeypatch.setattr(training, "ANSWERS", 0)
    each, _, _ = driven(ek.distill.work(teacher, student, texts, **WAY))
    handle.remove()
    assert sum(asked) > WAY["steps"] * WAY["batch"]
    assert [m["loss"] for m in once if "loss" in m] == pytest.approx([m["loss"] for m in each if "loss" in m], abs=1e-5)


def test_hidden_words_are_hidden_from_the_student_alone_and_change_what_it_learns(teacher, parts):
    texts = list(parts.train.texts)
    student = ek.student(teacher, **SHAPE, text=texts)
    seen, shown, _ = driven(ek.distill.work(teacher, student, texts, **WAY | {"word_dropout": 0.0}))
    hidden, _, _ = driven(ek.distill.work(teacher, student, texts, **WAY))
    assert shown is not None
    assert seen[-1] != hidden[-1]
    first = [next(m for m in run if "held_out" in m)["held_out"] for run in (seen, hidden)]
    assert first[0] == first[1]  # what is held out is read whole


def test_a_small_pool_is_augmented_without_labels():
    texts = texts_for(["oil leak near the pump", "crack in the wing", "rust"], [0, 1, 0], 2, least=20, seed=3)
    assert (len(texts.train), len(texts.labels), len(texts.held_out)) == (20, 20, 1)
    assert set(texts.labels[2:]) == {NO_LABEL}
    assert not set(texts.train[2:]) & set(texts.held_out)
    assert texts_for(["oil leak", "crack"], None, 2, least=1).train == texts_for(["oil leak", "crack"], None, 2).train


def test_the_claims_own_loop_learns_the_same(teacher, parts):
    """`claim` fits the same student to answers that it has already: it agrees with its teacher as a recipe's student does."""
    student = ek.student(teacher, **SHAPE, text=list(parts.train.texts))
    said = finish(answers(teacher, parts.train.texts)).softmax(-1)
    done = finish(fitted(student, parts.train.texts, said, Settings(40, 5e-3, 16, word_dropout=0.1), 64))
    ours, theirs = finish(answers(done, parts.test.texts)), finish(answers(teacher, parts.test.texts))
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary": None}, "vocabulary is None. Allowed with embeddings 'words': a whole number, the most tokens"),
        ({"vocabulary": "used"}, "vocabulary is 'used'. Allowed with embeddings 'words': a whole number, the most tokens"),
        ({"embeddings": "project"}, "window is 64. Allowed with embeddings 'words' only"),
        ({"layers": 3}, "layers is 3. Allowed: 1 to 2, the teacher's"),
        ({"heads": 3}, "hidden_size is 16 and heads is 3. Allowed: heads that divide hidden_size"),
    ],
)
def test_what_cannot_be_is_named(teacher, fields, message):
    with pytest.raises(BadInput, match=message):
        ek.student(teacher, **SHAPE | fields, text=["oil leak"])


def test_other_teachers_are_refused_by_the_plan_of_the_whole_recipe(tiny_classifier, tmp_path):
    with pytest.raises(BadInput, match="Allowed: a BERT with a WordPiece tokenizer"):
        ek.plan(tiny_classifier, recipe(tmp_path / "pool.txt", texts=["oil leak", "crack"]))


def test_what_only_classifiers_have_is_refused_for_a_language_model(tiny_llama):
    for name, value in (("word_dropout", 0.1), ("augment", 9)):
        with pytest.raises(BadInput, match=f"{name} is {value}. Allowed for a classifier only"):
            ek.plan(tiny_llama, step_of(Distill, **{name: value}))


def test_augmented_texts_are_made_of_the_pools_words_and_follow_the_seed():
    pool = ["oil leak near the left pump", "crack in wing", ""]
    made = augmented(pool, 200, seed=1)
    assert len(made) == 200
    assert len(set(made)) > 25
    assert made == augmented(pool, 200, seed=1) != augmented(pool, 200, seed=2)
    assert {w for text in made for w in text.split()} <= {w for text in pool for w in text.split()}
    assert augmented([], 5) == augmented([""], 5) == []
