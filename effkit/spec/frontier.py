"""The Pareto set over records, and the choice under a budget.

A record is dominated if another is at least as good on both axes and better on one. Ties that the data cannot tell
apart stay ties: `not_distinguishable` compares two records on the same blocks of text.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import BadInput, choice
from .intervals import Estimate, difference, holds_zero
from .record import Record

# name -> (label, unit, which way is better)
FIGURES: dict[str, tuple[str, str, str]] = {
    "retained": ("Quality retained (base perplexity / perplexity)", "", "up"),
    "agreement": ("Top-token agreement with the base", "", "up"),
    "kl": ("KL divergence to the base", "nats", "down"),
    "perplexity": ("Perplexity", "", "down"),
    "bytes": ("Stored bytes", "bytes", "down"),
    "first_token_ms": ("Time to first token", "ms", "down"),
    "output_token_ms": ("Time per output token", "ms", "down"),
    "decode": ("Decode throughput", "tokens/s", "up"),
    "prefill": ("Prefill throughput", "tokens/s", "up"),
    "peak_memory": ("Peak memory", "bytes", "down"),
    "kl_p99": ("KL divergence to the base, 99th percentile", "nats", "down"),
    "bits_per_weight": ("Bits per weight", "", "down"),
    "speed_ratio": ("Decode throughput over the base's", "", "up"),
    "energy": ("Energy per query", "J", "down"),
    "price": ("Price per 1000 queries", "$", "down"),
}


def figure_of(record: Record, name: str) -> Estimate:
    """The quantity `name` of `record`; unavailable where it was not measured."""
    q, p = record.quality, record.profile
    none = Estimate.unavailable(FIGURES[name][1])
    if name == "bytes":
        return Estimate(value=record.cost.bytes, unit="bytes", how="counter")
    if name == "bits_per_weight":
        return Estimate(value=record.cost.bits_per_weight, how="counter")
    if name in ("energy", "price"):
        return record.cost.energy_per_query if name == "energy" else record.cost.price_per_1000_queries
    if q is not None:
        if name == "retained":
            r = q.perplexity_ratio
            if r.value is None:
                return q.agreement
            flip = [None if x is None else 1 / x for x in (r.low, r.high)]
            return Estimate(value=1 / r.value, low=flip[1], high=flip[0], n=r.n)
        if name == "agreement":
            return q.agreement
        if name == "perplexity":
            return q.perplexity
        if name == "kl":
            return q.kl.mean if q.kl else none
        if name == "kl_p99":
            return q.kl.p99 if q.kl else none
    if p is not None:
        if name == "peak_memory":
            peak = p.memory.reserved or p.memory.allocated or p.memory.resident
            return Estimate(value=peak, unit="bytes", how="counter") if peak else none
        timed = {
            "first_token_ms": p.time_to_first_token,
            "output_token_ms": p.time_per_output_token,
            "decode": p.decode,
            "prefill": p.prefill,
            "speed_ratio": p.speed_ratio,
        }
        if name in timed:
            return timed[name]
    return none


QUALITY = ("retained", "agreement", "kl", "perplexity", "kl_p99")  # what is measured on text, block by block
BLOCKS = {"kl": ("kl", "nll"), "kl_p99": ("kl", "nll"), "agreement": ("agreement", "nll")}  # what is compared for a figure, else the loss


def not_distinguishable(a: Record, b: Record, by: str = "retained") -> bool | None:
    """Whether the data cannot tell the two models apart in `by`; None if they were not measured on the same text.

    Figures of quality are paired over blocks: the 95% interval of the mean difference holds zero. For "kl" and "agreement"
    these themselves are compared, for the others the negative log-likelihood (classifiers: KL). Two models may have the
    same loss and still differ much in how far they are from their base. Of figures measured apart, such as times, the
    intervals decide; those without one, such as bytes, are exact. by: one of FIGURES
    """
    return tied(a, (b,), by)[0]


def tied(record: Record, others: Sequence[Record], by: str = "retained") -> list[bool | None]:
    """`not_distinguishable` of one record from each of the others, all at once."""
    if by not in QUALITY:
        return [_overlap(figure_of(record, by), figure_of(other, by)) for other in others]
    found: list[bool | None] = [None] * len(others)
    own = record.quality
    if own is None:
        return found
    measured_on = operator.attrgetter("text", "window", "vocabulary")
    left = [i for i, o in enumerate(others) if o.quality is not None and measured_on(o.quality) == measured_on(own)]
    for field in BLOCKS.get(by, ("nll", "kl")):
        values = {i: getattr(others[i].quality.blocks, field) for i in left}  # type: ignore[union-attr]
        mine = getattr(own.blocks, field)
        paired = [i for i in left if mine and len(values[i]) == len(mine)]
        for i, held in zip(paired, holds_zero([mine] * len(paired), [values[i] for i in paired]), strict=True):
            found[i] = held
        left = [i for i in left if i not in set(paired)]
    return found


def _overlap(a: Estimate, b: Estimate) -> bool | None:
    if a.value is None or b.value is None:
        return None
    apart = difference(a, b)
    return a.value == b.value if apart.low is None or apart.high is None else apart.low <= 0 <= apart.high


def contenders(records: Sequence[Record]) -> list[Record]:
    """The records that are on the front of at least one pair of figures: what a reader who chooses axes can find there."""
    columns = {name: [figure_of(record, name).value for record in records] for name in FIGURES}
    found: set[int] = set()
    for x, y in itertools.permutations((name for name in FIGURES if len({*columns[name]} - {None}) > 1), 2):  # one value tells nothing
        both = zip(columns[x], columns[y], strict=True)
        found.update(_front({i: (a, b) for i, (a, b) in enumerate(both) if a is not None and b is not None}, x, y))
    return [records[i] for i in sorted(found)]


def _front(points: Mapping[int, tuple[float, float]], x: str, y: str) -> list[int]:
    """The keys of the points that no other dominates, by rising x: sorted by cost, only a better y than all before can stay."""
    sx, sy = (1 if FIGURES[name][2] == "down" else -1 for name in (x, y))
    kept, best = [], (float("inf"), float("inf"))
    for a, b, i in sorted((a * sx, b * sy, i) for i, (a, b) in points.items()):
        if b < best[1] or (a, b) == best:
            best = (a, b)
            kept.append(i)
    return kept if sx > 0 else kept[::-1]


@dataclass(frozen=True)
class Frontier:
    """Records on two axes. `x` is the cost axis, `y` the quality axis; both are names in FIGURES."""

    records: tuple[Record, ...]
    x: str = "bytes"
    y: str = "retained"

    def __init__(self, records: Iterable[Record], x: str = "bytes", y: str = "retained") -> None:
        for axis, name in (("x", x), ("y", y)):
            if name not in FIGURES:
                raise choice(axis, name, FIGURES)
        object.__setattr__(self, "records", tuple(records))
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def point(self, record: Record) -> tuple[float, float] | None:
        """Where a record lies, (x, y); None where one of the two is unknown."""
        x, y = figure_of(record, self.x).value, figure_of(record, self.y).value
        return None if x is None or y is None else (x, y)

    def front(self) -> tuple[Record, ...]:
        """The records that no other dominates, by rising x. Records with an unknown figure are left out."""
        points = {i: p for i, r in enumerate(self.records) if (p := self.point(r)) is not None}
        return tuple(self.records[i] for i in _front(points, self.x, self.y))

    def base(self) -> Record:
        """The record of the base itself (empty recipe); BadInput if there is none."""
        for record in self.records:
            if not record.recipe.steps:
                return record
        raise BadInput(
            f"none of these {len(self.records)} records is the base",
            "A budget relative to the base needs the base's own record",
            "Measure the base too: ek.measure(model)",
        )

    def pick(self, quality: float = 0.9, cost: float = 0.1) -> Record | None:
        """The best record that keeps at least `quality` and costs at most `cost`, as shares of the base; None if none does.

        "Best": most quality; of those that the data cannot tell from it, the cheapest.
        """
        base_point = self.point(self.base())
        if base_point is None:
            raise BadInput(f"the base has no {self.x!r} or no {self.y!r}", "Both must be measured", "Measure the base again with both")
        fit = [r for r in self.records if (p := self.point(r)) and self._fits(p, base_point, quality, cost)]
        if not fit:
            return None
        up = FIGURES[self.y][2] == "up"
        best = max(fit, key=lambda r: self.point(r)[1] * (1 if up else -1))  # type: ignore[index]
        ties = [r for r, same in zip(fit, tied(best, fit, self.y), strict=True) if r is best or same]
        cheap = 1 if FIGURES[self.x][2] == "down" else -1
        return min(ties, key=lambda r: self.point(r)[0] * cheap)  # type: ignore[index]

    def verdict(self, quality: float = 0.9, cost: float = 0.1) -> str:
        """One sentence: does anything keep `quality` of the base at `cost` of its cost? It may be "no"."""
        label = FIGURES[self.x][0].lower()
        share = f"{quality:.0%} of the base's quality at {cost:.0%} of its {label}"
        base = self.point(self.base())
        chosen = self.pick(quality, cost)
        assert base is not None

        def paid(record: Record) -> str:
            point = self.point(record)
            assert point is not None
            return f"{_share(point[0], base[0], 'up'):.1%} of the {label}"

        if chosen is not None:
            kept = _share(self.point(chosen)[1], base[1], FIGURES[self.y][2])  # type: ignore[index]
            return f"Yes: {chosen.name} keeps {kept:.1%} at {paid(chosen)} ({share} was asked)."
        keeping = [r for r in self.records if (p := self.point(r)) and self._fits(p, base, quality, float("inf"))]
        down = FIGURES[self.x][2] == "down"
        cheapest = min(keeping, key=lambda r: self.point(r)[0] * (1 if down else -1), default=None)  # type: ignore[index]
        if cheapest is None or not cheapest.recipe.steps:
            return f"No: nothing measured here keeps {share}, and no compressed model keeps {quality:.0%} at any cost."
        return f"No: nothing measured here keeps {share}; the cheapest that keeps {quality:.0%} is {cheapest.name}, at {paid(cheapest)}."

    def _fits(self, point: tuple[float, float], base: tuple[float, float], quality: float, cost: float) -> bool:
        kept = _share(point[1], base[1], FIGURES[self.y][2])
        paid = _share(point[0], base[0], "up" if FIGURES[self.x][2] == "down" else "down")
        return kept >= quality and paid <= cost


def _share(value: float, base: float, better: str) -> float:
    """value / base, or base / value where smaller is better, so that 1 is the base and more is better."""
    if better == "up":
        return value / base if base else float("inf")
    return base / value if value else float("inf")
