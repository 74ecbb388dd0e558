"""MethodTable: the order, the ties, the seconds, and what it refuses."""

from __future__ import annotations

import pytest

from effkit.spec.errors import BadInput
from effkit.spec.frontier import not_distinguishable
from effkit.spec.recipe import Quantize, Recipe
from effkit_widgets import MethodTable

from .records import family, record


def four(name: str, retained: float, seed: int, **more):
    return record(name, Recipe(steps=(Quantize(bits=4),)), 150_000, retained, 29, seed=seed, **more)


def test_least_kl_first_and_ties_between_neighbours():
    base, *_ = family()
    near, twin, far = four("near", 0.9, 1), four("twin", 0.9, 2), four("far", 0.7, 3)
    card = MethodTable([base, far, near, twin], seconds={"near": 2.5, far.id: 60.0})
    assert [row["name"] for row in card.rows] == ["near", "twin", "far"]
    assert [row["name"] for row in card.rows] == [r.name for r in card.records]
    assert not_distinguishable(near, twin, "kl")
    assert [row["next"] for row in card.rows] == ["same", "different", None]
    assert [row["seconds"] for row in card.rows] == [2.5, None, 60.0]
    assert card.config["base_bytes"] == base.cost.bytes
    assert card.rows[0]["kl"] == pytest.approx([1 / 0.9 - 1, (1 / 0.9 - 1) * 0.98, (1 / 0.9 - 1) * 1.02])
    assert card.sentence == "near loses least: KL 0.111 [0.109, 0.113] at 150 kB. Not distinguishable from it: twin."
    assert repr(card) == "MethodTable('near', 'twin', 'far')"


def test_models_of_one_loss_that_differ_in_kl_are_told_apart():
    near, far = four("near", 0.9, 1), four("far", 0.7, 1)
    blocks = far.quality.blocks.model_copy(update={"nll": near.quality.blocks.nll})  # by chance as good on this text
    far = far.model_copy(update={"quality": far.quality.model_copy(update={"blocks": blocks})})
    assert not_distinguishable(near, far)
    card = MethodTable([near, far])
    assert [row["next"] for row in card.rows] == ["different", None]
    assert card.sentence == "near loses least: KL 0.111 [0.109, 0.113] at 150 kB."


def test_texts_that_differ_are_not_compared_and_unmeasured_come_last():
    near, far = four("near", 0.9, 1), four("far", 0.7, 3)
    other = far.model_copy(update={"quality": far.quality.model_copy(update={"text": "another"})})
    unmeasured = far.model_copy(update={"quality": None, "name": "unmeasured", "id": "unmeasured"})
    card = MethodTable([unmeasured, other, near])
    assert [row["name"] for row in card.rows] == ["near", "far", "unmeasured"]
    assert [row["next"] for row in card.rows] == ["unknown", "unknown", None]
    assert card.rows[2]["kl"] == [None, None, None]
    assert MethodTable([unmeasured]).sentence.startswith("None of these was compared")


def test_refusals():
    base = family()[0]
    with pytest.raises(BadInput, match="a str is among the records"):
        MethodTable(["near"])
    with pytest.raises(BadInput, match="none of these 1 records is of a compressed model"):
        MethodTable([base])
    with pytest.raises(BadInput, match=r"seconds names 'neer'"):
        MethodTable([four("near", 0.9, 1)], seconds={"neer": 1.0})
    with pytest.raises(BadInput, match="the option of MethodTable is 'second'"):
        MethodTable([four("near", 0.9, 1)], second={})
