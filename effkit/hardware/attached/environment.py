"""The surroundings of a result: versions, machine, threads, git revision. No names of people or hosts: records are shared."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .. import preflight

PACKAGES = ("torch", "torch_npu", "transformers", "bitsandbytes", "safetensors", "numpy", "ipykernel", "jupyterlab", "anywidget")


def environment() -> dict[str, Any]:
    """What a Record keeps about where it was made; plain JSON."""
    import torch

    from effkit import __version__

    from .device import devices, processor_name, total_memory

    return {
        "effkit": __version__,
        "python": platform.python_version(),
        "packages": versions(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "memory": total_memory(),
        "threads": torch.get_num_threads(),
        "devices": [repr(device) for device in devices()],
        "revision": revision(),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions by name, None where not installed. torch's names its build: '2.13.0+cpu'."""
    found = {name: version(name) for name in packages}
    if "torch" in found:
        found["torch"] = preflight.torch_version()
    return found


def version(package: str) -> str | None:
    """The installed version of one package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def revision() -> str | None:
    """The git revision of effkit's checkout, '+' added where it has changes; None for an installed wheel."""
    root = Path(sys.modules["effkit"].__file__ or "").resolve().parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
