"""StackCompare: its figures are the library's, a field reaches Python, a wrong one is refused in the card and changes nothing."""

from __future__ import annotations

import pytest

from effkit.hardware.projected.catalogue import accelerators
from effkit.hardware.projected.configs import architecture
from effkit.hardware.projected.stacks import compare_stacks
from effkit.spec.errors import BadInput
from effkit_widgets import StackCompare
from effkit_widgets._projected import _rounded

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


def wanted(shown: StackCompare) -> dict:
    """What the card shows that prices decide."""
    keys = ("cost", "input", "output", "even", "per_hour", "price_source")
    sides = {side: {key: shown.figures[side][key] for key in keys} for side in ("left", "right")}
    return {**sides, "ratio": shown.figures["ratios"]["cost"], "verdict": shown.figures["verdict"]}


PRICES = [
    {}, {"right_price": 2.0}, {"left_price": 1.0, "right_price": 9.0, "utilisation": 0.4}, {"left_price": 0.02}, {"utilisation": 0.07},
    {"left": "ascend-910b2", "right": "ascend-310p"}, {"left": "ascend-910b2", "right": "ascend-310p", "left_price": 2.5},
    {"left": "a100-sxm-80gb", "right": "h100-sxm"},
]  # fmt: skip


@needs_node
@pytest.mark.parametrize("prices", PRICES)
def test_a_page_without_a_kernel_prices_as_python_does(prices):
    """Any price is answered from what $1 an hour buys, with the digits of a recorded page."""
    devices = {key: prices[key] for key in ("left", "right") if key in prices}
    shown = card(**devices)
    recorded = _rounded(shown._kept(shown.figures))
    assert "verdict" not in recorded
    assert "cost" not in recorded["right"]
    shown.settings = {**shown.settings, **prices}
    assert shown.problem == {}
    call = "(({ left, right, ratios, verdict }) => ({ left, right, ratio: ratios.cost, verdict }))(priced(given.figures, given.settings))"
    told = run(call, "stack_fields", "stack_prices", given={"figures": recorded, "settings": shown.settings})
    expected = wanted(shown)
    assert told["verdict"] == expected["verdict"]
    assert told["ratio"] == near(expected["ratio"])
    for side in ("left", "right"):
        for key, value in expected[side].items():
            assert told[side][key] == (near(value) if isinstance(value, list) else pytest.approx(value)), (side, key)


def near(triple: list) -> list:
    return [None if v is None else pytest.approx(v, rel=1e-4) for v in triple]


@needs_node
def test_figures_that_an_older_version_saved_stay_as_they_are():
    old = {key: value for key, value in card().figures.items() if key not in ("speed", "cost_ratio")}
    given = {"figures": old, "settings": {"utilisation": 1.0}}
    assert run("priced(given.figures, given.settings)", "stack_fields", "stack_prices", given=given) == old
