"""Every broken state of torch_npu, really built in a folder and met by a fresh Python: torch imports, the CPU works, a sentence helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effkit.hardware import preflight

VERSION = ".".join(map(str, preflight._numbers(preflight.torch_version() or "0")))
LOOK = """
import json, sys
import effkit.hardware.preflight as preflight
import torch
import effkit as ek
total = float((torch.ones(4, 4, device=ek.device("auto").torch) @ torch.ones(4, 4)).sum())
hidden = "torch_npu" in sys.modules and sys.modules["torch_npu"] is None
print(json.dumps({"note": preflight.NOTE, "devices": [str(d) for d in ek.devices()], "total": total, "hidden": hidden}))
"""
TRANSFORMERS = "\nfrom transformers.utils import is_torch_npu_available; assert not is_torch_npu_available()\n"
LIKE_THE_WHEEL = "import ctypes\nctypes.CDLL('libhccl.so')\ndef _autoload(): pass\n"


def package(folder: Path, code: str, version: str = VERSION) -> Path:
    """A torch_npu as pip would install it, with the entry point that makes `import torch` import it."""
    home = folder / "site"
    info = home / f"torch_npu-{version}.dist-info"
    info.mkdir(parents=True)
    (home / "torch_npu").mkdir()
    (home / "torch_npu" / "__init__.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    return home


def driver(folder: Path, npus: int) -> Path:
    """CANN's two libraries, small but real, that see `npus` devices."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the driver of this situation and is missing")
    libraries = folder / "lib"
    libraries.mkdir()
    count = f"int aclrtGetDeviceCount(unsigned *n) {{ *n = {npus}; return {0 if npus else 107002}; }}"
    for name, code in (("libascendcl.so", count), ("libhccl.so", "")):
        compile_ = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(libraries / name), "-x", "c", "-"]
        subprocess.run(compile_, input=code.encode(), check=True)
    return libraries


def python(code: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in (preflight.AUTOLOAD, "ASCEND_RT_VISIBLE_DEVICES")}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, env=environment, check=False)


def look(*paths: Path, code: str = LOOK, **variables: str) -> dict:
    done = python(code, *paths, **variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["cpu"]
    assert found["total"] == 64.0
    return found


def test_without_torch_npu_there_is_nothing_to_say():
    found = look()
    assert found["note"] is None
    assert not found["hidden"]


def test_the_preflight_itself_imports_no_torch():
    done = python("import sys, effkit.hardware.preflight; assert 'torch' not in sys.modules; print('fine')")
    assert done.stdout == "fine\n", done.stderr


def test_the_wheel_without_cann(tmp_path):
    site = package(tmp_path, LIKE_THE_WHEEL)
    assert "Failed to load the backend extension: torch_npu" in python("import torch", site).stderr  # really broken
    found = look(site, code=LOOK + TRANSFORMERS)
    assert found["note"].startswith("torch_npu is installed, but Huawei's CANN runtime is not usable (libascendcl.so:")
    assert "Install the CANN toolkit and `source` its set_env.sh" in found["note"]
    assert found["note"].endswith("effkit goes on without it.")
    assert found["hidden"]


def test_cann_installed_but_not_set_up(tmp_path):
    script = tmp_path / "Ascend" / "ascend-toolkit" / "set_env.sh"
    script.parent.mkdir(parents=True)
    script.touch()
    found = look(package(tmp_path, LIKE_THE_WHEEL), HOME=str(tmp_path))
    assert f"CANN is installed but not set up in this process: run `source {script}` and start again." in found["note"]


def test_cann_that_sees_no_npu(tmp_path):
    site, libraries = package(tmp_path, "import torch\ndef _autoload(): pass\n"), driver(tmp_path, npus=0)
    found = look(site, LD_LIBRARY_PATH=str(libraries), ASCEND_RT_VISIBLE_DEVICES="7")
    assert found["note"].startswith("torch_npu and CANN are installed, but CANN sees no NPU. Check that `npu-smi info` lists one")
    assert "ASCEND_RT_VISIBLE_DEVICES is '7': unset it to see every NPU." in found["note"]
    assert found["hidden"]


def test_a_torch_npu_for_another_torch(tmp_path):
    found = look(package(tmp_path, "raise SystemError('must not be imported')", version="2.1.0.post3"))
    assert found["note"] == (
        f"torch_npu 2.1.0.post3 is installed beside torch {preflight.torch_version()}, and the two must have the same version. "
        f"Install torch_npu=={VERSION} if there is one, or torch==2.1.0. effkit goes on without it."
    )


def test_a_cuda_build_of_torch_beside_it(tmp_path):
    real = Path(preflight.importlib.util.find_spec("torch").submodule_search_locations[0])  # type: ignore[union-attr]
    torch = tmp_path / "other" / "torch"
    torch.mkdir(parents=True)
    for entry in real.iterdir():
        if entry.name not in ("version.py", "__pycache__"):
            (torch / entry.name).symlink_to(entry)
    text = (real / "version.py").read_text().replace("cuda: Optional[str] = None", "cuda: Optional[str] = '13.0'").replace("+cpu", "+cu130")
    (torch / "version.py").write_text(text)
    found = look(torch.parent, package(tmp_path, "raise SystemError('must not be imported')"))
    assert found["note"].startswith(
        "torch_npu is installed beside a torch that was built for CUDA 13.0, and one process can use only one kind of accelerator."
    )
    assert f"CPU build of torch {VERSION}; to use CUDA 13.0, nothing is needed" in found["note"]
    assert found["hidden"]


@pytest.mark.parametrize("error", ["RuntimeError('no\\nluck')", "ImportError('undefined symbol: _ZN')", "SystemExit(3)", "KeyError()"])
def test_a_torch_npu_that_raises_when_imported(tmp_path, error):
    site, libraries = package(tmp_path, f"import torch\nraise {error}\n"), driver(tmp_path, npus=1)
    found = look(site, LD_LIBRARY_PATH=str(libraries))
    kind = error.partition("(")[0]
    assert found["note"].startswith(f"torch_npu raised {kind} when imported (")
    assert f"Reinstall it to match torch {preflight.torch_version()} and the installed CANN, or uninstall it." in found["note"]
    assert "\n" not in found["note"]
    assert found["hidden"]


def test_torch_imported_first_with_autoload_off(tmp_path):
    found = look(package(tmp_path, LIKE_THE_WHEEL), code="import torch\n" + LOOK, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert "CANN runtime is not usable" in found["note"]
    assert found["note"].endswith("torch was imported before effkit; code that already looked for torch_npu may still expect it.")
    assert found["hidden"]


def test_torch_that_already_failed_in_this_process(tmp_path):
    code = "try:\n    import torch\nexcept RuntimeError:\n    pass\nimport effkit.hardware.preflight as p\nprint(p.NOTE)"
    done = python(code, package(tmp_path, LIKE_THE_WHEEL))
    assert done.stdout.startswith("An import of torch already failed in this Python process"), done.stderr
    assert "Restart it and import effkit before torch" in done.stdout


def test_a_child_process_that_imports_torch_alone_is_well_too(tmp_path):
    child = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import torch; print(7)'], capture_output=True).stdout)"
    done = python(f"import effkit.hardware.preflight\n{child}", package(tmp_path, LIKE_THE_WHEEL))
    assert done.stdout == "b'7\\n'\n", done.stderr


def test_a_device_that_is_missing_says_why(tmp_path):
    code = "import effkit as ek\ntry:\n    ek.device('npu')\nexcept ek.EffkitError as error:\n    print(error)"
    done = python(code, package(tmp_path, LIKE_THE_WHEEL))
    assert done.stdout.startswith(
        "device 'npu' is not usable here. torch_npu is installed, but Huawei's CANN runtime is not usable (libascendcl.so:"
    )
    assert "Attached: cpu (" in done.stdout
