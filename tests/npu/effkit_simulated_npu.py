"""A pytest plugin that turns the session's process into a simulated Ascend machine: two NPUs of 2 GiB.

It must come before anything imports torch, so it is loaded by name (`-p effkit_simulated_npu`, see run.py), not as a conftest.
"""

from __future__ import annotations

import pytest
from simulated.machine import Machine, start

MACHINE = start(devices=2, capacity=2 << 30)


@pytest.fixture
def machine() -> Machine:
    """The simulated machine. Change it with `with machine.having(op_ns=...)`, which puts it back."""
    return MACHINE


def pytest_report_header() -> str:
    return "simulated Ascend: real torch_npu, fake driver, CPU kernels; nothing here is a measurement of real hardware"


def pytest_unconfigure(config: pytest.Config) -> None:
    """The session's closing line, after pytest's own."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly:
        return
    passed, skipped = (len(reporter.stats.get(kind, ())) for kind in ("passed", "skipped"))
    failed = len(reporter.stats.get("failed", ())) + len(reporter.stats.get("error", ()))
    reporter.write_line(f"simulated Ascend: {passed} passed, {failed} failed, {skipped} skipped")
