"""What a student keeps of its teacher and what a query costs: the claim of "90% at 10%" as a card with a verdict.

CostCard(capability)
CostCard(teacher_record, student_record, price_per_hour=0.10, training_seconds=340)
card.capability, card.answer, card.verdict      # with the price and the limits that the card shows now
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets as t

from effkit.spec.capability import COSTS, Answer, Capability
from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Estimate
from effkit.spec.recipe import validated
from effkit.spec.record import Record
from effkit.spec.side import Side

from ._base import Card, explained, refuse_unknown, script, style

OPTIONS = ("above_chance", "by", "cost", "price_per_hour", "price_source", "quality", "training_seconds", "utilisation")


class CostCard(Card):
    """Quality against cost with the region that was asked for, all figures, and the verdict; the page computes them itself.

    teacher:          a Capability, or a Record or a Side with `student` and perhaps `others` of the same kind
    quality, cost:    the limits as shares of the teacher; by: which cost, a name in effkit.spec.capability.COSTS
    price_per_hour:   $ of the machine; utilisation: the share of paid time in which it answers; both instead of the capability's
    training_seconds: with records: of the student, or of several by name

    settings: {"price_per_hour", "teacher_price_per_hour" (None: the same), "utilisation", "quality", "cost", "by", "above_chance"},
              set by the fields of the card
    Raises BadInput for anything else, a limit or price that cannot be, or an unknown option.
    """

    _esm = script("capability", "cost_card")
    _css = style("live", "cost_card")

    settings = t.Dict().tag(sync=True)

    def __init__(
        self,
        teacher: Capability | Record | Side,
        student: Record | Side | None = None,
        others: Iterable[Record | Side] = (),
        *,
        quality: float = 0.9,
        cost: float = 0.1,
        by: str = "price",
        above_chance: bool = False,
        price_per_hour: float | None = None,
        price_source: str | None = None,
        utilisation: float | None = None,
        training_seconds: float | Mapping[str, float] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("CostCard", unknown, ("teacher", "student", "others", *OPTIONS))
        given = {"price_per_hour": price_per_hour, "price_source": price_source, "utilisation": utilisation}
        self._given = _capability(teacher, student, tuple(others), training_seconds, {k: v for k, v in given.items() if v is not None})
        settings = {
            "price_per_hour": self._given.price_per_hour,
            "teacher_price_per_hour": self._given.teacher.price_per_hour,
            "utilisation": self._given.utilisation,
            "quality": quality,
            "cost": cost,
            "by": by,
            "above_chance": above_chance,
        }
        self._valid = _checked(settings, self._given)
        super().__init__(config=_told(self._given), settings=self._valid)
        self.observe(lambda _: self._soon(self._changed), names=["settings"])

    @property
    def capability(self) -> Capability:
        """The figures at the price and the utilisation that the card shows."""
        return _priced(self._given, self._valid)

    @property
    def answer(self) -> Answer:
        """Whether the student keeps what was asked at the cost that was asked: "yes", "no", "not distinguishable", "unavailable"."""
        return self.capability.within(*self._asked_for())

    @property
    def verdict(self) -> str:
        """The sentence that the card shows."""
        return self.capability.verdict(*self._asked_for())

    def _asked_for(self) -> tuple[float, float, str, bool]:
        v = self._valid
        return v["quality"], v["cost"], v["by"], v["above_chance"]

    def _changed(self) -> None:
        try:
            self._valid = _checked(self.settings, self._given)
        except BadInput as error:
            self.problem = explained(error)
        else:
            self.problem = {}

    def __repr__(self) -> str:
        names = ", ".join(repr(side.name) for side in (self._given.teacher, self._given.student))
        return f"CostCard({names}, quality={self._valid['quality']:g}, cost={self._valid['cost']:g})"


def _capability(teacher: Any, student: Any, others: tuple[Any, ...], seconds: Any, given: dict[str, Any]) -> Capability:
    if isinstance(teacher, Capability):
        if student is not None or others or seconds is not None:
            raise BadInput("a capability comes with a student, others or training_seconds", "Allowed: a Capability alone", "It holds them")
        source = {"price_source": "given"} if "price_per_hour" in given else {}
        return validated(Capability, {**_fields(teacher), **source, **given}, "the capability") if given else teacher
    kind = type(teacher)
    if kind not in (Record, Side) or not all(isinstance(one, kind) for one in (student, *others)):
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in (teacher, student, *others)))
        raise BadInput(f"teacher, student and others are of: {kinds}", "Allowed: one Capability, or Records only, or Sides only")
    if kind is Record:
        return Capability.from_records(teacher, student, others, training_seconds=seconds, **given)
    if seconds is not None:
        raise BadInput("training_seconds comes with sides", "Allowed: with records", "A Side has its own training_seconds")
    return validated(Capability, {"teacher": teacher, "student": student, "others": others, **given}, "the capability")


def _fields(noun: Any) -> dict[str, Any]:
    return {name: getattr(noun, name) for name in type(noun).model_fields}


def _priced(given: Capability, settings: Mapping[str, Any]) -> Capability:
    """The capability at other prices; BadInput where there can be no such price."""
    own = settings["teacher_price_per_hour"]
    teacher = validated(Side, {**_fields(given.teacher), "price_per_hour": own}, "the teacher")
    fields = {**_fields(given), "teacher": teacher, "utilisation": settings["utilisation"]}
    if settings["price_per_hour"] != given.price_per_hour:
        fields |= {"price_per_hour": settings["price_per_hour"], "price_source": "given"}
    return validated(Capability, fields, "the capability")


def _checked(settings: Mapping[str, Any], given: Capability) -> dict[str, Any]:
    """Settings that can be used; BadInput names the one that cannot."""
    for name in ("quality", "cost"):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10:
            raise BadInput(f"{name} is {value!r}", "Allowed: a share of the teacher's above 0, such as 0.9 or 0.1")
    if settings["by"] not in COSTS:
        raise choice("by", settings["by"], COSTS)
    if settings["above_chance"] and given.chance is None:
        raise BadInput("above_chance is True", "Allowed: only where the chance level of the score is known", "Give each Side its chance")
    _priced(given, settings)
    return dict(settings)


def _three(e: Estimate | None) -> list[float | None] | None:
    return None if e is None else [e.value, e.low, e.high]


def _told(capability: Capability) -> dict[str, Any]:
    """The capability as the page computes with it: every estimate as [value, low, high], None where unknown."""
    sides = [
        {
            "name": side.name, "kind": side.kind, "quality": _three(side.quality), "score_name": side.score_name, "chance": side.chance,
            "bytes": side.bytes, "memory": side.memory_bytes, "latency": _three(side.latency_ms), "throughput": _three(side.throughput),
            "energy": _three(side.energy_per_query), "training": side.training_seconds,
            "price_per_hour": None if side is capability.teacher else side.price_per_hour,
            "device": side.device, "date": side.date, "recorded": side.recorded, "simulated": side.simulated,
        }
        for side in capability.sides
    ]  # fmt: skip
    return {
        "sides": sides,
        "retained": _three(capability.retained),
        "retained_above_chance": _three(capability.retained_above_chance),
        "differences": [[d.a, d.b, _three(d.score)] for d in capability.differences],
        "price_per_hour": capability.price_per_hour,
        "price_source": capability.price_source,
        "query": capability.query,
    }
