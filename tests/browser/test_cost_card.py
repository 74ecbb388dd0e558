"""The cost card in a real JupyterLab: a new price changes the figures, limits change the verdict, it looks right, it works recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from driving import comes, looks

SECONDS = 420
CARD = """
import effkit as ek
from effkit.spec.intervals import Estimate
from effkit.spec.side import Side
from effkit_widgets import CostCard

def near(value, half, unit=""):
    return Estimate(value=value, low=value - half, high=value + half, unit=unit, n=1958)

def side(name, f1, bytes, ms, rate, **more):
    return Side(name=name, quality=near(f1, 0.018), score_name="macro-F1", chance=0.012, bytes=bytes, latency_ms=near(ms, ms / 20, "ms"),
                throughput=near(rate, rate / 30, "queries/s"), device="cpu (2 threads)", date="2026-11-25", **more)

found = ek.Capability(
    teacher=side("fine-tuned encoder", 0.728, 90_900_000, 14.2, 120, training_seconds=336, memory_bytes=640_000_000),
    student=side("<b>student</b>", 0.706, 7_800_000, 1.1, 1900, kind="distilled", training_seconds=240, memory_bytes=310_000_000),
    others=(side("linear", 0.665, 2_100_000, 0.31, 14_000, training_seconds=6),
            side("distilled linear", 0.679, 2_100_000, 0.32, 13_500, kind="distilled", training_seconds=9)),
    retained=near(0.97, 0.017), query="one description of 12 tokens, batch 32")
"""
CELLS = [CARD, "card = CostCard(found)\ncard"]

pytestmark = pytest.mark.timeout(SECONDS)


def figure(card, row: str, side: str) -> str:
    """What the table says: a row's key, a model's name."""
    return card.locator(f"[data-row='{row}'] td[data-side='{side}']").inner_text()


def field(card, name: str):
    return card.locator(f"[name='{name}']")


def test_a_price_changes_the_figures_and_limits_the_verdict(open_notebook):
    notebook = open_notebook("cost", CELLS)
    notebook.run_all(timeout=60)
    card = notebook.card("CostCard")
    before = figure(card, "price", "fine-tuned encoder")
    assert before.startswith("$0.000189")
    assert card.locator(".ek-verdict").inner_text().startswith("Yes: <b>student</b> keeps 97%")
    assert card.locator(".ek-verdict b").count() == 0, "a name became markup"
    field(card, "price_per_hour").fill("0.816")
    notebook.page.wait_for_function("() => document.querySelector('.ek-figures [data-row=price] td').innerText.startsWith('$0.00189')")
    assert "Price: yours." in card.locator(".ek-state").inner_text()
    field(card, "cost").fill("1")
    assert card.locator(".ek-verdict").inner_text().startswith("No: ")
    assert card.locator(".ek-verdict").get_attribute("data-answer") == "no"
    # what the fields say reaches Python, and both say the same
    verdict = card.locator(".ek-verdict").inner_text()
    comes(lambda: notebook.value("[card.capability.price_per_hour, card.verdict]"), [0.816, verdict])
    # a number that cannot be used changes nothing and says so
    field(card, "utilisation").fill("0")
    assert field(card, "utilisation").get_attribute("aria-invalid") == "true"
    assert "must be above 0 and at most 100%" in card.locator(".ek-fieldset").inner_text()
    assert card.locator(".ek-verdict").inner_text() == verdict
    card.locator("[data-action='reset']").click()
    assert figure(card, "price", "fine-tuned encoder") == before
    field(card, "by").select_option("latency")
    assert "of its latency" in card.locator(".ek-verdict").inner_text()


def test_keys_move_between_models_and_the_table_holds_them(open_notebook):
    notebook = open_notebook("cost-keys", CELLS)
    notebook.run_all(timeout=60)
    card = notebook.card("CostCard")
    card.locator(".ek-point[tabindex='0']").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
        seen.append(notebook.page.evaluate("() => document.activeElement.dataset.id"))
        notebook.page.keyboard.press(key)
    assert seen == ["linear", "distilled linear", "<b>student</b>", "fine-tuned encoder"]
    spoken = notebook.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert spoken.startswith("fine-tuned encoder; teacher; macro-F1 0.728")
    assert card.locator(".ek-tip").is_visible()
    notebook.page.keyboard.press("Escape")
    assert not card.locator(".ek-tip").is_visible()
    card.locator("[data-action='table']").click()
    rows = card.locator(".ek-twin tbody tr")
    assert rows.count() == 4
    with notebook.page.expect_download() as download:
        card.locator("[data-action='csv']").click()
    text = Path(download.value.path()).read_text()
    assert text.splitlines()[0].startswith("model,role,macro-F1,low,high,Quality retained,")
    assert len(text.splitlines()) == 5


def test_it_works_without_a_kernel(open_notebook):
    notebook = open_notebook("cost-recorded", CELLS)
    notebook.run_all(timeout=60)
    card = notebook.card("CostCard")
    card.evaluate("e => { e.parentElement.dataset.ekRecorded = ''; }")
    notebook.server.stop_kernels()
    notebook.page.wait_for_timeout(500)
    field(card, "price_per_hour").fill("0.816")
    comes(lambda: figure(card, "price", "fine-tuned encoder").startswith("$0.00189"), True)
    field(card, "quality").fill("99.5")
    comes(lambda: card.locator(".ek-verdict").inner_text().startswith("No: "), True)
    assert card.get_attribute("data-state") == "recorded"
    assert card.locator(".ek-state").inner_text().startswith("Recorded on cpu (2 threads), 2026-11-25.")


def test_it_looks_right_light_dark_and_narrow(open_notebook):
    notebook = open_notebook("cost-looks", CELLS)
    notebook.run_all(timeout=60)
    card = notebook.card("CostCard")
    looks(notebook, card, "cost-card")
