"""Roofline, the card: its points are the library's, a field reaches Python, the attached device needs a calibration."""

from __future__ import annotations

import pytest

from effkit.hardware.projected.configs import architecture
from effkit.hardware.projected.roofline import roofline
from effkit.spec.errors import BadInput
from effkit_widgets import Roofline

from .test_kit import needs_node, run

SHAPE = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}  # fmt: skip
LLAMA = architecture(SHAPE, name="llama-3.1-8b")


def test_points_are_the_librarys_and_follow_the_fields():
    card = Roofline(LLAMA, batch=4)
    found = roofline(LLAMA, "h100-sxm", batch=4)
    assert card.found == found
    assert card.verdict == str(found) == card.figures["verdict"]
    for told, point in zip(card.figures["points"], found.points, strict=True):
        assert (told["phase"], told["part"], told["how"]) == (point.phase, point.part, point.how)
        assert (told["intensity"], told["rate"]) == (point.intensity, point.rate)
        assert told["share"] == pytest.approx(point.rate / found.ceiling(point.intensity))
    card.settings = {"on": "ascend-910b2", "batch": 32, "prompt": 512, "format": "8-bit"}
    assert card.found == roofline(LLAMA, "ascend-910b2", batch=32, prompt=512, format="int8")
    before = card.figures
    for wrong in ({"on": "h999"}, {"on": "ascend-910b1"}, {"on": "attached"}, {"batch": 0}, {"format": "2-bit"}):
        card.settings = {**before["settings"], **wrong}
        assert card.problem["what"], wrong
        assert card.figures == before
    assert repr(card) == "Roofline('llama-3.1-8b', 'ascend-910b2', batch=32)"


def test_the_attached_device_needs_its_calibration(planted):
    card = Roofline(LLAMA, calibration=planted())
    assert card.config["attached"] == "cpu"
    assert {p["how"] for p in card.figures["points"]} == {"predicted"}
    assert card.settings["on"] == "attached"
    for given, said in (
        ({"on": "attached"}, "on is 'attached'"),
        ({"calibration": 3}, "the calibration is a int"),
        ({"breakdowns": [3]}, "breakdowns hold something else"),
        ({"batch": 0}, "batch is 0"),
        ({"devices": 2}, "option of Roofline is 'devices'"),
    ):
        with pytest.raises(BadInput, match=said):
            Roofline(LLAMA, **given)


@needs_node
def test_the_roof_bends_where_both_limits_meet():
    found = {"bandwidth": 2.0, "matrix_rate": 10.0, "ridge": 5.0}
    assert run("roofLine(given, 1, 100)", "stack_fields", "roofline", given=found) == [[1, 2], [5, 10], [100, 10]]
    assert run("roofLine(given, 6, 100)", "stack_fields", "roofline", given=found) == [[6, 10], [100, 10]]
    assert run("[siText(3.35e12, 'B/s'), siText(12, 'FLOP/s'), timeText(0.0021), timeText(3e-6)]", "stack_fields", "roofline") == [
        "3.35 TB/s", "12 FLOP/s", "2.1 ms", "3 µs",
    ]  # fmt: skip
