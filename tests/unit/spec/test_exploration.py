"""Fronts, halving and hypervolume, against their definitions and against Optuna's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from effkit.spec.errors import BadInput
from effkit.spec.exploration import Budget, Exploration, Trial, check_objectives, dominates, hypervolume, losses, promising

points = st.integers(1, 4).flatmap(
    lambda d: arrays(float, st.tuples(st.integers(1, 12), st.just(d)), elements=st.integers(0, 6).map(float))
)


def trial(number: int, *values: float | None, state: str = "done") -> Trial:
    return Trial(number=number, label=f"t{number}", draft={"steps": [], "seed": 0}, state=state, values=values)


@given(points)
def test_hypervolume_equals_optunas(found):
    from optuna._hypervolume import compute_hypervolume

    reference = np.full(found.shape[1], 7.0)
    assert hypervolume(found.tolist(), reference.tolist()) == pytest.approx(compute_hypervolume(found, reference))


def test_hypervolume_of_two_points_by_hand():
    assert hypervolume([(0, 1), (1, 0)], (2, 2)) == 3
    assert hypervolume([(3, 0)], (2, 2)) == 0  # behind the reference
    found = Exploration(objectives=("bytes", "retained"), trials=(trial(0, 10.0, 0.5), trial(1, 40.0, 1.0)))
    assert found.hypervolume({"bytes": 100.0, "retained": 0.0}) == pytest.approx(90 * 0.5 + 60 * 0.5)
    with pytest.raises(BadInput, match="the reference has no 'retained'"):
        found.hypervolume({"bytes": 1.0})


def test_the_front_knows_which_way_is_better_and_leaves_out_what_is_not_whole():
    all_trials = (trial(0, 10, 0.5), trial(1, 20, 0.4), trial(2, 20, 0.9), trial(3, 5, 0.9, state="stopped"), trial(4, 1, None))
    found = Exploration(objectives=("bytes", "retained"), trials=all_trials)
    assert [t.number for t in found.front()] == [0, 2]
    assert [line[0] for line in found.table().splitlines()[1:]] == ["*", " ", "*", " ", " "]
    assert Exploration.from_json(found.to_json()) == found


@given(points)
def test_what_nothing_dominates_is_always_promising_and_the_worst_of_many_is_not(found):
    rows = [tuple(row) for row in found.tolist()]
    for i, mine in enumerate(rows):
        others = rows[:i] + rows[i + 1 :]
        if not any(dominates(o, mine) for o in others):
            assert promising(mine, others, 3)
    worse = tuple(x + 1 for x in np.max(found, axis=0))
    assert promising(worse, rows, 3) == (len(rows) < (len(rows) + 1) / 3)


def test_a_third_of_a_row_goes_on():
    row = [(float(i),) for i in range(9)]
    assert [promising(mine, [o for o in row if o != mine], 3) for mine in row] == [True] * 3 + [False] * 6


def test_losses_turn_what_is_better_up():
    assert losses((3.0, 0.5, None), ("bytes", "retained", "kl")) == (3.0, -0.5, float("inf"))


def test_objectives_and_budgets_are_checked():
    assert check_objectives("kl") == ("kl",)
    with pytest.raises(BadInput, match="the objective is 'size'"):
        check_objectives(["size"])
    with pytest.raises(BadInput, match="each once"):
        check_objectives(["kl", "kl"])
    assert Budget(minutes=2, price=1, price_per_hour=60).seconds == 60
    assert Budget(minutes=0.5).seconds == 30
    with pytest.raises(ValueError, match="without a price per hour"):
        Budget(price=1)
