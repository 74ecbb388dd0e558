"""The quickstart, once, as a person would: Run All in JupyterLab, every cell ends, every widget stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 360


@pytest.mark.timeout(SECONDS + 120)
def test_run_all_shows_every_widget(open_notebook):
    notebook = open_notebook("00_quickstart", ROOT / "notebooks" / "00_quickstart.ipynb")
    seconds = notebook.run_all(timeout=SECONDS)
    print(f'{{"quickstart_run_all_seconds": {seconds:.0f}}}')
    for widget in ("QuantizeLab", "DistillLab", "FrontierBoard", "ByteLedger"):
        card = notebook.card(widget)
        assert card.bounding_box()["height"] > 80, widget
        notebook.screenshot(f"quickstart-{widget}", card)
    notebook.card("QuantizeLab")
    notebook.screenshot("quickstart")
