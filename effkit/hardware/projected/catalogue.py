"""The catalogue of accelerators: published rates, memory and bandwidth of devices that are not attached, each with its source.

    h100 = accelerator("h100-sxm")
    h100.bandwidth, h100.rates["bf16"]        # 3.35e12 bytes/s, 9.89e14 dense FLOP/s
    h100.fact("bandwidth").source             # who says so; .date, .confidence, .given, .unit beside it

The figures lie in `data/hardware.toml`. They are peaks of data sheets or announcements: what a model reaches is a part of them
(the roofline of Williams et al. 2009, CACM 52:65), and how large a part is the business of the projection, not of this file.
"""

from __future__ import annotations

import datetime
import functools
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Noun, three
from effkit.spec.places import shipped_file

Stack = Literal["cuda", "ascend", "cpu"]
Confidence = Literal["datasheet", "announced", "measured", "press"]

BYTES = {"MiB": 2**20, "GB": 1e9, "GiB": 2**30, "TB": 1e12, "TiB": 2**40}
SPEEDS = {f"{unit}/s": size for unit, size in BYTES.items()}
FLOPS = {"TFLOP/s": 1e12, "PFLOP/s": 1e15}
OPS = {"TOP/s": 1e12, "POP/s": 1e15}
FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4")
# field -> (units, least and most in SI): wide enough for every accelerator since 2020, and narrow enough for a slip of units
KINDS: dict[str, tuple[dict[str, float], float, float]] = {
    "memory": (BYTES, 4e9, 1e12),
    "bandwidth": (SPEEDS, 5e10, 2e13),
    "link": (SPEEDS, 8e9, 2e12),
    "watts": ({"W": 1.0}, 10, 3000),
}
RATES = ("rates", "sparse_rates")
DEVICE_KEYS = {"title", "stack", "part", "package", "dies", "aliases", *KINDS, *RATES}
SOURCE_KEYS = {"title", "address", "date", "confidence"}
FACT_KEYS = {"value", "unit", "source", "confidence", "note"}
ATTRIBUTES = {"memory": "memory_bytes", "link": "link_bandwidth"}  # field of the file -> attribute, where they differ
DISAGREEMENT = 0.12  # two sources that differ by more are not of the same thing, unless a note says why


class Fact(Noun):
    """One published figure. value: in bytes, bytes/s, FLOP/s, OP/s or W; given and unit: as the source writes it."""

    value: float
    given: float
    unit: str
    source: str
    address: str
    date: str
    confidence: Confidence
    note: str = ""

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return f"{self.given:g} {self.unit} ({self.confidence}, {self.source}, {self.date}{note})"


class Accelerator(Noun):
    """A device by its published peaks; None or a missing key is unknown, never zero.

    stack:          "cuda", "ascend" or "cpu"; part: "package" (as sold) or "die" (a device of its own to the software)
    memory_bytes:   bytes; bandwidth: bytes/s of that memory; watts: the power limit
    link_bandwidth: bytes/s to its neighbours, per device and in one direction
    rates:          dense FLOP/s (OP/s for integers) by format; sparse_rates: with 2:4 structured sparsity
    facts:          where each figure comes from; the first of several is the one used
    """

    name: str
    title: str
    stack: Stack
    part: Literal["package", "die"] = "package"
    package: str | None = None
    dies: int = 1
    aliases: tuple[str, ...] = ()
    memory_bytes: float | None = None
    bandwidth: float | None = None
    link_bandwidth: float | None = None
    watts: float | None = None
    rates: dict[str, float] = Field(default_factory=dict)
    sparse_rates: dict[str, float] = Field(default_factory=dict)
    facts: dict[str, tuple[Fact, ...]] = Field(default_factory=dict, repr=False)

    def fact(self, field: str) -> Fact:
        """The source of "memory", "bandwidth", "link", "watts", "rates.bf16", "sparse_rates.int8", ... Raises BadInput if unknown."""
        field = {attribute: key for key, attribute in ATTRIBUTES.items()}.get(field, field)
        if field not in self.facts:
            raise choice(f"the figure of {self.title}", field, self.facts, "What is not listed is not published")
        return self.facts[field][0]

    @property
    def announced(self) -> bool:
        """Whether one of the figures in use is only announced, not of a device that is sold."""
        return any(facts[0].confidence == "announced" for facts in self.facts.values())

    def rows(self) -> list[dict[str, Any]]:
        """All facts as rows of a table, also those of other sources that are not used."""
        return [
            {"figure": field, "used": index == 0, **fact.model_dump(exclude={"value"})}
            for field, facts in self.facts.items()
            for index, fact in enumerate(facts)
        ]

    def __repr__(self) -> str:
        rate = next((f"{f} {three(self.rates[f] / 1e12)} T" for f in ("bf16", "fp16", "fp8") if f in self.rates), "no rate")
        speed = f"{three(self.bandwidth / 1e12)} TB/s" if self.bandwidth else "bandwidth unknown"
        memory = f"{three(self.memory_bytes / 1e9)} GB" if self.memory_bytes else "memory unknown"
        return f"Accelerator({self.name!r}, {rate}, {speed}, {memory})"

    __str__ = __repr__


def accelerator(name: str | Accelerator) -> Accelerator:
    """An entry of the catalogue by its name, an alias or the name that a driver reports; case and punctuation do not matter.

    >>> accelerator("Ascend910B2").memory_bytes == 64 * 2**30
    True
    Raises BadInput for an unknown name, with the nearest one.
    """
    if isinstance(name, Accelerator):
        return name
    found = _names().get(_key(str(name))) or _loosely(str(name))
    if found is None:
        raise choice("the accelerator", name, [entry.name for entry in _catalogue()])
    return found


def accelerators(stack: Stack | None = None) -> tuple[Accelerator, ...]:
    """The catalogue in the order of its file, or of one stack only."""
    if stack is not None and stack not in ("cuda", "ascend", "cpu"):
        raise choice("stack", stack, ("cuda", "ascend", "cpu"))
    return tuple(entry for entry in _catalogue() if stack in (None, entry.stack))


def read_catalogue(path: str | Path) -> tuple[Accelerator, ...]:
    """Read and check a catalogue file. Raises BadInput for a fact without source, an unknown field, a unit or figure that cannot be."""
    with open(path, "rb") as file:
        told = tomllib.load(file)
    _only(told, {"sources", "devices"}, "the catalogue")
    sources = {key: _source(key, given) for key, given in told.get("sources", {}).items()}
    entries = tuple(_entry(name, given, sources) for name, given in told.get("devices", {}).items())
    _index(entries)
    return entries


@functools.cache
def _catalogue() -> tuple[Accelerator, ...]:
    return read_catalogue(shipped_file("hardware.toml"))


@functools.cache
def _names() -> dict[str, Accelerator]:
    return _index(_catalogue())


def _index(entries: tuple[Accelerator, ...]) -> dict[str, Accelerator]:
    found: dict[str, Accelerator] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            if found.setdefault(_key(name), entry) is not entry:
                raise BadInput(f"{name!r} names {entry.title!r} and {found[_key(name)].title!r}", "Allowed: a name for one device")
    return found


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("huawei")


def _loosely(name: str) -> Accelerator | None:
    """The entry whose name is this one but for words that name nothing of its own: the kind of memory, its size, a socket's version."""
    words = [
        word for word in re.split(r"[^a-z0-9]+", name.lower()) if not re.fullmatch(r"gpu|tensor|core|server|hgx|dgx|hbm\d*e?|nvl\d+", word)
    ]
    sizes = [int(word.rstrip("gb")) for word in words if re.fullmatch(r"\d{2,3}gb?", word)]
    rest = [re.sub(r"^sxm\d$", "sxm", word) for word in words if not re.fullmatch(r"\d{2,3}gb?", word)]
    for chosen in (rest, [word for word in rest if word != "sxm"]):
        found = _names().get(_key("".join(chosen)))
        if found and all(found.memory_bytes and abs(found.memory_bytes / 1e9 / size - 1) < DISAGREEMENT for size in sizes):
            return found
    return None


def _source(key: str, given: dict[str, Any]) -> dict[str, str]:
    _only(given, SOURCE_KEYS, f"the source {key!r}")
    for field in SOURCE_KEYS:
        if not given.get(field):
            raise BadInput(f"the source {key!r} has no {field}", f"Allowed: all of {', '.join(sorted(SOURCE_KEYS))}")
    if not str(given["address"]).startswith("https://"):
        raise BadInput(f"the address of the source {key!r} is {given['address']!r}", "Allowed: an address that begins with https://")
    try:
        datetime.date.fromisoformat(given["date"])
    except ValueError:
        raise BadInput(f"the date of the source {key!r} is {given['date']!r}", "Allowed: YYYY-MM-DD") from None
    return given


def _entry(name: str, given: dict[str, Any], sources: dict[str, dict[str, str]]) -> Accelerator:
    _only(given, DEVICE_KEYS, f"the device {name!r}")
    facts = {field: _facts(name, field, given[field], sources) for field in KINDS if field in given}
    for table in RATES:
        _only(given.get(table, {}), set(FORMATS), f"{table} of {name!r}")
        facts |= {f"{table}.{key}": _facts(name, f"{table}.{key}", fact, sources) for key, fact in given.get(table, {}).items()}
    values: dict[str, Any] = {ATTRIBUTES.get(field, field): facts[field][0].value for field in KINDS if field in facts}
    values |= {table: {key: facts[f"{table}.{key}"][0].value for key in given.get(table, {})} for table in RATES}
    _consistent(name, values)
    described = {key: given[key] for key in ("title", "stack", "part", "package", "dies", "aliases") if key in given}
    return Accelerator.model_validate({"name": name, **described, **values, "facts": facts})


def _facts(device: str, field: str, given: Any, sources: dict[str, dict[str, str]]) -> tuple[Fact, ...]:
    facts = tuple(_fact(device, field, one, sources) for one in (given if isinstance(given, list) else [given]))
    for other in facts[1:]:
        if abs(other.value / facts[0].value - 1) > DISAGREEMENT and not other.note:
            raise BadInput(
                f"{field} of {device!r} is {facts[0].given:g} {facts[0].unit} by one source and {other.given:g} {other.unit} by another",
                f"Allowed: sources within {DISAGREEMENT:.0%} of the first",
                "Check the units (TB and TiB, die and package, dense and sparse), or say in a note why they differ",
            )
    return facts


def _fact(device: str, field: str, given: Any, sources: dict[str, dict[str, str]]) -> Fact:
    what = f"{field} of {device!r}"
    if not isinstance(given, dict):
        raise BadInput(f"{what} is {given!r}", 'Allowed: { value = 80, unit = "GB", source = "key of a source" }')
    _only(given, FACT_KEYS, what)
    if given.get("source") not in sources:
        raise choice(f"the source of {what}", given.get("source"), sources, "Every figure names the source that gives it")
    if field in KINDS:
        units, least, most = KINDS[field]
    else:
        units, least, most = (OPS if field.rpartition(".")[2].startswith("int") else FLOPS), 1e13, 5e16
    unit, number = given.get("unit"), given.get("value")
    if unit not in units:
        raise choice(f"the unit of {what}", unit, units)
    if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number * units[unit] <= most:
        raise BadInput(f"{what} is {number!r} {unit}", f"Allowed: {least:.3g} to {most:.3g} in SI units", "Check the unit")
    source = sources[given["source"]]
    return Fact(
        value=float(number) * units[unit],
        given=float(number),
        unit=unit,
        source=source["title"],
        address=source["address"],
        date=source["date"],
        confidence=given.get("confidence", source["confidence"]),
        note=given.get("note", ""),
    )


def _consistent(name: str, values: dict[str, Any]) -> None:
    """Figures of one device that contradict each other: a sparse rate as a dense one, GB/s for TB/s, a package beside a die."""
    dense, sparse = values["rates"], values["sparse_rates"]
    for key, rate in sparse.items():
        if key in dense and not 1.2 * dense[key] <= rate <= 2.05 * dense[key]:
            raise BadInput(f"the sparse {key} rate of {name!r} is {rate / dense[key]:.2g} times dense", "Allowed: 1.2 to 2.05 times")
    for low, high in (("bf16", "fp8"), ("fp16", "fp8"), ("fp8", "fp4"), ("int8", "int4")):
        if low in dense and high in dense and not 0.99 * dense[low] <= dense[high] <= 4.2 * dense[low]:
            raise BadInput(f"{high} of {name!r} is {dense[high] / dense[low]:.2g} times {low}", "Allowed: 1 to 4.2 times, both dense")
    if "bf16" in dense and "fp16" in dense and not 0.8 <= dense["fp16"] / dense["bf16"] <= 1.25:
        raise BadInput(f"fp16 of {name!r} is {dense['fp16'] / dense['bf16']:.2g} times bf16", "Allowed: 0.8 to 1.25 times, both dense")
    memory, speed = values.get("memory_bytes"), values.get("bandwidth")
    if memory and speed and not 0.005 <= memory / speed <= 1:
        raise BadInput(f"{name!r} would read all of its memory in {memory / speed:.3g} s", "Allowed: 0.005 to 1 s", "Check both units")
    rate = dense.get("bf16", dense.get("fp16"))
    if rate and speed and not 20 <= rate / speed <= 800:
        raise BadInput(f"{name!r} would do {rate / speed:.3g} FLOP a byte", "Allowed: 20 to 800 of dense 16-bit", "Check both units")


def _only(given: dict[str, Any], allowed: set[str], what: str) -> None:
    for key in given:
        if key not in allowed:
            raise choice(f"a field of {what}", key, sorted(allowed))
