"""A capability from records: what a query is, medians, pairs of blocks, and records that cannot be compared."""

from __future__ import annotations

import pytest

from effkit.spec.capability import Capability
from effkit.spec.errors import BadInput
from effkit.spec.record import Profile

from .records import family, record


def test_from_records():
    base, *_, student = family()
    found = Capability.from_records(base, student, training_seconds=120, price_per_hour=1.0)
    ms = 10 + 7 * 1000 / 30
    assert found.teacher.latency_ms.value == pytest.approx(ms)
    assert found.teacher.throughput.value == pytest.approx(1000 / ms)
    assert found.price(found.teacher).value == pytest.approx(1 / 3600 * ms)
    assert found.query == "a prompt of 8 tokens and 8 new ones, batch 1"
    assert found.student.kind == "distilled"
    assert found.student.score_name == "inverse perplexity"
    assert found.kept().value == pytest.approx(0.7, rel=0.01)
    assert found.kept().high - found.kept().low < 0.01  # in pairs: the intervals of the two alone are ten times wider
    assert found.training_cost().value == pytest.approx(120 / 3600)
    assert found.teacher.energy_per_query.value is None
    assert found.within() == "no"


def test_medians_come_from_the_percentiles():
    profile = record("base").profile
    known = profile.model_copy(update={"first_token_percentiles": {"p50": 8.0}, "output_token_percentiles": {"p50": 30.0}})
    base = record("base").model_copy(update={"profile": known})
    wide = record("student", seed=1).model_copy(update={"profile": Profile(**{**profile.model_dump(), "batch": 8})})
    assert Capability.from_records(base, base.model_copy(update={"name": "again"})).teacher.latency_ms.value == 8 + 7 * 30
    alone = [r.model_copy(update={"profile": wide.profile}) for r in (base, wide)]
    eight = Capability.from_records(*alone)
    assert eight.student.latency_ms.value is None  # batch 8 says nothing about batch 1
    assert eight.student.throughput.value == pytest.approx(8000 / (10 + 7 * 1000 / 30))
    with pytest.raises(BadInput, match=r"the queries differ \(base: a prompt of 8 tokens and 8 new ones, batch 1; student: .*batch 8\)"):
        Capability.from_records(base, wide)


def test_records_that_cannot_be_compared_are_refused():
    base, student = record("base"), record("student")
    other = student.model_copy(update={"quality": student.quality.model_copy(update={"text": "u"})})
    with pytest.raises(BadInput, match="base and student were not measured on the same text and window"):
        Capability.from_records(base, other)
    with pytest.raises(BadInput, match=r"the name in training_seconds is 'studnet'.*Did you mean 'student'"):
        Capability.from_records(base, student, training_seconds={"studnet": 3})
    with pytest.raises(BadInput, match="the capability: price_per_hour is -1"):
        Capability.from_records(base, student, price_per_hour=-1)
    with pytest.raises(BadInput, match="a str is among the records"):
        Capability.from_records(base, "student")
