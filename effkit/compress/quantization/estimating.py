"""How long a quantize step will take and how much memory it needs, before anything starts. Rough: within about a factor of two.

Time is counted in multiplications at the rate that this device is measured to have (once a process, some milliseconds),
and in passes over the weights. Memory is the base, what is made of it, and the largest thing that a method holds beside.
"""

from __future__ import annotations

import time
from functools import cache

import torch

from effkit.hardware.attached.device import Device
from effkit.models.ledger import layer_of
from effkit.models.model import Model
from effkit.spec.plan import Plan
from effkit.spec.recipe import Quantize

from .registry import method, reads
from .tuning import WINDOWS

PLAIN, SEARCHED = 3e-8, 1.5e-7  # seconds to round a weight to nearest, and with searched scales: two processor cores
PASSES = 4  # over the layers while text streams through them, partial ones added up


def with_estimates(plan: Plan, model: Model, device: Device) -> Plan:
    """The plan with `seconds` and `peak_bytes` of a Quantize step."""
    step = plan.step
    assert isinstance(step, Quantize)
    looks_at = reads(method(step.method))
    rate = matrix_rate(device)
    rounded = [p for p in plan.modules if p.action == "quantize"]
    weights = sum(p.shape[0] * p.shape[-1] for p in rounded)
    inside = [p for p in rounded if layer_of(p.module) is not None]
    read = sum(p.shape[0] * p.shape[-1] for p in inside)
    seconds, working = weights * (PLAIN if looks_at == "weights" else SEARCHED), 0.0
    widest = max((p.shape[-1] for p in rounded), default=0)
    if looks_at != "weights":
        tokens = step.samples * min(step.window, model.window)
        seconds += 2.0 * read * tokens * PASSES / rate
        seconds += sum(p.shape[0] * p.shape[-1] ** 2 for p in inside) / rate
        layer = read / max(1, model.checkpoint.layers or 1)
        working = 4.0 * (layer + 3 * widest**2 + tokens * (model.checkpoint.hidden_size or widest))
        if looks_at == "layer" and step.method == "learned":
            seconds += 6.0 * read * step.learn_steps * 8 * step.window / rate
            working += 16.0 * layer
    if step.tune is not None:
        tokens = WINDOWS * min(step.window, model.window)
        seconds += 8.0 * weights * tokens * step.tune_steps / rate
        vocabulary = model.checkpoint.vocabulary or 0
        working = max(working, weights * (16.0 if step.tune == "weights" else 1.0) + 16.0 * tokens * vocabulary)
    peak = plan.bytes_before * (2 if step.rotate else 1) + plan.bytes_after + int(working)
    return plan.model_copy(update={"seconds": float(f"{seconds:.3g}"), "peak_bytes": peak})


def matrix_rate(device: Device) -> float:
    """Floating-point operations a second in a float32 product of matrices, measured once for each device."""
    return _measured_rate(str(device.torch))


@cache
def _measured_rate(name: str) -> float:
    where = torch.device(name)
    a, b = torch.ones(512, 1024, device=where), torch.ones(1024, 1024, device=where)
    times = []
    for _ in range(4):
        if where.type != "cpu":
            torch.accelerator.synchronize(where)
        begun = time.perf_counter()
        out = a @ b
        float(out[0, 0])  # waits for the device
        times.append(time.perf_counter() - begun)
    return 2.0 * 512 * 1024 * 1024 / min(times[1:])
