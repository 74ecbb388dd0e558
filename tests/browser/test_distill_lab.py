"""The distillation bench in a real JupyterLab: reference lines, samples as text, and how it looks."""

from __future__ import annotations

import pytest
from driving import comes, live_cells, looks, press, state, wait_state

pytestmark = pytest.mark.timeout(400)
CELLS = [
    live_cells("DistillLab")[0],
    "lab = widgets.DistillLab(base, store=False, training={'batch': 2, 'window': 64}, references={'a <b>goal</b>': 0.5},\n"
    "                         measuring={'windows': 2, 'window': 128, 'prompt': 16, 'new_tokens': 4, 'repeats': 2},\n"
    "                         prompts=('Once upon a time', '<i>Tom</i> and his dog'))\nlab",
]


def test_lines_and_samples_while_it_trains(open_notebook):
    notebook = open_notebook("distill-lab", CELLS)
    notebook.run_all(timeout=120)
    card = notebook.card("DistillLab")
    weight_follows_objective(card)
    card.locator("[name='layers']").fill("4")
    card.locator("[name='steps']").fill("10")
    card.locator("[name='steps']").blur()
    press(card, "start")
    card.locator(".ek-samples li").first.wait_for(timeout=60_000)
    assert card.locator(".ek-samples li").count() == 2
    assert card.locator(".ek-samples i, .ek-legend b").count() == 0, "what a model or a user wrote became markup"
    assert "<i>Tom</i> and his dog …" in card.locator(".ek-samples").inner_text()
    assert [line.get_attribute("data-reference") for line in card.locator(".ek-reference").all()][-1] == "teacher"
    wait_state(card, "done", "failed", seconds=240)
    assert state(card) == "done"
    assert "Samples after step 10" in card.inner_text()
    legend = card.locator(".ek-legend").first.inner_text()
    assert "a <b>goal</b> 0.5" in legend
    assert "constant answer" in legend
    looks(notebook, card, "distill-lab")


def test_branch_show_and_undo(open_notebook):
    notebook = open_notebook("branches", CELLS)
    notebook.run_all(timeout=120)
    card = notebook.card("DistillLab")
    card.locator("[name='layers']").fill("3")
    card.locator("[name='steps']").fill("60")
    card.locator("[name='steps']").blur()
    press(card, "start")
    wait_state(card, "running")
    card.locator(".ek-samples li").first.wait_for(timeout=60_000)
    pause(card)
    branch = card.locator("[data-action='branch']")
    branch.wait_for(timeout=10_000)
    card.locator("[name='temperature']").fill("3")
    card.locator("[name='temperature']").blur()
    notebook.page.wait_for_function("() => !document.querySelector('[data-action=branch]').disabled")
    branch.click()
    card.locator(".ek-lane").nth(1).wait_for(timeout=60_000)
    wait_state(card, "running", seconds=60)
    assert "run 2, temperature 3" in card.locator(".ek-lane[data-shown='true']").get_attribute("aria-label")
    further(notebook)
    pause(card)
    press(card, "resume")
    further(notebook)
    pause(card)
    pictures = [notebook.screenshot("distill-branches-light", card)]
    notebook.page.wait_for_function("() => !document.querySelector('[data-action=undo]').disabled")
    press(card, "undo")
    notebook.page.wait_for_function("() => document.querySelector('.ek-lane[data-shown=true]')?.ariaLabel.includes('undone once')")
    pause(card)
    # the first run again, from the keyboard
    notebook.page.wait_for_function("() => document.querySelector('.ek-lane').getAttribute('aria-disabled') === 'false'")
    card.locator(".ek-lane").first.focus()
    notebook.page.keyboard.press("Enter")
    notebook.page.wait_for_function("() => document.querySelector('.ek-lane').dataset.shown === 'true'")
    assert state(card) == "paused"
    notebook.theme("JupyterLab Dark")
    pictures.append(notebook.screenshot("distill-branches-dark", card))
    notebook.theme("JupyterLab Light")
    notebook.resize(480, 900)
    pictures.append(notebook.screenshot("distill-branches-narrow", card))
    assert card.evaluate("element => element.scrollWidth <= element.clientWidth + 1"), "the card is wider than its column"
    card.locator("[data-action='table']:visible").last.click()
    assert card.locator(".ek-twin:visible tbody tr").count() == 2
    assert card.locator(".ek-problem").first.is_hidden()


def further(notebook) -> None:
    """Wait until the run that is shown has come two steps further."""
    done = "lab.run.progress.done if lab.run.progress else 0"
    at = notebook.value(done)
    comes(lambda: notebook.value(done) >= at + 2, True, seconds=120)


def weight_follows_objective(card) -> None:
    """What is not chosen is the library's default and says so; what is chosen stays."""
    hard, objective = card.locator("[name='hard']"), card.locator("[name='objective']")

    def shows(value: str, marked: bool) -> None:
        card.page.wait_for_function(
            "([value, marked]) => { const input = document.querySelector('[name=hard]');"
            " return input.value === value && input.parentElement.innerText.includes('(default)') === marked; }",
            arg=[value, marked],
        )

    shows("0.2", True)
    objective.select_option("reverse-kl")
    shows("0", True)
    objective.select_option("hard-labels")
    shows("1", True)
    assert hard.is_disabled()
    objective.select_option("forward-kl")
    shows("0.2", True)
    hard.fill("0.5")
    hard.blur()
    shows("0.5", False)
    objective.select_option("skew-kl")
    shows("0.5", False)
    objective.select_option("forward-kl")
    hard.fill("")
    hard.blur()
    shows("0.2", True)


def pause(card) -> None:
    wait_state(card, "running", seconds=60)
    press(card, "pause")
    wait_state(card, "paused", seconds=60)
