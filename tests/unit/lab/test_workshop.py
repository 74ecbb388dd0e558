"""The writable copy of the notebooks, and JupyterLab on it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from effkit.lab.workshop import copy_notebooks
from effkit.spec.errors import BadInput, CannotWrite


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    (folder / "pictures").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    for name in ("00_quickstart", "01_more"):
        (folder / f"{name}.ipynb").write_text(json.dumps(empty))
    (folder / "pictures" / "a.svg").write_text("<svg/>")
    (folder / ".ipynb_checkpoints" / "old.ipynb").write_text("{}")
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def test_a_changed_copy_is_never_overwritten(tmp_path, source):
    folder, said = copy_notebooks(tmp_path / "mine", source)
    assert said == []
    assert listing(folder) == ["00_quickstart.ipynb", "01_more.ipynb", "pictures/a.svg"]
    quickstart, more = folder / "00_quickstart.ipynb", folder / "01_more.ipynb"
    quickstart.write_text("my work")
    assert copy_notebooks(folder, source)[1] == []
    assert quickstart.read_text() == "my work"

    (source / "00_quickstart.ipynb").write_text("newer")
    (source / "01_more.ipynb").write_text("newer too")
    _, said = copy_notebooks(folder, source)
    assert quickstart.read_text() == "my work"
    assert (folder / "00_quickstart.new.ipynb").read_text() == "newer"
    assert more.read_text() == "newer too"
    assert said == ["00_quickstart.ipynb: you changed it, so the new version lies beside it as 00_quickstart.new.ipynb"]
    assert copy_notebooks(folder, source)[1] == []
    more.unlink()
    copy_notebooks(folder, source)
    assert more.read_text() == "newer too"


def test_a_file_of_the_same_name_that_was_there_before_stays(tmp_path, source):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "01_more.ipynb").write_text("something else")
    _, said = copy_notebooks(mine, source)
    assert (mine / "01_more.ipynb").read_text() == "something else"
    assert len(said) == 1


def test_places_that_cannot_hold_a_copy(tmp_path, source):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"is a file\. Allowed: a folder"):
        copy_notebooks(tmp_path / "file", source)
    with pytest.raises(CannotWrite, match=r"Cannot write .*a part of the path is a file\. Choose another folder"):
        copy_notebooks(tmp_path / "file" / "deeper", source)


def opened(address: str, patience: float = 180.0) -> str:
    """The page at `address`; the server prints it a moment before it listens."""
    end = time.monotonic() + patience
    while True:
        try:
            return urllib.request.urlopen(address, timeout=280).read().decode()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def test_jupyterlab_serves_the_copy_here_only_and_only_with_its_token(tmp_path, source):
    folder, _ = copy_notebooks(tmp_path / "mine", source)
    code = "import sys; from effkit.lab.workshop import serve; from pathlib import Path; sys.exit(serve(Path(sys.argv[1]), 8920, False))"
    runtime = {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    lab = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.PIPE, text=True, env={**os.environ, **runtime})
    try:
        assert lab.stderr is not None
        address = next(found[1] for line in lab.stderr if (found := re.search(r"(http://127\.0\.0\.1:\S+)", line)))
        assert "/lab/tree/00_quickstart.ipynb?token=" in address
        page = opened(address)
        config = json.loads(re.search(r'<script id="jupyter-config-data" type="application/json">(.*?)</script>', page, re.S)[1])
        assert config["news"] == {"disabled": True}
        root, token = address.split("/lab/tree")[0], address.split("token=")[1]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{root}/api/contents", timeout=280)
        files = json.load(urllib.request.urlopen(f"{root}/api/contents?token={token}", timeout=280))
        assert {"00_quickstart.ipynb", "01_more.ipynb"} <= {entry["name"] for entry in files["content"]}
        setting = f"{root}/lab/api/settings/@jupyterlab/apputils-extension:notification?token={token}"
        default = json.load(urllib.request.urlopen(setting, timeout=280))["schema"]["properties"]
        assert (default["fetchNews"]["default"], default["checkForUpdates"]["default"]) == ("false", False)
    finally:
        lab.send_signal(signal.SIGTERM)
        lab.communicate(timeout=280)
