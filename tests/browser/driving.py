"""A real JupyterLab server and a real Chromium, driven by Playwright: what the browser tests and benchmarks/live.py stand on.

The server runs on a free port of 127.0.0.1 with a token, on a folder of its own, with settings that silence pop-ups.
Commands go through JupyterLab's own command registry (`--LabApp.expose_app_in_browser`), because clicking menus loses runs.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "test-results"
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
}
# Wherever a browser may ask: the server itself, and what is inside the page.
INSIDE = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:")
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"


def chromium() -> str | None:
    """The browser to drive, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Server:
    """JupyterLab on `folder`. Everything that Jupyter, IPython and effkit write goes below `home`."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home, self.token = folder, home, secrets.token_hex(16)
        self.held = socket.socket()  # bound and not listening: nobody else is given the port, and the server may take it
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.held.bind(("127.0.0.1", 0))
        self.port = self.held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        for name, values in SETTINGS.items():
            file = self.home / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        own = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython",
            "EFFKIT_HOME": "effkit",
        }
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **{name: str(self.home / value) for name, value in own.items()}}
        options = {
            "ServerApp.ip": "127.0.0.1", "ServerApp.port": self.port, "ServerApp.port_retries": 0, "ServerApp.open_browser": False,
            "ServerApp.allow_root": True, "ServerApp.root_dir": self.folder, "IdentityProvider.token": self.token,
            "LabApp.expose_app_in_browser": True, "JupyterNotebookApp.expose_app_in_browser": True,
        }  # fmt: skip
        self.log = (self.home / "server.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())],
            env=environment, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + 180
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"JupyterLab did not start:\n{(self.home / 'server.log').read_text()[-3000:]}")
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/api/status") is not None
        return False

    def get(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def stop_kernels(self) -> None:
        for session in self.get("/api/sessions"):
            self.get(f"/api/sessions/{session['id']}", method="DELETE")

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.stop_kernels()
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.held.close()


class Notebook:
    """A notebook open in JupyterLab in Chromium. `outside`: requests that left this machine; `errors`: scripts that failed.

    front: "lab/tree" for JupyterLab, "notebooks" for Notebook 7, which the same server serves
    """

    def __init__(self, page, server: Server, name: str, front: str = "lab/tree") -> None:
        self.page, self.server = page, server
        self.outside: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: None if request.url.startswith(INSIDE) else self.outside.append(request.url))
        page.on("websocket", lambda socket: None if socket.url.startswith(INSIDE) else self.outside.append(socket.url))
        # Notebook 7 has a fault of its own in its settings; the cards' scripts come from blobs
        ours = lambda error: front == "lab/tree" or "blob:" in (error.stack or "")  # noqa: E731
        page.on("pageerror", lambda error: self.errors.append(str(error)[:500]) if ours(error) else None)
        page.goto(f"{server.url}/{front}/{name}?token={server.token}&reset")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=120_000)
        page.evaluate(
            f"""() => {{
                const ready = async () => {{
                    await window.jupyterapp.restored;
                    const widget = window.jupyterapp.shell.currentWidget;
                    await widget.context.ready; await widget.sessionContext.ready; await {KERNEL}.info;
                    window.effkitReady = true;
                }};
                ready();
            }}"""
        )
        page.wait_for_function("window.effkitReady", timeout=120_000)
        if page.locator("#jp-left-stack").is_visible():
            self.command("application:toggle-left-area")

    def command(self, name: str, **arguments: Any) -> None:
        self.page.evaluate("([name, given]) => { window.jupyterapp.commands.execute(name, given) }", [name, arguments])

    def run_all(self, timeout: float) -> float:
        """Run every cell as the menu does; seconds until the last one ended. Raises with the kernel's words if a cell failed.

        timeout: in seconds, of which it gets at least three minutes, as other programs may have the processor
        """
        begun = time.monotonic()
        self.page.evaluate(
            """() => {
                window.effkitRan = null;
                window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.effkitRan = true });
            }"""
        )
        self.page.wait_for_function("window.effkitRan", timeout=max(timeout, 180) * 1000)
        seconds = time.monotonic() - begun
        failed = [output for output in self.outputs() if output["output_type"] == "error"]
        assert not failed, f"{failed[0]['ename']}: {failed[0]['evalue']}"
        return seconds

    def outputs(self) -> list[dict[str, Any]]:
        """The outputs of all cells, as the notebook would be saved now."""
        cells = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells")
        return [output for cell in cells for output in cell.get("outputs", [])]

    def card(self, widget: str):
        """The element of the first widget of this kind, scrolled into view."""
        card = self.page.locator(f".ek-card[data-widget='{widget}']").first
        card.wait_for(state="attached", timeout=90_000)
        card.scroll_into_view_if_needed()
        return card

    def answer(self, code: str = "1 + 1") -> float:
        """Milliseconds until the kernel has answered another cell, timed in the page."""
        return self.page.evaluate(
            f"""async (code) => {{
                const begun = performance.now();
                const reply = await {KERNEL}.requestExecute({{code, store_history: false}}).done;
                if (reply.content.status !== 'ok') throw new Error(reply.content.evalue);
                return performance.now() - begun;
            }}""",
            code,
        )

    def value(self, expression: str) -> Any:
        """What the kernel says this expression is: numbers, strings and lists of them."""
        text = self.page.evaluate(
            f"""async (expression) => {{
                const asked = {{code: '', store_history: false, user_expressions: {{it: expression}}}};
                const told = (await {KERNEL}.requestExecute(asked).done).content.user_expressions.it;
                if (told.status !== 'ok') throw new Error(told.evalue);
                return told.data['text/plain'];
            }}""",
            expression,
        )
        return ast.literal_eval(text)

    def theme(self, name: str) -> None:
        """ "JupyterLab Light" or "JupyterLab Dark"."""
        self.command("apputils:change-theme", theme=name)
        self.page.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=name, timeout=60_000)
        self.page.wait_for_function(
            "(theme) => [...document.querySelectorAll('.ek-card')].every((card) => card.dataset.theme === theme)",
            arg="dark" if "Dark" in name else "light", timeout=60_000,
        )  # fmt: skip
        self.page.wait_for_timeout(500)

    def screenshot(self, name: str, card=None) -> Path:
        """Saved as test-results/NAME.png: the card, in a window that is tall enough for it, or the whole window as it is."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.png"
        if card is None:
            self.page.screenshot(path=str(path))
            return path
        before = self.page.viewport_size
        self.resize(before["width"], max(before["height"], int(card.bounding_box()["height"]) + 300))
        card.scroll_into_view_if_needed()
        card.screenshot(path=str(path))
        self.resize(before["width"], before["height"])
        return path

    def resize(self, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(500)


@contextlib.contextmanager
def browser(size: tuple[int, int] = (1280, 1000)) -> Iterator[Any]:
    """A Chromium context of this size."""
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), headless=True, args=[*root, *FLAGS])
        try:
            yield chrome.new_context(viewport={"width": size[0], "height": size[1]})
        finally:
            chrome.close()


def state(card) -> str:
    return card.get_attribute("data-state") or ""


def wait_state(card, *wanted: str, seconds: float = 60.0) -> float:
    """Wait until the card shows one of these states; seconds that it took."""
    begun = time.monotonic()
    while state(card) not in wanted:
        waited = time.monotonic() - begun
        assert waited < seconds, f"the card still shows {state(card)!r} after {waited:.1f} s, not {' or '.join(wanted)}"
        time.sleep(0.01)
    return time.monotonic() - begun


def comes(look: Callable[[], Any], wanted: Any, seconds: float = 60.0) -> Any:
    """Wait until `look()` is `wanted`, a value or a function that says it anew each time; that value."""
    end = time.monotonic() + seconds
    while True:
        found, due = look(), wanted() if callable(wanted) else wanted
        if found == due:
            return found
        assert time.monotonic() < end, f"still {found!r} after {seconds:g} s, not {due!r}"
        time.sleep(0.05)


def settled(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `look()` says once it has said the same for half a second."""
    end, found, since = time.monotonic() + seconds, look(), time.monotonic()
    while time.monotonic() < since + 0.5:
        assert time.monotonic() < end, f"it moved for {seconds:g} s, to {found!r}"
        time.sleep(0.05)
        if (now := look()) != found:
            found, since = now, time.monotonic()
    return found


def press(card, action: str) -> None:
    card.locator(f"[data-action='{action}']").first.click()


def points(card) -> int:
    """How many points the card's charts show."""
    return sum(int(value) for value in card.locator("[data-points]").evaluate_all("all => all.map(e => e.dataset.points || '0')"))


def shown(card) -> tuple[int, str]:
    """What moves while work goes on: the number of points, and the progress bar's words."""
    return points(card), card.locator("[role='progressbar']").first.get_attribute("aria-valuetext") or ""


def cancel(card, seconds: float = 60.0) -> float:
    """Press Cancel (and confirm, where the card asks because of a minute of work); seconds until the card says so."""
    press(card, "cancel")
    confirm = card.locator("[data-action='cancel-confirm']")
    if confirm.is_visible():
        confirm.click()
    return wait_state(card, "cancelled", seconds=seconds)


def live(notebook: Notebook, card, answers: int = 25) -> dict[str, Any]:
    """Start the card's work, time another cell's answers while it moves, cancel; what was measured."""
    press(card, "start")
    wait_state(card, "running")
    first, begun = shown(card), time.monotonic()
    while shown(card) == first and state(card) == "running" and time.monotonic() - begun < 60:
        time.sleep(0.05)
    times, seen = [], {first, shown(card)}
    while len(times) < answers and state(card) == "running":
        times.append(notebook.answer())
        seen.add(shown(card))
        notebook.page.wait_for_timeout(50)
    stopped = round(cancel(card), 3) if state(card) == "running" else None
    return {
        "answer_ms_median": round(statistics.median(times), 1) if times else None,
        "answer_ms_worst": round(max(times), 1) if times else None,
        "answers": len(times),
        "moves": len(seen) - 1,
        "points": points(card),
        "cancel_seconds": stopped,
    }


def looks(notebook: Notebook, card, name: str) -> None:
    """Pictures in light, dark, narrow and wide; dark in the dark, and never wider than its column."""
    notebook.theme("JupyterLab Light")  # the server remembers what another test left
    pictures = [notebook.screenshot(f"{name}-light", card)]
    notebook.theme("JupyterLab Dark")
    pictures.append(notebook.screenshot(f"{name}-dark", card))
    background = card.evaluate("element => getComputedStyle(element).backgroundColor")
    assert sum(int(part) for part in background.strip("rgba()").split(",")[:3]) < 300, f"the card stays light in the dark: {background}"
    notebook.theme("JupyterLab Light")
    for width, words in ((480, "narrow"), (1750, "wide")):
        notebook.resize(width, 900)
        pictures.append(notebook.screenshot(f"{name}-{words}", card))
        assert card.evaluate("element => element.scrollWidth <= element.clientWidth + 1"), f"the card is wider than its column ({words})"
    notebook.resize(1280, 1000)
    assert all(Path(picture).stat().st_size > 5000 for picture in pictures)


@contextlib.contextmanager
def in_jupyterlab(name: str, cells: list[str]) -> Iterator[Notebook]:
    """A notebook of these cells in a server and a browser of its own, run from top to bottom."""
    with tempfile.TemporaryDirectory(prefix=f"effkit-{name}-") as place:
        folder, home = Path(place, "notebooks"), Path(place, "home")
        folder.mkdir()
        home.mkdir()
        write_notebook(folder / f"{name}.ipynb", cells)
        with Server(folder, home) as server, browser() as context:
            notebook = Notebook(context.new_page(), server, f"{name}.ipynb")
            notebook.run_all(timeout=120)
            yield notebook


def write_notebook(path: Path, cells: list[str], kernel: str = "python3") -> None:
    """A notebook of code cells, not yet run. It names its kernel: without one JupyterLab asks for it and waits."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(notebook, path)


def base_cell() -> str:
    """Imports, and a base: the shared 15M model where it lies beside the checkout, else the default model."""
    shared = ROOT.parent / "shared" / "models" / "stories15m"
    model = str(shared) if shared.exists() else "smollm2-135m"
    return f"import effkit as ek\nimport effkit_widgets as widgets\nbase = ek.load({model!r}, device='cpu')"


def live_cells(widget: str) -> list[str]:
    """A small notebook with one live widget."""
    options = ", training={'batch': 1, 'window': 64}" if widget == "DistillLab" else ""
    return [
        base_cell(),
        f"lab = widgets.{widget}(base{options})\nlab",
    ]


def explorer_cells(points: int, options: str = "") -> list[str]:
    """A small notebook with an explorer of so many records that were made by hand."""
    return [
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom made import made, trial",
        f"import effkit_widgets as widgets\nrecords = made({points})\ncard = widgets.FrontierExplorer(records{options})\ncard",
    ]
