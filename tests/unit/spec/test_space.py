"""A space of recipes: what it holds, how it is read, and what is refused before anything runs."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effkit.spec.errors import BadInput
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe
from effkit.spec.space import Space, byte_budget, key_of, label_of, step_at

MIXED = {
    "recipes": [
        {"steps": [{"step": "quantize", "method": ["rtn", "gptq"], "bits": [3, 4], "group_size": 32}]},
        {
            "steps": [
                {"step": "prune", "layers": {"from": 1, "to": 3}},
                {"step": "distill", "steps": 5, "learning_rate": {"from": 0.0001, "to": 0.001, "log": True}},
                {"step": "quantize", "bytes": [0.2, 50_000_000], "skip": [[], ["lm_head"]]},
            ]
        },
    ]
}


def test_a_grid_is_every_combination_once():
    space = Space.of({"steps": MIXED["recipes"][0]["steps"]})
    drafts = [space.draft(point)["steps"][0] for point in space.points()]
    assert [(d["method"], d["bits"]) for d in drafts] == list(itertools.product(["rtn", "gptq"], [3, 4]))
    assert space.size == 4
    assert len({key_of({"steps": [d], "seed": 0}) for d in drafts}) == 4


def test_a_point_chooses_among_kinds_ranges_and_lists_in_lists():
    space = Space.of(MIXED)
    point = {"recipe": 1, "1.0.layers": 2, "1.1.learning_rate": 0.0005, "1.2.bytes": 0.2, "1.2.skip": '["lm_head"]'}
    draft = space.draft(point)
    assert [step_at(draft, i) for i in range(3)] == [
        Prune(layers=2), Distill(steps=5, learning_rate=0.0005), Quantize(skip=("lm_head",))
    ]  # fmt: skip
    assert byte_budget(draft, 2, 1000) == 200
    assert byte_budget(space.draft({**point, "1.2.bytes": 50_000_000}), 2, 1000) == 50_000_000
    assert label_of(draft) == "2 layers + distilled 5 steps + rtn mixed within 0.2"
    assert space.size == float("inf")
    assert [d.name for d in space.dimensions(1)] == ["1.0.layers", "1.1.learning_rate", "1.2.bytes", "1.2.skip"]
    with pytest.raises(BadInput, match=r"1\.1\.learning_rate is a range without steps"):
        list(space.points())


def test_a_space_survives_json_and_a_file(tmp_path):
    space = Space.of(MIXED)
    (tmp_path / "space.json").write_text(space.to_json())
    assert Space.of(tmp_path / "space.json") == space == Space.of(str(tmp_path / "space.json"))
    single = Space.of({"steps": [{"step": "quantize", "bits": [3, 4]}], "seed": 3})
    assert single == Space.of(json.loads(single.to_json()))


@given(st.lists(st.sampled_from([2, 3, 4, 8]), min_size=1, max_size=3, unique=True), st.sampled_from([16, 32, None, "auto"]))
def test_recipes_make_a_space_of_themselves(bits, group):
    recipes = [Recipe(steps=(Prune(layers=(0, 2)), Distill(steps=2), Quantize(bits=b, group_size=group)), seed=5) for b in bits]
    space = Space.of(recipes)
    drafts = [space.draft(point) for point in space.points()]
    assert [Recipe(steps=tuple(step_at(d, i) for i in range(3)), seed=d["seed"]) for d in drafts] == recipes


def test_key_of_is_equal_where_drafts_are_alike():
    def draft(**quantize):
        return {"steps": [{"step": "prune", "layers": 2}, {"step": "quantize", **quantize}], "seed": 0}

    assert key_of(draft(bits=4)) == key_of(draft(bits=4, method="rtn"))  # a default written out
    assert key_of(draft(bits=4)) != key_of(draft(bits=3))
    assert key_of(draft(bits=4), 1) == key_of(draft(bits=3), 1)
    assert key_of(draft(bytes=0.2)) != key_of(draft(bytes=0.3))
    assert key_of({**draft(bits=4), "seed": 1}) != key_of(draft(bits=4))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"steps": [{"step": "quantize", "bits": [4, 9]}]}, r"recipes.0.steps.0: bits is 9. Allowed: 2, 3, 4, 5, 6, 7, 8."),
        ({"steps": [{"step": "quantize", "bitz": [4]}]}, r"the field is 'bitz'. .*Did you mean 'bits'\?"),
        ({"steps": [{"step": "quantise"}]}, r"the step is 'quantise'. .*Did you mean 'quantize'\?"),
        ({"steps": [{"step": "quantize"}, {"step": "prune", "layers": 2}]}, "a prune step follows quantize. Allowed: quantize as the last"),
        ({"steps": [{"step": "distill"}]}, "a distill step follows no prune step"),
        ({"steps": [{"step": "quantize", "bits": []}]}, "bits is an empty list"),
        ({"steps": [{"step": "quantize", "bytes": [0.1, -4]}]}, "bytes is -4. Allowed: bytes of the whole model, or a share"),
        ({"steps": [{"step": "quantize", "bytes": 0.1, "module_bits": {"a": 3}}]}, "bytes and module_bits are both given"),
        ({"steps": [{"step": "prune", "layers": {"from": 5, "to": 2}}]}, "a range is .*from below to"),
        ({"steps": [{"step": "prune", "layers": {"from": 1, "to": 2, "by": 3}}]}, "a range goes by 3"),
        ({"steps": [{"step": "prune", "by": ["even", "importance"]}]}, "nothing is to be pruned"),
        ({"recipes": []}, "at least 1 item"),
        ({"steps": [{"step": "quantize"}], "version": 9}, "the version of this space is 9"),
        (7, "the space is 7"),
    ],
)
def test_a_mistake_is_refused_with_what_is_allowed(data, says):
    with pytest.raises(BadInput, match=says):
        Space.of(data)


def test_a_choice_that_fits_some_of_the_others_is_allowed():
    space = Space.of({"steps": [{"step": "quantize", "method": ["rtn", "nf4"], "bits": [3, 4]}]})
    assert label_of(space.draft({"0.0.method": "nf4", "0.0.bits": 3})) == "method nf4 bits 3"  # it will fail, with its reason
    with pytest.raises(BadInput, match="bits for nf4 is 3"):
        step_at(space.draft({"0.0.method": "nf4", "0.0.bits": 3}), 0)


def test_files_that_are_no_space(tmp_path):
    with pytest.raises(BadInput, match="there is no space file"):
        Space.of(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"steps": [')
    with pytest.raises(BadInput, match=r"the space file .* cannot be read"):
        Space.of(tmp_path / "torn.json")
    with pytest.raises(BadInput, match="seeds"):
        Space.of([Recipe(seed=1), Recipe(seed=2)])


def test_whole_ranges_stay_whole():
    layers = Space.of({"steps": [{"step": "prune", "layers": {"from": 2, "to": 8, "by": 3}}]}).dimensions(0)[0]
    assert layers.keys() == (2, 5, 8)
    span = Space.of({"steps": [{"step": "prune", "ffn": {"from": 16, "to": 64, "log": True}}]}).dimensions(0)[0]
    assert span.range.whole
    assert span.value(23.0) == 23
    assert isinstance(span.value(23.0), int)
