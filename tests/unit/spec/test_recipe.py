"""Recipes: a mistake names the field, the value and what is allowed; JSON round-trips; equal means equal hash."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effkit.spec.errors import BadInput
from effkit.spec.recipe import BITS, Distill, Prune, Quantize, Recipe, Student

quantize = st.builds(
    Quantize,
    method=st.sampled_from(["rtn", "a-plug-in"]),
    bits=st.sampled_from(BITS),
    group_size=st.sampled_from([None, "auto", 32, 64, 100]),
    symmetric=st.booleans(),
    embedding_bits=st.sampled_from([None, *BITS]),
    skip=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
size, tokens = st.none() | st.integers(1, 9999), st.none() | st.just("used") | st.integers(1, 10**6)
prune = st.builds(
    Prune,
    layers=st.one_of(st.integers(1, 99), st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple)),
    by=st.sampled_from(["even", "importance", "random"]),
    heads=size,
    ffn=size,
    hidden_size=size,
    vocabulary=tokens,
    text=st.none() | st.text(max_size=9),
    seed=st.integers(0, 2**31),
)
student = st.builds(
    Student, layers=size, hidden_size=size, heads=size, ffn=size, vocabulary=tokens, embeddings=st.sampled_from(["random", "project"])
) | st.builds(Student, embeddings=st.just("words"), vocabulary=st.integers(1, 10**6), window=st.none() | st.integers(8, 512))
positive = st.floats(1e-6, 1e3, allow_nan=False)
distill = st.builds(
    Distill, steps=st.integers(1, 10**6), temperature=positive, learning_rate=positive, text=st.none() | st.text(max_size=9)
)
recipes = st.builds(Recipe, steps=st.lists(st.one_of(quantize, prune, student, distill), max_size=4).map(tuple), seed=st.integers(0, 2**31))


@given(recipes)
def test_json_round_trips_with_the_same_hash(recipe):
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.hash() == recipe.hash()


@given(recipes, recipes)
def test_different_recipes_have_different_hashes(a, b):
    assert (a == b) == (a.hash() == b.hash())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4), lambda x: st.lists(x, max_size=3) | st.dictionaries(
    st.sampled_from(["steps", "step", "bits", "version", "seed", "layers", "quantize"]), x, max_size=3), max_leaves=12))  # fmt: skip
def test_any_json_is_a_recipe_or_a_clear_error(data):
    said = ""
    try:
        Recipe.from_json(json.dumps(data))
    except BadInput as error:
        said = str(error)
    assert not said or "Allowed" in said or "reads versions" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"steps": [{"step": "quantise"}]}', "r: steps.0.step is 'quantise'. Allowed: 'quantize', 'prune', 'student', 'distill'. Did"),
        ('{"steps": [{"step": "quantize", "bits": 9}]}', "r: bits is 9. Allowed: 2, 3, 4, 5, 6, 7, 8."),
        ('{"steps": [{"step": "quantize", "bitz": 4}]}', "r: the field is 'bitz'. Allowed: 'bits', "),
        ('{"steps": [{"step": "quantize", "method": "nf4", "bits": 3}]}', "r: bits for nf4 is 3. Allowed: 4."),
        ('{"steps": [{"step": "prune"}]}', "r: nothing is to be pruned. Allowed: at least one of layers, heads"),
        ('{"steps": [{"step": "distill", "steps": 0}]}', "r: steps.0.steps is 0. Allowed: input should be greater than"),
        ('{"steps": [{"step": "distill", "temperature": "hot"}]}', "r: steps.0.temperature is 'hot'. Allowed: input should be a"),
        ('{"version": 9}', "the version of this recipe is 9. This effkit reads versions 1 to 1. Update effkit to read it."),
        ('{"version": "new"}', "the version of this recipe is 'new'. Allowed: 1 to 1."),
        ("{", "r is not JSON (line 1, column 2"),
        ("[]", "r: Recipe is []. Allowed: input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_a_mistake_names_field_value_and_what_is_allowed(text, message):
    with pytest.raises(BadInput) as caught:
        Recipe.from_json(text, where="r")
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(BadInput, match="there is no recipe file"):
        Recipe.from_file(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot be read"):
        Recipe.from_file(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        Recipe.from_file(tmp_path / "bytes.json")


def test_defaults_are_written_out():
    step = json.loads(Recipe(steps=(Quantize(method="int8"),)).to_json())["steps"][0]
    assert step == {
        "step": "quantize",
        "method": "int8",
        "bits": 8,
        "group_size": "auto",
        "symmetric": False,
        "embedding_bits": 8,
        "module_bits": {},
        "skip": [],
        "calibration": None,
        "samples": 64,
        "window": 256,
        "rotate": False,
        "learn_steps": 200,
        "tune": None,
        "tune_steps": 100,
    }


@pytest.mark.parametrize(
    ("steps", "kind", "label"),
    [
        ((), "base", "base"),
        ((Quantize(),), "quantized", "rtn 4-bit"),
        ((Quantize(method="nf4"),), "quantized", "nf4"),
        ((Prune(layers=5),), "pruned", "5 layers"),
        ((Prune(layers=5), Distill(steps=9)), "distilled", "5 layers + distilled 9 steps"),
        ((Prune(layers=5), Distill(steps=9), Quantize(group_size=32)), "combined", "5 layers + distilled 9 steps + rtn 4-bit g32"),
    ],
)
def test_kind_and_label(steps, kind, label):
    recipe = Recipe(steps=steps)
    assert (recipe.kind(), recipe.label()) == (kind, label)


def test_an_older_prune_still_loads():
    recipe = Recipe.from_json('{"version": 1, "steps": [{"step": "prune", "layers": 20}, {"step": "prune", "layers": [0, 5]}]}')
    assert recipe.steps == (Prune(layers=20), Prune(layers=(0, 5)))
    assert recipe.label() == "20 layers + 2 layers"
