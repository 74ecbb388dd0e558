"""Run every part of the tests and print one summary: `python tests/run.py [PART ...]`.

A failing part hides none of the following ones. Each part's output is shown as it comes and kept in test-results/NAME.log.
Counts are read from a part's own closing line ("12 passed, 1 skipped"); a part without one counts as one check.
The last line is 'N passed, N failed, N skipped' over all parts; the exit code is 1 if anything failed.

`python tests/run.py --coverage [PART|FILE ...]` runs the unit tests (or these parts and files of tests) and tells which lines of
effkit/ and widgets/ they reach, in all processes that they start: workers, subprocesses, the kernels of notebooks and of the browser.
It names the files with most lines that none reaches; the last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "test-results"
PYTHON = sys.executable
NBVAL = ["-m", "pytest", "-p", "nbval_tolerance", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
WORKERS = min(os.cpu_count() or 1, 4)  # processes side by side, in the parts that can
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass(frozen=True)
class Part:
    """One part of the tests. `minutes`: it is stopped after these, and counts as failed. `accelerators`: it may use them.

    workers: processes that it starts side by side, each with its share of the cores
    """

    name: str
    title: str
    command: tuple[str, ...]
    minutes: float
    accelerators: bool = False
    workers: int = 1


PARTS = (
    Part("lint", "ruff check", ("-m", "ruff", "check", "."), 1),
    Part("format", "ruff format", ("-m", "ruff", "format", "--check", "."), 1),
    Part("types", "pyright", ("-m", "pyright"), 4),
    Part("unit", "unit tests", ("-m", "pytest", "tests/unit", "-n", str(WORKERS)), 20, workers=WORKERS),
    Part("notebook-lint", "notebook lint", ("tests/notebooks/lint.py",), 1),
    Part("notebooks", "notebooks (nbval)", (*NBVAL, "notebooks"), 14),
    Part("mutation", "mutation gate", ("tests/notebooks/mutation_gate.py",), 20),
    Part("npu", "simulated Ascend", ("tests/npu/run.py",), 8),
    Part("gpu", "CUDA (where there is one)", ("-m", "pytest", "tests/gpu"), 8, accelerators=True),
    Part("browser", "browser", ("-m", "pytest", "tests/browser"), 20),
)


@dataclass(frozen=True)
class Outcome:
    part: Part
    passed: int
    failed: int
    skipped: int
    minutes: float


def counts(output: str, code: int) -> tuple[int, int, int]:
    """Passed, failed and skipped of a part, from its closing line. A part that ran nothing has failed."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    lines = [line for line in output.splitlines() if COUNT.search(line) and not line.lstrip().startswith(("FAILED", "SKIPPED", "ERROR"))]
    for number, word in COUNT.findall(lines[-1]) if lines else ():
        found["failed" if word.startswith("error") else word] += int(number)
    if not sum(found.values()):
        found["passed" if code == 0 else "failed"] = 1
    if code != 0 and not found["failed"]:
        found["failed"] = 1
    return found["passed"], found["failed"], found["skipped"]


def run(part: Part, more: dict[str, str] | None = None) -> Outcome:
    """Run one part in a process group and a home of its own, showing and keeping its output. more: of its environment."""
    print(f"\n=== {part.title} ===", flush=True)
    begun = time.monotonic()
    text: list[str] = []
    with tempfile.TemporaryDirectory(prefix="effkit-") as home, (RESULTS / f"{part.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [PYTHON, *part.command],
            cwd=ROOT,
            env={**environment(home, part.accelerators, part.workers), **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        late = threading.Event()
        timer = threading.Timer(part.minutes * 60, lambda: (late.set(), stop(process)))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                text.append(line)
                log.write(line)
                print(line, end="", flush=True)
            code = process.wait()
        finally:
            timer.cancel()
            stop(process)
    passed, failed, skipped = counts("".join(text), code)
    if late.is_set():
        print(f"{part.title} was stopped after {part.minutes:g} minutes.")
        failed = max(failed, 1)
    return Outcome(part, passed, failed, skipped, (time.monotonic() - begun) / 60)


def environment(home: str, accelerators: bool = False, workers: int = 1) -> dict[str, str]:
    """Where a part runs: offline, on the CPU, with records, Jupyter's settings and IPython's history of its own, and no bars.

    workers: how many of its processes share the cores
    """
    own = {"EFFKIT_HOME": "effkit", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_DATA_DIR": "jupyter-data", "IPYTHONDIR": "ipython"}
    fixed = {"EFFKIT_PROGRESS": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    # Threads that wait by spinning are fifty times slower where other programs need the cores too, such as a browser here.
    fixed["OMP_WAIT_POLICY"] = "PASSIVE"
    if workers > 1:
        fixed["OMP_NUM_THREADS"] = fixed["MKL_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    if not accelerators:
        fixed["CUDA_VISIBLE_DEVICES"] = ""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests" / "notebooks"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **fixed, "PYTHONPATH": path, **{name: str(Path(home) / folder) for name, folder in own.items()}}


def stop(process: subprocess.Popen) -> None:
    """End what is left of the part's process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def summary(outcomes: list[Outcome]) -> str:
    """A line a part, and the totals alone on the last line."""
    lines = [f"{'part':<26} {'passed':>7} {'failed':>7} {'skipped':>8} {'minutes':>8}"]
    lines += [f"{o.part.title:<26} {o.passed:>7} {o.failed:>7} {o.skipped:>8} {o.minutes:>8.1f}" for o in outcomes]
    passed, failed, skipped = (sum(getattr(o, name) for o in outcomes) for name in ("passed", "failed", "skipped"))
    lines.append(f"{'all':<26} {passed:>7} {failed:>7} {skipped:>8} {sum(o.minutes for o in outcomes):>8.1f}")
    return "\n".join([*lines, "", f"{passed} passed, {failed} failed, {skipped} skipped"])


def coverage(names: list[str]) -> int:
    """Lines of effkit/ and widgets/ that tests reach, in every Python process below them: coverage.py starts by itself in each where
    COVERAGE_PROCESS_START names its settings, and writes a file of its own when the process ends. One that is killed tells nothing."""
    known = {part.name: part for part in PARTS}
    parts = [replace(known[name], minutes=3 * known[name].minutes) for name in names if name in known]
    files = [name for name in names if name not in known]
    if files or not parts:
        asked = ("-m", "pytest", *(files or ["tests/unit"]), "-n", str(WORKERS))
        parts.append(Part("coverage", "tests, with coverage", asked, 60, workers=WORKERS))
    report = RESULTS / "coverage.json"
    with tempfile.TemporaryDirectory(prefix="effkit-coverage-") as folder:
        settings = Path(folder) / "settings"
        lines = ["[run]", f"source = {ROOT / 'effkit'}", f"    {ROOT / 'widgets' / 'effkit_widgets'}", f"data_file = {folder}/data"]
        lines += ["parallel = true", "sigterm = true", "disable_warnings = no-data-collected, module-not-measured"]
        settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        done = [run(part, {"COVERAGE_PROCESS_START": str(settings)}) for part in parts]
        processes = len(list(Path(folder).glob("data.*")))
        for words in (("combine", "--quiet"), ("json", "--quiet", "-o", str(report))):
            subprocess.run([PYTHON, "-m", "coverage", *words, f"--rcfile={settings}"], cwd=ROOT, check=True)
    told = _told(json.loads(report.read_text(encoding="utf-8"))["files"])
    passed, failed = (sum(getattr(one, name) for one in done) for name in ("passed", "failed"))
    minutes = round(sum(one.minutes for one in done), 1)
    print(json.dumps({**told, "processes": processes, "passed": passed, "failed": failed, "minutes": minutes}))
    return 1 if failed else 0


def _told(files: dict[str, Any]) -> dict[str, Any]:
    """Print the files with most lines that nothing reached; the shares of both rooms."""
    for name, one in sorted(files.items(), key=lambda item: -item[1]["summary"]["missing_lines"])[:20]:
        print(f"{one['summary']['missing_lines']:>5} of {one['summary']['num_statements']:>5} lines not reached  {name}")
    found: dict[str, Any] = {"coverage_percent": {}}
    for room in ("effkit", "widgets"):
        of = [one["summary"] for name, one in files.items() if name.split("/")[0] == room]
        reached, lines = (sum(one[field] for one in of) for field in ("covered_lines", "num_statements"))
        found["coverage_percent"][room], found[f"{room}_lines"] = round(100 * reached / max(lines, 1), 1), lines
    return found


def main(names: list[str]) -> int:
    if names[:1] == ["--coverage"]:
        RESULTS.mkdir(exist_ok=True)
        return coverage(names[1:])
    known = {part.name: part for part in PARTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"There is no part {', '.join(map(repr, unknown))}. Allowed: {', '.join(known)}.", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    outcomes = [run(part) for part in PARTS if not names or part.name in names]
    text = summary(outcomes)
    (RESULTS / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print("\n" + text, flush=True)
    return 1 if any(o.failed for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
