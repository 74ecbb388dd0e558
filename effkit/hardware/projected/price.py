"""What a query costs on a device: from its speed, a price per hour and its power, per 1000 queries and per million tokens.

    paid = price(profile, per_hour=3.20, utilisation=0.5)
    paid.per_1000_queries, paid.per_million_input, paid.per_million_output
    break_even_price(profile_here, projection_there, per_hour=3.20)      # $/h at which a query costs the same there

A query is charged the time that it holds the device: the time to first token to its prompt, that of the tokens after it to its
output, shared by the batch (the per-token prices that services list are split in the same way; Pope et al. 2022, arXiv
2211.05102, count cost as device seconds a token too). What is unknown stays unavailable and is never zero.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from pydantic import Field

from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate, Noun, ratio, three
from effkit.spec.prices import Figure, default_power, default_price, joint, per_1000_queries, query_rate, query_seconds, scaled
from effkit.spec.recipe import validated
from effkit.spec.record import Record

from .catalogue import Accelerator, accelerator

NEEDED = ("time_to_first_token", "time_per_output_token", "prompt", "new_tokens", "batch")


class Service(Noun):
    """How fast one replica answers queries of one kind; `service_of` makes it from a profile, a record or a projection.

    time_to_first_token, time_per_output_token: ms; batch: queries answered at once; devices: of the replica (tensor parallel)
    prefill_part: ms of a token's time in which the device reads the prompts of others (continuous batching); 0: not so, or unknown
    energy_per_query: J of the devices, where it was measured; simulated: timed on a simulated device, which draws no power
    """

    device: str = "unknown device"
    prompt: int = Field(ge=0)
    new_tokens: int = Field(ge=0)
    batch: int = Field(ge=1)
    devices: int = Field(default=1, ge=1)
    time_to_first_token: Estimate
    time_per_output_token: Estimate = Estimate.unavailable("ms")
    prefill_part: float = Field(default=0.0, ge=0)
    energy_per_query: Estimate = Estimate.unavailable("J")
    simulated: bool = False

    @property
    def rate(self) -> Estimate:
        """Queries a second of the replica, always busy."""
        return query_rate(self.time_to_first_token, self.time_per_output_token, self.new_tokens, self.batch)

    @property
    def query(self) -> str:
        """What one query is, in words."""
        new = f" and {self.new_tokens} new ones" if self.new_tokens else ""
        return f"a prompt of {self.prompt} tokens{new}, batch {self.batch}"


class Price(Noun):
    """What a query of one kind costs on one device, and what that rests on.

    per_1000_queries:   $; prompt tokens x per_million_input + new tokens x per_million_output make up the same sum
    per_hour:           $ of one device, None where no price is known; source: who says so
    energy_per_query:   J of the devices alone; carbon_per_1000: grams of CO2, of the whole building
    energy_cost_per_1000: $, part of the sum above; unavailable where the price per hour holds the power
    """

    device: str
    query: str
    per_hour: float | None
    source: str
    utilisation: float
    devices: int
    per_1000_queries: Estimate
    per_million_input: Estimate
    per_million_output: Estimate
    queries_per_second: Estimate
    energy_per_query: Estimate
    energy_cost_per_1000: Estimate
    carbon_per_1000: Estimate
    power: str = ""
    simulated: bool = False

    def __str__(self) -> str:
        name = f"{self.device} (simulated)" if self.simulated else self.device
        if self.per_hour is None:
            return f"{name}: unavailable, since no price per hour is known; give one with per_hour=..."
        at = f"${three(self.per_hour)} an hour ({self.source}), busy {self.utilisation:.0%} of the time"
        tokens = "".join(
            f"; ${three(e.value)} per million {name} tokens"
            for name, e in (("input", self.per_million_input), ("output", self.per_million_output))
            if e.value is not None
        )
        return f"{name} at {at}: {_dollars(self.per_1000_queries)} per 1000 queries of {self.query}{tokens}"

    __repr__ = __str__


def price(
    what: Any,
    per_hour: float | None = None,
    *,
    device: str | None = None,
    devices: int | None = None,
    utilisation: float = 1.0,
    energy_price: float | None = None,
    pue: float | None = None,
    carbon: float | None = None,
    watts: float | None = None,
) -> Price:
    """The price of the queries that `what` answers: a Profile, a Record, a projection, or a Service.

    per_hour:     $ of one device; None: the list price of `data/prices.toml`, where there is one (none for Ascend)
    device:       a name of the catalogue, where `what` does not name it; devices: of one replica
    utilisation:  the share of paid time in which it answers queries, above 0 to 1
    energy_price: $ a kWh, only where the price per hour does not hold the power; it is added then
    pue, carbon:  power usage effectiveness and grams of CO2 a kWh; None: world averages, with their sources
    watts:        drawn by one device while busy; None: what was measured, else the limit of its data sheet (more than it draws)
    Raises BadInput for a number that cannot be. $0.36 an hour at 100 queries a second, always busy: $0.001 per 1000 queries.
    """
    service = service_of(what, device, devices)
    limits = {"per_hour": (per_hour, 0, 1e5), "energy_price": (energy_price, 0, 10), "carbon": (carbon, -1e-9, 5000)}
    for field, (value, low, high) in {**limits, "pue": (pue, 0.999, 5), "watts": (watts, 0, 1e5)}.items():
        _number(field, value, low, high)
    _number("utilisation", utilisation, 0, 1)
    listed = _list_price(service.device) if per_hour is None else None
    hour = listed.value if listed else per_hour
    energy, told = _energy(service, watts)
    overhead, intensity = _or_default("pue", pue), _or_default("carbon", carbon)
    kwh = scaled(energy, 1000 * overhead[0] / 3.6e6, "kWh")  # of 1000 queries, with what the building draws
    electricity = Estimate.unavailable("$") if energy_price is None else scaled(kwh, energy_price, "$", "modelled")
    rent = Estimate.unavailable("$") if hour is None else per_1000_queries(hour * service.devices, service.rate, utilisation)
    whole = rent if energy_price is None else _plus(rent, electricity)
    shares = _per_million(service, whole)
    return Price(
        device=service.device,
        query=service.query,
        per_hour=hour,
        source=str(listed) if listed else "given" if per_hour is not None else "unknown",
        utilisation=utilisation,
        devices=service.devices,
        per_1000_queries=whole,
        per_million_input=shares[0],
        per_million_output=shares[1],
        queries_per_second=service.rate,
        energy_per_query=energy,
        energy_cost_per_1000=electricity,
        carbon_per_1000=scaled(kwh, intensity[0], "g", "modelled") if energy.value is not None else Estimate.unavailable("g"),
        simulated=service.simulated,
        power=f"energy {told}; PUE {overhead[0]:g} ({overhead[1]}); {intensity[0]:g} g/kWh ({intensity[1]})",
    )


def break_even_price(
    a: Any,
    b: Any,
    per_hour: float | None = None,
    *,
    utilisation: float = 1.0,
    other_utilisation: float | None = None,
    energy_price: float | None = None,
    pue: float | None = None,
) -> Estimate | Literal["never"]:
    """$ an hour of one device of `b` at which a query costs the same there as on `a` at `per_hour` (its list price by default).

    Below it `b` is the cheaper one. "never" where its power alone costs more. Utilisations may differ: a faster device idles
    more at the same load. Twice as fast, both always busy: twice the price.
    Raises BadInput where the queries are not the same ones.
    """
    one, other = service_of(a), service_of(b)
    if (one.prompt, one.new_tokens) != (other.prompt, other.new_tokens):
        raise BadInput(
            f"the queries differ ({one.query}; {other.query})", "Allowed: the same prompt and new tokens", "Only the batch may differ"
        )
    busy = utilisation if other_utilisation is None else other_utilisation
    _number("other_utilisation", busy, 0, 1)
    here = price(one, per_hour, utilisation=utilisation, energy_price=energy_price, pue=pue)
    if here.per_1000_queries.value is None or other.rate.value is None:
        return Estimate.unavailable("$/h")
    power = price(other, 1.0, energy_price=energy_price, pue=pue).energy_cost_per_1000.value if energy_price is not None else 0.0
    if power is None:
        return Estimate.unavailable("$/h")
    faster = ratio(other.rate, one.rate)
    # of the sum here, only what is charged by the hour falls with the speed there; all of it must pay for hours and power there
    sum_here, own = here.per_1000_queries.value, one.rate.value or 0.0
    hourly = scaled(faster, sum_here / 1000 * own * 3600, "$/h", "modelled")
    shift = power / 1000 * other.rate.value * 3600
    of = [None if x is None else (x - shift) * busy / other.devices for x in (hourly.value, hourly.low, hourly.high)]
    if of[0] is None or of[0] <= 0:
        return "never"
    low = None if of[1] is None else max(of[1], 0.0)
    return Estimate(value=of[0], low=low, high=of[2], unit="$/h", n=hourly.n, how="modelled")


def service_of(what: Any, device: str | None = None, devices: int | None = None) -> Service:
    """A Service from what measures or predicts one: a Profile, a Record with a profile, a projection with the same figures."""
    energy = Estimate.unavailable("J")
    if isinstance(what, Record):
        energy, what = what.cost.energy_per_query, what.profile
        if what is None:
            raise BadInput("a record without a profile", "Allowed: a record whose speed was measured", "ek.measure(model)")
    if isinstance(what, Service):
        changed = {"device": _device_name(device) if device else None, "devices": devices}
        return validated(Service, {**dict(what), **{k: v for k, v in changed.items() if v is not None}}, "the service")
    missing = [name for name in NEEDED if not hasattr(what, name)]
    if missing:
        raise BadInput(
            f"what is a {type(what).__name__}", "Allowed: a Profile, a Record with one, a projection or a Service", "ek.profile(model)"
        )
    data = {name: getattr(what, name) for name in NEEDED}
    named = device or getattr(what, "device", None) or "unknown device"
    count = devices or getattr(what, "devices", None) or 1
    own = getattr(what, "energy_per_query", energy)
    parts = getattr(what, "parts", None) or {}  # of a projection, in ms of the time per output token: "prefill of others"
    others = sum(value for name, value in parts.items() if name.startswith("prefill"))
    data |= {"device": _device_name(named), "devices": count, "energy_per_query": own, "prefill_part": others}
    data["simulated"] = bool(getattr(what, "simulated", False))
    return validated(Service, data, "the service")


def _device_name(given: Any) -> str:
    """The name of the catalogue where it knows the device, such as for "NVIDIA H100 80GB HBM3"; otherwise the name as it is."""
    known = _known(given)
    return known.name if known else str(given)


def _known(given: Any) -> Accelerator | None:
    """The entry of the catalogue, also for a device as ek.devices() writes it: "cuda:0 (NVIDIA H200)"."""
    for name in (given, str(given).partition("(")[2].removesuffix(")")):
        with contextlib.suppress(BadInput):
            return accelerator(name)
    return None


def _list_price(device: str) -> Figure | None:
    if device == "cpu" or device.startswith("cpu ("):
        return default_price()
    known = _known(device)
    return default_price(known.name) if known else None


def _energy(service: Service, watts: float | None) -> tuple[Estimate, str]:
    """J a query of the devices of a replica, and how it was had."""
    if watts is None and service.energy_per_query.value is not None:
        return service.energy_per_query, f"by {service.energy_per_query.how}"
    known = None if service.simulated else _known(service.device)
    limit = watts if watts is not None else known.watts if known else None
    if limit is None or service.rate.value is None:
        return Estimate.unavailable("J"), "unavailable: neither measured nor a power limit known"
    of = [None if x is None else limit * service.devices / x for x in (service.rate.value, service.rate.high, service.rate.low)]
    told = f"modelled from {three(limit)} W a device" + ("" if watts is not None else ", its limit")
    return Estimate(value=of[0], low=of[1], high=of[2], unit="J", n=service.rate.n, how="modelled"), told


def _per_million(service: Service, whole: Estimate) -> tuple[Estimate, Estimate]:
    """$ per million tokens of the prompt and of the output: the price of a query split by the time that each of them takes.

    Where prompts of others are read between the tokens of one query, as many are read as it makes others wait for its own: that
    part of the token's time is charged to prompts.
    """
    seconds = query_seconds(service.time_to_first_token, service.time_per_output_token, service.new_tokens)
    if seconds is None or whole.value is None:
        return Estimate.unavailable("$"), Estimate.unavailable("$")
    total = sum(part[0] or 0.0 for part in seconds)
    token = service.time_per_output_token.value or 0.0
    moved = min(service.prefill_part / token, 1.0) if token and seconds[1][0] else 0.0
    shares = [tuple(None if x is None else x + moved * (y or 0.0) for x, y in zip(*seconds, strict=True))]
    shares.append(tuple(None if x is None else x * (1 - moved) for x in seconds[1]))
    found = []
    for (value, low, high), count in zip(shares, (service.prompt, service.new_tokens), strict=True):
        if not count or not value or not total:
            found.append(Estimate.unavailable("$"))
            continue
        at = whole.value / 1000 / total / count * 1e6  # $ a second of the replica's time, per million tokens
        ends = [None if x is None or whole.low is None else x * at for x in (low, high)]
        found.append(Estimate(value=value * at, low=ends[0], high=ends[1], unit="$", n=whole.n, how=whole.how))
    return found[0], found[1]


def _plus(a: Estimate, b: Estimate) -> Estimate:
    """The sum of two prices that rise and fall with the same seconds, so that their limits add up."""
    if a.value is None or b.value is None:
        return Estimate.unavailable(a.unit)
    ends = [None if x is None or y is None else x + y for x, y in ((a.low, b.low), (a.high, b.high))]
    return Estimate(value=a.value + b.value, low=ends[0], high=ends[1], unit=a.unit, n=min(a.n, b.n), how=joint(a, b))


def _or_default(name: str, given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given"
    figure = default_power(name)
    return figure.value, str(figure)


def _number(field: str, value: float | None, low: float, high: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and (not good or not low < value <= high):
        raise BadInput(f"{field} is {value!r}", f"Allowed: a number above {max(low, 0):g}, to {high:g}")


def _dollars(e: Estimate) -> str:
    if e.value is None:
        return "an unknown price"
    ends = "" if e.low is None or e.high is None else f" [${three(e.low)}, ${three(e.high)}]"
    return f"${three(e.value)}{ends}"
