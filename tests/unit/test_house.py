"""The shape of the house: imports run downward, the surface is a list, and importing effkit loads nothing heavy."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "effkit"
WIDGETS = ROOT / "widgets" / "effkit_widgets"
ROOMS = ("spec", "hardware", "models", "measure", "compress", "lab", "cli")
MODULES = sorted([*LIBRARY.rglob("*.py"), *WIDGETS.rglob("*.py")])
PAGES = sorted(path for pattern in ("*.js", "*.css", "*.html", "*.j2") for path in [*LIBRARY.rglob(pattern), *WIDGETS.rglob(pattern)])

SURFACE = [
    "Calibration", "Capability", "Checkpoint", "Claim", "Cost", "Distill", "EffkitError", "Estimate", "Exploration", "Exported",
    "Frontier", "Model", "Plan", "Profile", "Progress", "Prune", "Quality", "Quantize", "Recipe", "Record", "Replay", "Run", "Space",
    "Store", "Student", "accelerator", "accelerators", "architecture", "attach", "best_format", "bottleneck", "break_even_price",
    "breakdown", "calibrate", "claim", "classifier", "compare_tokens", "device", "devices", "distill", "evaluate", "explore", "export",
    "finetune", "fleet", "load", "measure", "plan", "plausible", "price", "profile", "project", "prune", "quantize", "read_labelled",
    "read_records", "replay", "sensitivity", "share", "start", "student", "sweep", "write_records",
]  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """Full names of all modules that a file imports, wherever in the file: 'effkit.spec.errors', 'torch'."""
    package = ("effkit", *path.relative_to(LIBRARY).parts[:-1]) if path.is_relative_to(LIBRARY) else ("effkit_widgets",)
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module or ""
            names += [f"{home}.{alias.name}" for alias in node.names]
    return names


def upward(room: str, names: list[str]) -> list[str]:
    """Those of `names` that `room` may not import: rooms above it, the widgets, and effkit's own front door."""
    allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = [name for name in names if name.split(".")[0] == "effkit_widgets"]
    for name in names:
        parts = name.split(".")
        if parts[0] == "effkit" and not (len(parts) > 1 and (parts[1] in allowed or parts[1] == "__version__")):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", [p for p in sorted(LIBRARY.rglob("*.py")) if p != LIBRARY / "__init__.py"], ids=name_of)
def test_imports_run_downward(path):
    assert room_of(path) in ROOMS, f"{name_of(path)} stands in no room: {ROOMS}"
    assert upward(room_of(path), imported(path)) == []


def test_the_import_check_sees_an_upward_import():
    assert upward("models", ["effkit.lab.runs.run.Run", "effkit.spec.errors", "torch"]) == ["effkit.lab.runs.run.Run"]
    assert upward("spec", ["effkit_widgets.quantize_lab"]) == ["effkit_widgets.quantize_lab"]
    assert upward("lab", ["effkit.load"]) == ["effkit.load"]
    assert "effkit.spec.recipe.Step" in imported(LIBRARY / "spec" / "plan.py")


def test_spec_is_pure_python():
    for path in sorted((LIBRARY / "spec").rglob("*.py")):
        heavy = {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "accelerate", "bitsandbytes", "safetensors"}
        assert not heavy, f"{name_of(path)} imports {heavy}"


def test_the_public_surface_is_this_list():
    import effkit

    assert effkit.__all__ == SURFACE == sorted(SURFACE)
    assert set(SURFACE) <= set(dir(effkit))


@pytest.mark.parametrize("name", SURFACE)
def test_every_public_name_is_there(name):
    import effkit

    assert getattr(effkit, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    import effkit

    with pytest.raises(AttributeError, match="module 'effkit' has no attribute 'quantise'"):
        effkit.quantise  # noqa: B018


def test_importing_effkit_loads_neither_torch_nor_transformers():
    heavy = ["torch", "transformers", "accelerate", "bitsandbytes", "pandas", "matplotlib", "seaborn", "IPython", "anywidget"]
    code = f"import sys, json, effkit, effkit.spec.recipe, effkit.spec.record; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=True)
    assert json.loads(done.stdout) == []


def test_torch_cuda_and_torch_npu_stay_in_hardware():
    wrong = []
    for path in MODULES:
        if path.is_relative_to(LIBRARY / "hardware"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.cuda", "torch.npu"):
                wrong.append(f"{name_of(path)}:{node.lineno}")
        wrong += [
            f"{name_of(path)}: imports {name}" for name in imported(path) if name.startswith(("torch.cuda", "torch.npu", "torch_npu"))
        ]
    assert wrong == []


FORBIDDEN = {
    "unfinished work": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b"),
    "a swallowed exception": re.compile(r"except (Exception|BaseException)?( as \w+)?:\s*\n?\s*pass\b"),
    "a pickle": re.compile(r"\bimport pickle\b|\btorch\.load\(|trust_remote_code\s*=\s*True"),
    "a default of device='cuda'": re.compile(r"device(: str)? ?= ?[\"']cuda"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_module_holds(what):
    assert [name_of(path) for path in MODULES if FORBIDDEN[what].search(path.read_text(encoding="utf-8"))] == []


def test_modules_are_short_and_say_what_they_are_for():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, f"{name_of(path)} has {text.count(chr(10))} lines: two files read better"
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_page_names_an_address_outside_itself(path):
    outside = re.compile(r"https?://(?!www\.w3\.org|127\.0\.0\.1|localhost)\S+")
    assert outside.findall(path.read_text(encoding="utf-8")) == []
