"""The harness itself: the notebook lint, the tolerance of nbval, the runner's counting, and what set-up says when it cannot."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output as output

ROOT = Path(__file__).resolve().parents[2]


def module(path: str):
    """A script of the harness as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


tolerance = module("tests/notebooks/nbval_tolerance.py")
lint = module("tests/notebooks/lint.py")
runner = module("tests/run.py")
environment = module("tools/environment.py")
gate = module("tests/notebooks/mutation_gate.py")
builder = module("tools/build_notebooks.py")


# --- tolerance


@pytest.mark.parametrize(
    ("reference", "new"),
    [
        ("perplexity 27.00", "perplexity 27.10"),
        ("keeps 97.4% at 0.5.", "keeps 97.2% at 0.501."),
        ("[0.0310, 1.5e-05]", "[0.03101, 1.503e-05]"),
        ("-0.250 and 1e-3", "-0.2501 and 1.0e-3"),
        ("same text, 30 layers", "same text, 30 layers"),
    ],
)
def test_close_numbers_are_equal(reference, new):
    assert tolerance.close(reference, new)
    assert tolerance.Text(reference) == new


@pytest.mark.parametrize(
    ("reference", "new"),
    [
        ("perplexity 27.00", "perplexity 27.54"),
        ("30 layers", "31 layers"),
        ("torch 2.13.0", "torch 2.13.1"),
        ("keeps 97.4%", "loses 97.4%"),
        ("0.1, 0.2", "0.1"),
        ("-0.25", "0.25"),
        ("True", "False"),
    ],
)
def test_other_differences_are_seen(reference, new):
    assert not tolerance.close(reference, new)
    assert tolerance.Text(reference) != new


def nbval(folder: Path, notebook) -> subprocess.CompletedProcess:
    path = folder / "made.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, *runner.NBVAL, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, env=runner.environment(str(folder)))


def executed(*cells: tuple[str, str]):
    """A notebook of (source, printed text), as if it had been run."""
    notebook = nbformat.v4.new_notebook()
    for number, (code, text) in enumerate(cells, 1):
        cell = nbformat.v4.new_code_cell(code, execution_count=number)
        cell.outputs = [output("stream", name="stdout", text=text)] if text else []
        notebook.cells.append(cell)
    return notebook


def test_nbval_passes_what_is_within_tolerance_and_ignores_warnings(tmp_path):
    noisy = "import sys; print('a warning', file=sys.stderr); print('perplexity', 27.1, 'of', 4, 'layers')"
    done = nbval(tmp_path, executed((noisy, "perplexity 27.0 of 4 layers\n")))
    assert done.returncode == 0, done.stdout


def test_nbval_fails_what_is_outside(tmp_path):
    done = nbval(tmp_path, executed(("print('perplexity', 27.6)", "perplexity 27.0\n"), ("print(5, 'layers')", "4 layers\n")))
    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout


# --- lint


def good_notebook():
    return executed(*[(f"print({n})", f"{n}\n") for n in range(4)])


def test_lint_accepts_a_good_notebook():
    assert lint.problems(good_notebook()) == []


def tag(notebook, *numbers, name="nbval-ignore-output"):
    for number in numbers:
        notebook.cells[number].metadata["tags"] = [name]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda n: n.cells[1].update(execution_count=None), "code cell 2: was never executed"),
        (lambda n: n.cells[3].update(execution_count=9), "code cell 4: has execution count 9"),
        (lambda n: n.cells[0].outputs.append(output("error", ename="ValueError", evalue="bad")), "holds an error: ValueError: bad"),
        (lambda n: n.cells[0].outputs.append(output("stream", name="stderr", text="a warning")), "wrote to standard error"),
        (lambda n: n.cells[0].outputs[0].update(text="<Model at 0x7f12ab34cd>"), "shows a memory address: '0x7f12ab34cd'"),
        (lambda n: n.cells[0].outputs[0].update(text="saved to /home/ada/runs"), "shows an absolute path: '/home/ada'"),
        (lambda n: n.cells[0].outputs[0].update(text="saved to /tmp/x1"), "shows an absolute path: '/tmp/x1'"),
        (lambda n: tag(n, 0, 1), "2 strict cells"),
        (lambda n: tag(n, 0, 1), "2 of 4 code cells are ignored by nbval; at most 30% may be"),
        (lambda n: tag(n, 0, name="nbval-skip"), "code cell 1: is tagged nbval-skip"),
        (lambda n: [cell.update(outputs=[]) for cell in n.cells[:2]], "2 strict cells"),
    ],
)
def test_lint_finds(harm, problem):
    notebook = copy.deepcopy(good_notebook())
    harm(notebook)
    assert any(problem in found for found in lint.problems(notebook)), lint.problems(notebook)


def test_lint_leaves_addresses_of_pages_and_relative_paths_alone():
    notebook = good_notebook()
    notebook.cells[0].outputs[0].text = "http://127.0.0.1:8888/lab/tree/home/x runs/home/a and/or"
    assert lint.problems(notebook) == []


# --- runner


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("........\n8 passed in 1.2s\n", 0, (8, 0, 0)),
        ("FAILED a.py::b - 3 failed\n1 failed, 7 passed, 2 skipped in 9.9s\n", 1, (7, 1, 2)),
        ("3 passed, 1 error in 2s", 1, (3, 1, 0)),
        ("All checks passed!", 0, (1, 0, 0)),
        ("Found 3 errors.", 1, (0, 3, 0)),
        ("killed", -9, (0, 1, 0)),
        ("8 passed", 2, (8, 1, 0)),
        ("", 5, (0, 1, 0)),
    ],
)
def test_counts(output, code, expected):
    assert runner.counts(output, code) == expected


def test_the_runner_goes_on_after_a_failure_and_stops_what_hangs(monkeypatch, tmp_path, capsys):
    parts = (
        runner.Part("bad", "bad", ("-c", "print('1 passed, 1 failed'); raise SystemExit(1)"), 1),
        runner.Part("hangs", "hangs", ("-c", "import time; time.sleep(60)"), 0.01),
        runner.Part("good", "good", ("-c", "print('5 passed, 2 skipped')"), 1),
    )
    monkeypatch.setattr(runner, "PARTS", parts)
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    assert runner.main([]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "6 passed, 2 failed, 2 skipped"
    assert "hangs was stopped after 0.01 minutes." in printed
    assert (tmp_path / "bad.log").read_text() == "1 passed, 1 failed\n"


def test_the_runner_names_an_unknown_part(capsys):
    assert runner.main(["unti"]) == 2
    assert capsys.readouterr().err.startswith("There is no part 'unti'. Allowed: lint, format, types, unit,")


# --- set-up


def test_set_up_says_that_python_is_too_old(monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(environment.sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    python, problem = environment.interpreter()
    assert python is None
    assert problem == (
        "effkit needs Python 3.11 or later; /usr/bin/python3 is 3.9, and no newer one is on the PATH. Install one (Debian, Ubuntu: "
        "sudo apt-get install python3.11 python3.11-venv), or name one: make lab PYTHON=/path/to/python3.12"
    )


def test_set_up_takes_a_newer_python_on_the_path(monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(environment.shutil, "which", lambda name: sys.executable if name == "python3.12" else None)
    assert environment.interpreter() == (sys.executable, None)


def test_set_up_says_that_venv_is_missing(monkeypatch, tmp_path):
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(broken))
    python, problem = environment.interpreter()
    assert python is None
    assert problem == (
        f"{broken} cannot make environments: its venv or ensurepip is missing. "
        "Install it (Debian, Ubuntu: sudo apt-get install python3-venv) and run the same command again."
    )


def test_set_up_is_done_once_until_a_pin_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("numpy==2.4.6\n")
    installed: list[tuple] = []
    monkeypatch.setattr(environment, "pip", lambda *arguments: installed.append(arguments))
    assert environment.main(["lab"]) is None
    assert environment.main(["lab"]) is None
    assert len(installed) == 3
    assert (tmp_path / ".venv/share/jupyter/lab/settings/overrides.json").exists()
    (tmp_path / "constraints.txt").write_text("numpy==2.4.7\n")
    assert environment.main(["lab"]) is None
    assert len(installed) == 6


def test_set_up_says_that_pip_failed_and_leaves_no_stamp(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(environment, "pip", lambda *arguments: 1)
    problem = environment.main(["test", "--python-only"])
    assert problem.startswith("pip could not install hatchling editables, see above. The first time needs network access")
    assert not environment.made("test")


def test_set_up_says_what_it_may_not_install(monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(environment.os, "geteuid", lambda: 1000)
    assert environment.system_tools() == (
        "apt-get needs a password here, so tests that need it are skipped or fail: "
        "sudo apt-get install chromium fonts-dejavu-core gcc libc6-dev"
    )


def test_every_pin_is_exact_and_public():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) > 100
    for line in lines:
        name, _, version = line.partition("==")
        assert all((name, version, not set("+@/ <>") & set(line))), line


# --- mutation gate


@pytest.mark.parametrize("mutant", gate.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_fits_the_source(mutant):
    text = (ROOT / "effkit" / mutant.file).read_text(encoding="utf-8")
    assert gate.mutated(text, mutant) != text


@pytest.mark.parametrize("mutant", gate.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_names_a_strict_cell(mutant):
    whole = nbformat.read(ROOT / "notebooks" / f"{mutant.notebook}.ipynb", as_version=4)
    part = gate.slice_of(whole, mutant.at)
    assert lint.is_strict(part.cells[-1])
    assert len(part.cells) < sum(cell.cell_type == "code" for cell in whole.cells)


def test_a_slice_holds_what_its_last_cell_stands_on():
    cells = [
        "import effkit as ek", "base = ek.load('x')", "slow = ek.profile(base)", "found = []", "found.append(base)",
        "lab = ek.lab(base)\nlab", "lab.start()\ndone = await lab", "other = 1", "table = {}\ntable['a'] = done", "print(found, table)",
    ]  # fmt: skip
    whole = executed(*[(code, "") for code in cells])
    kept = [cell.source for cell in gate.slice_of(whole, "print(found").cells]
    assert kept == [code for code in cells if not code.startswith(("slow", "other"))]
    assert [cell.source for cell in gate.slice_of(whole, "slow =").cells] == cells[:3]
    with pytest.raises(ValueError, match="2 cells hold the words 'lab', not one"):
        gate.slice_of(whole, "lab")


def test_every_verb_that_a_lesson_teaches_is_broken():
    assert {mutant.verb for mutant in gate.MUTANTS} == {"quantize", "distill", "profile", "explore"}


def test_a_mutant_whose_line_is_gone_is_refused():
    mutant = gate.Mutant("gone", "quantize", "compress/quantization/rounding.py", "no such line", "")
    with pytest.raises(ValueError, match="holds 'no such line' 0 times, not once: bring this mutant up to date"):
        gate.mutated("x = 1", mutant)


def test_the_gate_sees_a_mutant_caught_and_one_that_survives(tmp_path):
    checks = "from effkit.spec.errors import bytes_text\nprint(bytes_text(79_700_000))"
    watchful, blind = tmp_path / "watchful.ipynb", tmp_path / "blind.ipynb"
    nbformat.write(executed(("print(1)", "1\n"), (checks, "79.7 MB\n")), watchful)
    nbformat.write(executed(("import effkit", "")), blind)
    mutant = gate.Mutant("other units", "profile", "spec/errors.py", '("MB", 1e6)', '("MB", 2**20)')
    assert gate.caught_by(mutant, tmp_path, watchful) == (1, "Cell outputs differ")
    assert gate.caught_by(mutant, tmp_path, blind) is None


# --- notebook builder


def test_a_source_becomes_cells():
    notebook = builder.parse("# Title\n\nWords.\n\n```python\nx = 1\n```\n\nMore.\n\n```python live\nx\n```\n")
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        ("markdown", "# Title\n\nWords."),
        ("code", "x = 1"),
        ("markdown", "More."),
        ("code", "x"),
    ]
    assert notebook.cells[3].metadata["tags"] == ["nbval-ignore-output"]
    assert "tags" not in notebook.cells[1].metadata
    assert [cell.id for cell in notebook.cells] == ["cell-1", "cell-2", "cell-3", "cell-4"]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_committed_notebook_is_its_source_executed(path):
    written = builder.parse((builder.SOURCES / f"{path.stem}.md").read_text(encoding="utf-8"))
    committed = nbformat.read(path, as_version=4)
    shape = [[(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in n.cells] for n in (written, committed)]
    assert shape[0] == shape[1], "run: python tools/build_notebooks.py"
