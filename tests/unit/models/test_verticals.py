"""The two built-in markets, as their packages hold them: sizes, and that no sibling or near-copy of a test row is trained on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from effkit.models.texts.labelled import budget, normal, read_labelled, split
from effkit.models.texts.near import _shingles, near_copies, similarity
from effkit.spec.errors import Unavailable


@pytest.fixture(scope="module", params=["healthcare", "maintenance"])
def market(request):
    try:
        return request.param, read_labelled(request.param)
    except Unavailable as error:
        pytest.skip(str(error))


def test_sizes(market):
    name, found = market
    rows, classes, extra = {"healthcare": (14339, 21, 32500), "maintenance": (3369, 13, 18400)}[name]
    assert (len(found), len(found.classes)) == (rows, classes)
    assert len(found.extra) > extra
    assert "Left out, too few" in found.note
    assert found.licence.startswith("MIT")
    assert all(text.strip() for text in found.texts)


def test_nothing_of_a_test_group_is_trained_on(market):
    _, found = market
    train, held_out, test = split(found)
    assert all(set(part.labels) == set(range(len(found.classes))) for part in (train, held_out, test))
    labelled, pool = budget(train, 8)
    seen = {normal(t) for t in (*labelled.texts, *pool)}
    group = dict(zip((*map(normal, found.texts), *map(normal, found.extra)), (*found.groups, *found.extra_groups), strict=True))
    for part in (held_out, test):
        assert not seen & {normal(t) for t in part.texts}
        assert not {group[t] for t in seen} & set(part.groups)


def test_healthcare_groups_are_categories(market):
    name, found = market
    if name != "healthcare":
        pytest.skip("of healthcare only")
    assert all(len(group) == 3 for group in found.groups)
    counts = np.unique(found.groups, return_counts=True)[1]
    assert counts.max() == 12
    of = {found.texts[i]: found.classes[found.labels[i]] for i in range(len(found))}
    assert of["Typhoid meningitis"] == "Certain infectious and parasitic diseases"


def test_maintenance_near_copies_of_test_reports_are_not_trained_on(market):
    name, found = market
    if name != "maintenance":
        pytest.skip("of maintenance only")
    train, _, test = split(found)
    ours = [_shingles(t) for t in random.Random(0).sample(test.texts, 60)]
    theirs = [_shingles(t) for t in (*train.texts, *train.extra[::5])]
    worst = [max(similarity(a, b) for b in theirs) for a in ours]
    assert np.mean(np.array(worst) >= 0.5) <= 0.02, "MinHash misses a near-copy in fifty at most"
    assert all(text == text.lower() for text in found.texts)


def test_near_copies_are_those_of_comparing_every_pair():
    draw = random.Random(3)
    words = [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(300)]
    texts = []
    for _ in range(60):
        base = [draw.choice(words) for _ in range(30)]
        texts.append(" ".join(base))
        for _ in range(draw.randrange(3)):
            base = [draw.choice(words) if draw.random() < 0.06 else word for word in base]
            texts.append(" ".join(base))
    draw.shuffle(texts)
    shingles = [_shingles(t) for t in texts]
    group = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if similarity(shingles[i], shingles[j]) >= 0.5:
                a, b = group[j], group[i]
                group = [a if g == b else g for g in group]
    found = near_copies(texts)
    same = [(group[i] == group[j], found[i] == found[j]) for i in range(len(texts)) for j in range(i)]
    assert sum(a for a, _ in same) > 40
    assert not [pair for pair in same if pair == (False, True)], "no two are joined that no chain joins"
    assert sum(pair == (True, False) for pair in same) <= 0.03 * sum(a for a, _ in same)


def test_numbers_and_case_make_no_other_text():
    texts = ["Replaced pump serial 123 on aircraft N77 per manual", "replaced PUMP serial 9 on aircraft n5 per manual", "something else"]
    assert near_copies(texts) == [texts[0], texts[0], texts[2]]
    assert near_copies([]) == []
    assert near_copies(["", "?", "a"])[2] == "a"
