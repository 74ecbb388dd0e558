"""How many devices a service needs: queries a day with a busy hour, a bound on the latency, and a queue in front of the devices.

    need = fleet(profile, queries_per_day=2e6, peak_to_mean=2.5, latency_ms=4000, per_hour=3.20)
    need.devices, need.latency, need.price_per_day

A discrete-event simulation of the busiest hour: Poisson arrivals whose rate follows the day (a von Mises curve with the given
ratio of peak to mean), first come first served, each replica answering `batch` queries at once, output lengths that vary.
One free place for each query is the queue G/G/c; without spread it is M/D/c, with spread 1 M/M/c, for which Erlang (1917) gives
the wait in closed form, and against which the tests hold the simulation. Averages hide queues: at 95% load of ten places a
query waits as long as it takes, at 70% hardly ever.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np

from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate, Noun, three
from effkit.spec.prices import query_seconds

from .price import Service, price, service_of

DAY, HOUR = 86_400.0, 3600.0
MOST_ARRIVALS = 40_000  # simulated at once: a longer busy hour is cut to its middle, many times as long as a query takes


class Fleet(Noun):
    """What serves so many queries within the bound.

    replicas, devices: the median over the seeds, with the least and the most of them as interval
    latency:           ms at the percentile that was asked for, at that many replicas, in the busiest hour; wait: of it in the queue
    utilisation:       share of the places that are busy in that hour; mean_utilisation: over the day
    """

    device: str
    query: str
    queries_per_day: float
    peak_to_mean: float
    bound_ms: float
    percentile: float
    devices: Estimate
    replicas: Estimate
    latency: Estimate = Estimate.unavailable("ms")
    wait: Estimate = Estimate.unavailable("ms")
    utilisation: Estimate = Estimate.unavailable()
    mean_utilisation: Estimate = Estimate.unavailable()
    price_per_day: Estimate = Estimate.unavailable("$")
    price_per_1000_queries: Estimate = Estimate.unavailable("$")
    simulated: bool = False
    note: str = ""

    def __str__(self) -> str:
        name = f"{self.device} (simulated)" if self.simulated else self.device
        if self.devices.value is None:
            return f"{name}: no number of devices answers within {three(self.bound_ms)} ms: {self.note}"
        spread = "" if self.devices.low == self.devices.high else f" [{self.devices.low:.0f}, {self.devices.high:.0f}]"
        cost = "" if self.price_per_day.value is None else f", ${three(self.price_per_day.value)} a day"
        busy = "" if self.mean_utilisation.value is None else f", busy {self.mean_utilisation.value:.0%} of the day"
        return (
            f"{self.devices.value:.0f}{spread} x {name} answer {three(self.queries_per_day)} queries a day, "
            f"{self.percentile:g}% of them within {three(self.bound_ms)} ms in the busiest hour{busy}{cost}"
        )

    __repr__ = __str__


def fleet(
    what: Any,
    queries_per_day: float,
    *,
    latency_ms: float,
    peak_to_mean: float = 2.0,
    percentile: float = 95.0,
    spread: float = 0.5,
    per_hour: float | None = None,
    device: str | None = None,
    devices: int | None = None,
    seeds: int = 8,
    seed: int = 0,
) -> Fleet:
    """The devices that answer `queries_per_day`, `percentile` % of them within `latency_ms` in the busiest hour, by simulation.

    what:         a Profile, a Record, a projection or a Service: one replica at its batch; devices: of one replica
    peak_to_mean: rate of the busiest moment over the day's mean, 1 to 20
    spread:       standard deviation over mean of the time that a query takes (its output length); 0: all alike, 1: exponential
    per_hour:     $ of one device; None: its list price, where there is one. Devices are paid all day long.
    seeds:        independent days, from `seed` on; the interval is their range, which holds the median with 1 - 2^(1 - seeds)
    Raises BadInput for a number that cannot be. 86400 queries a day of 1 s each, evenly spread, hold one place on average.
    """
    service = service_of(what, device, devices)
    _between("queries_per_day", queries_per_day, 1e-9, 1e12)
    _between("latency_ms", latency_ms, 1e-9, 1e9)
    _between("peak_to_mean", peak_to_mean, 1, 20)
    _between("percentile", percentile, 1, 99.9)
    _between("spread", spread, 0, 2)
    if not isinstance(seeds, int) or not 1 <= seeds <= 1000:
        raise BadInput(f"seeds is {seeds!r}", "Allowed: a whole number from 1 to 1000")
    told: dict[str, Any] = {
        "device": service.device,
        "query": service.query,
        "queries_per_day": queries_per_day,
        "peak_to_mean": peak_to_mean,
        "bound_ms": latency_ms,
        "percentile": percentile,
        "simulated": service.simulated,
    }
    seconds = query_seconds(service.time_to_first_token, service.time_per_output_token, service.new_tokens)
    if seconds is None:
        return Fleet(**told, devices=Estimate.unavailable(), replicas=Estimate.unavailable(), note="the speed of a replica is unknown")
    mean = sum(part[0] or 0.0 for part in seconds)
    runs = [_BusyHour(service, mean, queries_per_day, peak_to_mean, spread, seed + i) for i in range(seeds)]
    unqueued = float(np.mean([np.percentile(run.service, percentile) for run in runs])) * 1000
    if unqueued > latency_ms:
        note = f"without any queue {percentile:g}% take up to {three(unqueued)} ms; a smaller batch, output or model is faster"
        return Fleet(**told, devices=Estimate.unavailable(), replicas=Estimate.unavailable(), note=note)
    found = [run.least(latency_ms / 1000, percentile) for run in runs]
    replicas = math.ceil(float(np.median(found)))
    waits = [run.waits(replicas) for run in runs]
    late = [float(np.percentile(w + run.service, percentile)) * 1000 for w, run in zip(waits, runs, strict=True)]
    queued = [float(np.percentile(w, percentile)) * 1000 for w in waits]
    busy = [min(1.0, run.load / (replicas * service.batch)) for run in runs]
    count = replicas * service.devices
    daily = mean * queries_per_day / DAY / (replicas * service.batch)
    paid = price(service, per_hour, utilisation=min(1.0, daily))
    per_day = Estimate.unavailable("$")
    if paid.per_hour is not None:
        ends = [n * service.devices * 24 * paid.per_hour for n in (replicas, min(found), max(found))]
        per_day = Estimate(value=ends[0], low=ends[1], high=ends[2], unit="$", n=seeds, how="modelled")
    return Fleet(
        **told,
        replicas=_range(replicas, found),
        devices=_range(count, [n * service.devices for n in found]),
        latency=_range(float(np.median(late)), late, "ms"),
        wait=_range(float(np.median(queued)), queued, "ms"),
        utilisation=_range(float(np.median(busy)), busy),
        mean_utilisation=Estimate(value=daily, how="modelled"),
        price_per_day=per_day,
        price_per_1000_queries=_per(per_day, queries_per_day),
        note=f"places a replica: {service.batch}; {min(len(run.arrivals) for run in runs)} arrivals a seed",
    )


def arrivals(rate: float, duration: float, seed: int, peak_to_mean: float = 1.0, middle: float = HOUR / 2) -> np.ndarray:
    """Sorted times in seconds of a Poisson process over `duration`; with a peak, the mean of the day is `rate`.

    The rate follows rate x exp(k cos(2 pi t / day)) / I0(k), highest at `middle`, with k such that its peak is as was asked.
    """
    k = concentration(peak_to_mean)
    rng = np.random.default_rng(seed)
    highest = rate * peak_to_mean
    times = np.sort(rng.uniform(0, duration, rng.poisson(highest * duration)))
    if k == 0:
        return times
    kept = np.exp(k * (np.cos(2 * np.pi * (times - middle) / DAY) - 1))  # thinning (Lewis & Shedler 1979)
    return times[rng.random(len(times)) < kept]


def concentration(peak_to_mean: float) -> float:
    """k of a von Mises curve whose peak is so many times its mean: exp(k) / I0(k), by bisection. 1: 0, an even day."""
    low, high = 0.0, 4 * peak_to_mean**2  # exp(k) / I0(k) is about sqrt(2 pi k), so that k is below the square of the ratio
    if peak_to_mean <= 1:
        return 0.0
    for _ in range(80):
        k = (low + high) / 2
        # I0 scaled by exp(-k), as the mean of exp(k (cos x - 1)) over a turn: exact for a smooth periodic integrand
        turn = np.exp(k * (np.cos(np.linspace(0, 2 * np.pi, 4096, endpoint=False)) - 1)).mean()
        low, high = (k, high) if 1 / turn < peak_to_mean else (low, k)
    return (low + high) / 2


def waiting_times(times: np.ndarray, service: np.ndarray, places: int) -> np.ndarray:
    """Seconds that each arrival waits for one of `places`, first come first served.

    Equal service times leave in the order of arrival, so that place i mod c serves arrival i, and Lindley's recursion becomes a
    running maximum for all places at once; otherwise the earliest free place is taken from a heap.
    """
    n = len(times)
    if n == 0:
        return np.zeros(0)
    if np.ptp(service) == 0:
        rows = -(-n // places)
        padded = np.full(rows * places, np.inf)
        padded[:n] = times
        steps = np.arange(rows)[:, None] * service[0]
        starts = np.maximum.accumulate(padded.reshape(rows, places) - steps, axis=0) + steps
        return np.maximum(starts.ravel()[:n] - times, 0.0)
    free = [0.0] * places
    starts = np.empty(n)
    for i, (at, takes) in enumerate(zip(times.tolist(), service.tolist(), strict=True)):
        start = max(at, free[0])
        heapq.heapreplace(free, start + takes)
        starts[i] = start
    return starts - times


def draw_service(mean: float, spread: float, count: int, seed: int) -> np.ndarray:
    """Service times in seconds: gamma with that mean and ratio of deviation to mean; all alike at 0, exponential at 1."""
    if spread == 0:
        return np.full(count, mean)
    shape = 1 / spread**2
    return np.random.default_rng([seed, 1]).gamma(shape, mean / shape, count)


class _BusyHour:
    """One seed's arrivals and service times around the peak. The first part only fills the queue and is not counted."""

    def __init__(self, service: Service, mean: float, per_day: float, peak_to_mean: float, spread: float, seed: int) -> None:
        self.batch, rate = service.batch, per_day / DAY
        highest = rate * peak_to_mean
        warm = 10 * mean
        duration = max(min(HOUR, MOST_ARRIVALS / highest), 20 * mean)
        times = arrivals(rate, warm + duration, seed, peak_to_mean, middle=warm + duration / 2)
        self.arrivals, self.counted = times, times >= warm
        self.all_service = draw_service(mean, spread, len(times), seed)
        self.service = self.all_service[self.counted] if self.counted.any() else np.full(1, mean)
        self.load = mean * (self.counted.sum() / duration)  # places that are busy on average
        self.peak_load = mean * highest
        self.seen: dict[int, np.ndarray] = {}

    def waits(self, replicas: int) -> np.ndarray:
        """Seconds in the queue of the counted arrivals."""
        if replicas not in self.seen:
            waits = waiting_times(self.arrivals, self.all_service, replicas * self.batch)[self.counted]
            self.seen[replicas] = waits if len(waits) else np.zeros(1)
        return self.seen[replicas]

    def least(self, bound: float, percentile: float) -> int:
        """The fewest replicas at which the percentile of wait and service is within `bound` seconds: more never wait longer.

        Never fewer than keep up with the busiest moment: below that the queue grows for as long as the moment lasts.
        """
        few = math.floor(self.peak_load / self.batch)
        enough = few + 1
        while not self._within(enough, bound, percentile):
            enough = math.ceil(enough * 1.3) + 1
            if enough * self.batch > 20 * len(self.arrivals) + 20:  # a place for each query: no queue is left
                break
        while enough - few > 1:
            middle = (few + enough) // 2
            few, enough = (few, middle) if self._within(middle, bound, percentile) else (middle, enough)
        return enough

    def _within(self, replicas: int, bound: float, percentile: float) -> bool:
        return float(np.percentile(self.waits(replicas) + self.service, percentile)) <= bound


def _range(value: float, found: list[Any], unit: str = "") -> Estimate:
    return Estimate(value=value, low=float(min(found)), high=float(max(found)), unit=unit, n=len(found), how="modelled")


def _per(per_day: Estimate, queries: float) -> Estimate:
    if per_day.value is None:
        return Estimate.unavailable("$")
    of = [None if x is None else x / queries * 1000 for x in (per_day.value, per_day.low, per_day.high)]
    return Estimate(value=of[0], low=of[1], high=of[2], unit="$", n=per_day.n, how="modelled")


def _between(field: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadInput(f"{field} is {value!r}", f"Allowed: {low:g} to {high:g}")
