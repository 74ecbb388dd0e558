"""The Pareto set over records, and the choice under a budget.

A record is dominated if another is at least as good on both axes and better on one. Ties that the data cannot tell
apart stay ties: `not_distinguishable` compares two records on the same blocks of text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import BadInput, choice
from .intervals import Estimate, paired_difference
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
}


def figure_of(record: Record, name: str) -> Estimate:
    """The quantity `name` of `record`; unavailable where it was not measured."""
    q, p = record.quality, record.profile
    none = Estimate.unavailable(FIGURES[name][1])
    if name == "bytes":
        return Estimate(value=record.cost.bytes, unit="bytes", how="counter")
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
    if p is not None:
        if name == "peak_memory":
            peak = p.memory.reserved or p.memory.allocated or p.memory.resident
            return Estimate(value=peak, unit="bytes", how="counter") if peak else none
        timed = {
            "first_token_ms": p.time_to_first_token,
            "output_token_ms": p.time_per_output_token,
            "decode": p.decode,
            "prefill": p.prefill,
        }
        if name in timed:
            return timed[name]
    return none


BLOCKS = {"kl": ("kl", "nll"), "agreement": ("agreement", "nll")}  # what is compared for a figure, else the loss


def not_distinguishable(a: Record, b: Record, by: str = "retained") -> bool | None:
    """Whether the text cannot tell the two models apart in `by`; None if they were not measured on the same text.

    Paired over blocks: the 95% interval of the mean difference holds zero. by: one of FIGURES; for "kl" and "agreement"
    these themselves are compared, for any other the negative log-likelihood (classifiers: KL). Two models may have the
    same loss and still differ much in how far they are from their base.
    """
    if a.quality is None or b.quality is None or a.quality.text != b.quality.text or a.quality.window != b.quality.window:
        return None
    for field in BLOCKS.get(by, ("nll", "kl")):
        x, y = getattr(a.quality.blocks, field), getattr(b.quality.blocks, field)
        if x and len(x) == len(y):
            if x == y:
                return True
            d = paired_difference(x, y)
            return None if d.low is None or d.high is None else bool(d.low <= 0 <= d.high)
    return None


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
        points = [(r, p) for r in self.records if (p := self.point(r)) is not None]
        kept = [r for r, p in points if not any(self._dominates(q, p) for _, q in points)]
        return tuple(sorted(kept, key=lambda r: self.point(r)))  # type: ignore[arg-type, return-value]

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
        ties = [r for r in fit if r is best or not_distinguishable(r, best, self.y)]
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

    def _dominates(self, q: tuple[float, float], p: tuple[float, float]) -> bool:
        sx = 1 if FIGURES[self.x][2] == "down" else -1
        sy = 1 if FIGURES[self.y][2] == "down" else -1
        a, b = (q[0] * sx, q[1] * sy), (p[0] * sx, p[1] * sy)
        return a[0] <= b[0] and a[1] <= b[1] and a != b


def _share(value: float, base: float, better: str) -> float:
    """value / base, or base / value where smaller is better, so that 1 is the base and more is better."""
    if better == "up":
        return value / base if base else float("inf")
    return base / value if value else float("inf")
