"""What every card shares: its scripts and styles put together as text, few traits, errors shown in the card.

The browser's part stands in static/: kit.js (strings, numbers, frame, table twin), charts.js, and one file a widget. They are
concatenated here, so there is no build step and nothing is ever asked from an address.

Hooks that stay as they are, for tests and for pages that show recorded cards:
- the root of every widget is `section.ek-card` with `data-widget` (the class name), `data-state` (idle, running, paused,
  cancelled, done, failed, interrupted, recorded) and `data-theme` (light, dark)
- buttons have `data-action`: start, pause, resume, cancel, cancel-confirm, cancel-keep, table, copy, csv, clear, best, compare, dashboard,
  copy-code
- a chart is `.ek-chart` with `data-points`; in it `[data-series]` groups have their own `data-points`; the frontier's
  points are `.ek-point[data-id][data-kind][data-fits][aria-selected]` (of more than 150 only the one with the focus: the others
  are on a canvas; `.ek-frontier[data-points][data-fits][data-selected]` counts them), its budget lines
  `[role=slider][data-budget=quality|cost]`
- the layer map's cells are `td[data-module][data-pinned][aria-selected]`, its figures `[data-fact]`; a lens's tokens `[data-token]`
- fields carry the `name` of what they set: method, bits, group_size, embedding_bits, layers, steps, temperature, ...
- a host without a kernel marks an ancestor `.jupyter-widgets-disconnected` (ipywidgets does) or `[data-ek-recorded]`
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from effkit.spec.errors import BadInput, EffkitError, OutOfMemory, Unavailable, choice
from effkit.spec.places import short_name as short_name

STATIC = Path(__file__).parent / "static"


def script(*names: str) -> str:
    """The module that a widget runs: the kit, the charts, the given parts, in this order."""
    return "\n".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in ("kit", "charts", *names))


def style(*names: str) -> str:
    """The theme, then the styles of the given parts."""
    return "\n".join((STATIC / f"{name}.css").read_text(encoding="utf-8") for name in ("theme", *names))


def main_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the main thread: the running one, or the kernel's; None in a plain script.

    Messages from the browser may arrive in another thread (JupyterLab 4.6 with ipykernel 7 gives comms a subshell), whose
    loop is not the one to work on.
    """
    if threading.current_thread() is threading.main_thread():
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            pass
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    loop = getattr(getattr(kernel, "io_loop", None), "asyncio_loop", None)
    return loop if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_running() else None


def refuse_unknown(card: str, unknown: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise BadInput for the first keyword that `card` does not know."""
    for name in unknown:
        raise choice(f"the option of {card}", name, sorted(allowed))


def place_of(module: str) -> dict[str, Any]:
    """Where a module stands on a map: its row is its layer (None outside the layers), its column what it is within a layer."""
    inside = re.search(r"(?:^|\.)(\d+)\.(.+)$", module)
    if inside is None:
        return {"layer": None, "path": "", "column": ""}
    return {"layer": int(inside[1]), "path": inside[2], "column": re.sub(r"_proj$", "", inside[2].rpartition(".")[2])}


class Card(anywidget.AnyWidget):
    """The root of all widgets. `config`: what does not change; `problem`: an error to show, {} for none."""

    config = t.Dict().tag(sync=True)
    problem = t.Dict().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._loop = main_loop()
        super().__init__(**traits)
        self.on_msg(self._heard)

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        """A message of the browser, in whichever thread: {"do": name, ...}. A fault is shown in the card."""
        if not isinstance(content, dict) or "do" not in content:
            return
        try:
            self._asked(content["do"], {key: value for key, value in content.items() if key != "do"})
        except Exception as error:  # noqa: BLE001 - nobody else would show it: this is the top of the stack
            self._show(error)

    def _asked(self, what: str, values: dict[str, Any]) -> None:
        raise choice("the request", what, ())

    def _soon(self, call: Callable[[], None]) -> None:
        """Do it on the main thread, at once if this is it; traits are touched nowhere else."""

        def safely() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - as above: shown in the card
                self._show(error)

        if threading.current_thread() is threading.main_thread() or self._loop is None or self._loop.is_closed():
            safely()
        else:
            self._loop.call_soon_threadsafe(safely)

    def _show(self, error: BaseException | None) -> None:
        """Show an error in the card, or take the last one away."""
        told = {} if error is None else explained(error)

        def show() -> None:
            self.problem = told

        if threading.current_thread() is threading.main_thread() or self._loop is None or self._loop.is_closed():
            show()
        else:
            self._loop.call_soon_threadsafe(show)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def explained(error: BaseException) -> dict[str, str]:
    """What happened, why, what to do; a traceback only where the error was not foreseen."""
    if isinstance(error, BadInput):
        return {"what": error.given, "why": error.allowed, "next": error.todo}
    if isinstance(error, Unavailable):
        return {"what": error.what, "why": error.why, "next": error.todo}
    if isinstance(error, EffkitError):
        what, _, rest = str(error).partition(". ") if isinstance(error, OutOfMemory) else (str(error), "", "")
        return {"what": what, "why": rest}
    import traceback

    return {
        "what": f"{type(error).__name__}: {error}",
        "why": "effkit did not expect this error.",
        "next": "Please report it with the traceback below.",
        "traceback": "".join(traceback.format_exception(error)),
    }
