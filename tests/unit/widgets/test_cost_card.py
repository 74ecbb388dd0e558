"""CostCard: the page computes what Python computes, the fields reach Python, and what cannot be is refused in words."""

from __future__ import annotations

import math
import random
import re

import pytest

from effkit.spec.capability import COSTS, PRICE_SOURCE, Capability
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate
from effkit.spec.side import Difference, Side
from effkit_widgets import CostCard

from .records import family, record
from .test_kit import needs_node, run


def near(value: float, half: float, unit: str = "") -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, unit=unit, n=50)


def side(name: str, f1: float = 0.7, rate: float = 10.0, **more) -> Side:
    given = {
        "quality": near(f1, 0.02), "score_name": "macro-F1", "chance": 0.1, "bytes": int(9e8 / rate),
        "latency_ms": near(900 / rate, 30 / rate),
        "throughput": near(rate, rate / 50), "training_seconds": 60.0, "device": "cpu", "date": "2026-11-25",
    }  # fmt: skip
    return Side(name=name, **{**given, **more})


def capability(**more) -> Capability:
    given = {
        "teacher": side("teacher"),
        "student": side("student", 0.68, 200.0, kind="distilled"),
        "others": (side("linear", 0.5, 9000.0),),
    }
    return Capability(**{**given, **more})


def some(rng: random.Random) -> Capability:
    """Any capability, with holes: unknown figures, open intervals, ties, paired differences, machines of their own."""

    def maybe(e: Estimate) -> Estimate:
        return rng.choices([e, Estimate(value=e.value), Estimate.unavailable()], [8, 1, 1])[0]

    def one(name: str) -> Side:
        rate, f1 = 10 ** rng.uniform(0, 4), rng.choice([rng.uniform(0.08, 0.8), rng.uniform(0.65, 0.72)])
        return Side(
            name=name,
            kind=rng.choice(["base", "distilled", "combined"]),
            quality=maybe(near(f1, rng.uniform(0, 0.1))),
            score_name="macro-F1",
            chance=chance,
            bytes=rng.choice([0, *[round(10 ** rng.uniform(3, 9)) for _ in range(9)]]),
            latency_ms=maybe(near(1000 / rate, rng.uniform(0, 1100 / rate))),
            throughput=maybe(near(rate, rate * rng.uniform(0, 1.1))),
            memory_bytes=rng.choice([None, round(10 ** rng.uniform(6, 9))]),
            energy_per_query=rng.choice([Estimate.unavailable("J"), near(rng.uniform(1, 9), 0.5)]),
            training_seconds=rng.choice([None, 0.0, rng.uniform(1, 9000)]),
            price_per_hour=rng.choice([None, None, rng.uniform(0.01, 9)]),
            simulated=rng.random() < 0.2,
        )

    chance = rng.choice([None, 0.1])
    sides = [one(name) for name in ("teacher", "student", "linear", "forest")]
    known = sides[0].quality.value and sides[1].quality.value
    return Capability(
        teacher=sides[0],
        student=sides[1],
        others=tuple(sides[2 : 2 + rng.randrange(3)]),
        price_per_hour=rng.uniform(0.01, 5),
        utilisation=rng.uniform(0.05, 1),
        retained=near(rng.uniform(0.8, 1.05), rng.uniform(0, 0.1)) if known and rng.random() < 0.6 else None,
        retained_above_chance=near(rng.uniform(0.8, 1.05), 0.02) if chance and known and rng.random() < 0.5 else None,
        differences=(Difference(a="student", b="linear", score=near(0.01, rng.uniform(0, 0.03))),) if rng.random() < 0.5 else (),
    )


TWIN = """given.map(({ config, settings }) => {
  const c = capability(config, settings), costs = (x) => COSTS.flatMap((by) => [c.cost(by, x), c.share(by, x)]);
  const of = (x) => [c.kept(x, false), c.kept(x, true), c.trainingCost(x), c.breakEven(x), ...costs(x)];
  return [c.sides.map(of), c.within(), c.verdict(), c.answer(settings.by)?.name ?? null];
})"""


def figures(c: Capability) -> list[list[object]]:
    def flat(e):
        return e if e == "never" else [e.value, e.low, e.high]

    return [
        [
            flat(e)
            for e in (
                c.kept(x),
                c.kept(x, True),
                c.training_cost(x),
                c.break_even(x),
                *(f(by, x) for by in COSTS for f in (c.cost, c.ratio)),
            )
        ]
        for x in c.sides
    ]


def same(a, b) -> bool:
    if a == "never" or b == "never":
        return a == b
    return all(
        (x is None and y is None) or (None not in (x, y) and math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-15))
        for x, y in zip(a, b, strict=True)
    )


@needs_node
def test_the_page_computes_what_python_computes():
    rng = random.Random(5)
    cards = [
        CostCard(
            some(rng), quality=rng.choice([0.9, 0.95, rng.uniform(0.5, 1)]), cost=10 ** rng.uniform(-3, 0.5), by=rng.choice(list(COSTS))
        )
        for _ in range(400)
    ]
    for card in cards:
        card.settings = {
            **card.settings,
            "price_per_hour": rng.uniform(0.01, 9),
            "utilisation": rng.uniform(0.1, 1),
            "teacher_price_per_hour": rng.choice([None, 2.5]),
            "above_chance": rng.random() < 0.3 and card.capability.chance is not None,
        }
        assert card.problem == {}
    told = run(TWIN, "capability", given=[{"config": card.config, "settings": card.settings} for card in cards])
    verdicts = set()
    for card, (sides, within, verdict, answer) in zip(cards, told, strict=True):
        for mine, theirs in zip(figures(card.capability), sides, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                assert same(a, b)
        assert within == card.answer
        assert verdict == card.verdict
        found = card.capability.answer(card.settings["by"])
        assert answer == (found.name if found else None)
        verdicts.add((within, "; but" in verdict))
    assert len(verdicts) == 8  # every answer was seen, with a cheaper baseline and without


@needs_node
def test_prices_are_written_with_their_zeros():
    texts = run("given.map(moneyText)", "capability", "cost_card", given=[0.0816, 2.5, 1234, 0.000189, 0.00000278, 0.00001, 0, None, 1e-11])
    assert texts == ["$0.0816", "$2.5", "$1230", "$0.000189", "$0.00000278", "$0.00001", "$0", "unavailable", "$1.00e-11"]
    parts = ("capability", "cost_card")
    assert run("shown([0.034, 0.031, 0.037], (v) => withUnit(v, 'ms'), 'latency')", *parts) == ["0.034 ms", "[0.031, 0.037]"]
    assert run("[shown([null, null, null], three), shown([5, 5, 5], three), shown([5, 4, null], three)]", *parts) == [
        ["unavailable", ""],
        ["5", ""],
        ["5", "[4 or more]"],
    ]


@needs_node
def test_the_twin_table_holds_every_figure_with_its_limits():
    card = CostCard(capability())
    table = run(
        "(({ columns, rows }) => ({ labels: columns.map((c) => c.label), rows }))(costTable(capability(given.config, given.settings)))",
        "capability",
        "cost_card",
        given={"config": card.config, "settings": card.settings},
    )
    assert [row[0] for row in table["rows"]] == ["teacher", "student", "linear"]
    assert all(len(row) == len(table["labels"]) for row in table["rows"])
    student = dict(zip(table["labels"], table["rows"][1], strict=True))
    assert student["macro-F1"] == 0.68
    assert student["Quality retained"] == pytest.approx(0.68 / 0.7)
    assert student["Price per 1000 queries"] == pytest.approx(card.capability.price().value)
    assert student["Price per 1000 queries, model / teacher"] == pytest.approx(card.capability.cost_ratio.value)
    assert student["Energy per query"] is None
    assert student["Break-even, queries"] == pytest.approx(card.capability.break_even().value)


def test_fields_reach_python_and_a_wrong_one_is_told():
    card = CostCard(capability())
    assert (card.answer, card.verdict) == ("yes", card.capability.verdict())
    card.settings = {**card.settings, "price_per_hour": 5.0, "cost": 0.01}
    assert card.capability.price_per_hour == 5.0
    assert card.capability.price_source == "given"
    assert card.answer == "no"
    assert "90% at 1%" in card.verdict
    card.settings = {**card.settings, "utilisation": 2.0}
    assert "utilisation is 2.0" in card.problem["what"]
    assert card.capability.utilisation == 1.0  # what was there before
    card.settings = {**card.settings, "utilisation": 0.5, "teacher_price_per_hour": 50.0}
    assert card.problem == {}
    assert card.capability.ratio("price").value == pytest.approx(0.005)
    assert repr(card) == "CostCard('teacher', 'student', quality=0.9, cost=0.01)"


def test_a_card_from_records_and_from_sides():
    base, *_, student = family()
    card = CostCard(base, student, price_per_hour=0.5, training_seconds=30)
    assert card.capability == Capability.from_records(base, student, training_seconds=30, price_per_hour=0.5)
    assert card.answer == "no"
    three = CostCard(side("teacher"), side("student", 0.68, 200.0), [side("linear", 0.69, 9000.0)], utilisation=0.5)
    assert [s["name"] for s in three.config["sides"]] == ["teacher", "student", "linear"]
    assert "but the data cannot tell linear" in three.verdict
    assert CostCard(capability()).config["price_source"] == PRICE_SOURCE
    assert CostCard(capability(), price_per_hour=1.0).config["price_source"] == "given"
    assert CostCard(capability(), price_per_hour=1.0, price_source="invoice").capability.price_source == "invoice"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CostCard(capability(), prise=1), "the option of CostCard is 'prise'. Allowed: 'above_chance', 'by', 'cost', "),
        (lambda: CostCard(capability(), side("x")), "a capability comes with a student, others or training_seconds."),
        (lambda: CostCard(side("x")), "teacher, student and others are of: Side, NoneType. Allowed: one Capability, or Records only, "),
        (lambda: CostCard(side("x"), record("y")), "teacher, student and others are of: Side, Record."),
        (lambda: CostCard("x", "y"), "teacher, student and others are of: str."),
        (lambda: CostCard(side("x"), side("y"), training_seconds=3), "training_seconds comes with sides."),
        (lambda: CostCard(capability(), quality=0), "quality is 0. Allowed: a share of the teacher's above 0"),
        (lambda: CostCard(capability(), cost=True), "cost is True."),
        (lambda: CostCard(capability(), by="money"), "by is 'money'. Allowed: 'price', 'latency', 'bytes', 'memory', 'energy'."),
        (lambda: CostCard(capability(), price_per_hour=-1), "the capability: price_per_hour is -1"),
        (lambda: CostCard(side("x", chance=None), side("y", chance=None), above_chance=True), "only where the chance level"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(make, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        make()


def test_names_reach_the_page_as_they_are():
    name = '<img src=x onerror="alert(1)">'
    card = CostCard(side("teacher"), side(name, 0.68, 200.0))
    assert card.config["sides"][1]["name"] == name
    assert name in card.verdict
