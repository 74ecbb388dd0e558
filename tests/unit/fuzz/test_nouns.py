"""Recipes and records from anywhere: any JSON is read or refused with what to do, and what was read is written the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from widgets.records import family

from effkit.spec.recipe import STEPS, Distill, Prune, Quantize, Recipe, Student, step_of
from effkit.spec.record import Record

from .hostile import JSON, SCALARS, WORDS, altered, refused_or_read

RECIPE = Recipe(
    steps=(
        Prune(layers=2, heads=4, seed=3), Student(layers=2, hidden_size=32), Distill(steps=5, layer_map=((0, 1), (1, 2))),
        Quantize(method="gptq", bits=3, module_bits={"layers.0": 8}, skip=("head",), tune="scales"),
    ),
    seed=7,
)  # fmt: skip
RECORD = json.loads(family()[4].model_copy(update={"recipe": RECIPE, "environment": {"packages": {"torch": "2"}}}).to_json())


@given(st.data())
def test_an_altered_recipe_is_read_or_refused(data):
    text = json.dumps(altered(data.draw, json.loads(RECIPE.to_json())))
    with refused_or_read():
        recipe = Recipe.from_json(text)
        again = Recipe.from_json(recipe.to_json())
        assert (again, again.hash()) == (recipe, recipe.hash())
        assert isinstance(recipe.label() + recipe.kind(), str)


@given(st.data())
def test_an_altered_record_is_read_or_refused(data):
    text = json.dumps(altered(data.draw, RECORD))
    with refused_or_read():
        record = Record.from_json(text)
        assert Record.from_json(record.to_json()) == record
        assert isinstance(repr(record), str)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_cannot_hold_is_refused(number):
    text = json.dumps(RECORD).replace('"torch": "2"', f'"torch": {number}')
    with refused_or_read(refused=True):
        Record.from_json(text)


@given(JSON, st.sampled_from([Recipe, Record]))
def test_any_json_is_refused_or_read(data, noun):
    with refused_or_read():
        noun.from_json(json.dumps(data))


@given(st.text(max_size=40) | st.text(alphabet='{}[]":,0123456789eE+-.ntf\\u', max_size=60), st.sampled_from([Recipe, Record]))
def test_any_text_is_refused_or_read(text, noun):
    with refused_or_read():
        noun.from_json(text)


@given(st.sampled_from(sorted(STEPS)), st.data())
def test_any_value_of_any_field_of_a_step_is_read_or_refused(name, data):
    kind = STEPS[name]
    fields = data.draw(st.dictionaries(st.sampled_from(sorted(kind.model_fields)) | WORDS, SCALARS | JSON, max_size=4))
    with refused_or_read():
        step = step_of(kind, **fields)
        recipe = Recipe(steps=(step,))
        assert Recipe.from_json(recipe.to_json()) == recipe


ODD = (
    None,
    True,
    -1,
    0,
    1,
    2**63,
    10**400,
    1e308,
    1e999,
    float("nan"),
    "",
    "x" * 3000,
    "\ud800",
    [],
    {},
    [[]],
    [None],
    [-1],
    {"a": []},
    [[1, 2], 3],
)


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, noun in STEPS.items() for field in noun.model_fields])
def test_each_field_with_each_odd_value(kind, field):
    for value in ODD:
        with refused_or_read():
            step = step_of(STEPS[kind], **{field: value})
            assert Recipe.from_json(Recipe(steps=(step,)).to_json()).steps == (step,)
        with refused_or_read():
            Recipe.from_json(json.dumps({"version": 1, "steps": [{"step": kind, field: value}]}))


BREAK = ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"steps": ' + "9" * 5000 + "}", "NaN", "\ud800", "", "\ufeff{}"]


@pytest.mark.parametrize("noun", [Recipe, Record])
@pytest.mark.parametrize("text", BREAK, ids=range(len(BREAK)))
def test_texts_that_break_parsers(noun, text):
    with refused_or_read(refused=True):
        noun.from_json(text)
