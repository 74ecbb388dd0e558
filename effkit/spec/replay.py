"""Two records of one result, then and now: what came out the same, what did not, and what has changed between them.

Four verdicts on a figure, from strict to lenient: its digits are equal; it differs by no more than rounding does (on
another device: than the noise floor, which is what rounding the base to bfloat16 changes); the data cannot tell the two
apart (paired over blocks of text, a ratio of intervals for times); or it is different. Whatever is not the same is given
its reason: the data, the recipe, the seed, the device, a version. A figure is only blamed on what can change it.
The words follow the ACM's "Artifact Review and Badging" (2020): the same setup gives the same result within precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

from .frontier import FIGURES, figure_of, not_distinguishable
from .intervals import Estimate, Noun, ratio
from .places import short_name
from .record import Record

Verdict = Literal["same", "within tolerance", "not distinguishable", "different"]
Kind = Literal["data", "recipe", "seed", "device", "version"]

QUALITY = ("perplexity", "retained", "kl", "agreement")
FOLLOWING = ("kl_p99", "bits_per_weight", "speed_ratio", "energy", "price")  # said by the others, or by a meter: not compared
SPEED = ("first_token_ms", "output_token_ms", "decode", "prefill")
# what another order of the same sums changes on one device: share of the value, and in its own unit
ROUNDING = {"perplexity": (1e-4, 0.0), "retained": (1e-4, 0.0), "kl": (1e-3, 1e-6), "agreement": (0.0, 1e-3)}
SPEED_TOLERANCE = 0.1  # share by which a time may be off on the same machine
MEMORY_TOLERANCE = 0.02  # of an allocator's peak: it hands out blocks
OF_A_STEP = "the text that a step reads, "
SHOWN = 3  # reasons of a kind that are told; the others are counted


class Change(Noun):
    """Something that was otherwise when the record was made. then, now: in words."""

    kind: Kind
    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what} was {self.then} and is {self.now}"


class Outcome(Noun):
    """The verdict on one figure. causes: the kinds of change that can have caused it; why: in words, "" where it is the same."""

    figure: str
    label: str
    then: Estimate
    now: Estimate
    verdict: Verdict
    causes: tuple[Kind, ...] = ()
    why: str = ""


class Replay(Noun):
    """A record, and what came out when it was run again.

    changes:      all that was otherwise, whether or not it mattered
    same_weights: whether the model came out bit for bit as it was; None where the record does not say
    """

    record: Record
    again: Record
    outcomes: tuple[Outcome, ...]
    changes: tuple[Change, ...] = ()
    same_weights: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether no figure is different."""
        return all(outcome.verdict != "different" for outcome in self.outcomes)

    def outcome(self, figure: str) -> Outcome:
        """The verdict on a figure, one of `FIGURES`; BadInput for one that was not compared."""
        from .errors import choice

        for outcome in self.outcomes:
            if outcome.figure == figure:
                return outcome
        raise choice("the figure", figure, [outcome.figure for outcome in self.outcomes])

    def summary(self) -> dict[str, Any]:
        """The verdicts as plain JSON: the last line of `effkit replay`."""
        return {
            "name": self.record.name,
            "record": self.record.id,
            "ok": self.ok,
            "same_weights": self.same_weights,
            "figures": {
                o.figure: {"then": o.then.value, "now": o.now.value, "verdict": o.verdict, "causes": list(o.causes)} for o in self.outcomes
            },
            "changes": [change.model_dump(mode="json") for change in self.changes],
        }

    def table(self) -> str:
        """The verdicts as lines of text of equal columns, the changes below."""
        rows = [("figure", "then", "now", "verdict", "why")]
        rows += [(o.label, str(o.then), str(o.now), o.verdict, o.why) for o in self.outcomes]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip() for row in rows]
        if self.same_weights is not None:
            lines.append("The model came out bit for bit as it was." if self.same_weights else "The model's weights came out otherwise.")
        return "\n".join([*lines, *(f"changed: {change}" for change in self.changes)])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        counts = {verdict: sum(o.verdict == verdict for o in self.outcomes) for verdict in get_args(Verdict)}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return f"Replay({self.record.name!r}, {told})"


def compared(then: Record, now: Record, speed: bool = True) -> Replay:
    """The verdict on every figure that `then` has. `now` is the same thing done again; speed: whether times are compared."""
    changes = tuple(changes_between(then, now))
    weights = None
    if then.fingerprint is not None and now.fingerprint is not None and _where(then)[1] == _where(now)[1]:
        weights = then.fingerprint.weights == now.fingerprint.weights
    found = []
    for name, (label, _, _) in FIGURES.items():
        if name in FOLLOWING:
            continue
        a, b = figure_of(then, name), figure_of(now, name)
        if a.value is None or (name == "peak_memory" and not _allocated(then, now)) or (name in SPEED and not speed):
            continue
        outcome = Outcome(figure=name, label=label, then=a, now=b, verdict=_verdict(name, a, b, then, now))
        if outcome.verdict != "same":
            kinds, why = _reason(name, b, changes, weights, _busy(then, now))
            why = why if kinds or outcome.verdict == "different" else ""  # what is within the noise needs no excuse
            outcome = outcome.model_copy(update={"causes": kinds, "why": why})
        found.append(outcome)
    return Replay(record=then, again=now, outcomes=tuple(found), changes=changes, same_weights=weights)


def _allocated(then: Record, now: Record) -> bool:
    """A peak is compared where an allocator counted it. The resident set is the whole process's, whatever else it holds."""
    return all(r.profile is not None and (r.profile.memory.reserved or r.profile.memory.allocated) for r in (then, now))


def _verdict(name: str, a: Estimate, b: Estimate, then: Record, now: Record) -> Verdict:
    if b.value is None or a.value is None:
        return "different"
    if name in QUALITY:
        return _quality(name, a.value, b.value, then, now)
    if a.value == b.value:
        return "same"
    if name == "bytes":
        return "different"
    off = abs(b.value / a.value - 1) if a.value else math.inf
    if off <= (SPEED_TOLERANCE if name in SPEED else MEMORY_TOLERANCE):
        return "within tolerance"
    if name in SPEED:
        between = ratio(b, a)
        if between.low is not None and between.high is not None and between.low <= 1 <= between.high:
            return "not distinguishable"
    return "different"


def _quality(name: str, a: float, b: float, then: Record, now: Record) -> Verdict:
    if a == b:
        return "same"
    x, y = then.quality, now.quality
    assert x is not None
    assert y is not None
    if (x.text, x.window, x.windows) != (y.text, y.window, y.windows):
        return "different"  # of other text: not the same quantity
    share, unit = ROUNDING[name]
    allowed = max(share * abs(a), unit)
    off = abs(a - b)
    if _device(then) != _device(now):
        loss = name in ("perplexity", "retained") and x.perplexity.value is not None  # a classifier's is its agreement
        floor = _floor("kl" if loss or name == "kl" else "agreement", then, now)
        if floor is not None:
            off, allowed = (abs(math.log(b / a)) if loss else off), floor
    if off <= allowed:
        return "within tolerance"
    if x.blocks.nll and x.blocks == y.blocks:
        return "different"  # every block came out the same: the figure is not what they say
    return "not distinguishable" if not_distinguishable(then, now, name) else "different"


def _floor(name: str, then: Record, now: Record) -> float | None:
    """What rounding the base changes in a figure, the larger of the two. On text like the base's own, the loss rises by the KL."""
    floors = [r.quality.floor for r in (then, now) if r.quality is not None and r.quality.floor is not None]
    if name == "agreement":
        values = [1 - f.agreement.value for f in floors if f.agreement.value is not None]
    else:
        values = [f.kl.value for f in floors if f.kl.value is not None]
    return max(values, default=None)


def _reason(name: str, now: Estimate, changes: tuple[Change, ...], weights: bool | None, busy: str) -> tuple[tuple[Kind, ...], str]:
    """What can have changed a figure: kinds, and in words."""
    if now.value is None:
        return (), "was not measured this time"
    able = [change for change in changes if _can(change, name, weights)]
    kinds: tuple[Kind, ...] = tuple(dict.fromkeys(change.kind for change in able))
    if not able:
        return (), _unexplained(name, weights, busy)
    told = []
    for kind in kinds:
        own = [str(change) for change in able if change.kind == kind]
        told += own[:SHOWN] + ([f"and {len(own) - SHOWN} more of the {kind}"] if len(own) > SHOWN else [])
    return kinds, "; ".join(told)


def _can(change: Change, name: str, weights: bool | None) -> bool:
    if change.what == "the text":
        return name in QUALITY
    if change.kind in ("recipe", "seed") or change.what.startswith(OF_A_STEP):
        return weights is not True  # the same weights came out of it all the same
    return True


def _unexplained(name: str, weights: bool | None, busy: str) -> str:
    if name in SPEED or name == "peak_memory":
        return f"nothing that the record names has changed; other work changes times too{busy}: run it again when all is idle"
    if weights:
        return "nothing that the record names has changed, nor have the weights: this figure may have been altered"
    return (
        "nothing that the record names has changed: a step may read text that its recipe does not name, or a kernel adds in no fixed order"
    )


def _busy(then: Record, now: Record) -> str:
    """How busy the machine was, where both records know: processes that wanted to run, a minute's mean."""
    before, after = (record.environment.get("load") for record in (then, now))
    return "" if before is None or after is None else f" (a load of {before} then, of {after} now)"


def changes_between(then: Record, now: Record) -> Iterator[Change]:
    """All that is otherwise, in the order in which it matters: data, recipe, seed, device, versions."""
    if then.checkpoint.hash != now.checkpoint.hash:
        yield _change("data", "the checkpoint's hash", then.checkpoint.hash[:16], now.checkpoint.hash[:16])
    x, y = then.quality, now.quality
    if x is not None and y is not None:
        if x.text != y.text:
            yield _change("data", "the text", _text(x), _text(y))
        elif (x.window, x.windows) != (y.window, y.windows):
            yield _change("data", "windows", f"{x.windows} of {x.window} tokens", f"{y.windows} of {y.window} tokens")
    before, after = then.fingerprint, now.fingerprint
    if before is not None and after is not None:
        # against what the record was made with, not what it says now: so an edited record shows
        if before.steps != after.steps:
            yield _change("recipe", "the hash of the steps", before.steps, after.steps)
        if before.seed != after.seed:
            yield _change("seed", "the seed", before.seed, after.seed)
        for name, hash in before.texts.items():
            if after.texts.get(name, hash) != hash:
                yield _change("data", f"{OF_A_STEP}{short_name(name)}", hash[:16], after.texts[name][:16])
    elif then.recipe.hash() != now.recipe.hash():
        steps = then.recipe.steps_hash() != now.recipe.steps_hash()
        if steps:
            yield _change("recipe", "the hash of the steps", then.recipe.steps_hash(), now.recipe.steps_hash())
        if then.recipe.seed != now.recipe.seed:
            yield _change("seed", "the seed", then.recipe.seed, now.recipe.seed)
    yield from _surroundings(then, now)


def _surroundings(then: Record, now: Record) -> Iterator[Change]:
    for what, p, q in zip(("device", "dtype"), _where(then), _where(now), strict=True):
        if p is not None and q is not None and p != q:
            yield _change("device", what, p, q)
    a, b = then.environment, now.environment
    for what in ("processor", "machine", "cores", "threads"):
        if a.get(what) is not None and a.get(what) != b.get(what):
            yield _change("device", what, a[what], b.get(what))
    for what in ("effkit", "python", "system", "revision"):
        if a.get(what) is not None and a.get(what) != b.get(what):
            yield _change("version", "effkit's git revision" if what == "revision" else what, a[what], b.get(what))
    packages, others = a.get("packages"), b.get("packages")
    if isinstance(packages, dict) and isinstance(others, dict):
        for name, version in packages.items():
            if version != others.get(name):
                yield _change("version", name, version or "not installed", others.get(name) or "not installed")


def _change(kind: Kind, what: str, then: Any, now: Any) -> Change:
    return Change(kind=kind, what=what, then=str(then), now=str(now))


def _text(quality: Any) -> str:
    return f"{short_name(quality.text_source)} ({quality.text[:12]})"


def _device(record: Record) -> tuple[Any, ...]:
    return (record.environment.get("processor"), *_where(record))


def _where(record: Record) -> tuple[str | None, str | None]:
    """Device and dtype."""
    where = record.profile or record.fingerprint
    return (where.device, where.dtype) if where is not None else (None, None)
