"""Make the committed notebooks: `python tools/build_notebooks.py [NAME ...]` (all of tools/notebooks/ without arguments).

A notebook is written as Markdown: prose, and fenced `python` blocks that become code cells. A block that begins with
```python live is tagged `nbval-ignore-output`: its output differs from run to run. The notebook is executed from top to
bottom in a fresh kernel, in the environment that the tests use, and saved only if the lint finds nothing in it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tools" / "notebooks"
NOTEBOOKS = ROOT / "notebooks"
FENCE = re.compile(r"^```python( live)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MINUTES = 20  # a cell; far more than it takes, so that a busy machine can make notebooks too

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "notebooks")]

import lint  # noqa: E402
import run as runner  # noqa: E402


def parse(text: str) -> nbformat.NotebookNode:
    """The notebook that a source describes, not yet executed. Cell ids are their numbers, so that they do not change."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    end = 0
    for block in FENCE.finditer(text):
        add(notebook, nbformat.v4.new_markdown_cell(text[end : block.start()].strip()))
        code = nbformat.v4.new_code_cell(block[2].strip())
        if block[1]:
            code.metadata["tags"] = [lint.IGNORE]
        add(notebook, code)
        end = block.end()
    add(notebook, nbformat.v4.new_markdown_cell(text[end:].strip()))
    return notebook


def add(notebook: nbformat.NotebookNode, cell: nbformat.NotebookNode) -> None:
    if cell.source:
        cell["id"] = f"cell-{len(notebook.cells) + 1}"
        notebook.cells.append(cell)


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run all cells in a kernel of this Python, with a home of its own that leaves no trace in the outputs."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory(prefix="effkit-") as home:
        os.environ.update(runner.environment(home))
        client = NotebookClient(notebook, timeout=MINUTES * 60, kernel_name="python3", record_timing=False)
        client.execute(cwd=str(NOTEBOOKS))
        text = nbformat.writes(notebook)
        for place, shown in ((home, "~"), (str(ROOT), ".")):
            text = text.replace(json.dumps(place)[1:-1], shown)
        return nbformat.reads(text, as_version=4)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what differs from machine to machine and says nothing."""
    notebook.metadata.pop("language_info", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def main(names: list[str]) -> int:
    sources = [SOURCES / f"{Path(name).stem}.md" for name in names] or sorted(SOURCES.glob("*.md"))
    bad = 0
    for source in sources:
        begun = time.monotonic()
        notebook: Any = tidy(execute(parse(source.read_text(encoding="utf-8"))))
        found = lint.problems(notebook)
        seconds = time.monotonic() - begun
        if found:
            bad += 1
            rejected = Path(tempfile.gettempdir()) / f"{source.stem}.rejected.ipynb"
            nbformat.write(notebook, rejected)
            print(f"{source.stem}: executed in {seconds:.0f} s, not saved (see {rejected}): {'; '.join(found)}")
        else:
            nbformat.write(notebook, NOTEBOOKS / f"{source.stem}.ipynb")
            print(f"{source.stem}: executed in {seconds:.0f} s and saved")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
