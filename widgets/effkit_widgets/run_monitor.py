"""A run as it goes on: progress, time left, curves, Pause, Resume, Cancel, and its error when it fails.

run = ek.start(ek.quantize, model, bits=4)
RunMonitor(run)
RunMonitor(ek.attach(folder))           # one that another process works on, or that was interrupted
"""

from __future__ import annotations

from typing import Any

from effkit.lab.runs.run import Run
from effkit.spec.errors import BadInput

from ._base import refuse_unknown, script, style
from ._live import LiveCard

TOGETHER = {"loss": ("loss", "held_out"), "held_out": ("loss", "held_out")}  # drawn in one chart: same unit, same meaning


class RunMonitor(LiveCard):
    """Watches a `Run`. Raises BadInput for anything else, or for an unknown option."""

    _esm = script("live", "run_monitor")
    _css = style("live")

    def __init__(self, run: Run, **unknown: Any) -> None:
        refuse_unknown("RunMonitor", unknown, ("run",))
        if not isinstance(run, Run):
            raise BadInput(f"the run is a {type(run).__name__}", "Allowed: a Run", "ek.start(verb, ...) and ek.attach(folder) give one")
        super().__init__(config={"verb": run.verb})
        self._where = {"date": run.created}
        self._show_run(run)
        self._look()
        self._save()  # what was told before there was a view

    def _take(self, event: dict[str, Any]) -> None:
        for name, value in event["metrics"].items():
            self._curves.add(f"{event['task']}/{name}", event["done"], value)

    def __repr__(self) -> str:
        return f"RunMonitor({self.config['verb']!r})"
