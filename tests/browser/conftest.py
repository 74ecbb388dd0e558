"""One JupyterLab server for all browser tests, and notebooks made for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from driving import Notebook, Server, browser, chromium, write_notebook

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def home():
    """The kernels' home is the server's, so no home for each test is needed."""


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """JupyterLab over a folder of its own; skipped, with the reason, where no browser can drive it."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test installs it")
    if chromium() is None:
        pytest.skip("Chromium is missing: sudo apt-get install chromium")
    home = tmp_path_factory.mktemp("jupyter")
    folder = tmp_path_factory.mktemp("notebooks")
    with Server(folder, home) as running:
        yield running


@pytest.fixture
def open_notebook(server):
    """A function that writes cells as a notebook and opens it in a browser window of its own; checks the window at the end."""
    opened: list[Notebook] = []
    with browser() as context:

        def open_cells(name: str, cells: list[str] | Path, kernel: str = "python3", front: str = "lab/tree") -> Notebook:
            path = server.folder / f"{name}.ipynb"
            if isinstance(cells, Path):
                path.write_bytes(cells.read_bytes())
            else:
                write_notebook(path, cells, kernel)
            opened.append(Notebook(context.new_page(), server, path.name, front))
            return opened[-1]

        yield open_cells
        for notebook in opened:
            assert notebook.outside == [], f"requests left this machine: {notebook.outside[:5]}"
            assert notebook.errors == [], f"scripts failed in the page: {notebook.errors[:5]}"
    server.stop_kernels()
