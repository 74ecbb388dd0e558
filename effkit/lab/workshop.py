"""JupyterLab on a writable copy of the notebooks, for people who installed the wheel. Imports no torch.

It listens on 127.0.0.1 alone, asks for its token, needs no network, and shows no news or update pop-ups.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.files import atomic_file, write_text, writing

MANIFEST = ".effkit-notebooks.json"  # what was copied, by its hash: a file that differs from it was changed by the user
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": False},
}
QUICKSTART = "00_quickstart.ipynb"


def notebooks_source() -> Path:
    """The notebooks inside the installed package, or those of the checkout. Raises Unavailable if there are none."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "_notebooks", package.parent / "notebooks"):
        if any(place.glob("*.ipynb")):
            return place
    raise Unavailable(
        "the notebooks", f"There are none in {package / '_notebooks'}", "Install effkit again: pip install --force-reinstall effkit"
    )


def copy_notebooks(folder: str | Path, source: Path | None = None) -> tuple[Path, list[str]]:
    """Copy the notebooks to `folder` and return it with sentences about what was left alone.

    A copy that the user changed is never overwritten: the new one is laid beside it as NAME.new.ipynb if the original
    changed too. Raises CannotWrite, or BadInput if `folder` is a file.
    """
    source, folder = source or notebooks_source(), Path(folder).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is a file", "Allowed: a folder, or a new name for one")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    known = _manifest(folder)
    said = []
    for path in sorted(
        p for p in source.rglob("*") if p.is_file() and not any(part.startswith((".", "__")) for part in p.relative_to(source).parts)
    ):
        name = path.relative_to(source).as_posix()
        target, new = folder / name, _hash(path)
        old = _hash(target) if target.exists() else None
        if old is not None and old not in (new, known.get(name)):
            if known.get(name) != new:
                target = target.with_name(f"{target.stem}.new{target.suffix}")
                said.append(f"{name}: you changed it, so the new version lies beside it as {target.name}")
                _copy(path, target)
        elif old != new:
            _copy(path, target)
        known[name] = new
    write_text(folder / MANIFEST, json.dumps(known, indent=1, sort_keys=True))
    return folder, said


def serve(folder: Path, port: int = 8888, browser: bool = True) -> int:
    """Run JupyterLab on `folder` until it is stopped; returns its exit code."""
    try:
        import jupyterlab  # noqa: F401
    except ImportError as error:
        raise Unavailable("JupyterLab", f"It cannot be imported ({error})", "pip install jupyterlab") from None
    with tempfile.TemporaryDirectory(prefix="effkit-lab-") as settings:
        (Path(settings) / "overrides.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "jupyterlab"),
            f"--LabApp.default_url=/lab/tree/{QUICKSTART}" if (folder / QUICKSTART).exists() else "--LabApp.default_url=/lab",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}",
            f"--ServerApp.root_dir={folder}",
            f"--ServerApp.open_browser={browser}",
            f"--LabApp.app_settings_dir={settings}",
            # JupyterLab asks these addresses for news, updates and extensions; offline that only takes time
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--ServerApp.allow_root=True")
        # glibc gives memory of worker threads back after each large tensor, and fetching it again costs up to 8% of their time
        lab = subprocess.Popen(command, cwd=folder, env={"MALLOC_ARENA_MAX": "1", **os.environ})
        # Ctrl-C reaches JupyterLab too, which asks and then ends; whoever stops this command stops it as well
        before = {number: signal.signal(number, lambda number, _: lab.send_signal(number)) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return lab.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _copy(path: Path, target: Path) -> None:
    with atomic_file(target) as part:
        shutil.copyfile(path, part)
        part.chmod(0o644)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
