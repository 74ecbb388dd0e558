"""Warm-up found while profiling, outliers kept, goodput, sweeps, and profiling in a process of its own."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
import torch

import effkit as ek
from effkit.measure.sweeping import sweep
from effkit.spec.errors import BadInput, OutOfMemory, Unavailable
from effkit.spec.intervals import Estimate, wilson
from effkit.spec.serving import Sweep, goodput

MEASURING = "effkit.measure.isolated"  # the process that profiles
FEW = {"prompt": 16, "new_tokens": 4, "repeats": 4}


@pytest.fixture
def clockwork(clockwork):
    """The same with seconds(repeat, token), for repeats of four passes."""
    return lambda model, seconds: clockwork(model, lambda number, _: seconds(number // 4, number % 4))


def test_the_warm_up_is_found(tiny_llama, clockwork):
    """Three slow repeats, then a level: three are discarded, however many that takes."""
    clockwork(tiny_llama, lambda repeat, token: (5.0 if repeat < 3 else 1.0) * (0.02 + 0.0001 * (repeat % 2)))
    got = ek.profile(tiny_llama, **FEW)
    assert (got.warmup, got.warmup_how, got.repeats) == (3, "found", 4)
    assert max(got.first_token_times) < 21
    assert len(got.first_token_times) == len(got.output_token_times) == 4


def test_a_warm_up_of_the_base_counts_too(tiny_llama, clockwork):
    base = tiny_llama.clone()
    clockwork(tiny_llama, lambda *_: 0.02)
    clockwork(base, lambda repeat, _: 0.1 if repeat < 2 else 0.02)
    assert ek.profile(tiny_llama, base, **FEW).warmup == 2


def test_what_never_becomes_stationary_says_so(tiny_llama, clockwork):
    clockwork(tiny_llama, lambda repeat, _: 0.01 * 1.3**repeat)
    got = ek.profile(tiny_llama, prompt=16, new_tokens=4, repeats=5)
    assert (got.warmup, got.warmup_how) == (10, "not stationary after 10")


def test_a_number_that_was_asked_for_is_kept(tiny_llama, clockwork):
    clockwork(tiny_llama, lambda repeat, _: 5.0 if repeat < 3 else 1.0)
    got = ek.profile(tiny_llama, **FEW, warmup=1)
    assert (got.warmup, got.warmup_how) == (1, "asked for")
    assert max(got.first_token_times) == pytest.approx(5000)


def test_events_never_go_past_their_total(tiny_llama, clockwork):
    clockwork(tiny_llama, lambda repeat, _: 5.0 if repeat < 3 else 1.0)
    events = list(ek.profile.work(tiny_llama, **FEW))
    assert all(e.done < e.total for e in events)
    assert [e.done for e in events] == list(range(28))
    assert (events[0].total, events[-1].total) == (20, 28)


def test_outliers_are_named_and_stay_in_the_figures(tiny_llama, clockwork):
    clockwork(tiny_llama, lambda repeat, token: 0.5 if (repeat, token) == (3, 2) else 0.02)
    got = ek.profile(tiny_llama, **FEW, warmup=1)
    assert [(o.repeat, o.token, round(o.ms), round(o.typical_ms)) for o in got.outliers] == [(2, 2, 500, 20)]
    assert got.time_per_output_token.value == pytest.approx((11 * 20 + 500) / 12)
    assert ek.Profile.model_validate_json(got.model_dump_json()) == got


def test_goodput_counts_requests_that_keep_both_bounds(tiny_llama, clockwork):
    """Four repeats of a batch of 3: first tokens after 40, 20, 20, 20 ms; further ones every 10, 10, 30, 10 ms."""
    first, rest = [0.02, 0.04, 0.02, 0.02, 0.02], [0.01, 0.01, 0.01, 0.03, 0.01]
    clockwork(tiny_llama, lambda repeat, token: rest[repeat] if token else first[repeat])
    got = ek.profile(tiny_llama, **FEW, batch=3, warmup=1)
    seconds = sum(first[1:]) + 3 * sum(rest[1:])
    both = got.goodput(first_token_ms=30, output_token_ms=20)
    assert both.share.value == 0.5
    assert both.requests.value == pytest.approx(6 / seconds)
    assert both.tokens.value == pytest.approx(24 / seconds)
    assert got.goodput(first_token_ms=30).share.value == 0.75
    assert got.goodput(output_token_ms=5).requests.value == 0
    assert got.goodput(output_token_ms=1000).requests.value == pytest.approx(12 / seconds)


def test_goodput_refuses_and_does_not_guess(tiny_llama):
    got = ek.profile(tiny_llama, **FEW, warmup=0)
    with pytest.raises(BadInput, match="neither first_token_ms nor output_token_ms is given"):
        got.goodput()
    with pytest.raises(BadInput, match=r"first_token_ms is -1\. Allowed: milliseconds above 0, or None"):
        got.goodput(first_token_ms=-1)
    old = got.model_copy(update={"first_token_times": (), "output_token_times": ()})
    assert goodput(old, first_token_ms=5).share.value is None


def test_wilson_is_that_of_the_textbook():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    a, b = wilson(81, 263), wilson(0, 20)
    assert (a.low, a.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert (b.low, b.high) == (0, pytest.approx(0.1611, abs=1e-4))


def test_a_sweep_measures_every_combination_the_cheapest_first(tiny_llama, calls):
    seen = calls(tiny_llama)
    got = sweep(tiny_llama, batches=(2, 1), contexts=(8, 32), new_tokens=2, repeats=1, warmup=0)
    assert [(p.batch, p.prompt) for p in got] == [(1, 8), (2, 8), (1, 32), (2, 32)]
    assert [shape for shape in seen if shape[1] > 1] == [(1, 8), (2, 8), (1, 32), (2, 32)]
    assert got.at(2, 32) is got.profiles[3]
    assert got.at(3, 32) is None
    assert Sweep.model_validate_json(got.model_dump_json()) == got
    assert [row["batch"] for row in got.rows()] == [1, 2, 1, 2]


def test_a_combination_that_cannot_be_measured_does_not_end_the_sweep(tiny_llama):
    def full(module, args, given) -> None:
        if given["input_ids"].shape[0] == 2:
            torch.empty(1 << 55, dtype=torch.uint8)

    tiny_llama.module.register_forward_pre_hook(full, with_kwargs=True)
    got = sweep(tiny_llama, batches=(1, 2, 3), contexts=(8, 300), new_tokens=2, repeats=1, warmup=0)
    assert [(p.batch, p.prompt) for p in got] == [(1, 8), (3, 8)]
    assert [(m.batch, m.prompt) for m in got.missing] == [(2, 8), (1, 300), (2, 300), (3, 300)]
    assert "Out of memory on cpu" in got.missing[0].why
    assert got.missing[1].why == "302 tokens, and this model reads at most 256 at once"


def test_the_best_combination_keeps_the_bounds(tiny_llama):
    got = sweep(tiny_llama, batches=(1, 2, 4), contexts=(8,), new_tokens=2, repeats=2, warmup=0)
    slower = [
        p.model_copy(update={"first_token_times": (10.0 * p.batch,) * 2, "output_token_times": (4.0 * p.batch,) * 2}) for p in got.profiles
    ]
    made = Sweep(profiles=tuple(slower))
    assert made.best(first_token_ms=25).batch in (1, 2)
    assert made.best(first_token_ms=25, output_token_ms=5).batch == 1
    assert made.best(first_token_ms=5) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batches": ()}, r"batches is \(\)\. Allowed: a list of whole numbers of at least 1\."),
        ({"contexts": 5}, r"contexts is 5\. Allowed: a list"),
        ({"batches": (1, 0)}, r"each of batches is 0\. Allowed: a whole number of at least 1\."),
    ],
)
def test_a_sweep_refuses(tiny_llama, given, message):
    with pytest.raises(BadInput, match=message):
        sweep(tiny_llama, **given)


def test_isolated_is_the_same_measurement_in_another_process(tiny_llama, children):
    packed = ek.quantize(tiny_llama, bits=4, group_size=32)
    seen, events = set(), []
    for event in ek.profile.work(packed, tiny_llama, **FEW, warmup=1, isolated=True):
        events.append(event)
        seen |= {child.pid for child in children(MEASURING)}
    assert len(seen) == 1
    assert not psutil.pid_exists(seen.pop())
    here = list(ek.profile.work(packed, tiny_llama, **FEW, warmup=1))
    assert [(e.done, e.total, e.message) for e in events] == [(e.done, e.total, e.message) for e in here]
    got = ek.profile(packed, tiny_llama, **FEW, warmup=1, isolated=True)
    alike = ek.profile(packed, tiny_llama, **FEW, warmup=1)
    assert got.isolated
    assert not alike.isolated
    same = {"device", "dtype", "prompt", "new_tokens", "batch", "repeats", "warmup", "threads", "timing"}
    assert got.model_dump(include=same) == alike.model_dump(include=same)
    assert got.decoding.engines == alike.decoding.engines
    assert got.decoding.cache_bytes == alike.decoding.cache_bytes
    assert isinstance(got.speed_ratio, Estimate)
    assert got.speed_ratio.value > 0


def test_an_error_comes_back_as_what_it_is(tiny_llama, monkeypatch):
    with pytest.raises(OutOfMemory, match="Out of memory on cpu while profiling with batch 4000000000"):
        ek.profile(tiny_llama, prompt=200, new_tokens=1, batch=4_000_000_000, repeats=1, warmup=0, isolated=True)


def test_a_process_that_is_killed_says_so(tiny_llama, children):
    work = ek.profile.work(tiny_llama, **FEW, warmup=1, isolated=True)
    next(work)
    for child in children(MEASURING):
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match=r"the process that profiled ended before its result\. The system killed it"):
        list(work)


def test_cancelling_ends_the_process(tiny_llama, children):
    work = ek.profile.work(tiny_llama, **FEW, warmup=1, isolated=True)
    next(work)
    [child] = children(MEASURING)
    work.close()
    assert not child.is_running()
