"""Records travel as JSON and compare in pairs; the frontier is Pareto's; a budget is answered in a sentence."""

from __future__ import annotations

import random

import pytest

from effkit.spec.errors import BadInput
from effkit.spec.frontier import FIGURES, Frontier, not_distinguishable
from effkit.spec.intervals import Estimate, mean_interval, paired_difference, three
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.recipe import Quantize, Recipe
from effkit.spec.record import KL, Blocks, Checkpoint, Cost, NoiseFloor, Quality, Record

RTN = (Quantize(),)


def record(name="r", size=100, ratio=1.0, steps=RTN, nll=(2.0, 2.1, 1.9, 2.2), base=1000, text="t"):
    one = Estimate(value=0.1, low=0.05, high=0.2, n=len(nll))
    quality = Quality(
        perplexity=Estimate(value=7.4), base_perplexity=Estimate(value=7.4 / ratio), text=text, tokens=256, window=64, windows=4,
        perplexity_ratio=Estimate(value=ratio, low=ratio * 0.95, high=ratio * 1.05, n=len(nll)), agreement=Estimate(value=0.9),
        kl=KL(mean=one, median=one, p90=one, p99=one), floor=NoiseFloor(kl=one, agreement=one), blocks=Blocks(tokens=64, nll=nll),
    )  # fmt: skip
    step = steps[0] if steps else Quantize()
    plan = Plan(
        step=step, modules=(ModulePlan(module="a.b", kind="mlp", shape=(2, 3), action="keep", reason="x", bytes_before=9, bytes_after=9),)
    )
    return Record(
        name=name, checkpoint=Checkpoint(source="s", hash="0" * 64, architecture="A"), recipe=Recipe(steps=steps), plans=(plan,),
        quality=quality, cost=Cost(bytes=size, base_bytes=base, bits_per_weight=4.5, ledger={"mlp": size}), environment={"python": "3"},
    )  # fmt: skip


def test_json_round_trips():
    r = record()
    assert Record.from_json(r.to_json()) == r


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"version": 1', r"the version of this record is 99. This effkit reads versions 1 to 1. Update effkit"),
        ('"name": "r"', r"the record: name is 5"),
    ],
)
def test_records_that_cannot_be_read_say_why(change, message):
    text = record().to_json()
    assert change in text
    with pytest.raises(BadInput, match=message):
        Record.from_json(text.replace(change, change.split(":")[0] + (": 99" if "version" in change else ": 5")))


def test_records_are_frozen_and_closed():
    with pytest.raises(ValueError, match="frozen"):
        record().name = "other"
    with pytest.raises(ValueError, match="Extra inputs"):
        Estimate(value=1.0, wrong=2)
    with pytest.raises(ValueError, match="finite"):
        Estimate(value=float("nan"))


def test_the_front_is_what_nothing_dominates():
    rng = random.Random(1)
    records = [record(str(i), size=rng.randint(1, 60), ratio=1 + rng.random()) for i in range(60)]
    frontier = Frontier(records)
    front = frontier.front()
    points = {r.name: frontier.point(r) for r in records}
    for r in records:
        x, y = points[r.name]
        beaten = any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())
        assert (r in front) == (not beaten)
    assert [points[r.name][0] for r in front] == sorted(points[r.name][0] for r in front)


def test_an_unknown_figure_leaves_a_record_out_of_the_front_and_never_counts_as_zero():
    frontier = Frontier([record()], x="decode")
    assert frontier.front() == ()
    assert record().figure("decode").value is None
    assert str(record().figure("decode")) == "unavailable"
    with pytest.raises(BadInput, match=r"the quantity is 'speed'. Allowed"):
        record().figure("speed")
    with pytest.raises(BadInput, match=r"x is 'size'. Allowed"):
        Frontier([], x="size")
    assert all(len(row) == 3 for row in FIGURES.values())


BASE = record("base", size=1000, ratio=1.0, steps=())


def test_pick_takes_the_best_that_fits_and_of_ties_the_cheapest():
    good, cheap, bad = record("good", 90, 1.05), record("cheap", 70, 1.06, nll=(2.0, 2.1, 1.9, 2.2)), record("bad", 50, 1.5)
    clearly = record("clearly worse", 60, 1.1, nll=(3.0, 3.1, 2.9, 3.2))
    frontier = Frontier([BASE, good, cheap, clearly, bad])
    assert frontier.pick(0.9, 0.1) is cheap  # the text cannot tell it from good, and it is smaller
    assert frontier.pick(0.99, 0.1) is None
    assert (
        frontier.verdict(0.9, 0.1)
        == "Yes: cheap keeps 94.3% at 7.0% of the stored bytes (90% of the base's quality at 10% of its stored bytes was asked)."
    )
    assert frontier.verdict(0.9, 0.01) == (
        "No: nothing measured here keeps 90% of the base's quality at 1% of its stored bytes; "
        "the cheapest that keeps 90% is clearly worse, at 6.0% of the stored bytes."
    )
    with pytest.raises(BadInput, match="Measure the base too"):
        Frontier([good]).pick()


def test_pairs_on_the_same_text_are_told_apart_or_not():
    a = record(nll=(2.0, 2.1, 1.9, 2.2, 2.05, 1.95))
    same = record(nll=(2.01, 2.09, 1.91, 2.19, 2.06, 1.94))
    worse = record(nll=(2.2, 2.31, 2.1, 2.41, 2.25, 2.16))
    assert not_distinguishable(a, same) is True
    assert not_distinguishable(a, worse) is False
    assert not_distinguishable(a, record(text="another")) is None


def test_intervals():
    e = mean_interval([1.0, 2.0, 3.0, 4.0], unit="ms")
    assert e.value == 2.5
    assert e.low < 1.6 < 3.4 < e.high
    assert mean_interval([5.0]).low is None
    d = paired_difference([1.1, 2.1, 3.1], [1.0, 2.0, 3.0])
    assert (d.value, d.low, d.high) == pytest.approx((0.1, 0.1, 0.1))
    assert str(Estimate(value=0.03399, low=0.031, high=0.0371)) == "0.034 [0.031, 0.0371]"
    assert str(Estimate.unavailable("ms")) == "unavailable"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03401, "0.034"), (1234.5, "1230"), (27.04, "27"), (0, "0"), (999.6, "1000"), (-1.2345, "-1.23"), (1.2e-7, "1.20e-07")],
)
def test_three_digits(value, text):
    assert three(value) == text
