"""How live a widget is while its work runs: `python tests/benchmarks/live.py [QuantizeLab|DistillLab]`.

A real JupyterLab in a real Chromium; prints one JSON line: the median and worst time of another cell's answer in
milliseconds, the seconds from Cancel to "cancelled" on the page, and how often the charts moved.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from driving import Notebook, Server, browser, chromium, live, live_cells, write_notebook


def main(widget: str) -> int:
    if chromium() is None:
        print("Chromium is missing: sudo apt-get install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="effkit-live-") as place:
        folder, home = Path(place, "notebooks"), Path(place, "home")
        folder.mkdir()
        home.mkdir()
        write_notebook(folder / "live.ipynb", live_cells(widget))
        with Server(folder, home) as server, browser() as context:
            notebook = Notebook(context.new_page(), server, "live.ipynb")
            notebook.run_all(timeout=120)
            print(json.dumps({"widget": widget, **live(notebook, notebook.card(widget), answers=50)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "QuantizeLab"))
