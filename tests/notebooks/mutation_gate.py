"""Break quantize, distill, profile and explore in turn, and see a notebook go red: `python tests/notebooks/mutation_gate.py [MUTANT ...]`.

A committed notebook that stays green whatever the library does tests nothing. Each mutant is one change of one line in a
copy of the library; the notebook runs through nbval against that copy until a cell fails. A mutant that survives fails
the gate, and so does one whose line is no longer in the source: then the gate must be brought up to date.

A mutant names the cell that is there to catch it. Only that cell runs and what its names come from (`slice_of`), because a
whole notebook takes minutes. What fails in this part fails in the whole, which runs the same cells in the same order.
"""

from __future__ import annotations

import ast
import copy
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
MINUTES = 8  # for one mutant
OWN = (ast.For, ast.comprehension, ast.withitem)  # they bind the names that their own statement reads

sys.path.insert(0, str(ROOT / "tests"))

import run as runner  # noqa: E402


@dataclass(frozen=True)
class Mutant:
    """`old` stands exactly once in `file` and becomes `new`. at: words of the cell of `notebook` that must catch it."""

    name: str
    verb: str
    file: str
    old: str
    new: str
    at: str = ""
    notebook: str = "00_quickstart"


MUTANTS = (
    Mutant(
        "the first token counts as an output token",
        "profile",
        "measure/latency.py",
        "self.rest.append(spent[1:])",
        "self.rest.append(spent)",
        "repeats that count",
    ),
    Mutant(
        "warm-up repeats are kept",
        "profile",
        "measure/latency.py",
        "        each.forget(discarded)\n",
        "        pass\n",
        "repeats that count",
    ),
    Mutant(
        "zero points are one too high",
        "quantize",
        "compress/quantization/rounding.py",
        "None if zeros is None else zeros.to(torch.uint8))",
        "None if zeros is None else (zeros + 1).to(torch.uint8))",
        "for bits in (8, 4, 3)",
    ),
    Mutant(
        "the lowest level of every group is not used",
        "quantize",
        "compress/quantization/rounding.py",
        "q.clamp_(0, 2**bits - 1)",
        "q.clamp_(1, 2**bits - 1)",
        "for bits in (8, 4, 3)",
    ),
    Mutant(
        "bits go to the largest gain, whatever it costs in bytes",
        "quantize",
        "spec/allocation.py",
        "return (hull[i].kl - hull[i + 1].kl) / (hull[i + 1].bytes - hull[i].bytes)",
        "return hull[i].kl - hull[i + 1].kl",
        "predicted to lose less than",
        "01_quantize",
    ),
    Mutant(
        "what an input loses is not made good by the rest",
        "quantize",
        "compress/quantization/methods/gptq.py",
        "error = (column - (q - z) * s) / u[j, j]",
        "error = torch.zeros_like(column)",
        "less than a third of its KL",
        "01_quantize",
    ),
    Mutant(
        "the student is not divided by the temperature",
        "distill",
        "compress/distillation/losses.py",
        "torch.log_softmax(student.float() / temperature, dim=-1)",
        "torch.log_softmax(student.float(), dim=-1)",
        "first batch, at temperature 2",
    ),
    Mutant(
        "the optimiser never steps",
        "distill",
        "compress/weights.py",
        "            self.scaler.step(self.optimizer)\n",
        "",
        "the mistake made it worse",
        "02_distill",
    ),
    Mutant(
        "whatever differs is told apart",
        "explore",
        "spec/intervals.py",
        "    return [bool(value) for value in held | ~apart.any(axis=1)]",
        "    return [bool(value) for value in ~apart.any(axis=1)]",
        "8 bits in groups of 32 or 64",
        "05_tradeoffs",
    ),
    Mutant(
        "a front holds what is worse on both axes",
        "explore",
        "spec/frontier.py",
        "        if b < best[1] or (a, b) == best:",
        "        if True:",
        "are beaten",
        "05_tradeoffs",
    ),
    Mutant(
        "reverse KL is forward KL",
        "distill",
        "compress/distillation/losses.py",
        "return forward_kl(teacher, student, temperature)",
        "return forward_kl(student, teacher, temperature)",
        'table["prefers"]',
        "02_distill",
    ),
)


def mutated(text: str, mutant: Mutant) -> str:
    """The source with the mutant's change; ValueError if its line does not stand there exactly once."""
    if (found := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.file} holds {mutant.old!r} {found} times, not once: bring this mutant up to date")
    return text.replace(mutant.old, mutant.new)


def names(code: str) -> tuple[set[str], set[str], set[str]]:
    """The names that a cell needs from before, those that it makes anew, and those that it may change by a method or an item."""
    needs: set[str] = set()
    makes: set[str] = set()
    changes: set[str] = set()
    for statement in ast.parse(code).body:
        made = set()
        targets = [
            getattr(node, "target", None) or getattr(node, "optional_vars", None) for node in ast.walk(statement) if isinstance(node, OWN)
        ]
        own = {node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)}
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                made |= {node.id} if isinstance(node.ctx, ast.Store) else set()
                needs |= {node.id} - makes - own if isinstance(node.ctx, ast.Load) else set()
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                made.add(node.name)
            elif isinstance(node, ast.AugAssign):
                needs |= root(node.target) - makes
            elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
                changes |= root(node)
            elif isinstance(node, ast.Expr) and (
                isinstance(node.value, ast.Await) or isinstance(getattr(node.value, "func", None), ast.Attribute)
            ):
                changes |= root(node.value)
        makes |= made
    return needs, makes, changes


def root(node: ast.AST) -> set[str]:
    """The name at the bottom of `a.b[c].d(...)`, as a set; empty where there is none."""
    while not isinstance(node, ast.Name):
        node = getattr(node, "func", None) or getattr(node, "value", None)  # type: ignore[assignment]
        if node is None:
            return set()
    return {node.id}


def slice_of(notebook: Any, at: str) -> Any:
    """A copy of the notebook that ends with the one cell that holds the words `at` and keeps only what it stands on."""
    made = copy.deepcopy(notebook)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    last = [number for number, cell in enumerate(code) if at in cell.source]
    if len(last) != 1:
        raise ValueError(f"{len(last)} cells hold the words {at!r}, not one: bring this mutant up to date")
    kept, wanted = [code[last[0]]], names(code[last[0]].source)[0]
    modules = names("\n".join(line for cell in code for line in cell.source.splitlines() if line.startswith(("import ", "from "))))[1]
    for cell in reversed(code[: last[0]]):
        needs, makes, changes = names(cell.source)
        if (makes | (changes - modules)) & wanted:  # a call in a module changes nothing
            kept.insert(0, cell)
            wanted = (wanted - makes) | needs
    made.cells = kept
    return made


def caught_by(mutant: Mutant, home: Path, notebook: Path) -> tuple[int, str] | None:
    """The first code cell that fails against the mutant, with what it says; None if every cell passes.

    The mutant must be what runs, so the copy's place is asked for first. Reference outputs of the base are kept in
    `home` from mutant to mutant: no mutant here changes them. Several are judged at once, each in a process of its own.
    """
    with tempfile.TemporaryDirectory(prefix="effkit-mutant-") as folder:
        shutil.copytree(ROOT / "effkit", Path(folder) / "effkit", ignore=shutil.ignore_patterns("__pycache__"))
        target = Path(folder) / "effkit" / mutant.file
        target.write_text(mutated(target.read_text(encoding="utf-8"), mutant), encoding="utf-8")
        environment = runner.environment(str(home), workers=runner.WORKERS)
        environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}"
        where = subprocess.run(
            [sys.executable, "-c", "import effkit; print(effkit.__file__)"], cwd=home, env=environment, capture_output=True, text=True
        )
        assert where.stdout.startswith(folder), f"the mutant is not what runs: {where.stdout}{where.stderr}"
        done = subprocess.run(
            [sys.executable, *runner.NBVAL, "-x", "--color=no", "--tb=short", str(notebook)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=MINUTES * 60,
        )
    if done.returncode == 0:
        return None
    failed = re.search(r"Cell (\d+): (.+)", done.stdout)
    if failed is None or "NameError" in done.stdout:  # a cell that was needed is missing
        raise RuntimeError(f"nbval ended with {done.returncode}, but no cell failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return int(failed[1]), failed[2]


def first_line(notebook: Path, number: int) -> str:
    """The first line of the code cell that nbval counts as `number`."""
    code = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    return code[number].source.splitlines()[0]


def judged(mutant: Mutant, home: Path) -> tuple[bool, str]:
    """Whether a cell caught it, and the line that says which."""
    begun = time.monotonic()
    try:
        whole = nbformat.read(NOTEBOOKS / f"{mutant.notebook}.ipynb", as_version=4)
        with tempfile.TemporaryDirectory(dir=home) as own:
            notebook = Path(own) / f"{mutant.notebook}.ipynb"
            nbformat.write(slice_of(whole, mutant.at), notebook)
            result = caught_by(mutant, home, notebook)
            cell = f"{mutant.notebook}, {first_line(notebook, result[0])!r}" if result else ""
    except (ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
        return False, f"{mutant.verb}: {mutant.name}: cannot be judged: {error}"
    if result is None:
        return False, f"{mutant.verb}: {mutant.name}: SURVIVED"
    return True, f"{mutant.verb}: {mutant.name}: caught by {cell}: {result[1]}, {time.monotonic() - begun:.0f} s"


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names or mutant.verb in names]
    caught = 0
    with tempfile.TemporaryDirectory(prefix="effkit-gate-") as home, ThreadPoolExecutor(runner.WORKERS) as workers:
        for done in as_completed([workers.submit(judged, mutant, Path(home)) for mutant in chosen]):
            passed, line = done.result()
            caught += passed
            print(line, flush=True)
    print(f"{caught} passed, {len(chosen) - caught} failed")
    return 0 if chosen and caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
