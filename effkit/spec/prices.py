"""What an hour costs, and from that a query: the default prices with their sources, and the one formula that all costs use.

    rate = query_rate(first_token_ms, output_token_ms, new_tokens=128, batch=8)   # queries a second, with its interval
    per_1000_queries(2.0, rate, utilisation=0.5)                                  # $ per 1000 queries

The prices lie in `data/prices.toml`. A price is the user's input: these are what a card shows before anything was typed, and
a device without a public price has none.
"""

from __future__ import annotations

import functools
import tomllib
from typing import Any

from .errors import BadInput
from .intervals import Estimate, How, Noun
from .places import shipped_file


class Figure(Noun):
    """A figure with its source: a price in $ per hour and device, a power usage effectiveness, a carbon intensity."""

    value: float
    unit: str
    source: str
    address: str
    date: str
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.source}, {self.date}"


def default_price(device: str | None = None) -> Figure | None:
    """The list price of a device of the catalogue in $ per hour; None where no public price is known. Default: a small cloud CPU."""
    return _prices()["devices"].get(device or _prices()["usual"])


def default_power(name: str) -> Figure:
    """A figure of power: "pue" (power drawn by the building over that of its machines) or "carbon" (grams of CO2 a kWh)."""
    return _prices()["power"][name]


def query_rate(first: Estimate, each: Estimate, new_tokens: int, batch: int) -> Estimate:
    """Queries a second of one replica that answers `batch` at once: batch over (time to first token + a token's time x the rest).

    first, each: ms; new_tokens 0 is a classifier. 100 ms and 10 ms, 11 tokens, batch 4: 20 queries a second.
    """
    parts = query_seconds(first, each, new_tokens)
    if parts is None:
        return Estimate.unavailable("queries/s")
    whole = [None if None in ends else sum(ends) for ends in zip(*parts, strict=True)]
    rates = [None if x is None or x <= 0 else batch / x for x in (whole[0], whole[2], whole[1])]
    bounded = rates[1] is not None and rates[2] is not None
    return Estimate(
        value=rates[0],
        low=rates[1],
        high=rates[2] if bounded else None,
        unit="queries/s",
        n=first.n,
        how=joint(first, each if new_tokens > 1 else first) if rates[0] is not None else "unavailable",
    )


def query_seconds(first: Estimate, each: Estimate, new_tokens: int) -> list[tuple[float | None, ...]] | None:
    """Seconds of prefill and of all tokens after the first, each as (value, low, high); None where they are unknown."""
    rest = max(new_tokens - 1, 0)
    if first.value is None or (rest and each.value is None):
        return None
    prefill = tuple(None if x is None else x / 1000 for x in (first.value, first.low, first.high))
    if not rest:
        return [prefill, (0.0, 0.0, 0.0)]
    return [prefill, tuple(None if x is None else rest * x / 1000 for x in (each.value, each.low, each.high))]


def per_1000_queries(price_per_hour: float, rate: Estimate, utilisation: float = 1.0) -> Estimate:
    """$ per 1000 queries: price an hour / 3600 / queries a second / utilisation x 1000.

    $0.36 an hour at 100 queries a second, always busy: $0.001.
    """
    if rate.value is None or rate.value <= 0:
        return Estimate.unavailable("$")
    of = [None if x is None or x <= 0 else price_per_hour / 3600 / x / utilisation * 1000 for x in (rate.value, rate.high, rate.low)]
    return Estimate(value=of[0], low=of[1], high=of[2], unit="$", n=rate.n, how=rate.how)


def scaled(e: Estimate, factor: float, unit: str | None = None, how: How | None = None) -> Estimate:
    """An estimate times a positive number."""
    of = [None if x is None else x * factor for x in (e.value, e.low, e.high)]
    return Estimate(value=of[0], low=of[1], high=of[2], unit=e.unit if unit is None else unit, n=e.n, how=how or e.how)


def joint(a: Estimate, b: Estimate) -> How:
    """How something computed from two values was obtained: as they were, or modelled where they differ."""
    return a.how if a.how == b.how else "modelled"


@functools.cache
def _prices() -> dict[str, Any]:
    told = tomllib.loads(shipped_file("prices.toml").read_text(encoding="utf-8"))
    sources = told["sources"]

    def figure(given: dict[str, Any], value: str, unit: str) -> Figure:
        source = sources.get(given["source"])
        if source is None:
            raise BadInput(f"a price names the source {given['source']!r}", f"Allowed: {', '.join(sources)}")
        return Figure(
            value=given[value],
            unit=unit,
            source=source["title"],
            address=source["address"],
            date=source["date"],
            text=given.get("text", ""),
        )

    devices = {name: figure(given, "per_hour", "$/h") for name, given in told["devices"].items()}
    power = {name: figure(given, "value", given["unit"]) for name, given in told["power"].items()}
    return {"usual": told["usual"], "devices": devices, "power": power}
