"""How live a widget is while its work runs: `python tests/benchmarks/live.py [QuantizeLab|DistillLab]`.

A real JupyterLab in a real Chromium; prints one JSON line: the median and worst time of another cell's answer in
milliseconds, the seconds from Cancel to "cancelled" on the page, and how often the charts moved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from driving import chromium, in_jupyterlab, live, live_cells


def main(widget: str) -> int:
    if chromium() is None:
        print("Chromium is missing: sudo apt-get install chromium", file=sys.stderr)
        return 2
    with in_jupyterlab("live", live_cells(widget)) as notebook:
        print(json.dumps({"widget": widget, **live(notebook, notebook.card(widget), answers=50)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "QuantizeLab"))
