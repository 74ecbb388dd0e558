"""Training in float16: the loss is scaled so that small gradients survive, and a run that goes on keeps the scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import effkit as ek
from effkit.compress import weights
from effkit.compress.distillation.material import windows_for
from effkit.compress.distillation.training import Training
from effkit.spec.progress import finish
from effkit.spec.recipe import Distill

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
WAY: dict[str, Any] = {"text": TEXT, "steps": 8, "window": 32, "batch": 2, "learning_rate": 1e-3, "autocast": "float16"}


def gradients(teacher, autocast, monkeypatch, scaled=True):
    """Of the first step, as the optimizer sees them."""
    student = ek.prune(teacher, layers=2)
    step = Distill(steps=8, window=32, batch=2, temperature=0.02, objective="skew-kl", autocast=autocast)
    run = Training.begin((teacher,), student, step, windows_for(student, TEXT, 32), 0)
    run.weights.scaler = run.weights.scaler if scaled else torch.amp.GradScaler("cpu", enabled=False)
    seen = {}

    def look(*args):
        seen.update({name: p.grad.clone() for name, p in run.weights.named.items()})

    monkeypatch.setattr(run.weights.optimizer, "step", look)
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: torch.tensor(0.5))  # nothing is clipped
    for _ in run.train_():
        pass
    return torch.cat([g.flatten() for g in seen.values()])


def test_small_gradients_survive(tiny_llama, monkeypatch):
    exact, with_scale, without = (
        gradients(tiny_llama, autocast, monkeypatch, scaled) for autocast, scaled in ((None, True), ("float16", True), ("float16", False))
    )
    assert (with_scale - exact).norm() < 0.5 * (without - exact).norm()


@pytest.mark.parametrize("scale", [2.0**16, 2.0**30])
def test_it_learns_what_float32_learns_and_resumes_bit_for_bit(tiny_llama, monkeypatch, scale):
    """From 2**30 the scale is halved until the gradients fit float16; that costs no step."""
    student = ek.prune(tiny_llama, layers=2)
    with monkeypatch.context() as first:
        first.setattr(weights, "SCALE", scale)
        whole = ek.distill(tiny_llama, student, **WAY)
        work = ek.distill.work(tiny_llama, student, **WAY)
        for _ in range(4):
            event = next(work)
        kept, after = event.snapshot(), next(work).snapshot().state["scaler"]
        work.close()
    assert after["scale"] <= 2.0**25
    assert after["_growth_tracker"] == 4
    resumed = ek.distill.work(tiny_llama, student, **WAY, resume=kept)
    assert next(resumed).snapshot().state["scaler"] == after
    resumed = finish(ek.distill.work(tiny_llama, student, **WAY, resume=kept))
    exact = ek.distill(tiny_llama, student, **{**WAY, "autocast": None})
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor), name
    start, half, full = (torch.cat([p.flatten() for p in model.module.parameters()]) for model in (student, whole, exact))
    assert (half - full).norm() < 0.1 * (full - start).norm()


def test_a_loss_that_is_not_finite_is_no_matter_of_scale(tiny_llama):
    with pytest.raises(ek.EffkitError, match="training diverged"):
        ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **{**WAY, "learning_rate": 1e30})
