"""A shared page in a real Chromium, from disk, with the network cut: it asks for nothing, runs nothing foreign, and still answers."""

from __future__ import annotations

import json
import math
import os
import random
import re
import sys
from pathlib import Path

import pytest
from driving import FLAGS, RESULTS, ROOT, chromium, comes

sys.path.insert(0, str(ROOT / "tests" / "unit"))

import effkit as ek
from effkit.spec.allocation import Choice, Sensitive, Sensitivity
from effkit.spec.frontier import Frontier
from effkit.spec.recipe import Quantize, Recipe

CONFIG = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
}  # fmt: skip
HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'><svg onload=window.pwned=1></svg>"
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe> \u202egnp.exe\u2066 \x1b[31mred\x1b[0m <b>bold</b>"
)

READING = (Path(__file__).parent / "reading.js").read_text()

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def chrome():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test installs it")
    if chromium() is None:
        pytest.skip("Chromium is missing: sudo apt-get install chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=[*root, *FLAGS])
        yield browser
        browser.close()


class Opened:
    """A page opened from disk without a network. `asked`: what it asked for besides itself; `said`: errors and warnings."""

    def __init__(self, chrome, path: Path, width: int = 1280, dark: bool = False, script: bool = True) -> None:
        scheme = "dark" if dark else "light"
        context = chrome.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, java_script_enabled=script
        )
        self.page = context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: None if request.url == path.as_uri() else self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(path.as_uri())
        if script:
            self.page.wait_for_function("document.documentElement.dataset.ready", timeout=30_000)
            self.page.wait_for_timeout(300)

    def card(self, widget: str):
        return self.page.locator(f".ek-card[data-widget='{widget}']").first

    def quiet(self) -> None:
        assert self.asked == []
        assert self.said == []

    def screenshot(self, name: str) -> Path:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.png"
        self.page.screenshot(path=str(path), full_page=True)
        assert path.stat().st_size > 20_000
        return path


def sensitivity() -> Sensitivity:
    draw, found = random.Random(1), []
    for layer in range(8):
        for path, kind in (("self_attn.q_proj", "attention"), ("mlp.up_proj", "mlp"), ("mlp.down_proj", "mlp")):
            weight = draw.lognormvariate(-4, 1)
            choices = [Choice(bits=b, bytes=40_000 * b, kl=weight * math.exp(-b)) for b in (2, 3, 4, 5, 6, 8)]
            choices.append(Choice(bits=16, bytes=1_280_000, kl=0.0))
            found.append(Sensitive(module=f"model.layers.{layer}.{path}", kind=kind, layer=layer, weights=320_000, choices=tuple(choices)))
    return Sensitivity(source="toy", text="t", modules=tuple(found), fixed_bytes=70_000)


def records(mark: str = ""):
    from widgets.records import family, record

    more = [
        record(f"{bits}-bit {i}", Recipe(steps=(Quantize(bits=bits),)), 60_000 * bits + i, 1 - 0.6 / bits, 20 + i, seed=i)
        for i, bits in enumerate((3, 5, 6))
    ]
    made = [*family(), *more]
    ledger = {"embeddings": 300_000, "attention": 200_000, "mlp": 500_000}
    made = [
        one.model_copy(
            update={"cost": one.cost.model_copy(update={"ledger": {k: int(v * one.cost.bytes / 1e6) for k, v in ledger.items()}})}
        )
        for one in made
    ]
    return [one.model_copy(update={"name": one.name + mark}) for one in made]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return ek.share(records(), path, title="A page", model=ek.architecture(CONFIG, name="toy"), sensitivity=sensitivity())


def test_the_page_is_whole_and_looks_right_everywhere(chrome, shared):
    assert set(shared.cards) >= {
        "FrontierExplorer",
        "MethodTable",
        "CostCard",
        "ByteLedger",
        "LayerMap",
        "Roofline",
        "StackCompare",
        "Receipt",
    }
    for name, width, dark in (("light", 1280, False), ("dark", 1280, True), ("phone", 390, False), ("wide", 1600, False)):
        opened = Opened(chrome, shared.path, width, dark)
        cards = opened.page.locator(".ek-card")
        assert cards.count() == len(shared.cards)
        assert set(cards.evaluate_all("all => all.map(e => e.dataset.state)")) == {"recorded"}
        assert set(cards.evaluate_all("all => all.map(e => e.dataset.theme)")) == {"dark" if dark else "light"}
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than its window"
        assert opened.page.locator("table.twin-table:visible").count() == 1, "only the checkpoints: cards have tables of their own"
        opened.screenshot(f"shared-{name}")
        opened.quiet()


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return ek.share(ROOT / "notebooks" / "05_tradeoffs.ipynb", tmp_path_factory.mktemp("search") / "search.html")


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_too_small_or_cut_off(chrome, shared, search, width):
    """Every word whole, 12 px or more, targets of 24 px (WCAG 2.2, 2.5.8), with all that can be opened open; a notebook too."""
    for path in (shared.path, search.path):
        opened = Opened(chrome, path, width, dark=width == 390)
        opened.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        for button in opened.page.locator("[data-action='table']").all():
            button.click()
        opened.page.wait_for_timeout(500)
        assert opened.page.evaluate(READING) == []
        opened.quiet()


def test_without_a_script_a_phone_shows_whole_words(chrome, shared):
    opened = Opened(chrome, shared.path, 390, script=False)
    opened.screenshot("shared-no-script-phone")
    found = [line for line in opened.page.evaluate(READING) if "is cut off" not in line]
    assert found == []


def test_the_budget_of_the_map_is_solved_as_python_does(chrome, shared):
    opened = Opened(chrome, shared.path)
    card = opened.card("LayerMap")
    found = sensitivity()
    card.locator("[name='budget_mb']").fill("3")
    card.locator("[name='budget_mb']").press("Enter")
    expected = found.allocate(3_000_000)
    bits = "all => Object.fromEntries(all.map(e => [e.dataset.module, parseInt(e.textContent)]))"
    comes(lambda: card.locator("td[data-module]").evaluate_all(bits), expected.bits)
    before = card.locator("[data-fact='predicted']").inner_text()
    card.locator("[name='budget']").focus()
    opened.page.keyboard.press("Shift+ArrowRight")
    comes(lambda: card.locator("[data-fact='predicted']").inner_text() != before, True)
    assert card.locator("[data-action='start']:visible").count() == 0, "a dead button"
    opened.quiet()


def test_sliders_look_up_what_was_projected_beforehand(chrome, shared):
    from effkit_widgets import Roofline, StackCompare

    shape = ek.architecture(CONFIG, name="toy")
    opened = Opened(chrome, shared.path)
    roof = opened.card("Roofline")
    roof.locator("[name='on']").select_option("rtx-4090")
    roof.locator("[name='batch']").focus()
    opened.page.keyboard.press("End")
    comes(lambda: roof.locator(".ek-verdict").inner_text(), Roofline(shape, "rtx-4090", batch=256, name="toy").verdict)
    stacks = opened.card("StackCompare")
    stacks.locator("[name='format']").select_option("4-bit")
    stacks.locator("[name='right']").select_option("a100-sxm-80gb")
    verdict = stacks.locator(".ek-verdict")
    comes(verdict.inner_text, StackCompare(shape, right="a100-sxm-80gb", format="4-bit", name="toy").verdict)
    assert "computed beforehand, for any price" in stacks.locator(".ek-state").inner_text()
    stacks.locator("[name='left_price']").fill("3.5")
    stacks.locator("[name='right_price']").fill("0.8")
    stacks.locator("[name='utilisation']").fill("40")
    given = {"left_price": 3.5, "right_price": 0.8, "utilisation": 0.4}
    live = StackCompare(shape, right="a100-sxm-80gb", format="4-bit", name="toy", **given)
    comes(verdict.inner_text, live.verdict)
    even = stacks.locator("[data-row='even'] td[data-side='right']").inner_text()
    assert even.split()[0] == f"${live.comparison.right.break_even.value:.3g}"
    assert "given" in stacks.locator(".ek-notes").inner_text()
    stacks.locator("[name='right']").select_option("ascend-910b2")  # it has no list price: the break-even price is what is left to ask
    comes(lambda: "No price of ascend-910b2 is known" in verdict.inner_text(), True)
    assert "no price of ascend-910b2 is known" in stacks.locator(".ek-notes").inner_text()
    stacks.locator("[name='right_price']").fill("1.5")
    comes(lambda: any(words in verdict.inner_text() for words in ("of what it costs on", "cannot tell")), True)
    opened.quiet()


def test_the_explorer_answers_as_python_does(chrome, shared):
    """Axes, a budget line, the best within it, a point's code: what a reader of the page does."""
    opened = Opened(chrome, shared.path)
    card, board = opened.card("FrontierExplorer"), Frontier(records())
    card.scroll_into_view_if_needed()
    assert card.locator(".ek-frontier").get_attribute("data-points") == str(len(records()))
    assert card.locator(".ek-explorer .ek-state strong").inner_text() == board.verdict(quality=0.9, cost=0.5)
    line = card.locator("[data-budget='quality']")
    line.focus()
    while float(card.locator("[data-budget='quality']").get_attribute("aria-valuenow")) > 0.7:
        opened.page.keyboard.press("Shift+ArrowDown")
    opened.page.wait_for_timeout(200)
    share = float(card.locator("[data-budget='quality']").get_attribute("aria-valuenow"))
    assert card.locator(".ek-explorer .ek-state strong").inner_text() == board.verdict(quality=share, cost=0.5)
    card.locator("[data-action='best']").click()
    best = board.pick(quality=share, cost=0.5)
    assert best is not None
    assert card.locator(".ek-details h4").inner_text() == best.name
    assert card.locator("pre.ek-recipe-code").inner_text().strip() == best.code().strip()
    card.locator("[name='x']").select_option("decode")
    card.locator("[name='y']").select_option("kl")
    opened.page.wait_for_timeout(300)
    assert card.locator(".ek-explorer .ek-state strong").inner_text() != board.verdict(quality=share, cost=0.5)
    assert "kl" in (card.locator("[name='y']").input_value())
    point = card.locator(".ek-point").last
    name = next(one for one in records() if one.id == point.get_attribute("data-id"))
    point.focus()
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_timeout(200)
    assert card.locator(".ek-details h4").inner_text() == name.name
    card.locator("[data-action='table']").click()
    assert card.locator(".ek-twin tbody tr").count() == len(records())
    opened.quiet()


def test_prices_are_computed_in_the_page(chrome, shared):
    opened = Opened(chrome, shared.path)
    card = opened.card("CostCard")
    before = card.locator(".ek-figures").inner_text()
    card.locator("[name='price_per_hour']").fill("5")
    comes(lambda: card.locator(".ek-figures").inner_text() != before, True)
    card.locator("[data-action='table']").click()
    assert card.locator(".ek-twin tbody tr").count() >= 2
    opened.quiet()


def test_the_theme_and_the_receipt_answer(chrome, shared):
    opened = Opened(chrome, shared.path)
    opened.page.locator("[data-page='theme']").click()
    cards = opened.page.locator(".ek-card")
    comes(lambda: set(cards.evaluate_all("all => all.map(e => e.dataset.theme)")), {"dark"})
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light", "paper is light"
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    card = opened.card("Receipt")
    card.locator("[name='record']").select_option("4-bit")
    assert "to run 4-bit again" in card.locator(".ek-title").inner_text()
    assert "effkit replay page.html --record 4-bit" in card.inner_text()
    assert card.locator("[data-action='start']:visible").count() == 0
    with opened.page.expect_download() as download:
        opened.page.locator("[data-page='records']").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert [one["name"] for one in saved] == [one.name for one in records()]
    opened.quiet()


@pytest.mark.parametrize("dark", [False, True])
def test_the_whole_page_is_accessible(chrome, shared, dark):
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed: make test installs it")
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(chrome, shared.path, dark=dark)
    found = Axe().run(opened.page, options={"resultTypes": ["violations"]}).response
    grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in grave] == []


def test_without_a_script_it_is_tables(chrome, shared):
    opened = Opened(chrome, shared.path, script=False)
    body = opened.page.locator("body")
    text = body.inner_text()
    for one in records():
        assert one.name in text
    assert opened.page.locator("table.twin-table:visible").count() >= 7
    assert opened.page.locator(".tools:visible").count() == 0, "a button without a script"
    assert "Without JavaScript" in text
    opened.screenshot("shared-no-script")
    opened.quiet()


def test_nothing_foreign_runs(chrome, tmp_path):
    done = ek.share(records(f" {HOSTILE}"), tmp_path / "page.html", title=HOSTILE, introduction=HOSTILE, licence=HOSTILE)
    opened = Opened(chrome, done.path)
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("img, iframe").count() == 0
    assert "bold" not in opened.page.locator("b").evaluate_all("all => all.map(e => e.textContent)")
    text = opened.page.locator("body").inner_text()
    assert "<b>bold</b>" in text
    assert "[U+202E]gnp.exe" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    for action in opened.page.locator("[data-action='table']").all():
        action.click()
    assert opened.page.evaluate("window.pwned") is None
    opened.quiet()


def test_even_markup_that_got_in_would_not_run(chrome, shared, tmp_path):
    """The second line of defence alone: markup written into the page after all."""
    attacks = (
        "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'><style>body{display:none}</style>"
        "<a id=a href='javascript:window.pwned=1'>x</a>"
    )
    broken = tmp_path / "broken.html"
    broken.write_text(shared.path.read_text().replace('<main id="content">', f'<main id="content">{attacks}'))
    opened = Opened(chrome, broken)
    opened.page.locator("#a").click()
    opened.page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.pwned=1'; document.body.append(s); }")
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("body").is_visible()
    assert any("Content Security Policy" in line for line in opened.said)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebooks_become_pages_with_their_cards(chrome, tmp_path, name):
    done = ek.share(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.html")
    opened = Opened(chrome, done.path)
    assert opened.page.locator(".ek-card").count() >= len(done.cards) > 0
    assert opened.page.locator(".ek-card[data-state='failed']").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for width in (390, 700, 1280):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.page.wait_for_timeout(400)
        assert (width, opened.page.evaluate(READING)) == (width, [])
    for verdict in opened.page.locator(".ek-card[data-widget='TimeBreakdown'] .ek-verdict").all_inner_texts():
        shares = [float(share) for share in re.findall(r"([\d.]+)%", verdict)]
        assert shares == sorted(shares, reverse=True), "a saved notebook keeps no order"
    opened.page.locator("[data-page='code']").click()
    assert opened.page.locator(".notebook .input:visible").count() == 0
    opened.screenshot(f"shared-{name}")
    opened.quiet()
