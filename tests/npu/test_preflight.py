"""The real torch_npu wheel in states in which it cannot work: torch imports, the CPU works, a sentence says what to do.

Each is met by a fresh Python with the wheel on its path. More states, without the wheel, are in tests/unit/hardware.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from simulated.machine import HERE, WHEEL

LOOK = """
import json, sys
import effkit.hardware.preflight as preflight
import torch
import effkit as ek
from transformers.utils import is_torch_npu_available
total = float((torch.ones(4, 4) @ torch.ones(4, 4)).sum())
print(json.dumps({"note": preflight.NOTE, "devices": [str(d) for d in ek.devices()], "total": total, "auto": str(ek.device("auto")),
                  "transformers": is_torch_npu_available()}))
"""
PLUG_IN = "import sys\nsys.path.insert(0, {folder!r})\nfrom simulated.machine import plug_in\nplug_in(devices={devices})\n"


def python(code: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "TORCH_DEVICE_BACKEND_AUTOLOAD"} | {"PYTHONPATH": str(WHEEL)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, check=False)


def look(before: str = "") -> dict:
    done = python(before + LOOK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["total"] == 64.0
    return found


def with_npus(devices: int) -> str:
    return PLUG_IN.format(folder=str(HERE.parent), devices=devices)


def test_this_wheel_without_cann_takes_torch_down_by_itself():
    done = python("import torch")
    assert done.returncode != 0
    assert "Failed to load the backend extension: torch_npu" in done.stderr


def test_the_wheel_without_cann():
    found = look()
    assert found["note"].startswith("torch_npu is installed, but Huawei's CANN runtime is not usable (libascendcl.so: cannot open shared")
    assert "source` its set_env.sh" in found["note"]
    assert (found["devices"], found["auto"], found["transformers"]) == (["cpu"], "cpu", False)


def test_the_wheel_over_a_driver_that_sees_no_npu():
    found = look(with_npus(0))
    assert found["note"].startswith("torch_npu and CANN are installed, but CANN sees no NPU. Check that `npu-smi info` lists one")
    assert (found["devices"], found["auto"], found["transformers"]) == (["cpu"], "cpu", False)


def test_the_wheel_over_a_driver_with_one_npu():
    found = look(with_npus(1))
    assert found["note"] is None
    assert (found["devices"], found["auto"], found["transformers"]) == (["npu:0", "cpu"], "npu:0", True)


@pytest.mark.parametrize("devices", [0, 1])
def test_torch_was_imported_before_effkit(devices):
    found = look(with_npus(devices) + "import torch\n")  # autoload imported torch_npu already, and it did not raise
    assert found["devices"] == [*(f"npu:{i}" for i in range(devices)), "cpu"]
    assert ("CANN sees no NPU" in (found["note"] or "")) == (devices == 0)
