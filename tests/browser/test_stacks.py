"""The cards of the two stacks in a real JupyterLab: a field asks Python, the picture follows, keys work, it looks right everywhere."""

from __future__ import annotations

import pytest
from driving import comes, live_cells, looks

SECONDS = 420
LLAMA = """
import effkit as ek
llama = ek.architecture({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}, name="<b>Llama</b> 8B")
"""
STACKS = [LLAMA, "from effkit_widgets import StackCompare\ncard = StackCompare(llama, batch=16)\ncard"]
TIMES = [
    live_cells("LayerMap")[0],
    "from effkit.measure.breakdown import breakdown\n"
    "decode, prefill = breakdown(base, prompt=64), breakdown(base, phase='prefill', prompt=64)\n"
    "card = widgets.TimeBreakdown(decode, prefill, name='stories15m')\ncard",
]
ROOF = [
    live_cells("LayerMap")[0],
    LLAMA,
    "from effkit.measure.breakdown import breakdown\n"
    "from effkit.spec.calibration import Calibration, Copy, Layer, Product\n"
    "SIZES = (64, 4096)\n"
    "made = [Product(format='float32', engine='dense', rows=r, inputs=i, outputs=o, bytes=4 * i * o, working_set=1 << 28,\n"
    "                seconds=1e-6 + max(4 * i * o / 15e9, 2 * r * i * o / 6e10)) for r in (1, 64) for i in SIZES for o in SIZES]\n"
    "here = Calibration(device=repr(base.device), device_type='cpu', date='2026-11-25', timing='planted', dtype='float32',\n"
    "    products=tuple(made), copies=(Copy(bytes=1 << 27, rate=18e9),), launch_seconds=1e-6,\n"
    "    layers=(Layer(weight_bytes=1, seconds=1e-4),), step_overhead_seconds=1e-4, cache_seconds_per_byte=1e-10)\n"
    "times = [breakdown(base, prompt=64, repeats=4), breakdown(base, phase='prefill', prompt=64, repeats=4)]",
    "from effkit_widgets import Roofline\nown = Roofline(base, calibration=here, breakdowns=times, prompt=64, name='stories15m')\nown",
    "card = Roofline(llama)\ncard",
]

pytestmark = pytest.mark.timeout(SECONDS)


def figure(card, row: str, side: str) -> str:
    return card.locator(f"[data-row='{row}'] td[data-side='{side}']").inner_text()


def changed(notebook, card, row: str, side: str, before: str) -> str:
    """The figure, once it is another one."""
    comes(lambda: figure(card, row, side) != before, True)
    return figure(card, row, side)


def test_stacks_follow_their_fields_and_look_right(open_notebook):
    notebook = open_notebook("stacks", STACKS)
    notebook.run_all(timeout=60)
    card = notebook.card("StackCompare")
    assert card.locator(".ek-title b").count() == 0, "a name became markup"
    assert figure(card, "cost", "right") == "unavailable"
    each = figure(card, "each", "left")
    assert each.split()[0] == str(notebook.value("card.comparison.left.projection.time_per_output_token.value"))[:4].rstrip("0")
    card.locator("[name='right_price']").fill("2")
    assert changed(notebook, card, "cost", "right", "unavailable").startswith("$")
    card.locator("[name='batch']").focus()
    notebook.page.keyboard.press("Shift+ArrowRight")
    assert changed(notebook, card, "each", "left", each) != each
    comes(lambda: notebook.value("[card.settings['batch'], card.settings['right_price']]"), [64, 2])
    before = figure(card, "each", "right")
    card.locator("[name='right']").select_option("rtx-4090")
    changed(notebook, card, "each", "right", before)
    comes(lambda: card.locator("[name='right_price']").input_value(), "")  # a price goes with its device
    comes(lambda: card.locator(".ek-verdict").inner_text(), lambda: notebook.value("card.verdict"))
    card.locator(".ek-point[tabindex='0']").focus()
    assert card.locator(".ek-tip").first.is_visible()
    notebook.page.keyboard.press("ArrowDown")
    assert "projected" in notebook.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    notebook.page.keyboard.press("Escape")
    card.locator("[data-action='table']").click()
    assert card.locator(".ek-twin tbody tr").count() == 2
    card.locator("[data-action='table']").click()
    card.locator("[name='right']").select_option("ascend-910b2")
    comes(lambda: "ascend-910b2" in card.locator(".ek-verdict").inner_text(), True)
    looks(notebook, card, "stack-compare")


def test_times_zoom_by_click_and_keys_and_look_right(open_notebook):
    notebook = open_notebook("times", TIMES)
    notebook.run_all(timeout=90)
    card = notebook.card("TimeBreakdown")
    bars = card.locator(".ek-module-bar")
    names = {one["name"]: one for one in notebook.value("[{'name': p.name} for p in decode.root.walk()]")}
    assert bars.count() > len(names) / 3
    card.locator("[data-module='']").focus()
    keys = notebook.page.keyboard
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    focused = notebook.page.evaluate("() => document.activeElement.dataset.module")
    assert focused.startswith("model.")
    assert card.locator(".ek-tip").is_visible()
    card.locator("[data-module='model.layers.1']").click()
    comes(lambda: card.locator("[data-module='model.layers.0']").count(), 0)
    assert bars.first.get_attribute("data-module") == "model", "the caller stays as the way out"
    assert "layers.1" in card.locator(".ek-picture .ek-row").inner_text()
    notebook.screenshot("time-breakdown-zoomed", card)
    keys.press("Escape")
    comes(lambda: card.locator("[data-module='model.layers.0']").count(), 1)
    keys.press("Escape")
    card.locator("[name='layers']").select_option("1")
    comes(lambda: card.locator("[data-module='model.layers.*']").count(), 1)
    card.locator("[name='layers']").select_option("")
    card.locator("[name='pass']").select_option("1")
    comes(lambda: "prefill pass" in card.locator(".ek-verdict").inner_text(), True)
    card.locator("[data-action='table']").click()
    assert card.locator(".ek-twin tbody tr").count() == len(names)
    card.locator("[data-action='table']").click()
    notebook.page.wait_for_timeout(200)
    looks(notebook, card, "time-breakdown")


def test_the_batch_moves_points_along_the_roof_and_it_looks_right(open_notebook):
    notebook = open_notebook("roofline", ROOF)
    notebook.run_all(timeout=90)
    own = notebook.card("Roofline")
    assert {"measured", "predicted"} == set(own.locator(".ek-point").evaluate_all("all => all.map(e => e.dataset.how)"))
    notebook.screenshot("roofline-attached", own)
    card = notebook.page.locator(".ek-card[data-widget='Roofline']").nth(1)
    card.scroll_into_view_if_needed()
    point = card.locator("[data-id='decode-mlp-projected'] path")
    before = point.get_attribute("transform")
    card.locator("[name='batch']").focus()
    notebook.page.keyboard.press("Shift+ArrowRight")
    notebook.page.wait_for_function(
        "([id, old]) => document.querySelectorAll(id)[0]?.getAttribute('transform') !== old",
        arg=[".ek-point[data-id='decode-mlp-projected'] path", before],
    )
    comes(lambda: notebook.value("card.settings['batch']") > 1, True)
    comes(lambda: card.locator(".ek-verdict").inner_text(), lambda: notebook.value("card.verdict"))
    card.locator("[name='on']").select_option("ascend-910b2")
    notebook.page.wait_for_function(
        "() => [...document.querySelectorAll('.ek-verdict')].some(e => e.innerText.startsWith('On ascend-910b2'))"
    )
    card.locator(".ek-point[tabindex='0']").focus()
    assert card.locator(".ek-tip").is_visible()
    notebook.page.keyboard.press("ArrowRight")
    assert "projected" in notebook.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    notebook.page.keyboard.press("Escape")
    card.locator("[data-action='table']").click()
    assert card.locator(".ek-twin tbody tr").count() == 10
    card.locator("[data-action='table']").click()
    notebook.page.wait_for_timeout(300)
    looks(notebook, card, "roofline")
