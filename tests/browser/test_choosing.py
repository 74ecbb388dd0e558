"""From a point to its model: choose, compare, take one, copy its code and run it; by mouse on a narrow dark screen, then by keys alone."""

from __future__ import annotations

import pytest
from driving import base_cell, press

pytestmark = pytest.mark.timeout(420)

RECORDS = """
quick = {"window": 64, "windows": 4, "prompt": 16, "new_tokens": 4, "repeats": 2, "store": False}
records = [ek.measure(base, name="base", **quick)]
for bits, group in ((8, 32), (8, 96), (3, 32), (3, 96)):
    made = ek.quantize(base, method="rtn", bits=bits, group_size=group)
    records.append(ek.measure(made, base, name=f"{bits} bits, g{group}", **quick))
card = widgets.FrontierExplorer(records)
card
"""
TIE = ("8 bits, g96", "8 bits, g32")  # on so little text nobody can tell them apart
APART = ("8 bits, g32", "3 bits, g96")


@pytest.fixture
def explorer(open_notebook):
    notebook = open_notebook("choosing", [base_cell(), RECORDS, ""])
    notebook.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    notebook.run_all(timeout=240)
    card = notebook.card("FrontierExplorer")
    card.locator(".ek-point").first.wait_for()
    return notebook, card, {name: notebook.value(f"[r.id for r in records if r.name == {name!r}][0]") for name in {*TIE, *APART}}


def pasted_and_run(notebook) -> None:
    """What was copied runs in the last cell."""
    cell = notebook.page.locator(".jp-Notebook-cell .cm-content").last
    cell.click()
    notebook.page.keyboard.press("Control+a")
    notebook.page.keyboard.press("Control+v")
    notebook.page.keyboard.press("Control+Enter")
    notebook.page.wait_for_function("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'")
    assert cell.inner_text().splitlines()[0] == "import effkit as ek"
    notebook.page.wait_for_timeout(300)


def rows_of(card) -> dict[str, list[str]]:
    rows = card.locator(".ek-compare tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    return {row[0]: row[1:] for row in rows}


def test_with_a_mouse_on_a_narrow_dark_screen(explorer):
    notebook, card, ids = explorer
    page = notebook.page
    notebook.theme("JupyterLab Dark")
    notebook.resize(480, 860)
    a, b = TIE
    for step, name in enumerate((a, b)):
        point = card.locator(f".ek-point[data-id='{ids[name]}'] circle").last
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(400)
        if step == 0:
            assert card.locator(".ek-down").inner_text().startswith(f"Details of {name}")
            press(card, "compare")
            page.wait_for_timeout(200)
            assert card.locator(".ek-frontier").evaluate("e => e.getBoundingClientRect().top >= 0"), "the points are not in sight"
    heading = card.locator(".ek-details h4")
    assert heading.inner_text() == f"{a} and {b} side by side"
    assert page.evaluate(
        "e => { const r = e.getBoundingClientRect(); return r.top >= 0 && r.bottom <= innerHeight; }", heading.element_handle()
    )
    rows = rows_of(card)
    assert rows["Quality retained"][2] == "not distinguishable"
    assert rows["Stored bytes"][2].startswith("A better, ")
    for node in (card, card.locator(".ek-compare")):
        assert node.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "the verdicts are out of sight"
    notebook.screenshot("choosing-narrow-dark", card)
    press(card, "take-b")
    page.wait_for_timeout(400)
    assert notebook.value("[card.chosen, card.against]") == [ids[b], ""]
    assert page.evaluate("() => document.activeElement.textContent") == b, "the focus was lost with the button"
    press(card, "copy-code")
    assert page.evaluate("() => navigator.clipboard.readText()") == notebook.value("card.code")
    pasted_and_run(notebook)
    assert notebook.value("model.stored_bytes == card.chosen_record.cost.bytes")
    notebook.theme("JupyterLab Light")


def test_with_the_keyboard_alone(explorer):
    notebook, card, ids = explorer
    page, keys = notebook.page, notebook.page.keyboard
    here = "document.activeElement.dataset"

    def tab_to(action: str) -> int:
        for count in range(1, 40):
            keys.press("Tab")
            if page.evaluate(f"() => {here}.action") == action:
                return count
        raise AssertionError(f"no Tab leads to {action}")

    def walk_to(name: str) -> None:
        for way in ["ArrowLeft"] * 6 + ["ArrowRight"] * 6:
            if page.evaluate(f"() => {here}.id") == ids[name]:
                return
            keys.press(way)
        raise AssertionError(f"no arrow leads to {name}")

    a, b = APART
    card.locator(".ek-point[tabindex='0']").focus()
    walk_to(a)
    keys.press("Enter")
    page.wait_for_timeout(400)
    assert notebook.value("card.chosen_record.name") == a
    assert page.evaluate(f"() => {here}.id") == ids[a], "the point keeps the focus"
    assert tab_to("compare") < 15
    keys.press("Enter")
    page.wait_for_timeout(300)
    assert page.evaluate(f"() => {here}.id") == ids[a], "back among the points"
    keys.press("Escape")
    page.wait_for_timeout(200)
    assert "Choose the second point" not in card.inner_text()
    tab_to("compare")
    keys.press("Space")
    page.wait_for_timeout(300)
    walk_to(b)
    keys.press("Enter")
    page.wait_for_timeout(400)
    rows = rows_of(card)
    assert rows["KL divergence to the base"][2].startswith("A better, ")
    assert rows["Stored bytes"][2].startswith("B better, ")
    tab_to("take-b")
    keys.press("Enter")
    page.wait_for_timeout(400)
    assert notebook.value("[card.chosen, card.against]") == [ids[b], ""]
    assert tab_to("copy-code") <= 2
    keys.press("Enter")
    page.wait_for_timeout(200)
    assert card.locator(".ek-details [role='status']").inner_text() == "Copied"
    pasted_and_run(notebook)
    assert notebook.value("model.stored_bytes == card.chosen_record.cost.bytes")
    notebook.screenshot("choosing-keys", card)
