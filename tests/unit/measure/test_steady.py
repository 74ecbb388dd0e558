"""The end of a warm-up and outliers, on series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from effkit.measure.steady import change, outliers, warm_up


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("factor", [0.7, 1.3, 3.0])  # a clock that rises, and one that is throttled after a fast start
def test_a_change_of_level_is_found_where_it_is(length, factor):
    draw = np.random.default_rng(length)
    times = [*(factor * draw.normal(10, 0.1, length)), *draw.normal(10, 0.1, 8)]
    assert warm_up(times) == length


def test_stationary_times_have_only_the_least_warm_up():
    draw = np.random.default_rng(0)
    for spread in (0.05, 0.3, 1.0):
        found = [warm_up(draw.normal(10, spread, 8)) for _ in range(300)]
        assert np.mean(np.array(found) == 1) > 0.9


def test_a_steady_drift_is_not_stationary():
    assert warm_up([10 * 1.1**i for i in range(8)]) > 2
    assert warm_up([10 * 1.001**i for i in range(8)]) == 1


def test_several_levels_are_left_behind():
    assert warm_up([90, 40, 41, 20, 20.2, 20.1, 19.9, 20.0]) == 3


def test_one_slow_repeat_is_no_change_of_level():
    for where in range(1, 8):
        times = [10.0, 10.1, 9.9, 10.0, 10.1, 10.0, 9.9, 10.0]
        times[where] = 50.0
        assert change(times) is None
        assert outliers(times) == [where]


def test_too_few_to_tell():
    assert change([5.0, 1.0]) is None
    assert warm_up([5.0]) == 1
    assert warm_up([]) == 0
    assert outliers([1.0, 9.0, 1.0]) == []


def test_tiny_deviations_are_no_outliers():
    assert outliers([10.0, 10.0, 10.0, 10.0, 10.5]) == []
    assert outliers([10.0, 10.0, 10.0, 10.0, 11.5]) == [4]
