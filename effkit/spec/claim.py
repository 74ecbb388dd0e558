"""The claim, tested once: a specialist that keeps so much of its teacher's quality at so little of its cost per query."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .capability import Capability
from .intervals import Estimate, Noun
from .side import Side

KEEPS, COSTS = 0.90, 0.10  # "90% of the capability at 10% of the cost"


class Contender(Noun):
    """One model of the comparison, in its best form.

    macro_f1:      on the test texts, answered one by one in that form
    form:          how it is served; forms: p50 in ms of every form, None where it cannot be made; one may be faster than `form` and
                   change too many answers
    latency:       ms of one query at batch 1, p50, the model alone (for a linear model: with its n-grams);
    latency_whole: the same with tokenization; rate: queries a second at full load
    behind:        whether the data tell that the best model scores higher (paired)
    """

    name: str
    macro_f1: Estimate
    bytes: int | None = None
    parameters: int | None = None
    form: str = ""
    forms: dict[str, float | None] = Field(default_factory=dict)
    latency: float | None = None
    latency_whole: float | None = None
    rate: float | None = None
    training_seconds: float | None = None
    behind: bool | None = None


class Claim(Noun):
    """Teacher, student and the models that are cheaper, on test texts that no training saw.

    retained:       the student's macro-F1 over the teacher's, paired; above_chance: the same above the majority class's
    latency_ratio:  p50 at batch 1, student over teacher, each in its best form; latency_ratio_whole: with tokenization
    cost_ratio:     seconds of the device that a query takes at full load, student over teacher: on one device at one price
                    this is the ratio of prices per query
    """

    version: int = 1
    data: str
    data_hash: str
    classes: int
    labels_per_class: int | None
    labelled: int
    pool: int
    test: int
    seed: int = 0
    contenders: dict[str, Contender]
    retained: Estimate
    above_chance: Estimate
    latency_ratio: float
    latency_ratio_whole: float
    bytes_ratio: float
    cost_ratio: float
    seconds: float
    device: str = ""
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def teachable(self) -> bool:
        """Whether the data tell that the teacher scores higher than the majority class: else there is nothing to keep."""
        return self.above_chance.low is not None

    @property
    def holds(self) -> bool:
        """Whether the student keeps 90% at 10% of the teacher's latency, bytes and cost per query."""
        if not self.teachable:
            return False
        kept = self.retained.value or 0.0
        return kept >= KEEPS and max(self.latency_ratio, self.bytes_ratio, self.cost_ratio) <= COSTS

    @property
    def cheapest(self) -> str:
        """The model with the least cost per query among those that the data cannot tell from the best."""
        level = [one for one in self.contenders.values() if one.behind is False and one.rate]
        return max(level, key=lambda one: one.rate or 0.0).name if level else ""

    def capability(self, date: str = "", recorded: bool = False) -> Capability:
        """The same figures as the card shows them: every model that can answer, at the price of one machine.

        date: when it was measured; recorded: on another day or machine than the rest of the page
        """
        chance = self.contenders["majority"].macro_f1.value
        teacher, student, *others = (
            Side(
                name=one.name,
                kind="distilled" if name in ("student", "distilled linear") else "base",
                quality=one.macro_f1,
                score_name="macro-F1",
                chance=chance,
                bytes=one.bytes or 0,
                latency_ms=Estimate(value=one.latency, unit="ms"),
                throughput=Estimate(value=one.rate, unit="queries/s"),
                training_seconds=one.training_seconds,
                device=self.device,
                date=date,
                recorded=recorded,
            )
            for name, one in self.contenders.items()
            if one.latency and one.rate
        )
        return Capability(
            teacher=teacher,
            student=student,
            others=tuple(others),
            query="one text",
            retained=self.retained,
            retained_above_chance=self.above_chance,
        )

    def verdict(self) -> str:
        """One sentence on the claim and one on what to use, which need not be the student."""
        if not self.teachable:
            return self._nothing_to_keep()
        student, linear = self.contenders["student"], self.contenders["linear"]
        kept = f"{self.retained.value or 0:.0%} of its teacher's macro-F1"
        if self.retained.low is not None and self.retained.high is not None:
            kept += f" (95% interval {self.retained.low:.0%} to {self.retained.high:.0%})"
        costs = (
            f"{self.latency_ratio:.1%} of its latency, {self.bytes_ratio:.1%} of its bytes and {self.cost_ratio:.1%} of its cost per query"
        )
        sentence = f"{'Yes' if self.holds else 'No'}: the student keeps {kept} at {costs}."
        if self.holds and self.retained.low is not None and self.retained.low < KEEPS:
            sentence += f" The interval reaches below {KEEPS:.0%}, so these texts alone do not settle it."
        sentence += self._advice()
        if (linear.macro_f1.value or 0) >= (student.macro_f1.value or 0):
            sentence += " The linear model on the same labels is at least as good as the student: the distillation was not needed here."
        return sentence

    def _nothing_to_keep(self) -> str:
        teacher, majority = (self.contenders[name].macro_f1 for name in ("teacher", "majority"))
        sentence = (
            f"No: on {self.test} test texts the data cannot tell the teacher (macro-F1 {teacher}) from the majority class ({majority}), "
            "so there is nothing that a student could keep. Give more labels, or more rows to test on."
        )
        return sentence + ("" if self.contenders["majority"].behind is False else self._advice())

    def _advice(self) -> str:
        best = max(self.contenders.values(), key=lambda one: one.macro_f1.value or 0.0)
        if self.cheapest == best.name:
            return f" Use the {called(best.name)}: it scores best, and nothing cheaper comes so close that the data cannot tell."
        if self.cheapest:
            return (
                f" Use the {called(self.cheapest)}: it is the cheapest that the data cannot tell from the best (the {called(best.name)})."
            )
        return ""

    def __str__(self) -> str:
        lines = [f"{self.data}: {self.classes} classes, {self.labelled} labels, {self.pool} other texts, {self.test} test texts"]
        for one in self.contenders.values():
            size = "" if one.bytes is None else f"{one.bytes / 1e6:7.2f} MB"
            speed = "" if one.latency is None else f"{one.latency:8.3f} ms ({one.latency_whole:.3f} with tokenizer) {one.rate or 0:8.0f}/s"
            lines.append(f"  {one.name:17} macro-F1 {one.macro_f1}  {size} {speed}  {one.form}")
        return "\n".join([*lines, "  " + self.verdict()])


def called(name: str) -> str:
    """A contender's name within a sentence."""
    return {"linear": "linear model", "distilled linear": "distilled linear model", "majority": "majority class"}.get(name, name)
