"""Capability per cost: what a student keeps of its teacher, what a query costs, and when its training has paid for itself.

    found = Capability(teacher=Side(...), student=Side(...), others=(linear,))
    found.within(quality=0.9, cost=0.1)     # "yes", "no" or "not distinguishable"
    found.verdict()                         # one sentence, which may begin with "No"

A claim of "90% of the capability at 10% of the cost" holds only if the whole interval of the quality lies above the one
limit and that of the cost below the other; it fails if one lies on the wrong side. Between the two the data cannot tell.
Of all models that the data cannot tell from the best, the cheapest is the answer, be it a linear model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from .errors import BadInput, choice
from .intervals import Estimate, Noun, difference, ratio, three
from .prices import default_price, per_1000_queries
from .recipe import from_json, validated
from .record import Record
from .side import Difference, Side, query_of, retained_of, sides_of

VERSION = 1
_USUAL = default_price()
assert _USUAL is not None, "data/prices.toml names a usual device"
PRICE_PER_HOUR, PRICE_SOURCE = _USUAL.value, str(_USUAL)
# name -> (label, what a sentence calls it, unit)
COSTS: dict[str, tuple[str, str, str]] = {
    "price": ("Price per 1000 queries", "price per query", "$"),
    "latency": ("Latency at batch 1, median", "latency", "ms"),
    "bytes": ("Stored bytes", "stored bytes", "bytes"),
    "memory": ("Peak memory", "peak memory", "bytes"),
    "energy": ("Energy per query", "energy per query", "J"),
}
Answer = Literal["yes", "no", "not distinguishable", "unavailable"]


class Capability(Noun):
    """A teacher, its student and cheaper baselines, on one axis of quality and several of cost.

    price_per_hour: of the machine, in $; utilisation: the share of paid time in which it answers queries, above 0 to 1
    query:          what one query is, such as "a report of 40 tokens, batch 32"
    retained:       student over teacher in pairs, where measured so; otherwise the intervals of both are combined
    differences:    paired differences between any two sides, where measured
    """

    version: int = VERSION
    teacher: Side
    student: Side
    others: tuple[Side, ...] = ()
    price_per_hour: float = Field(default=PRICE_PER_HOUR, gt=0)
    price_source: str = PRICE_SOURCE
    utilisation: float = Field(default=1.0, gt=0, le=1)
    query: str = ""
    retained: Estimate | None = None
    retained_above_chance: Estimate | None = None
    differences: tuple[Difference, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _own_price(cls, data):
        """A price that the user gives is the user's: the default's source does not describe it."""
        if isinstance(data, dict) and data.get("price_per_hour", PRICE_PER_HOUR) != PRICE_PER_HOUR and "price_source" not in data:
            return {**data, "price_source": "given"}
        return data

    @model_validator(mode="after")
    def _one_scale(self) -> Capability:
        names = [side.name for side in self.sides]
        if len(set(names)) < len(names):
            raise BadInput(f"the names are {names}", "Allowed: a name of its own for each")
        for what in ("score_name", "chance"):
            told = {getattr(side, what) for side in self.sides} - {None}
            if len(told) > 1:
                raise BadInput(
                    f"{what} is {sorted(told)}", "Allowed: one for all", "Score all of them by the same measure on the same texts"
                )
        return self

    # who is who

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.teacher, self.student, *self.others)

    @property
    def chance(self) -> float | None:
        """What guessing scores; None where nobody knows."""
        return next((side.chance for side in self.sides if side.chance is not None), None)

    def side(self, name: str) -> Side:
        """The side of that name. BadInput lists the names."""
        for side in self.sides:
            if side.name == name:
                return side
        raise choice("the side", name, [side.name for side in self.sides])

    # figures

    def kept(self, side: Side | None = None, above_chance: bool = False) -> Estimate:
        """Quality retained: score / teacher's score, or (score - chance) / (teacher's - chance). Default: of the student."""
        side = side or self.student
        if above_chance and self.chance is None:
            return Estimate.unavailable()
        if side.name == self.teacher.name:
            return Estimate.unavailable() if side.quality.value is None else _exact(1.0)
        given = self.retained_above_chance if above_chance else self.retained
        if given is not None and side.name == self.student.name:
            return given
        base = self.chance or 0.0 if above_chance else 0.0
        return ratio(_less(side.quality, base), _less(self.teacher.quality, base))

    def price(self, side: Side | None = None) -> Estimate:
        """$ per 1000 queries: price an hour / 3600 / queries a second / utilisation x 1000. Default: of the student.

        $0.36 an hour at 100 queries a second, always busy: $0.001.
        """
        side = side or self.student
        return per_1000_queries(side.price_per_hour or self.price_per_hour, side.throughput, self.utilisation)

    def cost(self, by: str = "price", side: Side | None = None) -> Estimate:
        """A cost by its name in COSTS. Default: of the student."""
        side = side or self.student
        if by not in COSTS:
            raise choice("the cost", by, COSTS)
        if by == "price":
            return self.price(side)
        if by == "latency":
            return side.latency_ms
        if by == "energy":
            return side.energy_per_query
        count = side.bytes if by == "bytes" else side.memory_bytes
        return Estimate.unavailable("bytes") if count is None else _exact(float(count), "bytes")

    def ratio(self, by: str = "price", side: Side | None = None) -> Estimate:
        """A cost as a share of the teacher's. Default: of the student."""
        return ratio(self.cost(by, side), self.cost(by, self.teacher))

    @property
    def cost_ratio(self) -> Estimate:
        """The student's price per query as a share of the teacher's."""
        return self.ratio("price")

    @property
    def bytes_ratio(self) -> Estimate:
        return self.ratio("bytes")

    @property
    def latency_ratio(self) -> Estimate:
        return self.ratio("latency")

    def training_cost(self, side: Side | None = None) -> Estimate:
        """$ for the training, on a machine that does nothing else meanwhile. Default: of the student."""
        side = side or self.student
        if side.training_seconds is None:
            return Estimate.unavailable("$")
        return _exact(side.training_seconds / 3600 * (side.price_per_hour or self.price_per_hour), "$")

    def break_even(self, side: Side | None = None) -> Estimate | Literal["never"]:
        """Queries after which the training has paid for itself, or "never" where a query saves nothing against the teacher.

        Where the interval of the saving reaches zero, the upper limit is unknown. $1 of training and $0.001 saved a query: 1000.
        """
        side = side or self.student
        saving, spent = difference(self.price(self.teacher), self.price(side)), self.training_cost(side)
        if saving.value is None or spent.value is None:
            return Estimate.unavailable("queries")
        if saving.value <= 0:
            return "never"
        of = [None if x is None or x <= 0 else spent.value / (x / 1000) for x in (saving.value, saving.high, saving.low)]
        return Estimate(value=of[0], low=of[1], high=of[2], unit="queries", n=saving.n, how="modelled")

    # what follows from them

    def difference(self, a: Side, b: Side) -> Estimate:
        """Score of a minus score of b: in pairs where such a difference was measured, else from both intervals."""
        for told in self.differences:
            if (told.a, told.b) == (a.name, b.name):
                return told.score
            if (told.b, told.a) == (a.name, b.name):
                return _scaled(told.score, -1.0)
        if {a.name, b.name} == {self.teacher.name, self.student.name} and self.retained is not None and self.teacher.quality.value:
            over = _scaled(_less(self.retained, 1.0), self.teacher.quality.value)
            return over if a.name == self.student.name else _scaled(over, -1.0)
        return difference(a.quality, b.quality)

    def tied(self, a: Side, b: Side) -> bool:
        """Whether the data cannot tell the two scores apart: the interval of their difference holds zero."""
        d = self.difference(a, b)
        return a.name == b.name or (d.low is not None and d.high is not None and d.low <= 0 <= d.high)

    @property
    def best(self) -> Side | None:
        """The side with the highest score; None where nothing was scored."""
        scored = [side for side in self.sides if side.quality.value is not None]
        return max(scored, key=lambda side: side.quality.value or 0.0, default=None)

    def answer(self, by: str = "price") -> Side | None:
        """The cheapest of those that the data cannot tell from the best; the best itself where no cost is known."""
        best = self.best
        if best is None:
            return None
        costs = {side.name: self.cost(by, side).value for side in self.sides}
        ties = [side for side in self.sides if self.tied(side, best) and costs[side.name] is not None]
        return min(ties, key=lambda side: costs[side.name] or 0.0, default=best)

    def within(self, quality: float = 0.9, cost: float = 0.1, by: str = "price", above_chance: bool = False) -> Answer:
        """Whether the student keeps at least `quality` of the teacher's score at no more than `cost` of its cost.

        "yes" and "no" are said only where the whole intervals agree. A value without an interval is taken as it stands.
        """
        return _all(_side_of(self.kept(above_chance=above_chance), quality, 1), _side_of(self.ratio(by), cost, -1))

    def verdict(self, quality: float = 0.9, cost: float = 0.1, by: str = "price", above_chance: bool = False) -> str:
        """The answer in one sentence, with the cheaper baseline where the data cannot tell it from the best."""
        kept, paid, what = self.kept(above_chance=above_chance), self.ratio(by), COSTS[by][1]
        good, cheap = _side_of(kept, quality, 1), _side_of(paid, cost, -1)
        asked = f"{_percent(quality)} at {_percent(cost)} was asked"
        score = self.student.score_name + (" above chance" if above_chance else "")
        said = f"{self.student.name} keeps {share(kept)} of {self.teacher.name}'s {score} at {share(paid)} of its {what}"
        if any(side.simulated for side in (self.teacher, self.student)):
            said += " on a simulated device"
        verdict = _all(good, cheap)
        if verdict == "yes":
            text = f"Yes: {said} ({asked})"
        elif verdict == "no":
            miss = "both miss" if good == cheap else "the quality misses" if good == "no" else "the cost misses"
            text = f"No: {said}; {miss} what was asked ({_percent(quality)} at {_percent(cost)})"
        elif verdict == "unavailable":
            unknown = [name for name, e in ((f"share of {score}", kept), (f"share of {what}", paid)) if e.value is None]
            text = f"Not known: the {' and the '.join(unknown)} of {self.student.name} was not measured ({asked})"
        else:
            edge = (
                "both intervals hold their limits"
                if good == cheap
                else f"the interval of the {'quality' if cheap == 'yes' else 'cost'} holds its limit"
            )
            text = f"Not distinguishable: {said}; {edge} ({asked})"
        return f"{text}{self._cheaper(by)}."

    def _cheaper(self, by: str) -> str:
        """The end of the sentence: the baseline that is the answer, if one is."""
        answer, best = self.answer(by), self.best
        if answer is None or best is None or answer.name not in [side.name for side in self.others]:
            return ""
        of = f"at {share(self.ratio(by, answer))} of the teacher's {COSTS[by][1]}"
        if answer.name == best.name:
            return f"; but {answer.name} scores highest, {of}"
        return f"; but the data cannot tell {answer.name}, {of}, from the best, {best.name}"

    @classmethod
    def from_records(
        cls,
        teacher: Record,
        student: Record,
        others: Iterable[Record] = (),
        *,
        training_seconds: float | Mapping[str, float] | None = None,
        recorded: bool = False,
        **settings: Any,
    ) -> Capability:
        """Records as a capability: a language model's score is its inverse perplexity, compared block by block of the text; a
        classifier's is its agreement with the teacher. A query is the prompt and the new tokens of the profile.

        training_seconds: of the student, or of several by name; settings: price_per_hour, price_source, utilisation
        Raises BadInput where the records were not measured on the same text, or with other queries.
        """
        records = (teacher, student, *others)
        seconds = {student.name: training_seconds} if isinstance(training_seconds, int | float) else dict(training_seconds or {})
        for name in seconds:
            if name not in [record.name for record in records]:
                raise choice("the name in training_seconds", name, [record.name for record in records])
        sides = sides_of(records, seconds, recorded)
        data = {"teacher": sides[0], "student": sides[1], "others": sides[2:], "query": query_of(records)}
        return validated(cls, {**data, "retained": retained_of(teacher, student), **settings}, "the capability")

    def to_json(self) -> str:
        """The capability as JSON, to be stored."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Capability:
        """Read a stored capability, of an older version too. BadInput names what is wrong."""
        return from_json(cls, text, "capability")


def share(e: Estimate) -> str:
    """A share in percent with its interval: '97.1% [95%, 99.2%]'; an exact one has none, and a missing one is told."""
    if e.value is None:
        return "an unknown share"
    if e.low is None or e.high is None:
        return f"{_percent(e.value)} (no interval)"
    return _percent(e.value) if e.low == e.high else f"{_percent(e.value)} [{_percent(e.low)}, {_percent(e.high)}]"


def _percent(value: float) -> str:
    return f"{three(100 * value)}%"


def _exact(value: float, unit: str = "") -> Estimate:
    return Estimate(value=value, low=value, high=value, unit=unit, how="counter")


def _less(e: Estimate, base: float) -> Estimate:
    moved = {name: None if x is None else x - base for name, x in (("value", e.value), ("low", e.low), ("high", e.high))}
    return e.model_copy(update=moved)


def _scaled(e: Estimate, by: float) -> Estimate:
    ends = [None if x is None else x * by for x in (e.low, e.high)]
    low, high = ends if by > 0 else ends[::-1]
    return e.model_copy(update={"value": None if e.value is None else e.value * by, "low": low, "high": high})


def _side_of(e: Estimate, limit: float, way: int) -> Answer:
    """On which side of the limit the whole interval lies; way 1: above is good, -1: below is."""
    if e.value is None:
        return "unavailable"
    low, high = (e.value, e.value) if e.low is None or e.high is None else (e.low, e.high)
    worst, most = (low, high) if way > 0 else (high, low)
    return "yes" if way * worst >= way * limit else "no" if way * most < way * limit else "not distinguishable"


def _all(*answers: Answer) -> Answer:
    order: Iterable[Answer] = ("no", "unavailable", "not distinguishable", "yes")
    return next(answer for answer in order if answer in answers)
