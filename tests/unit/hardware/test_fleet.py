"""The fleet: its queue against the formulae of Erlang and of Pollaczek and Khinchine, and orderings that must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

import effkit as ek
from effkit.hardware.projected.fleet import DAY, arrivals, concentration, draw_service, waiting_times
from effkit.hardware.projected.price import Service
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate


def service(**changes) -> Service:
    """Two seconds a query, eight at once."""
    fields = {"prompt": 1000, "new_tokens": 101, "batch": 8, "device": "h100-sxm"}
    times = {"time_to_first_token": Estimate(value=500, unit="ms"), "time_per_output_token": Estimate(value=15, unit="ms")}
    return Service(**{**fields, **times, **changes})


def erlang_c(load: float, places: int) -> float:
    """The chance to wait in M/M/c at `load` = arrival rate x service time (Erlang 1917)."""
    blocked = 1.0
    for k in range(1, places + 1):
        blocked = load * blocked / (k + load * blocked)
    return blocked / (1 - load / places * (1 - blocked))


def test_the_formula_itself_for_one_place_and_by_a_table():
    assert erlang_c(0.7, 1) == pytest.approx(0.7)
    assert erlang_c(8.0, 10) == pytest.approx(0.4092, abs=5e-4)


@pytest.mark.parametrize(("places", "busy"), [(1, 0.7), (4, 0.8), (32, 0.9)])
def test_exponential_service_waits_as_erlang_says(places, busy):
    waits, chances = [], []
    for seed in range(12):
        times = arrivals(busy * places, 60_000 / (busy * places), seed)
        found = waiting_times(times, draw_service(1.0, 1.0, len(times), seed), places)[5000:]
        waits.append(found.mean())
        chances.append((found > 0).mean())
    chance = erlang_c(busy * places, places)
    assert np.mean(chances) == pytest.approx(chance, rel=0.05)
    assert np.mean(waits) == pytest.approx(chance / (places * (1 - busy)), rel=0.08)


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_equal_service_waits_half_as_long_as_pollaczek_and_khinchine_say(busy):
    waits = [waiting_times(t := arrivals(busy, 60_000 / busy, seed), np.ones(len(t)), 1)[5000:].mean() for seed in range(12)]
    assert np.mean(waits) == pytest.approx(busy / (2 * (1 - busy)), rel=0.05)


def test_the_two_ways_to_simulate_agree():
    times = arrivals(3.5, 2000, seed=1)
    equal = waiting_times(times, np.ones(len(times)), 4)
    almost = np.ones(len(times))
    almost[0] += 1e-12  # so that the heap is used
    assert np.allclose(equal, waiting_times(times, almost, 4), atol=1e-9)
    assert equal.max() > 0
    assert len(waiting_times(np.zeros(0), np.zeros(0), 2)) == 0


def test_arrivals_follow_the_day():
    for peak in (1.0, 2.0, 5.0):
        k = concentration(peak)
        turn = np.exp(k * np.cos(np.linspace(0, 2 * np.pi, 100_000, endpoint=False)))
        assert turn.max() / turn.mean() == pytest.approx(peak, rel=1e-6)
    times = arrivals(2.0, DAY, 0, peak_to_mean=3.0, middle=DAY / 2)
    assert len(times) == pytest.approx(2.0 * DAY, rel=0.02)
    hours = np.histogram(times, 24, (0, DAY))[0] / 3600
    assert hours.argmax() in (11, 12)
    assert hours.max() == pytest.approx(6.0, rel=0.05)
    assert (np.diff(times) >= 0).all()
    gaps = np.diff(arrivals(2.0, 50_000, 3))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


def test_service_times_have_the_mean_and_the_spread_that_were_asked():
    for spread in (0.5, 1.0):
        drawn = draw_service(2.0, spread, 200_000, 0)
        assert drawn.mean() == pytest.approx(2.0, rel=0.01)
        assert drawn.std() / drawn.mean() == pytest.approx(spread, rel=0.02)
    assert (draw_service(2.0, 0, 10, 0) == 2.0).all()


def test_the_fleet_holds_its_bound_and_one_replica_less_does_not_keep_up():
    need = ek.fleet(service(), 2e6, latency_ms=5000, peak_to_mean=2.0, seeds=4)
    load = 2e6 / DAY * 2.0 * 2  # rate x peak x seconds
    assert need.devices.low <= need.devices.value <= need.devices.high
    assert need.devices.value >= load / 8
    assert need.devices.value <= load / 8 * 1.5 + 1
    assert need.latency.value <= 5000
    assert need.mean_utilisation.value == pytest.approx(2e6 / DAY * 2 / (need.replicas.value * 8))
    assert need == ek.fleet(service(), 2e6, latency_ms=5000, peak_to_mean=2.0, seeds=4)  # the same seeds, the same fleet
    assert "answer 2000000 queries a day" in str(need)


def test_the_wait_counts_and_so_does_the_busiest_moment():
    single = service(batch=1)  # a place a replica: 4.6 busy at the peak, so that five would nearly always keep queries waiting
    need = ek.fleet(single, 1e5, latency_ms=2100, spread=0.0, seeds=4)
    assert need.replicas.value > 5
    assert need.latency.value <= 2100
    patient = ek.fleet(single, 1e5, latency_ms=1e8, spread=0.0, seeds=4)
    assert patient.replicas.value == 5  # four would fall behind for as long as the peak lasts, whatever the bound


def test_orderings_that_must_hold():
    def devices(queries=5e5, **changes) -> float:
        return ek.fleet(service(), queries, **{"latency_ms": 4500, "seeds": 3, **changes}).devices.value

    usual = devices()
    assert devices(1e6) > usual
    assert devices(peak_to_mean=4.0) > usual
    assert devices(latency_ms=20_000) <= usual
    assert devices(percentile=99, latency_ms=8000) >= devices(percentile=90, latency_ms=8000)
    assert devices(spread=0.0, latency_ms=2100) >= devices(spread=0.0, latency_ms=4000)
    assert ek.fleet(service(devices=2), 5e5, latency_ms=4500, seeds=3).devices.value == 2 * usual


def test_the_price_of_a_fleet_counts_the_idle_hours():
    need = ek.fleet(service(), 2e6, latency_ms=5000, per_hour=3.0, seeds=3)
    assert need.price_per_day.value == pytest.approx(need.devices.value * 24 * 3.0)
    assert need.price_per_1000_queries.value == pytest.approx(need.price_per_day.value / 2000)
    always = ek.price(service(), per_hour=3.0, utilisation=1.0).per_1000_queries.value
    assert need.price_per_1000_queries.value == pytest.approx(always / need.mean_utilisation.value)
    assert ek.fleet(service(device="910b2"), 1e5, latency_ms=5000, seeds=2).price_per_day.value is None


def test_what_no_number_of_devices_can_do_is_said():
    slow = ek.fleet(service(), 1e5, latency_ms=1000, seeds=2)
    assert (slow.devices.value, slow.devices.how) == (None, "unavailable")
    assert "without any queue" in str(slow)
    unknown = ek.fleet(service(time_per_output_token=Estimate.unavailable("ms")), 1e5, latency_ms=1000)
    assert unknown.devices.value is None
    assert math.isfinite(ek.fleet(service(), 1e-3, latency_ms=9000, seeds=2).devices.value)  # hardly any query: one replica


@pytest.mark.parametrize(
    "wrong", [{"queries_per_day": 0}, {"latency_ms": -1}, {"peak_to_mean": 0.5}, {"percentile": 100}, {"spread": -1}, {"seeds": 0}]
)
def test_a_number_that_cannot_be_is_refused(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} is .* Allowed: "):
        ek.fleet(service(), **{"queries_per_day": 1e5, "latency_ms": 5000, **wrong})
