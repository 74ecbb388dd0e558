"""Run the tests on a simulated Ascend machine: `python tests/npu/run.py [pytest arguments]`.

The first time it fetches the real torch_npu wheel for the installed torch into build/torch_npu, beside the environment and
never into it; afterwards it needs no network. gcc builds the fake driver into build/ in under a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHEEL = ROOT / "build" / "torch_npu"


def main(arguments: list[str]) -> int:
    problem = prepare()
    if problem:
        print(f"simulated Ascend: 0 passed, 1 failed, 0 skipped ({problem})")
        return 1
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "EFFKIT_PROGRESS": "0", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-p", "effkit_simulated_npu", "-p", "no:cacheprovider", *(arguments or [str(HERE)])]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def prepare() -> str | None:
    """Put the wheel in its place. Returns what is wrong, in words, or None."""
    version = ".".join(map(str, torch_numbers()))
    if shutil.which("gcc") is None:
        return "gcc is missing, and it builds the fake driver; install it, e.g. with `apt-get install gcc libc6-dev`"
    if (WHEEL / f"torch_npu-{version}.dist-info").exists():
        return None
    print(f"Fetching torch_npu {version} into {WHEEL.relative_to(ROOT)} ...", flush=True)
    WHEEL.parent.mkdir(exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=WHEEL.parent, prefix=".torch_npu-"))
    try:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(part)]
        if subprocess.run([*install, f"torch_npu=={version}"], check=False).returncode:
            return f"pip could not fetch torch_npu=={version}, see above; with a network, run this once more"
        shutil.rmtree(WHEEL, ignore_errors=True)
        part.rename(WHEEL)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return None


def torch_numbers() -> tuple[int, ...]:
    """(2, 13, 0): torch_npu must have the version of torch."""
    import importlib.metadata
    import re

    return tuple(int(n) for n in re.findall(r"\d+", importlib.metadata.version("torch").split("+")[0])[:3])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
