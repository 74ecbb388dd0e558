"""Every widget, light and dark, with its tables open, under axe-core: no serious or critical violation of its rules (WCAG 2 A, AA)."""

from __future__ import annotations

import json

import pytest
from driving import explorer_cells, live_cells, press, wait_state
from test_cost_card import CARD
from test_layer_map import LENS, MAP, METHODS
from test_stacks import LLAMA, ROOF, TIMES

import effkit_widgets

pytestmark = pytest.mark.timeout(600)
GRAVE = ("serious", "critical")
QUICK = "{'windows': 2, 'window': 64, 'prompt': 8, 'new_tokens': 2, 'repeats': 1}"
# the widget's name: a cell that ends with it; earlier cells are there for all
SHOWN = {
    "ByteLedger": "widgets.ByteLedger(ek.quantize(base, bits=4), base=base)",
    "CostCard": f"{CARD}\nCostCard(found)",
    "DistillLab": f"widgets.DistillLab(base, store=False, measuring={QUICK})",
    "FrontierBoard": "records = made(9)\nwidgets.FrontierBoard(records)",
    "FrontierExplorer": "card = widgets.FrontierExplorer(made(40), colour='method')\ncard.lost(trial(1).recipe, 'No room.', FROM)\ncard",
    "LayerMap": MAP[1],
    "MethodTable": METHODS[1],
    "QuantizeLab": f"widgets.QuantizeLab(base, store=False, measuring={QUICK})",
    "Receipt": "widgets.Receipt([trial(1), trial(2)])",
    "Roofline": "\n".join([LLAMA, *ROOF[2:4]]),
    "RunMonitor": "run = ek.start(ek.quantize, base, bits=4)\nrun.wait()\nwidgets.RunMonitor(run)",
    "StackCompare": f"{LLAMA}\nwidgets.StackCompare(llama, batch=16)",
    "TimeBreakdown": TIMES[1],
    "TokenLens": LENS[1],
}
CELLS = [live_cells("LayerMap")[0], f"{explorer_cells(1)[0]}, FROM", *SHOWN.values()]


def grave(axe, notebook, card) -> tuple[list[str], int]:
    """The rules that the card breaks, each with the first elements that do and why; and of how many texts the contrast was judged."""
    widget, found, texts = card.get_attribute("data-widget"), {}, 0
    for _ in range(4):  # while cells are still being laid out, what is off the screen is not judged
        card.evaluate("e => e.scrollIntoView({block: 'start'})")
        notebook.page.wait_for_timeout(300)
        found = axe.run(notebook.page, context=f".ek-card[data-widget='{widget}']", options={}).response
        judged = [rule for kind in ("passes", "violations") for rule in found[kind] if rule["id"] == "color-contrast"]
        texts = sum(len(rule["nodes"]) for rule in judged)
        if texts >= 3:
            break
    told = []
    for rule in found["violations"]:
        if rule["impact"] in GRAVE:
            nodes = [f"{node['html'][:160]}: {node.get('failureSummary', '')[:200]}" for node in rule["nodes"][:3]]
            told.append(f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])} times): {json.dumps(nodes, indent=1)}")
    return told, texts


@pytest.mark.parametrize("part", [0, 1])
def test_no_widget_breaks_a_grave_rule(open_notebook, part):
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed: make test installs it")
    from axe_playwright_python.sync_playwright import Axe

    assert sorted(SHOWN) == effkit_widgets.__all__, "a widget is not looked at"
    names = list(SHOWN)[part::2]
    notebook = open_notebook(f"axe-{part}", [*CELLS[:2], *(SHOWN[name] for name in names)])
    notebook.run_all(timeout=240)
    # JupyterLab's body has no height and hides what overflows: axe would take every text for hidden
    notebook.page.add_style_tag(content="body { min-height: 100vh; }")
    notebook.resize(1280, 3200)  # nor does it judge what does not fit the window
    axe, broken = Axe(), {}
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        notebook.theme(theme)
        for name in names:
            card = notebook.card(name)
            if name == "TokenLens":
                wait_state(card, "done", seconds=60)
            for opened in (False, True):
                if opened:  # and what is folded
                    card.evaluate("e => { for (const fold of e.querySelectorAll('details')) fold.open = true; }")
                    if card.locator("[data-action='table'][aria-expanded='false']").count():
                        press(card, "table")
                told, texts = grave(axe, notebook, card)
                if texts < 3:
                    told.append(f"axe judged the contrast of {texts} texts only")
                if told:
                    broken[f"{name}, {theme}{', opened' if opened else ''}"] = told
    assert not broken, "\n".join(f"{where}:\n  " + "\n  ".join(rules) for where, rules in broken.items())
