"""What a quantize step is said to take before it starts."""

from __future__ import annotations

import time

import effkit as ek
from effkit.hardware.attached.memory import PeakMemory
from effkit.spec.recipe import Quantize


def test_estimates_grow_with_the_work(tiny_llama):
    plain = ek.plan(tiny_llama, Quantize(method="rtn"))
    reading = ek.plan(tiny_llama, Quantize(method="gptq"))
    tuned = ek.plan(tiny_llama, Quantize(method="gptq", tune="weights"))
    short, long = (ek.plan(tiny_llama, Quantize(method="learned", learn_steps=n)).seconds for n in (200, 2000))
    assert long > 5 * short
    assert 0 < plain.seconds < reading.seconds < tuned.seconds
    assert plain.bytes_before + plain.bytes_after <= plain.peak_bytes <= reading.peak_bytes < tuned.peak_bytes
    assert "about" in plain.estimate
    assert "of memory" in plain.estimate
    assert plain.estimate not in str(plain)


def test_an_estimate_is_of_the_right_size(stories15m):
    """Within a factor that a busy machine and a small model allow: a wrong unit would be off by a thousand."""
    step = Quantize(method="gptq", samples=8, window=64)
    base = ek.load(stories15m, device="cpu")
    said = ek.plan(base, step)
    begun = time.perf_counter()
    with PeakMemory("cpu") as peak:
        ek.quantize(base, "gptq", samples=8, window=64)
    taken = time.perf_counter() - begun
    assert said.seconds / 30 < taken < said.seconds * 60
    assert said.peak_bytes > base.stored_bytes
    assert (peak.resident or 0) - (peak.resident_before or 0) < 4 * said.peak_bytes
