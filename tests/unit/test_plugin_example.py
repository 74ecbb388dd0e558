"""The example plug-in, installed as pip installs it and used in a process of its own; its models open without it too."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput

EXAMPLE = Path(__file__).resolve().parents[1] / "plugin_example"
PROGRAM = """
import json, sys
import torch
import effkit as ek

folder, out = sys.argv[1:]
base = ek.load(folder, device="cpu")
plan = ek.plan(base, ek.Recipe(steps=[ek.Quantize(method="ternary", bits=2, group_size=32)]))
small = ek.quantize(base, "ternary", bits=2, group_size=32)
small.save(out)
again = ek.load(out, device="cpu")
ids = torch.arange(1, 33).reshape(1, -1)
with torch.inference_mode():
    logits, same = (m.module(ids).logits for m in (small, again))
weight = small.module.get_submodule("model.layers.0.mlp.up_proj").weight
try:
    ek.quantize(base, "ternary", bits=4)
except ek.EffkitError as error:
    refused = str(error)
from effkit_widgets import QuantizeLab
offered = [option["name"] for option in QuantizeLab(base).config["methods"]]
print(json.dumps({
    "levels": [len(row.unique()) for row in weight.reshape(-1, 32)],
    "stored": small.stored_bytes, "base": base.stored_bytes, "planned": [p.bytes_after for p in plan[0].modules if p.method == "ternary"],
    "same": torch.equal(logits, same), "finite": bool(logits.isfinite().all()), "logits": logits[0, -1, :8].tolist(),
    "recipe": again.recipe.steps[0].method, "label": again.recipe.steps[0].label(),
    "refused": refused, "offered": offered,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the plug-in in it, built and installed offline by pip from a copy (so that nothing is left in the checkout)."""
    work = tmp_path_factory.mktemp("plug-in")
    source, target = work / "source", work / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-qq"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)], check=True, timeout=280)
    return target


def with_plug_in(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=280, env=environment)


@pytest.fixture(scope="module")
def made(installed, tiny_llama_folder) -> tuple[dict, Path]:
    """What the program found, and the folder that it saved."""
    out = installed.parent / "ternary"
    done = with_plug_in(installed, "-c", PROGRAM, str(tiny_llama_folder), str(out))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), out


def test_an_installed_plug_in_quantizes_and_its_model_comes_back_the_same(made):
    found, _ = made
    assert max(found["levels"]) == 3, "a group holds -s, 0 and +s"
    assert found["finite"]
    assert found["same"]
    assert (found["recipe"], found["label"]) == ("ternary", "ternary 2-bit g32")
    assert found["stored"] < 0.25 * found["base"]


def test_bytes_are_planned_as_they_are_stored(made, tiny_llama_folder):
    found, out = made
    small = ek.load(str(out), device="cpu")
    stored = [
        sum(t.numel() * t.element_size() for t in module.state_dict().values())
        for module in small.module.modules()
        if type(module).__name__ == "PackedLinear" and module.packed.bits == 2
    ]
    assert len(stored) == 3 * 7
    assert sorted(stored) == sorted(found["planned"])


def test_its_model_opens_where_the_plug_in_is_not_installed(made, tiny_llama):
    found, out = made
    small = ek.load(str(out), device="cpu")
    with torch.inference_mode():
        logits = small.module(torch.arange(1, 33).reshape(1, -1)).logits[0, -1, :8]
    assert logits.tolist() == pytest.approx(found["logits"], abs=1e-5)
    with pytest.raises(BadInput, match="method is 'ternary'"):
        ek.quantize(tiny_llama, "ternary", bits=2)


def test_it_refuses_what_it_cannot_and_stands_in_the_card(made):
    found, _ = made
    assert found["refused"].startswith("bits for ternary is 4")
    assert "ternary" in found["offered"]


def test_the_scale_is_the_best_for_its_pattern_and_the_threshold_near_the_best():
    spec = importlib.util.spec_from_file_location("effkit_ternary", EXAMPLE / "effkit_ternary.py")
    assert spec is not None
    assert spec.loader is not None
    plug_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plug_in)
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(3))

    def lost(scale: float = 1.0) -> float:
        integers, scales = plug_in.ternary(weight, 64)
        levels = (integers.float() - 2).reshape(64, -1, 64) * scales.float().unsqueeze(-1) * scale
        return float((levels.reshape(weight.shape) - weight).square().mean())

    assert lost() < min(lost(0.95), lost(1.05))
    assert lost() == pytest.approx(0.19, abs=0.02)  # of a normal weight's variance, Max (1960) has 0.190 for three levels
