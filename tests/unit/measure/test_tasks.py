"""Task scores against scikit-learn, and intervals against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from effkit.measure.tasks import accuracy, difference, macro_f1, retained, score, told_apart
from effkit.spec.errors import BadInput


def labels(n: int, classes: int, seed: int, right: float = 0.7):
    random = np.random.default_rng(seed)
    truth = random.choice(classes, n, p=random.dirichlet(np.ones(classes)))
    return truth, np.where(random.random(n) < right, truth, random.integers(0, classes, n))


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_scikit_learns(seed):
    truth, predicted = labels(120, 2 + seed * 3, seed)
    present = sorted(set(truth))
    assert macro_f1(truth, predicted) == pytest.approx(f1_score(truth, predicted, labels=present, average="macro", zero_division=0))
    assert macro_f1(truth, predicted, 99) == pytest.approx(macro_f1(truth, predicted))
    assert accuracy(truth, predicted) == pytest.approx(accuracy_score(truth, predicted))


def test_each_draw_is_scored_as_scikit_learn_would():
    truth, predicted = labels(60, 4, 1)
    found = score(truth, predicted, draws=200, seed=3)
    random, drawn = np.random.default_rng(3), []
    for _ in range(200):
        rows = random.integers(0, 60, 60)
        drawn.append(f1_score(truth[rows], predicted[rows], labels=sorted(set(truth[rows])), average="macro", zero_division=0))
    low, high = np.quantile(drawn, [0.025, 0.975]) - np.mean(drawn) + found.value
    assert found.low == pytest.approx(found.value - (found.value - low) * 1.03, abs=0.01)
    assert found.high == pytest.approx(found.value + (high - found.value) * 1.03, abs=0.01)
    assert found.n == 60
    assert score(truth, predicted, draws=200, seed=3) == found


def test_rows_of_a_group_count_once():
    truth, predicted = labels(80, 3, 2)
    groups = [str(i) for i in range(80)]
    one, eight = score(truth, predicted, groups), score(np.repeat(truth, 8), np.repeat(predicted, 8), np.repeat(groups, 8))
    assert eight.value == pytest.approx(one.value)
    assert (eight.n, eight.low, eight.high) == (80, pytest.approx(one.low), pytest.approx(one.high))
    naive = score(np.repeat(truth, 8), np.repeat(predicted, 8))
    assert naive.high - naive.low < 0.5 * (eight.high - eight.low)


def test_intervals_hold_the_true_score_about_as_often_as_they_say():
    random, hits = np.random.default_rng(0), 0
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    answer = 0.6 * np.eye(4) + 0.1  # P(predicted | truth)
    joint = shares[:, None] * answer
    true = (2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))).mean()
    for _ in range(150):
        cells = random.choice(16, 150, p=joint.ravel())
        found = score(cells // 4, cells % 4, draws=200, seed=int(random.integers(1 << 30)))
        hits += found.low <= true <= found.high
    assert 0.89 <= hits / 150 <= 0.99


def test_pairs_see_what_separate_intervals_do_not():
    truth, a = labels(400, 5, 4, right=0.75)
    b = a.copy()
    wrong = np.flatnonzero(a == truth)[::25]
    b[wrong] = (truth[wrong] + 1) % 5
    found = difference(truth, a, b)
    assert told_apart(found) is True
    assert score(truth, a).overlaps(score(truth, b))
    assert difference(truth, b, a).value == pytest.approx(-found.value)
    assert told_apart(difference(truth, a, a)) is False
    other = np.where(np.random.default_rng(9).random(400) < 0.75, truth, (truth + 2) % 5)
    assert told_apart(difference(truth, a, other)) is False


def test_retained_is_a_paired_ratio():
    truth, teacher = labels(500, 4, 6, right=0.9)
    student = np.where(np.random.default_rng(1).random(500) < 0.93, teacher, (teacher + 1) % 4)
    kept = retained(truth, student, teacher)
    assert kept.value == pytest.approx(macro_f1(truth, student) / macro_f1(truth, teacher))
    assert kept.low < kept.value < kept.high < 1
    most = int(np.bincount(truth).argmax())
    above = retained(truth, student, teacher, chance=most)
    floor = macro_f1(truth, [most] * 500)
    assert above.value == pytest.approx((macro_f1(truth, student) - floor) / (macro_f1(truth, teacher) - floor))
    assert above.value < kept.value
    same = retained(truth, teacher, teacher)
    assert (same.value, same.low, same.high) == (1, pytest.approx(1), pytest.approx(1))


def test_a_teacher_at_chance_has_nothing_to_keep():
    truth = np.arange(60) % 3
    nothing = retained(truth, truth, np.zeros(60, int), chance=0)
    assert nothing.value is None
    hardly = np.zeros(60, int)
    hardly[1] = 1
    unsure = retained(truth, hardly, hardly, chance=0, metric="accuracy", draws=400)
    assert (unsure.value, unsure.low) == (1, None)


def test_a_single_group_has_no_interval():
    found = score([0, 1, 1], [0, 1, 0], ["g", "g", "g"])
    assert (found.n, found.low) == (1, None)
    assert told_apart(difference([0, 1], [0, 1], [1, 1], ["g", "g"])) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: macro_f1([0, 1], [0]), r"^there are \(1,\) predictions for \(2,\) rows\. Allowed: one prediction a row"),
        (lambda: macro_f1([], []), r"^there are \(0,\) predictions for \(0,\) rows\. "),
        (lambda: macro_f1([0, -1], [0, 1]), r"^a label is -1\. Allowed: whole numbers from 0"),
        (lambda: score([0, 1], [0, 1], ["a"]), r"^there are 1 groups for 2 rows\. Allowed: one group a row\.$"),
        (lambda: score([0, 1], [0, 1], metric="f1"), r"^metric is 'f1'\. Allowed: 'macro_f1', 'accuracy'\.$"),
        (lambda: score([0, 1], [0, 1], draws=3), r"^draws is 3\. Allowed: a whole number of at least 40\.$"),
    ],
)
def test_what_cannot_be_scored(call, message):
    with pytest.raises(BadInput, match=message):
        call()
