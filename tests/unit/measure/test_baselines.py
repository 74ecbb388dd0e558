"""The baselines against scikit-learn itself, their bytes, and what a teacher's probabilities add."""

from __future__ import annotations

import random

import numpy as np
import pytest

from effkit.measure.baselines import distilled_linear, linear, majority
from effkit.measure.tasks import macro_f1
from effkit.models.texts.labelled import budget, made, read_labelled, split
from effkit.spec.errors import BadInput

TOPICS = {
    "pump": "pump seal leak pressure valve flow",
    "belt": "belt wear pulley torn roller drive",
    "relay": "relay coil volt fuse spark wire",
}
FILLER = ["the", "a", "was", "found", "on", "line", "during", "check", "and", "replaced", "by", "crew", "again"]


def reports(n: int, seed: int):
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        topic = draw.choice(list(TOPICS))
        words = [draw.choice(TOPICS[topic].split()) for _ in range(2)] + [draw.choice(FILLER) for _ in range(8)]
        draw.shuffle(words)
        rows.append((f"{' '.join(words)} {i}", topic, None))
    return made("reports", rows, source="a test")


@pytest.fixture(scope="module")
def parts():
    return split(reports(600, 0))


def test_linear_is_scikit_learns_own_pipeline(parts):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    train, _, test = parts
    labelled, _ = budget(train, 8)
    reference = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
    ).fit(labelled.texts, labelled.labels)
    found = linear(labelled)
    expected = reference.predict_proba(test.texts)
    assert np.abs(found.predict_proba(test.texts) - expected).max() < 0.02
    assert (found.predict_proba(test.texts).argmax(1) == expected.argmax(1)).mean() > 0.98


def test_linear_learns_and_majority_does_not(parts):
    train, _, test = parts
    labelled, _ = budget(train, 32)
    found, floor = linear(labelled), majority(train)
    assert macro_f1(test.labels, found.predict_proba(test.texts).argmax(1)) > 0.85
    assert set(floor.predict_proba(test.texts).argmax(1)) == {floor.majority}
    assert floor.majority == int(np.bincount(train.labels).argmax())
    assert floor.predict_proba(["x"]).sum() == pytest.approx(1)


def test_two_classes_are_a_sigmoid(parts):
    train = parts.train
    two = made("two", [(t, str(c == 1), None) for t, c in zip(train.texts, train.labels, strict=True)], source="a test")
    found = linear(two)
    probabilities = found.predict_proba(["pump seal leak", "belt wear torn"])
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-6
    from sklearn.linear_model import LogisticRegression

    rows = found.features.transform(list(two.texts))
    expected = LogisticRegression(C=10, class_weight="balanced", max_iter=1000).fit(rows, two.labels).predict_proba(rows)
    assert np.abs(found.predict_proba(two.texts) - expected).max() < 0.02


def test_a_class_without_labels_has_no_probability(parts):
    labelled = parts.train.take([i for i, label in enumerate(parts.train.labels) if label != 1][:60])
    found = linear(labelled)
    probabilities = found.predict_proba(parts.test.texts)
    assert probabilities.shape == (len(parts.test), 3)
    assert (probabilities[:, 1] == 0).all()
    with pytest.raises(BadInput, match=r"has labels of 1 class\. Allowed: labels of at least two classes\.$"):
        linear(parts.train.take([i for i, label in enumerate(parts.train.labels) if label == 1]))


def test_a_rare_class_weighs_as_much_as_a_common_one(parts):
    train, test = parts.train, parts.test
    rare = [i for i, label in enumerate(train.labels) if label == 0][:6]
    found = linear(train.take([*rare, *(i for i, label in enumerate(train.labels) if label != 0)]))
    right = found.predict_proba(test.texts).argmax(1)[np.array(test.labels) == 0] == 0
    assert right.mean() > 0.8, "0.51 without weights"


def test_bytes_are_those_of_vocabulary_and_weights(parts):
    found = linear(budget(parts.train, 8)[0])
    terms = [term for _, part in found.features.transformer_list for term in part.get_feature_names_out()]
    assert len(terms) == found.weights.shape[0]
    expected = len("\n".join(terms).encode()) + 1 + 4 * len(terms) + found.weights.nbytes + found.bias.nbytes
    assert found.bytes == expected
    assert found.weights.dtype == np.float32
    assert majority(parts.train).bytes == 12


def test_a_teacher_on_the_pool_beats_the_few_labels(parts):
    train, _, test = parts
    labelled, pool = budget(train, 2)
    teacher = linear(train)
    texts = [*labelled.texts, *pool]
    student = distilled_linear(texts, teacher.predict_proba(texts), train.classes)
    f1 = {
        name: macro_f1(test.labels, p.predict_proba(test.texts).argmax(1)) for name, p in (("few", linear(labelled)), ("taught", student))
    }
    assert f1["taught"] > f1["few"] + 0.1
    agree = (student.predict_proba(test.texts).argmax(1) == teacher.predict_proba(test.texts).argmax(1)).mean()
    assert agree > 0.93
    again = distilled_linear(texts, teacher.predict_proba(texts), train.classes)
    assert np.array_equal(again.weights, student.weights)


def test_the_ridge_is_scikit_learns(parts):
    from sklearn.linear_model import Ridge

    texts = parts.train.texts[:150]
    targets = linear(parts.train).predict_proba(texts)
    found = distilled_linear(texts, targets, parts.train.classes)
    logs = np.log(np.maximum(targets, 1e-4))
    exact = Ridge(alpha=1.0, solver="cholesky").fit(
        found.features.transform(list(texts)).toarray(), logs - logs.mean(axis=1, keepdims=True)
    )
    assert np.abs(found.weights - exact.coef_.T).max() < 0.02 * np.abs(exact.coef_).max()


def test_what_cannot_be_distilled(parts):
    good = np.full((2, 3), 1 / 3)
    with pytest.raises(BadInput, match=r"^the teacher's probabilities have the shape \(2, 3\)\. Allowed: \(1, 3\)"):
        distilled_linear(["a"], good, parts.train.classes)
    with pytest.raises(BadInput, match=r"do not sum to 1 in each row"):
        distilled_linear(["a b", "c d"], good * 2, parts.train.classes)
    with pytest.raises(BadInput, match=r"^no n-grams can be counted \("):
        distilled_linear(["", ""], good, parts.train.classes)


def test_texts_without_words_are_counted_by_their_characters():
    rows = [("\U0001f600\U0001f603 !", "good"), ("\U0001f622\U0001f62d ?", "bad")] * 4
    found = linear(read_labelled(rows))
    assert found.predict_proba(["\U0001f603", "\U0001f62d"]).argmax(1).tolist() == [found.classes.index("good"), found.classes.index("bad")]
    assert found.bytes > 0


def test_a_book_is_counted_as_far_as_its_first_ten_thousand_characters():
    draw = random.Random(2)
    book = " ".join(draw.choice(["pump", "valve", "oil", "seal"]) + str(draw.randrange(9999)) for _ in range(60_000))
    rows = [(f"leak {i} {book}", "a") for i in range(3)] + [(f"crack {i} {book[::-1]}", "b") for i in range(3)]
    found = linear(read_labelled(rows))
    assert found.weights.shape[0] < 20_000  # of the whole: 90,000 words and pieces
    assert np.array_equal(found.predict_proba([rows[0][0]]), found.predict_proba([rows[0][0][:10_000]]))
