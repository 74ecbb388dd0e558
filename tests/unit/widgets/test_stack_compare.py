"""StackCompare: its figures are the library's, a field reaches Python, a wrong one is refused in the card and changes nothing."""

from __future__ import annotations

import pytest

from effkit.hardware.catalogue import accelerators
from effkit.hardware.configs import architecture
from effkit.hardware.stacks import compare_stacks
from effkit.spec.errors import BadInput
from effkit_widgets import StackCompare

from .test_kit import needs_node, run

SHAPE = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}  # fmt: skip
LLAMA = architecture(SHAPE, name="llama-3-8b")


def card(**more) -> StackCompare:
    return StackCompare(LLAMA, batch=16, **more)


def test_figures_are_the_librarys():
    shown, found = card(), compare_stacks(LLAMA, batch=16, new_tokens=256)
    assert shown.verdict == str(found) == shown.figures["verdict"]
    for key, side in (("left", found.left), ("right", found.right)):
        told = shown.figures[key]
        for name, e in (
            ("first", side.projection.time_to_first_token),
            ("each", side.projection.time_per_output_token),
            ("rate", side.projection.throughput),
            ("cost", side.cost),
            ("even", side.break_even),
        ):
            assert told[name] == [e.value, e.low, e.high]
    assert shown.figures["right"]["cost"] == [None, None, None]
    assert [one["name"] for one in shown.config["devices"]] == [one.name for one in accelerators()]
    assert shown.config["limits"]["prompt"][1] == 8192
    assert repr(shown) == "StackCompare('llama-3-8b', 'h100-sxm', 'ascend-910b2', '16-bit', batch=16)"


def test_a_field_reaches_python_and_a_wrong_one_changes_nothing():
    shown = card()
    shown.settings = {**shown.settings, "right_price": 2.0, "batch": 64, "format": "8-bit"}
    assert shown.problem == {}
    assert shown.comparison == compare_stacks(LLAMA, batch=64, new_tokens=256, format="8-bit", right_price=2.0)
    assert shown.figures["settings"] == shown.settings
    before = shown.figures
    for wrong in ({"batch": 0}, {"batch": True}, {"left": "h999"}, {"right_price": -2.0}, {"utilisation": 0}, {"prompt": 1.5}, {"else": 1}):
        shown.settings = {**before["settings"], **wrong}
        assert shown.problem["what"], wrong
        assert shown.figures == before, wrong
    shown.settings = before["settings"]
    assert shown.problem == {}


def test_unknown_options_and_models_are_refused():
    with pytest.raises(BadInput, match="option of StackCompare is 'rigth'"):
        card(rigth="b200")
    with pytest.raises(BadInput):
        StackCompare(3)
    with pytest.raises(BadInput, match="Allowed: a whole number from 1 to 512"):
        StackCompare(LLAMA, batch=1000)


@needs_node
def test_slider_steps_hold_the_value_that_was_given():
    steps = run("stepsBetween(1, 512, 10, true)", "stack_fields")
    assert steps == sorted(set(steps))
    assert 10 in steps
    assert steps[0] == 1
    assert steps[-1] == 512
    assert {2, 3, 4, 6, 8, 12, 16} <= set(steps)
    assert run("[same({a: 1, b: null}, {b: null, a: 1}), same({a: 1}, {a: 2})]", "stack_fields") == [True, False]
