"""Devices, clock, memory and the verbs on a real CUDA GPU: the same results as on the CPU, timed and counted by the GPU.

No time is compared with a number: only orderings that must hold on any GPU.
"""

from __future__ import annotations

import gc
import importlib.util
import time

import pytest
import torch

import effkit as ek
from effkit.hardware.attached.clock import Clock
from effkit.hardware.attached.doctor import examine
from effkit.hardware.attached.memory import PeakMemory, guard
from effkit.spec.errors import BadInput, OutOfMemory, Unavailable

TEXT = " ".join(f"The pump was opened {n} times before its seal gave way and the crew wrote down why." for n in range(60))
needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture
def base(tiny_llama_folder) -> ek.Model:
    return ek.load(str(tiny_llama_folder), device="cuda", dtype="float32")


def ids(model: ek.Model) -> torch.Tensor:
    return torch.tensor([model.tokens(TEXT)[:48]], device=model.device.torch)


def near(model: ek.Model, other: ek.Model, tolerance: float = 1e-4) -> None:
    assert (model.logits(ids(model)).cpu() - other.logits(ids(other)).cpu()).abs().max() <= tolerance


def test_the_gpu_is_found_and_first():
    first = ek.devices()[0]
    assert str(first) == "cuda:0"
    assert ek.device("auto") == ek.device("cuda") == ek.device("cuda:0") == first
    assert first.memory == torch.cuda.get_device_properties(0).total_memory
    assert first.timing == "events"
    assert not first.simulated
    for name in first.dtypes:
        a = torch.full((16, 16), 2.0, dtype=getattr(torch, name), device="cuda")
        assert float((a @ a)[0, 0]) == 64.0


def test_a_gpu_that_is_not_here():
    with pytest.raises(Unavailable, match=r"device 'cuda:99' is not here\. There (is|are) \d+ of type cuda\. Attached: cuda:0 \("):
        ek.device("cuda:99")


def test_the_clock_waits_where_a_plain_timer_does_not():
    a = torch.randn(8192, 8192, device="cuda")
    clock = Clock("cuda")
    with clock.measure():  # loads libraries
        a @ a
    begun = time.perf_counter()
    with clock.measure() as span:
        for _ in range(20):
            a @ a
        launched = time.perf_counter() - begun
    total = time.perf_counter() - begun
    assert clock.how == "device events"
    assert launched < span.seconds <= total * 1.01


def test_marks_order_work():
    a = torch.randn(4096, 4096, device="cuda")
    clock = Clock("cuda")
    a @ a
    marks = [clock.mark()]
    for count in (2, 40):
        for _ in range(count):
            a @ a
        marks.append(clock.mark())
    assert 0 < clock.seconds(marks[0], marks[1]) < clock.seconds(marks[1], marks[2])


def test_peak_memory_comes_from_the_allocator():
    size = 64 << 20
    gc.collect()
    before = torch.cuda.memory_allocated()
    with PeakMemory("cuda") as peak:
        torch.empty(size, dtype=torch.uint8, device="cuda")
    assert peak.allocated is not None
    assert size <= peak.allocated - before < size + (1 << 20)
    assert peak.reserved is not None
    assert peak.reserved >= peak.allocated
    assert "cuda:0" in peak.noun().how


def test_out_of_memory_has_the_figures_and_the_gpu_survives():
    with pytest.raises(OutOfMemory, match=r"Out of memory on cuda:0 while filling it \(asked for ") as caught, guard("cuda", "filling it"):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert caught.value.asked == 1 << 50
    assert caught.value.total == ek.device("cuda").memory
    assert torch.ones(4, device="cuda").sum().item() == 4


def test_a_model_loads_and_agrees_with_the_cpu(base, tiny_llama):
    assert {p.device.type for p in base.module.parameters()} == {"cuda"}
    near(base, tiny_llama)


@pytest.mark.parametrize("method", ["rtn", pytest.param("nf4", marks=needs_bitsandbytes), pytest.param("int8", marks=needs_bitsandbytes)])
def test_quantizing_gives_what_it_gives_on_the_cpu(base, tiny_llama, method):
    options = {"method": method, "bits": 8 if method == "int8" else 4, "group_size": None if method == "int8" else 32}
    here, there = ek.quantize(base, **options), ek.quantize(tiny_llama, **options)
    assert here.stored_bytes == here.plans[-1].bytes_after == there.stored_bytes
    assert {t.device.type for t in here.module.state_dict().values()} == {"cuda"}
    difference = (here.logits(ids(here)) - base.logits(ids(base))).abs().max()
    assert (here.logits(ids(here)).cpu() - there.logits(ids(there))).abs().max() < difference / 4


def test_distilling_lowers_the_loss(base):
    losses = []
    work = ek.distill.work(base, ek.prune(base, layers=2), text=TEXT, steps=20, window=32, batch=4, learning_rate=1e-3)
    for event in work:
        losses += [event.metrics["loss"]] if "loss" in event.metrics else []
    assert sum(losses[-5:]) < sum(losses[:5])


def test_evaluating_gives_what_it_gives_on_the_cpu(base, tiny_llama):
    here = ek.evaluate(ek.quantize(base, bits=3, group_size=32), base=base, on=TEXT, window=64, windows=4)
    there = ek.evaluate(ek.quantize(tiny_llama, bits=3, group_size=32), base=tiny_llama, on=TEXT, window=64, windows=4)
    assert here.perplexity.value == pytest.approx(there.perplexity.value, rel=1e-2)
    assert here.kl is not None
    assert there.kl is not None
    assert here.kl.mean.value == pytest.approx(there.kl.mean.value, rel=5e-2)


def test_profiling_is_timed_and_counted_by_the_gpu(base):
    profile = ek.profile(base, prompt=32, new_tokens=4, repeats=3, warmup=1)
    assert (profile.device_type, profile.simulated, profile.timing) == ("cuda", False, "device events")
    assert profile.time_per_output_token.value is not None
    assert profile.time_per_output_token.value > 0
    assert profile.memory.allocated is not None
    assert profile.memory.allocated >= base.stored_bytes


def test_a_compiled_profile_is_compiled_and_keeps_a_cache_of_fixed_size(base):
    """Two in one process, of other sizes: neither falls back, and a step that is started as one graph is not the slower one."""
    for prompt in (16, 32):
        found = ek.profile(base, prompt=prompt, new_tokens=16, repeats=3, warmup=1, compiled=True)
        assert found.decoding.note == ""
        assert (found.decoding.compiled, found.decoding.cache) == (True, "static")
        plain = ek.profile(base, prompt=prompt, new_tokens=16, repeats=3, warmup=1)
        assert found.output_token_percentiles["p50"] < plain.output_token_percentiles["p50"]


def test_time_by_module_is_the_gpus(base):
    found = ek.breakdown(base, prompt=16, repeats=3)
    assert (found.timing, found.device_type) == ("device events", "cuda")
    assert sum(part.own_ms for part in found.root.walk()) == pytest.approx(found.root.total_ms)
    assert all(part.total_ms > 0 for part in found.root.walk() if part.calls)


def test_a_calibration_gives_the_gpus_rates_and_a_verdict(base):
    """No figure is compared with a data sheet, but a copy cannot beat the memory, nor a product what is published for it."""
    made = ek.calibrate("cuda", formats=["bfloat16", "float32"], dtype="float32", seconds=3)
    assert made.overlaps
    assert made.timing == "device events"
    assert 0 < made.cache_seconds_per_byte < 1e-9
    assert made.matrix_rate("bfloat16") > made.matrix_rate("float32")
    try:
        sheet = ek.accelerator(torch.cuda.get_device_name(0))
    except BadInput:
        sheet = None
    if sheet is not None:
        assert 0.4 * sheet.bandwidth < made.copy_rate < 1.05 * sheet.bandwidth
        assert 0.2 * sheet.rates["bf16"] < made.matrix_rate("bfloat16") < 1.05 * sheet.rates["bf16"]
    found = ek.bottleneck(base, made, prompt=16, new_tokens=4, repeats=2)
    assert found.verdict == "launch overhead"  # layers of 64 numbers are nothing to a GPU
    assert not found.figures.simulated


def test_energy_is_metered_or_its_absence_explained(base):
    found = ek.profile(base, prompt=16, new_tokens=32, repeats=5, warmup=1).energy
    assert [reading.source for reading in found.device] == ["nvml"]
    if found.machine.value is None:
        assert found.why_not()
    else:
        assert found.machine.how in ("counter", "sampled")
        assert 1 < found.watts.value < 2000


def test_doctor_finds_that_it_works():
    checks = {check["name"]: check for check in examine()["checks"]}
    assert checks["cuda:0 numbers"]["works"], checks["cuda:0 numbers"]
    assert checks["cuda:0 timing"]["found"] == "by device events"
