"""Environments of their own for the programs that effkit is compared with: their pins conflict with ours and each other's.

    python = environment("hqq", ["torch", "hqq"])          # a venv in the user's cache folder, made once
    python = llama_cpp()                                    # llama-cpp-python, compiled for this machine, once

A stamp in the folder remembers what was installed, so that later calls ask no network. What cannot be installed raises
`CannotInstall` with pip's own last words. EFFKIT_ENVIRONMENTS names another folder than the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

LLAMA_CPP = "llama-cpp-python"
# Never taken over from this process: they would lead the other Python to our packages.
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
# A plain request for torch would bring gigabytes of CUDA libraries to a machine without CUDA; this one has a CPU build.
TORCH = "torch==2.13.0"


class CannotInstall(RuntimeError):
    """An environment that could not be made; its text is why, in the installer's words."""


def folder_of(name: str) -> Path:
    """Where the environment of that name lies."""
    import platformdirs

    given = os.environ.get("EFFKIT_ENVIRONMENTS")
    return (Path(given) if given else Path(platformdirs.user_cache_dir("effkit")) / "benchmarks") / name


def environment(
    name: str,
    packages: Sequence[str],
    *,
    without_dependencies: Sequence[str] = (),
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    minutes: float = 60,
) -> Path:
    """The Python of a venv that holds `packages`. Made anew when their list changes.

    without_dependencies: installed after the others, as they are
    folder:    where (default: `folder_of(name)`); one whose Python imports and whose stamp fits is taken as it is
    variables: environment variables for the installer, such as CMAKE_ARGS
    """
    folder = folder or folder_of(name)
    python, stamp = folder / "bin" / "python", folder / "made-for.json"
    wanted = wish(packages, without_dependencies, variables)
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {name} (once)", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    try:
        for these in ([*packages], ["--no-deps", *without_dependencies] if without_dependencies else []):
            if these:
                pip(python, these, variables, minutes)
    except CannotInstall:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stamp.write_text(wanted)
    return python


def wish(packages: Sequence[str], without_dependencies: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> str:
    """What the stamp of an environment says."""
    return json.dumps({"packages": [*packages], "without_dependencies": [*without_dependencies], "variables": dict(variables or {})})


def pip(python: Path, packages: Sequence[str], variables: Mapping[str, str] | None = None, minutes: float = 60) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    try:
        done = subprocess.run(command, env={**clean(), **(variables or {})}, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"pip install {' '.join(packages)}: not done after {minutes:g} minutes") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip() and not line.startswith("WARNING")]
        raise CannotInstall(f"pip install {' '.join(packages)}: {' / '.join(said[-4:])[-800:]}")


def llama_cpp(folder: Path | None = None) -> Path:
    """The Python of an environment with llama-cpp-python, compiled here for this CPU (about ten minutes on two cores).

    `folder`, or EFFKIT_LLAMA_CPP, names an environment that somebody made already; it is only looked at.
    """
    given = folder or (Path(os.environ["EFFKIT_LLAMA_CPP"]) if os.environ.get("EFFKIT_LLAMA_CPP") else None)
    if given is not None and (given / "bin" / "python").exists():
        python = given / "bin" / "python"
        done = subprocess.run([python, "-I", "-c", "import llama_cpp"], env=clean(), capture_output=True, text=True)
        if done.returncode:
            raise CannotInstall(f"{given} holds no llama_cpp: {done.stderr.strip().splitlines()[-1]}")
        return python
    return environment("llama-cpp", [LLAMA_CPP, "numpy"], folder=given, variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON"}, minutes=120)


def clean() -> dict[str, str]:
    """This process's environment variables without those that lead to our packages."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """The installed versions of those of `names` that are there."""
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    done = subprocess.run([python, "-I", "-c", ask], env=clean(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {name: found[name] for name in names if name in found}
