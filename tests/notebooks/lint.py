"""What a committed notebook must be: `python tests/notebooks/lint.py [NOTEBOOK ...]` (all of notebooks/ without arguments).

Executed from top to bottom in a fresh kernel, without an error; compared where it counts (at least three strict cells,
at most 30% of code cells ignored); and the same for every reader: no memory address, no path of one machine, no warning.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IGNORE, SKIP = "nbval-ignore-output", "nbval-skip"
STRICT_AT_LEAST = 3
IGNORED_AT_MOST = 0.3
LARGEST = 4_000_000
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
# A path below one of the usual roots; "/root" inside a URL or a longer path does not count.
PATH = re.compile(r"(?<![\w/.:\-])(?:/(?:home|root|tmp|Users|usr|opt|mnt|var|work|private|srv|data)/[\w.\-]+|[A-Z]:\\\w+)")


def problems(notebook: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a notebook, one sentence each."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and source(cell).strip()]
    found: list[str] = []
    for number, cell in enumerate(code, 1):
        found += [f"code cell {number}: {problem}" for problem in cell_problems(cell, number)]
    ignored = sum(bool({IGNORE, SKIP} & tags(cell)) for cell in code)
    strict = sum(is_strict(cell) for cell in code)
    if strict < STRICT_AT_LEAST:
        found.append(f"{strict} strict cells (executed, compared, with output); at least {STRICT_AT_LEAST} are needed")
    if ignored > IGNORED_AT_MOST * len(code):
        found.append(f"{ignored} of {len(code)} code cells are ignored by nbval; at most {IGNORED_AT_MOST:.0%} may be")
    return found


def cell_problems(cell: dict[str, Any], number: int) -> list[str]:
    found = []
    count = cell.get("execution_count")
    if count is None:
        found.append("was never executed (nbval passes it silently)")
    elif count != number:
        found.append(f"has execution count {count}: the notebook was not run from top to bottom in a fresh kernel")
    if SKIP in tags(cell):
        found.append(f"is tagged {SKIP}: tag it {IGNORE}, so that it is run")
    for output in cell.get("outputs", []):
        if output["output_type"] == "error" and "raises-exception" not in tags(cell):
            found.append(f"holds an error: {output.get('ename')}: {output.get('evalue')}")
        if output.get("name") == "stderr":
            found.append(f"wrote to standard error: {text_of(output)[:120]!r}")
        text = text_of(output)
        for what, pattern in (("a memory address", ADDRESS), ("an absolute path", PATH)):
            if match := pattern.search(text):
                found.append(f"shows {what}: {match.group()!r}")
    return found


def is_strict(cell: dict[str, Any]) -> bool:
    """Compared by nbval, and with something to compare."""
    texts = [text_of(output) for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return not {IGNORE, SKIP, "raises-exception"} & tags(cell) and cell.get("execution_count") is not None and any(map(str.strip, texts))


def text_of(output: dict[str, Any]) -> str:
    """All that an output shows as text or HTML; pictures and widget models left out."""
    parts = [output.get("text", ""), *output.get("traceback", [])]
    parts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join("".join(part) for part in parts)


def tags(cell: dict[str, Any]) -> set[str]:
    return set(cell.get("metadata", {}).get("tags", []))


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def file_problems(path: Path) -> list[str]:
    """The problems of a file: its size, its shape, its cells."""
    size = path.stat().st_size
    found = [f"is {size / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB"] if size > LARGEST else []
    return found + problems(json.loads(path.read_text(encoding="utf-8")))


def main(arguments: list[str]) -> int:
    paths = [Path(argument) for argument in arguments] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failed = 0
    for path in paths:
        found = file_problems(path)
        failed += bool(found)
        print(f"{path.name}: {'; '.join(found) if found else 'as it should be'}")
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
