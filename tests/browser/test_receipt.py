"""Receipt in a real JupyterLab: a record is run again from the card, each figure gets its verdict, an altered one is told."""

from __future__ import annotations

import pytest
from driving import live_cells, looks, press, wait_state

SECONDS = 300
CELLS = [
    live_cells("LayerMap")[0],
    "import effkit as ek\n"
    "quick = dict(window=64, windows=4, prompt=16, new_tokens=4, repeats=2, store=False)\n"
    "small = ek.quantize(base, bits=4, group_size=32)\n"
    "record = ek.measure(small, base, name='four bits <b>', **quick)\n"
    "quality = record.quality.model_copy(update={'perplexity': record.quality.perplexity.model_copy(update={'value': 1.5})})\n"
    "altered = record.model_copy(update={'id': 'altered', 'name': 'altered', 'quality': quality})",
    "from effkit_widgets import Receipt\ncard = Receipt([record, altered], replaying={'speed': False})\ncard",
]

pytestmark = pytest.mark.timeout(SECONDS)


def test_a_record_is_run_again_and_each_figure_told(open_notebook):
    notebook = open_notebook("receipt", CELLS)
    notebook.run_all(timeout=150)
    card = notebook.card("Receipt")
    assert card.locator(".ek-title b").count() == 0, "a name became markup"
    text = card.inner_text()
    for expected in notebook.value("[record.checkpoint.hash, record.recipe.hash(), record.quality.text, 'effkit replay record.json']"):
        assert expected in text
    press(card, "start")
    wait_state(card, "running", "done", seconds=20)
    wait_state(card, "done", seconds=120)
    rows = card.locator("tr[data-figure]")
    verdicts = dict(rows.evaluate_all("all => all.map(e => [e.dataset.figure, e.dataset.verdict])"))
    assert verdicts == notebook.value("{o.figure: o.verdict for o in card.replays[record.id].outcomes}")
    assert set(verdicts.values()) <= {"same", "within tolerance"}
    assert card.locator(".ek-verdict").inner_text().startswith("It came out again: ")
    assert "bit for bit" in card.locator(".ek-verdict").inner_text()
    looks(notebook, card, "receipt")

    card.locator("[name='record']").select_option("altered")
    assert "to run altered again" in card.locator(".ek-title").inner_text()
    assert card.locator("tr[data-figure]").count() == 0, "the verdict of another record"
    card.locator("[data-action='start']").focus()
    notebook.page.keyboard.press("Enter")
    wait_state(card, "running", seconds=20)
    wait_state(card, "done", seconds=120)
    assert card.locator("tr[data-figure='perplexity']").get_attribute("data-verdict") == "different"
    assert "altered" in card.locator(".ek-verdict").inner_text()
    card.locator("[data-action='table']").click()
    assert card.locator(".ek-twin tbody tr").count() == card.locator("tr[data-figure]").count()
    card.locator("[data-action='table']").click()
    notebook.screenshot("receipt-altered", card)


def test_it_is_cancelled_within_a_step(open_notebook):
    notebook = open_notebook("receipt-cancel", [*CELLS[:2], CELLS[2].replace("{'speed': False}", "{}")])
    notebook.run_all(timeout=150)
    card = notebook.card("Receipt")
    press(card, "start")
    wait_state(card, "running", seconds=20)
    press(card, "cancel")
    assert wait_state(card, "cancelled", "done", seconds=60) < 60
    assert "the record is as it was" in card.locator(".ek-state").inner_text() or card.get_attribute("data-state") == "done"
