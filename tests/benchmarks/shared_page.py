"""A page of 40 records, opened from disk with the network cut: its bytes, what it asks for, what it complains of, how soon it answers.

    python tests/benchmarks/shared_page.py [--records FILE ...] [--model FOLDER] [--sensitivity FILE] [--out FOLDER]

Without --records 39 recipes and the base are measured on stories15m, which takes some minutes. It can be used when every card is
drawn and the budget of the layer map has been solved anew after a move of its slider. The last line is one JSON object.
Goal: at most 1 MB, no request, no console error.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from reporting import last_line, shared

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from driving import FLAGS, chromium

print = functools.partial(print, flush=True)
LOADS = 5


def measured(model: str, text: Path) -> tuple[list[Any], Any]:
    """The records of 39 recipes and the base, and the sensitivities of the base."""
    import effkit as ek

    base = ek.load(model, device="cpu")
    quick = {"window": 128, "windows": 8, "prompt": 32, "new_tokens": 8, "repeats": 3, "store": False}
    records = [ek.measure(base, on=text, **quick)]
    made = [(method, bits, group) for method in ("rtn", "hqq", "search") for bits in (2, 3, 4, 5, 6, 8) for group in (32, 96)]
    models = [(ek.quantize, {"method": m, "bits": b, "group_size": g}) for m, b, g in made] + [(ek.prune, {"layers": n}) for n in (3, 4, 5)]
    for number, (verb, options) in enumerate(models, 1):
        records.append(ek.measure(verb(base, **options), base, text, **quick))
        print(f"{number} of {len(models)}: {records[-1].name}", file=sys.stderr)
    return records, ek.sensitivity(base, text)


def opened(chrome: Any, path: Path, size: tuple[int, int], scheme: str, picture: Path | None = None) -> dict[str, Any]:
    """What one visit to the page showed."""
    context = chrome.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: None if request.url == path.as_uri() else asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    begun = time.monotonic()
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.ready", timeout=60_000)
    drawn = time.monotonic() - begun
    slider = page.locator(".ek-card[data-widget='LayerMap'] [name='budget']")
    if slider.count():
        fact = "document.querySelector('.ek-card[data-widget=LayerMap] [data-fact=predicted]').innerText"
        before = page.evaluate(fact)
        slider.first.evaluate("e => { e.value = Number(e.value) + 200; e.dispatchEvent(new Event('input')); }")
        page.wait_for_function(f"(before) => {fact} !== before", arg=before)
    usable = time.monotonic() - begun
    if picture is not None:
        page.wait_for_timeout(500)
        page.screenshot(path=str(picture), full_page=True)
    context.close()
    return {"drawn": drawn, "usable": usable, "asked": asked, "said": said}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", nargs="*", help="files that effkit reads records from (default: 40 are measured)")
    parser.add_argument("--model", help="config.json or folder of the base (default: shared/models/stories15m)")
    parser.add_argument("--sensitivity", help="JSON of ek.sensitivity")
    parser.add_argument("--text", help="text to measure on (default: the sample of TinyStories)")
    parser.add_argument("--out", default="test-results", help="where the page and its pictures go (default: %(default)s)")
    given = parser.parse_args()
    if chromium() is None:
        print("Chromium is missing: sudo apt-get install chromium", file=sys.stderr)
        return 2
    import effkit as ek

    model = given.model or str(shared("models/stories15m", "--model FOLDER"))
    if given.records:
        records: Any = given.records
        found: Any = given.sensitivity
    else:
        text = Path(given.text) if given.text else shared("eval/tinystories-sample/tinystories_sample.txt", "--text FILE")
        records, found = measured(model, text)
    out = Path(given.out)
    out.mkdir(exist_ok=True, parents=True)
    begun = time.monotonic()
    done = ek.share(records, out / "shared_page.html", model=model, sensitivity=found)
    written = time.monotonic() - begun
    from playwright.sync_api import sync_playwright

    looks = {"light": ((1280, 900), "light"), "dark": ((1280, 900), "dark"), "phone": ((390, 844), "light")}
    pictures = {name: out / f"shared_page-{name}.png" for name in looks}
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), headless=True, args=[*root, *FLAGS])
        path = done.path.resolve()
        visits = [opened(chrome, path, *looks[name], pictures[name]) for name in looks]
        timed = [opened(chrome, path, *looks["light"]) for _ in range(LOADS)]
        chrome.close()
    visits += timed
    last_line(
        {
            "records": done.records,
            "bytes": done.bytes,
            "cards": list(done.cards),
            "missing": list(done.notes),
            "requests": sum(len(visit["asked"]) for visit in visits),
            "console_errors": sum(len(visit["said"]) for visit in visits),
            "seconds_drawn": round(statistics.median(visit["drawn"] for visit in timed), 3),
            "seconds_usable": round(statistics.median(visit["usable"] for visit in timed), 3),
            "seconds_to_write": round(written, 1),
            "pictures": [str(path) for path in pictures.values()],
            "page": str(done.path),
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
