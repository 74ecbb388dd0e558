"""Capability per cost: prices by hand, intervals against simulation, and a verdict that may be "no"."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from effkit.spec.capability import COSTS, PRICE_PER_HOUR, PRICE_SOURCE, Capability
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate, difference, ratio
from effkit.spec.side import Difference, Side


def near(value: float, half: float, unit: str = "") -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, unit=unit, n=100)


def side(name: str, f1: float, half: float = 0.01, rate: float = 10.0, **more) -> Side:
    given = {
        "quality": near(f1, half), "score_name": "macro-F1", "chance": 0.1, "bytes": 90_000_000, 
        "latency_ms": near(1000 / rate, 20 / rate, "ms"),
        "throughput": near(rate, rate / 50, "queries/s"), "device": "cpu", "date": "2026-11-25",
    }  # fmt: skip
    return Side(name=name, **{**given, **more})


TEACHER = side("teacher", 0.70)
STUDENT = side("student", 0.68, rate=200.0, kind="distilled", bytes=9_000_000, training_seconds=3600)
LINEAR = side("linear", 0.60, rate=10_000.0, bytes=2_000_000)


def capability(student: Side = STUDENT, *others: Side, **more) -> Capability:
    return Capability(teacher=TEACHER, student=student, others=others, **more)


def test_prices_by_hand():
    found = capability(price_per_hour=0.36, utilisation=0.5)
    assert found.price(TEACHER).value == pytest.approx(0.36 / 3600 / 10 * 1000 / 0.5) == pytest.approx(0.02)
    assert found.price().value == pytest.approx(0.001)
    assert found.price().low == pytest.approx(0.36 / 3600 / 204 * 1000 / 0.5)
    assert found.price().high == pytest.approx(0.36 / 3600 / 196 * 1000 / 0.5)
    assert found.cost_ratio.value == pytest.approx(0.05)
    assert found.bytes_ratio.value == found.bytes_ratio.low == pytest.approx(0.1)
    assert found.latency_ratio.value == pytest.approx(0.05)
    assert found.training_cost().value == pytest.approx(0.36)
    assert found.break_even().value == pytest.approx(0.36 / (0.02 - 0.001) * 1000)
    low, value, high = found.break_even().low, found.break_even().value, found.break_even().high
    assert low < value < high


def test_the_price_of_an_hour_cancels_and_utilisation_does_not():
    cheap, dear = capability(price_per_hour=0.1), capability(price_per_hour=10.0)
    assert dear.price().value == pytest.approx(100 * cheap.price().value)
    assert dear.cost_ratio.value == pytest.approx(cheap.cost_ratio.value)
    assert dear.break_even().value == pytest.approx(cheap.break_even().value)
    assert capability(utilisation=0.25).break_even().value == pytest.approx(cheap.break_even().value / 4)


def test_a_machine_of_its_own_has_its_own_price():
    teacher = TEACHER.model_copy(update={"price_per_hour": 3.6})
    found = Capability(teacher=teacher, student=STUDENT, price_per_hour=0.36)
    assert found.price(teacher).value == pytest.approx(0.1)
    assert found.cost_ratio.value == pytest.approx(0.005)


def test_what_saves_nothing_never_pays():
    assert capability(side("student", 0.68, rate=9.0, training_seconds=60)).break_even() == "never"
    assert capability(side("student", 0.68, rate=10.0, training_seconds=60)).break_even() == "never"
    barely = capability(side("student", 0.68, rate=10.1, training_seconds=60)).break_even()
    assert barely.value > 0
    assert barely.high is None  # the saving may be none at all
    assert capability(side("student", 0.68)).break_even().value is None  # nobody knows what the training took


def test_retained_raw_and_above_chance():
    found = capability()
    assert found.kept().value == pytest.approx(0.68 / 0.70)
    assert found.kept(above_chance=True).value == pytest.approx(0.58 / 0.60)
    assert found.kept(TEACHER).value == found.kept(TEACHER).low == 1
    given = capability(retained=near(0.97, 0.001), retained_above_chance=near(0.96, 0.001))
    assert (given.kept(), given.kept(above_chance=True)) == (given.retained, given.retained_above_chance)
    blind = Capability(teacher=side("t", 0.7, chance=None), student=side("s", 0.6, chance=None))
    assert blind.kept(above_chance=True).value is None


def test_an_interval_of_a_ratio_covers_what_it_says():
    """MOVER against simulation: with 8% and 5% of spread, 95% of the intervals hold the true ratio; a naive one is too narrow."""
    rng = np.random.default_rng(0)
    a, b, sa, sb = 2.0, 5.0, 0.16, 0.25
    held = 0
    for x, y in zip(rng.normal(a, sa, 4000), rng.normal(b, sb, 4000), strict=True):
        r = ratio(near(x, 1.96 * sa), near(y, 1.96 * sb))
        held += r.low <= a / b <= r.high
    assert 0.94 <= held / 4000 <= 0.965
    d = difference(near(a, 1.96 * sa), near(b, 1.96 * sb))
    assert d.high - d.low == pytest.approx(2 * 1.96 * math.hypot(sa, sb))
    exact = ratio(near(a, 0.3), Estimate(value=4.0, low=4.0, high=4.0))
    assert (exact.low, exact.high) == (pytest.approx(1.7 / 4), pytest.approx(2.3 / 4))


def test_ratios_of_what_is_unknown_or_not_positive():
    assert ratio(near(1, 0.1), Estimate.unavailable()).value is None
    assert ratio(near(1, 0.1), near(0, 0.1)).value is None
    assert ratio(near(1, 0.1), Estimate(value=2.0)).low is None
    below = ratio(near(0.05, 0.1), near(0.5, 0.1))
    assert (below.low, below.high) == (pytest.approx(-0.05 / 0.4), pytest.approx(0.15 / 0.4))
    worse = ratio(near(-0.2, 0.1), near(0.5, 0.1))
    assert (worse.low, worse.high) == (pytest.approx(-0.3 / 0.4), pytest.approx(-0.1 / 0.6))


@pytest.mark.parametrize(
    ("f1", "half", "rate", "answer"),
    [
        (0.68, 0.01, 200, "yes"),
        (0.60, 0.01, 200, "no"),  # 86%
        (0.68, 0.01, 50, "no"),  # a fifth of the price
        (0.64, 0.03, 200, "not distinguishable"),  # 91%, give or take 4
        (0.68, 0.01, 100, "not distinguishable"),  # a tenth of the price, give or take
        (0.60, 0.01, 100, "no"),  # one clear miss is enough
    ],
)
def test_yes_and_no_need_the_whole_interval(f1, half, rate, answer):
    assert capability(side("student", f1, half, rate)).within() == answer


def test_the_limits_and_the_cost_can_be_chosen():
    found = capability()
    assert found.within(quality=0.995) == "no"
    assert found.within(cost=0.01) == "no"
    assert found.within(by="bytes") == "yes"  # exactly a tenth
    assert found.within(by="bytes", cost=0.0999) == "no"
    assert found.within(by="latency") == "yes"
    assert found.within(by="energy") == "unavailable"
    assert found.within(quality=0.995, by="energy") == "no"  # whatever the energy is
    with pytest.raises(BadInput, match=r"the cost is 'prize'\. Allowed: 'price', .*Did you mean 'price'\?"):
        found.within(by="prize")


def test_the_verdict_is_one_sentence_and_may_be_no():
    assert capability(retained=near(0.97, 0.02)).verdict() == (
        "Yes: student keeps 97% [95%, 99%] of teacher's macro-F1 at 5% [4.86%, 5.14%] of its price per query (90% at 10% was asked)."
    )
    no = capability(retained=near(0.8, 0.02)).verdict(by="bytes")
    assert no == (
        "No: student keeps 80% [78%, 82%] of teacher's macro-F1 at 10% of its stored bytes; the quality misses what was asked (90% at 10%)."
    )
    assert "the cost misses" in capability(side("student", 0.69, rate=20)).verdict()
    assert "both miss what was asked" in capability(side("student", 0.3, rate=20)).verdict()
    unsure = capability(side("student", 0.64, 0.03, 200)).verdict()
    assert unsure.startswith("Not distinguishable: student keeps 91.4%")
    assert "the interval of the quality holds its limit" in unsure
    assert "both intervals hold their limits" in capability(side("student", 0.64, 0.03, 100)).verdict()
    assert capability().verdict(by="energy") == (
        "Not known: the share of energy per query of student was not measured (90% at 10% was asked)."
    )
    assert "macro-F1 above chance at" in capability().verdict(above_chance=True)
    assert "(no interval)" in capability(side("student", 0.68, rate=200, quality=Estimate(value=0.68))).verdict()
    slow = STUDENT.model_copy(update={"simulated": True})
    assert "on a simulated device" in capability(slow).verdict()


def test_a_cheaper_baseline_is_named_when_the_data_cannot_tell_it_from_the_best():
    behind = capability(STUDENT, LINEAR, retained=near(0.98, 0.03))
    assert behind.answer() == STUDENT  # not distinguishable from the teacher, and cheaper
    assert "linear" not in behind.verdict()
    close = side("linear", 0.69, 0.02, 10_000.0)
    assert capability(STUDENT, close).answer() == close
    assert (
        capability(STUDENT, close)
        .verdict()
        .endswith(
            "(90% at 10% was asked); but the data cannot tell linear, at 0.1% [0.0972%, 0.103%] of the teacher's price per query, "
            "from the best, teacher."
        )
    )
    ahead = side("linear", 0.75, 0.02, 10_000.0)
    assert "; but linear scores highest, at 0.1%" in capability(STUDENT, ahead).verdict()
    # pairs can tell apart what intervals of each cannot
    told = (Difference(a="linear", b="teacher", score=near(-0.01, 0.005)),)
    assert capability(STUDENT, close, differences=told, retained=near(0.98, 0.03)).answer() == STUDENT
    assert capability(STUDENT, close, differences=told).answer() == TEACHER
    # a baseline that is dearer than the best is no answer
    dear = side("forest", 0.70, rate=5.0)
    assert capability(STUDENT, dear, retained=near(0.98, 0.03)).answer() == STUDENT


def test_paired_knowledge_comes_before_unpaired():
    assert capability(retained=near(0.97, 0.05)).tied(TEACHER, STUDENT)
    paired = capability(retained=near(0.97, 0.001))
    assert not paired.tied(TEACHER, STUDENT)
    assert paired.difference(STUDENT, TEACHER).value == pytest.approx(-0.03 * 0.7)
    assert paired.difference(TEACHER, STUDENT).low == pytest.approx(0.029 * 0.7)
    told = Difference(a="student", b="linear", score=Estimate(value=0.05, low=0.03, high=0.08))
    both = capability(STUDENT, LINEAR, differences=(told,))
    assert both.difference(STUDENT, LINEAR) == told.score
    assert (both.difference(LINEAR, STUDENT).low, both.difference(LINEAR, STUDENT).high) == (-0.08, -0.03)


def test_what_is_not_known_is_never_zero():
    bare = Side(name="bare", quality=Estimate.unavailable(), score_name="macro-F1", bytes=1)
    found = Capability(teacher=TEACHER, student=bare)
    assert [found.cost(by).value for by in COSTS] == [None, None, 1.0, None, None]
    assert found.kept().value is None
    assert found.break_even().value is None
    assert found.within() == "unavailable"
    assert found.verdict() == (
        "Not known: the share of macro-F1 and the share of price per query of bare was not measured (90% at 10% was asked)."
    )
    for wrong in ({"energy_per_query": Estimate(value=0.0, unit="J")}, {"throughput": Estimate(value=-1.0)}):
        with pytest.raises(ValidationError, match=r"Unknown is Estimate.unavailable\(\), never 0"):
            Side(name="x", quality=near(0.5, 0.1), bytes=1, **wrong)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValidationError, match="a name of its own for each"):
        capability(side("teacher", 0.6))
    with pytest.raises(ValidationError, match="Score all of them by the same measure"):
        capability(side("student", 0.6, score_name="accuracy"))
    with pytest.raises(ValidationError, match="Score all of them by the same measure"):
        capability(side("student", 0.6, chance=0.5))
    for wrong in ({"price_per_hour": 0}, {"utilisation": 0}, {"utilisation": 1.5}):
        with pytest.raises(ValidationError):
            capability(**wrong)


def test_the_default_price_is_labelled_and_a_price_of_ones_own_is_not():
    assert (capability().price_per_hour, capability().price_source) == (PRICE_PER_HOUR, PRICE_SOURCE)
    assert "default" in PRICE_SOURCE
    assert "2026" in PRICE_SOURCE
    assert capability(price_per_hour=2.0).price_source == "given"
    assert capability(price_per_hour=2.0, price_source="our invoice").price_source == "our invoice"


def test_it_travels_as_json():
    found = capability(
        STUDENT, LINEAR, retained=near(0.97, 0.01), differences=(Difference(a="student", b="linear", score=near(0.1, 0.01)),)
    )
    assert Capability.from_json(found.to_json()) == found
    with pytest.raises(BadInput, match="the capability: the field is 'colour'"):
        Capability.from_json(found.to_json().replace('"query"', '"colour"'))
    with pytest.raises(BadInput, match="this is not a capability"):
        Capability.from_json("{")
