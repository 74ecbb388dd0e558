"""A claim's figures on the card are the claim's own: same models, same scores, same ratios."""

from __future__ import annotations

import pytest

from effkit.spec.claim import Claim, Contender
from effkit.spec.intervals import Estimate


def contender(name: str, f1: float, ms: float | None = None, rate: float | None = None, size: int = 0, behind: bool = False) -> Contender:
    return Contender(
        name=name, macro_f1=Estimate(value=f1, low=f1 - 0.02, high=f1 + 0.02, n=50),
        bytes=size, latency=ms, latency_whole=ms, rate=rate, behind=behind,
    )  # fmt: skip


@pytest.fixture
def found() -> Claim:
    models = (
        contender("teacher", 0.70, 4.0, 500, 90_000_000),
        contender("student", 0.66, 0.2, 10_000, 2_000_000, behind=True),
        contender("linear", 0.60, 0.4, 4_000, 5_000_000, behind=True),
        contender("majority", 0.02, behind=True),
    )
    return Claim(
        data="d", data_hash="h", classes=3, labels_per_class=8, labelled=24, pool=100, test=50,
        contenders={one.name: one for one in models}, retained=Estimate(value=0.94, low=0.92, high=0.97, n=50),
        above_chance=Estimate(value=0.93, low=0.91, high=0.96, n=50), latency_ratio=0.05, latency_ratio_whole=0.06,
        bytes_ratio=2 / 90, cost_ratio=0.05, seconds=1.0, device="cpu",
    )  # fmt: skip


def test_the_card_has_the_claims_own_figures(found):
    card = found.capability(date="2026-11-25", recorded=True)
    assert [side.name for side in card.sides] == ["teacher", "student", "linear"]
    assert card.kept() == found.retained
    assert card.kept(above_chance=True) == found.above_chance
    assert card.chance == 0.02
    assert card.cost_ratio.value == pytest.approx(found.cost_ratio)
    assert card.latency_ratio.value == pytest.approx(found.latency_ratio)
    assert card.bytes_ratio.value == pytest.approx(found.bytes_ratio)
    assert all(side.recorded and side.date == "2026-11-25" for side in card.sides)


def test_a_claim_survives_json(found):
    assert Claim.model_validate(found.model_dump(mode="json")) == found
