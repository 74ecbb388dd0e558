"""Small long verbs for the tests of runs; imported by other processes too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Snapshot, long_work

# A process that is to be killed sets it: its work stands still after so many steps, however late the kill comes.
STAND_AT: int | None = None


def stand(step: int) -> None:
    while STAND_AT is not None and step >= STAND_AT:
        time.sleep(0.005)


@long_work(knobs=("learning_rate",))
def train(seed=0, steps=20, learning_rate=0.1, weights=None, pause=0.0, mark=None, resume=None):
    """Adam on a small regression, its batches drawn from a generator of its own; returns the weights."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(64, 8, generator=generator)
    target = data @ torch.randn(8, 3, generator=generator)
    layer = torch.nn.Linear(8, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.zeros(3, 8) if weights is None else weights)
    optimiser = torch.optim.Adam(layer.parameters(), lr=learning_rate)
    first = 0
    if resume is not None:
        first = resume.state["step"]
        layer.load_state_dict({"weight": resume.tensors["weight"]})
        moments = {name: resume.tensors[name] for name in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.load_state_dict({"state": {0: moments}, "param_groups": [resume.state["group"]]})
        generator.set_state(resume.tensors["generator"])

    def take(step):
        state = optimiser.state_dict()
        moments = {name: value.clone() for name, value in state["state"][0].items()}
        tensors = {"weight": layer.weight.detach().clone(), "generator": generator.get_state(), **moments}
        return Snapshot(tensors, {"step": step, "group": state["param_groups"][0]})

    try:
        for step in range(first, steps):
            rows = torch.randint(64, (16,), generator=generator)
            loss = (layer(data[rows]) - target[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            time.sleep(pause)
            stand(step)
            change = yield Progress("train", step + 1, steps, metrics={"loss": loss.item()}, snapshot=lambda done=step + 1: take(done))
            if change:
                optimiser.param_groups[0]["lr"] = change["learning_rate"]
        return layer.weight.detach().clone()
    finally:
        if mark is not None:
            Path(mark).write_text("closed")


@long_work
def count(to=5, pause=0.0, fail_at=None):
    """Counts; returns a dict. No snapshots."""
    for i in range(to):
        if i == fail_at:
            raise BadInput(f"the number {i}", "Allowed: any other", "Count without it")
        time.sleep(pause)
        stand(i)
        yield Progress("count", i + 1, to, unit="numbers")
    return {"counted": to, "by": os.getpid()}


@long_work
def measure_nothing(value=None):
    yield Progress("think", 1, 1)
    return value


@long_work
def stubborn():
    """Fails while it is closed."""
    try:
        for i in range(1000):
            time.sleep(0.01)
            yield Progress("stubborn", i, 1000)
    finally:
        raise OSError("the tidying failed")
