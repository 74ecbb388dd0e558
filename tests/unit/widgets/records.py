"""Records made by hand, and a toy of long work."""

from __future__ import annotations

import math
import threading

import numpy as np

from effkit.spec.intervals import Estimate
from effkit.spec.progress import Progress, long_work
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe
from effkit.spec.record import KL, Blocks, Checkpoint, Cost, Profile, Quality, Record

BASE = Recipe()
CHECKPOINT = Checkpoint(source="toy", hash="0" * 16, architecture="LlamaForCausalLM")


def estimate(value: float, width: float = 0.02, unit: str = "") -> Estimate:
    return Estimate(value=value, low=value * (1 - width), high=value * (1 + width), unit=unit, n=16)


def record(name: str, recipe: Recipe = BASE, bytes: int = 1_000_000, retained: float = 1.0, decode: float = 30.0, seed: int = 0) -> Record:
    """A record that keeps `retained` of a base with perplexity 20."""
    kl = 1 / retained - 1
    kls = tuple(float(v) for v in kl * np.exp(np.random.default_rng(seed + 100).normal(0, 0.02, 16)))
    nll = tuple(float(v) for v in math.log(20 / retained) + np.random.default_rng(seed).normal(0, 1e-3, 16))
    quality = Quality(
        perplexity=estimate(20 / retained),
        base_perplexity=estimate(20.0),
        perplexity_ratio=estimate(1 / retained, 0.01),
        kl=KL(mean=estimate(kl), median=estimate(kl), p90=estimate(kl), p99=estimate(kl)),
        agreement=estimate(min(1.0, retained)),
        text="t",
        tokens=1024,
        window=64,
        windows=16,
        blocks=Blocks(tokens=64, nll=nll, kl=kls),
    )
    profile = Profile(
        device="cpu (toy)",
        device_type="cpu",
        dtype="float32",
        prompt=8,
        new_tokens=8,
        batch=1,
        repeats=3,
        warmup=1,
        time_to_first_token=estimate(10, unit="ms"),
        time_per_output_token=estimate(1000 / decode, unit="ms"),
        prefill=estimate(500, unit="tokens/s"),
        decode=estimate(decode, unit="tokens/s"),
    )
    cost = Cost(bytes=bytes, base_bytes=1_000_000, bits_per_weight=8.0)
    return Record(id=name, name=name, checkpoint=CHECKPOINT, recipe=recipe, quality=quality, profile=profile, cost=cost)


def family() -> list[Record]:
    """A base and four made from it."""
    return [
        record("base"),
        record("8-bit", Recipe(steps=(Quantize(bits=8),)), 270_000, 0.99, 28, seed=1),
        record("4-bit", Recipe(steps=(Quantize(bits=4),)), 150_000, 0.8, 29, seed=2),
        record("half", Recipe(steps=(Prune(layers=2),)), 600_000, 0.5, 55, seed=3),
        record("student", Recipe(steps=(Prune(layers=2), Distill(steps=5))), 600_000, 0.7, 54, seed=4),
    ]


gate = threading.Event()


@long_work(knobs=("speed",))
def count(steps: int = 30, fail_at: int | None = None, hold_at: int | None = None):
    """Counts; waits at `hold_at` until `gate` is set, so that a test decides how far it is."""
    for i in range(1, steps + 1):
        if i == hold_at:
            gate.wait(120)
        if i == fail_at:
            raise ValueError("the toy broke")
        yield Progress("count", i, steps, "steps", metrics={"loss": 1 / i, **({"held_out": 2 / i} if i % 5 == 0 else {})})
    return steps
