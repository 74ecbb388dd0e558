"""How smooth the explorer is with thousands of points: `python tests/benchmarks/explorer_frames.py [POINTS]`.

Records made by hand in a real JupyterLab in a real Chromium. The pointer draws a rectangle to and fro, then drags a budget line,
with a move in every frame; the time from one requestAnimationFrame to the next is measured in the page. Prints one JSON line:
points, and the median and 95th percentile of the frame times in ms while brushing and while dragging.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from driving import Notebook, chromium, explorer_cells, in_jupyterlab
from reporting import last_line

POINTS, FRAMES = 5000, 240
# each frame: a move of the pointer to where the given path is at that time, then the time since the last frame
DRAWN = """
async ([root, path, frames]) => {
    const svg = document.querySelector(root + ' .ek-frontier > svg[role]'), box = svg.getBoundingClientRect();
    const target = path === 'brush' ? svg : svg.querySelector('.ek-budget-x');
    svg.setPointerCapture = () => {};
    const knob = target.getBoundingClientRect();
    const from = path === 'brush' ? [box.left + 70, box.top + 40] : [knob.x + knob.width / 2, box.top + 60];
    const send = (type, x, y, on) =>
        on.dispatchEvent(new PointerEvent(type, {clientX: x, clientY: y, pointerId: 1, button: 0, bubbles: true}));
    send('pointerdown', ...from, target);
    const times = [];
    let most = 0;
    await new Promise((done) => {
        let last = null, n = 0;
        const step = (now) => {
            if (last !== null) times.push(now - last);
            last = now;
            const at = 0.5 - 0.5 * Math.cos(n / 20);
            send('pointermove', box.left + 80 + at * (box.width - 110), box.top + 50 + at * (box.height - 110), svg);
            most = Math.max(most, Number(svg.parentElement.dataset.brushed ?? 0));
            if (++n > frames) done(); else requestAnimationFrame(step);
        };
        requestAnimationFrame(step);
    });
    send('pointerup', box.left + 200, box.top + 200, svg);
    return {times, most};
}
"""


def frames(notebook: Notebook, path: str, count: int = FRAMES) -> dict[str, float]:
    """Milliseconds of a frame while the pointer draws (`path` "brush") or drags the cost line ("budget"), and the most points inside."""
    root = ".ek-card[data-widget='FrontierExplorer']"
    found = notebook.page.evaluate(DRAWN, [root, path, count])
    times = sorted(found["times"])
    return {"p50": round(statistics.median(times), 1), "p95": round(times[int(0.95 * len(times))], 1), "most": found["most"]}


def main(points: int) -> int:
    if chromium() is None:
        print("Chromium is missing: sudo apt-get install chromium", file=sys.stderr)
        return 2
    with in_jupyterlab("explorer", explorer_cells(points)) as notebook:
        card = notebook.card("FrontierExplorer")
        drawn = "n => document.querySelector('.ek-frontier')?.dataset.points == n"
        notebook.page.wait_for_function(drawn, arg=str(points), timeout=60_000)
        card.locator(".ek-frontier").scroll_into_view_if_needed()
        brush, budget = frames(notebook, "brush"), frames(notebook, "budget")
        last_line(
            {
                "points": points,
                "brush_p50_ms": brush["p50"],
                "brush_p95_ms": brush["p95"],
                "most_brushed": brush["most"],
                "budget_p50_ms": budget["p50"],
                "budget_p95_ms": budget["p95"],
            }
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else POINTS))
