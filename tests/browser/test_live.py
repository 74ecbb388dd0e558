"""Live work in a real JupyterLab: it moves, the kernel answers meanwhile, and Cancel stops it."""

from __future__ import annotations

import json
import time

import pytest
from driving import cancel, live, live_cells, looks, points, press, state, wait_state

ANSWER_MS = 100
CANCEL_SECONDS = 1.0

pytestmark = pytest.mark.timeout(420)


@pytest.mark.parametrize("widget", ["QuantizeLab", "DistillLab"])
def test_work_moves_the_kernel_answers_and_cancel_stops(open_notebook, widget):
    notebook = open_notebook(f"live-{widget}", live_cells(widget))
    notebook.run_all(timeout=120)
    card = notebook.card(widget)
    assert state(card) == "idle"
    before = notebook.page.evaluate("() => document.querySelectorAll('.jp-OutputArea-output').length")
    measured = live(notebook, card)
    print(json.dumps({"widget": widget, **measured}))
    assert measured["moves"] >= 2, "nothing moved while the work ran"
    assert measured["answers"] >= 5, "the work was over before another cell could be asked"
    assert measured["answer_ms_median"] < ANSWER_MS
    assert measured["cancel_seconds"] < CANCEL_SECONDS
    assert notebook.answer("assert base.recipe.steps == ()") > 0
    assert notebook.page.evaluate("() => document.querySelectorAll('.jp-OutputArea-output').length") == before


def test_pause_holds_and_resume_goes_on(open_notebook):
    notebook = open_notebook("pause", live_cells("DistillLab"))
    notebook.run_all(timeout=120)
    card = notebook.card("DistillLab")
    press(card, "start")
    wait_state(card, "running")
    press(card, "pause")
    wait_state(card, "paused", seconds=20)
    notebook.page.wait_for_timeout(300)
    held = points(card)
    notebook.page.wait_for_timeout(1000)
    assert points(card) == held
    press(card, "resume")
    wait_state(card, "running", seconds=10)
    begun = time.monotonic()
    while points(card) == held:
        assert time.monotonic() - begun < 30, "nothing came after Resume"
        notebook.page.wait_for_timeout(100)
    cancel(card)


def test_it_looks_right_light_dark_and_narrow(open_notebook):
    notebook = open_notebook("looks", live_cells("QuantizeLab"))
    notebook.run_all(timeout=120)
    card = notebook.card("QuantizeLab")
    press(card, "start")
    wait_state(card, "done", "failed", seconds=150)
    assert state(card) == "done"
    looks(notebook, card, "quantize-lab")
