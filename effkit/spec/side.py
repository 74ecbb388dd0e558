"""One model as a side of a comparison of capability and cost, and such sides from records.

A query of a language model is a prompt and the tokens that follow it: time to first token, then the time of each further
token. Its score is the inverse of its perplexity, compared with the teacher's on the same blocks of text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from .errors import BadInput
from .frontier import figure_of
from .intervals import Estimate, Noun, paired_difference
from .prices import query_rate
from .record import Profile, Record


class Side(Noun):
    """One model on the card. What is unknown is unavailable or None, and never 0.

    quality:          its score, higher is better, such as macro-F1 on the test split; chance: what guessing scores, where known
    latency_ms:       median at batch 1; throughput: queries a second, which decides the price; memory_bytes: peak
    energy_per_query: J, from a counter
    training_seconds: what was spent to make it out of what was there before
    price_per_hour:   of the machine it was measured on, where that is another one than the card's
    recorded:         measured on another day or machine than the rest of the page; simulated: on a simulated device
    """

    name: str = Field(min_length=1)
    kind: Literal["base", "quantized", "pruned", "distilled", "combined"] = "base"
    quality: Estimate
    score_name: str = "score"
    chance: float | None = None
    bytes: int = Field(ge=0)
    latency_ms: Estimate = Estimate.unavailable("ms")
    throughput: Estimate = Estimate.unavailable("queries/s")
    memory_bytes: int | None = Field(default=None, ge=0)
    energy_per_query: Estimate = Estimate.unavailable("J")
    training_seconds: float | None = Field(default=None, ge=0)
    price_per_hour: float | None = Field(default=None, gt=0)
    device: str = "unknown device"
    date: str = ""
    recorded: bool = False
    simulated: bool = False

    @field_validator("latency_ms", "throughput", "energy_per_query")
    @classmethod
    def _positive(cls, value: Estimate, info) -> Estimate:
        if value.value is not None and value.value <= 0:
            raise BadInput(f"{info.field_name} is {value}", "Allowed: above 0", "Unknown is Estimate.unavailable(), never 0")
        return value


class Difference(Noun):
    """The score of `a` minus that of `b`, measured in pairs on the same texts."""

    a: str
    b: str
    score: Estimate


def sides_of(records: Sequence[Record], training_seconds: Mapping[str, float], recorded: bool) -> list[Side]:
    """Records as sides, the first of them the teacher. BadInput where they cannot be compared."""
    for record in records:
        if not isinstance(record, Record):
            raise BadInput(f"a {type(record).__name__} is among the records", "Allowed: records, as ek.measure returns them")
    teacher = records[0]
    for record in records[1:]:
        _same_text(teacher, record)
    return [_side(record, teacher, training_seconds.get(record.name), recorded) for record in records]


def query_of(records: Sequence[Record]) -> str:
    """What one query of these records is; BadInput where they were profiled with different ones."""
    told = {_query(record.profile): record.name for record in records if record.profile is not None}
    if len(told) > 1:
        given = "; ".join(f"{name}: {query}" for query, name in told.items())
        raise BadInput(
            f"the queries differ ({given})", "Allowed: the same prompt, new tokens and batch for all", "Measure them again alike"
        )
    return next(iter(told), "")


def retained_of(teacher: Record, student: Record) -> Estimate | None:
    """Inverse perplexity of the student over the teacher's, in pairs of blocks; None for classifiers, whose score is it already."""
    a, b = teacher.quality, student.quality
    if a is None or b is None or not a.blocks.nll:
        return None
    theirs = a.blocks.nll if b.vocabulary is None else b.blocks.base_nll  # on the tokens that both know
    if len(theirs) != len(b.blocks.nll):
        return None
    d = paired_difference(theirs, b.blocks.nll)
    ends = [None if x is None else math.exp(x) for x in (d.low, d.high)]
    return Estimate(value=math.exp(d.value or 0.0), low=ends[0], high=ends[1], n=d.n)


def _same_text(teacher: Record, record: Record) -> None:
    a, b = teacher.quality, record.quality
    if a is not None and b is not None and (a.text, a.window) != (b.text, b.window):
        given = f"{teacher.name} and {record.name} were not measured on the same text and window"
        raise BadInput(given, "Allowed: records of one text", "Measure both with the same `on` and window")
    if a is not None and a.perplexity.value is None and record.checkpoint.hash != teacher.checkpoint.hash:
        given = f"{record.name} was compared with another base than {teacher.name}"
        raise BadInput(given, "Allowed: classifiers that were measured against the teacher", "ek.measure(student, base=teacher)")


def _side(record: Record, teacher: Record, seconds: float | None, recorded: bool) -> Side:
    q, p = record.quality, record.profile
    score, name = Estimate.unavailable(), "inverse perplexity"
    if q is not None and q.perplexity.value is not None:
        v, low, high = (None if x is None else 1 / x for x in (q.perplexity.value, q.perplexity.high, q.perplexity.low))
        score = Estimate(value=v, low=low, high=high, n=q.perplexity.n)
    elif q is not None:
        score, name = (Estimate(value=1.0, low=1.0, high=1.0) if record is teacher else q.agreement), "agreement with the teacher"
    peak = figure_of(record, "peak_memory").value
    return Side(
        name=record.name,
        kind=record.recipe.kind(),
        quality=score,
        score_name=name,
        bytes=record.cost.bytes,
        memory_bytes=None if peak is None else int(peak),
        energy_per_query=record.cost.energy_per_query,
        training_seconds=seconds,
        device=p.device if p else "unknown device",
        date=record.created[:10],
        recorded=recorded,
        simulated=bool(p and p.simulated),
        **(_speed(p) if p else {}),
    )


def _speed(p: Profile) -> dict[str, Any]:
    """Time and rate of a whole query. The median of its time is the sum of both medians; the interval holds the mean as well."""
    rest = max(p.new_tokens - 1, 0)
    parts = [p.time_to_first_token] + ([p.time_per_output_token] if rest else [])

    def whole(of: str) -> float | None:
        values = [getattr(part, of) for part in parts]
        return None if None in values else values[0] + rest * sum(values[1:])

    mean, low, high = whole("value"), whole("low"), whole("high")
    if mean is None:
        return {}
    known = p.first_token_percentiles.get("p50"), p.output_token_percentiles.get("p50", 0.0 if not rest else None)
    median = mean if known[0] is None or known[1] is None else known[0] + rest * known[1]
    ends = (None, None) if low is None or high is None or low <= 0 else (min(low, median), max(high, median))
    latency = Estimate(value=median, low=ends[0], high=ends[1], unit="ms", n=parts[0].n)
    rate = query_rate(p.time_to_first_token, p.time_per_output_token, p.new_tokens, p.batch)
    return {"throughput": rate, **({"latency_ms": latency} if p.batch == 1 else {})}


def _query(p: Profile) -> str:
    """What was timed, in words."""
    new = f" and {p.new_tokens} new ones" if p.new_tokens else ""
    return f"a prompt of {p.prompt} tokens{new}, batch {p.batch}"
