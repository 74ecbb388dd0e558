"""What several tests of widgets share."""

from __future__ import annotations

import threading

import pytest

from effkit.lab.runs.worker import Worker


@pytest.fixture
def held(monkeypatch):
    """Runs stand at their first event until `held.set()`: what a test asks for before reaches them in time, however slow it is."""
    gate, between = threading.Event(), Worker._between

    def waiting(worker, event):
        gate.wait(120)
        return between(worker, event)

    monkeypatch.setattr(Worker, "_between", waiting)
    yield gate
    gate.set()
