"""The browser's part, run by node: numbers, ticks, the Pareto twin, tooltips, tables. And what its sources may not contain."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shutil
import subprocess

import pytest

from effkit.spec.errors import bytes_text
from effkit.spec.frontier import FIGURES, Frontier
from effkit.spec.intervals import three
from effkit.spec.recipe import Quantize, Recipe
from effkit_widgets._base import STATIC, script
from effkit_widgets._frontier import FRONTIER

from .records import record

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


def run(expression: str, *parts: str, given=None):
    """The value of a JavaScript expression inside the kit; `given` is the variable `given` there."""
    body = f"{script(*parts)}\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run([NODE, "--input-type=module"], input=body, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_numbers_read_as_python_writes_them():
    random.seed(1)
    values = [0.0, 0.034, 1234.5, 27.04, 0.99951, 999.5, 1e-5, -0.25, 100, 5e8, 2e9]
    values += [random.choice((-1, 1)) * 10 ** random.uniform(-6, 11) for _ in range(400)]
    # a value within a rounding error of a half is printed either way
    values = [v for v in values if not v or abs((m := abs(v) / 10 ** (math.floor(math.log10(abs(v))) - 2)) % 1 - 0.5) > 1e-6 or m < 0]
    assert run("given.map(three)", given=values) == [three(v) for v in values]
    sizes = [0, 1, 999, 1000, 79_700_000, 538_060_032, 999_400_000, 4.1e12, *(int(10 ** random.uniform(0, 13)) for _ in range(200))]
    texts = run("given.map(bytesText)", given=sizes)
    for size, text in zip(sizes, texts, strict=True):
        assert text.split()[1] == bytes_text(size).split()[1]
        assert float(text.split()[0]) == pytest.approx(float(bytes_text(size).split()[0]), rel=6e-3)
    assert run("[three(null), bytesText(undefined), intervalText([null, null, null])]") == ["unavailable"] * 3
    assert run("intervalText([0.034, 0.031, 0.037], 'nats')") == "0.034 [0.031, 0.037] nats"
    assert run("[duration(3.14159), duration(75), duration(200), duration(7300)]") == ["3.1 s", "75 s", "3 min 20 s", "2 h 2 min"]


@needs_node
def test_ticks_are_round_and_inside():
    random.seed(2)
    spans = []
    for _ in range(200):
        low = random.uniform(-1, 1) * 10 ** random.uniform(-5, 9)
        spans.append([low, low + 10 ** random.uniform(-5, 9)])
    for (low, high), found in zip(spans, run("given.map(([a, b]) => ticks(a, b, 5))", given=spans), strict=True):
        assert 2 <= len(found) <= 12 or high - low < abs(low) * 1e-9
        steps = [b - a for a, b in itertools.pairwise(found)]
        if steps and steps[0] > abs(low) * 1e-6:
            mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
            assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 0.01
            assert all(low - steps[0] * 1e-6 <= t <= high + steps[0] * 1e-6 for t in found)
            assert all(abs(t / steps[0] - round(t / steps[0])) < 1e-4 for t in found)
    assert run("ticks(0.13, 3.95, 5)") == [1, 2, 3]
    assert run("[0, 0.2, 0.4].map((v, i, all) => tickText(v, all))") == ["0.0", "0.2", "0.4"]
    assert run("logTicks(8, 1200, 5)") == [10, 100, 1000]
    assert run("logTicks(60, 600, 5)") == [100, 200, 500] or run("logTicks(60, 600, 5)") == [100, 300]


@needs_node
@pytest.mark.parametrize(("x", "y"), [("bytes", "retained"), ("decode", "kl"), ("bytes", "perplexity"), ("output_token_ms", "decode")])
def test_the_front_is_the_one_of_frontier(x, y):
    random.seed(3)
    records = [
        record(f"r{i}", Recipe(steps=(Quantize(),)), random.randrange(1, 9) * 1000, random.randrange(1, 9) / 10, random.randrange(1, 9))
        for i in range(40)
    ]
    board = Frontier(records, x, y)
    points = [{"id": r.id, "x": board.point(r)[0], "y": board.point(r)[1]} for r in records]
    up = [FIGURES[name][2] == "up" for name in (x, y)]
    found = run("paretoFront(given.points, ...given.up).map((p) => p.id)", "frontier", given={"points": points, "up": up})
    assert set(found) == {r.id for r in board.front()}
    assert [points[int(i[1:])]["x"] for i in found] == [board.point(r)[0] for r in board.front()]


@needs_node
def test_a_tooltip_stays_inside_and_never_covers_its_point():
    random.seed(4)
    cases = [
        [random.uniform(80, 250), random.uniform(40, 120), random.uniform(0, 700), random.uniform(0, 400), 700, 400] for _ in range(300)
    ]
    for (w, h, x, y, width, height), tip in zip(cases, run("given.map((c) => placeTip(...c))", given=cases), strict=True):
        assert not (tip["left"] < x < tip["left"] + w and tip["top"] < y < tip["top"] + h)
        assert tip["left"] >= -0.01
        assert tip["top"] >= -0.01
        assert tip["left"] + w <= width + 0.01
        assert tip["top"] + h <= height + 0.01
    # it moves away from a neighbour it would hide
    alone = run("placeTip(100, 50, 350, 200, 700, 400, [])")
    crowded = run("placeTip(100, 50, 350, 200, 700, 400, given)", given=[[alone["left"] + 50, alone["top"] + 25]])
    assert (alone["left"], alone["top"]) != (crowded["left"], crowded["top"])


@needs_node
def test_a_table_cannot_run_in_a_spreadsheet():
    rows = [["=HYPERLINK(1)", 'a "b"', "x,y", -1.5], ["plain", "@SUM", "", None]]
    text = run("csvText([{label: 'a'}, {label: 'b'}, {label: 'c'}, {label: 'd'}], given)", given=rows)
    assert text == 'a,b,c,d\r\n\'=HYPERLINK(1),"a ""b""","x,y",-1.5\r\nplain,\'@SUM,,\r\n'


@needs_node
def test_long_curves_are_thinned_to_their_envelope():
    kept = run(
        "(() => { const x = [...Array(100000).keys()], y = x.map((v) => (v === 54321 ? 9 : Math.sin(v)));"
        " const k = thin(x, y, (v) => v / 200, 500); return [k.length, k.includes(54321), k.every((v, i) => !i || v > k[i - 1])]; })()"
    )
    assert kept[0] <= 1100
    assert kept[1:] == [True, True]


@needs_node
@pytest.mark.parametrize(
    "parts",
    [
        (*FRONTIER, "frontier_board"),
        ("byte_ledger",),
        ("capability", "cost_card"),
        ("live", "run_monitor"),
        (*FRONTIER, "live", "layer_grid", "explorer_details", "frontier_explorer"),
        (*FRONTIER, "live", "quantize_lab"),
        ("live", "run_tree", "distill_lab"),
        ("heat", "live", "token_lens"),
        ("heat", "allocation", "live", "layer_grid", "layer_map"),
        ("method_table",),
        ("stack_fields", "stack_compare"),
        ("time_breakdown",),
        ("stack_fields", "roofline"),
        ("live", "receipt"),
    ],
)
def test_every_widget_is_a_module_and_all_its_strings_exist(parts):
    text = script(*parts)
    assert text.count("export default") == 1
    checked = subprocess.run([NODE, "--check", "--input-type=module"], input=text, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    body = text.replace("export default", "globalThis.widget =")
    done = subprocess.run(
        [NODE, "--input-type=module"],
        input=f"{body}\nconsole.log(JSON.stringify(Object.keys(STRINGS)), typeof widget.render)",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    keys, kind = done.stdout.strip().rsplit(" ", 1)
    assert kind == "function"
    used = set(re.findall(r"\bsay\(\"(\w+)\"", text))
    assert used <= set(json.loads(keys))


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda p: p.name)
def test_nothing_is_fetched_and_no_markup_is_written(path):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "import ",
    ):
        assert forbidden not in text, forbidden
    assert not re.search(r"https?://|//cdn|url\((?!#)", text)


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.css")), ids=lambda p: p.name)
def test_styles_stay_inside_their_card_and_ask_for_nothing(path):
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    assert "@import" not in text
    assert "url(" not in text
    for selector in re.findall(r"(?:^|\})\s*([^@{}]+)\{", text):
        assert ".ek-card" in selector, selector
