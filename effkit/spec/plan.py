"""What a step will do to each module, decided before anything is touched, with the reason for what it leaves alone."""

from __future__ import annotations

from typing import Literal

from .intervals import Noun
from .recipe import Step


class ModulePlan(Noun):
    """One module's fate. Bytes count weights, scales, zero points and bias; a tied weight counts once, at its owner."""

    module: str
    kind: str
    shape: tuple[int, ...]
    action: Literal["quantize", "keep", "remove", "cut", "reset", "project", "train"]
    reason: str = ""
    method: str = ""
    bits: float | None = None
    group_size: int | None = None
    bytes_before: int
    bytes_after: int


class Plan(Noun):
    """The plan of one step: every module that holds weights stands in it exactly once.

    seconds, peak_bytes: what the step is estimated to take here, where `ek.plan` was asked; None otherwise
    """

    step: Step
    modules: tuple[ModulePlan, ...]
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    peak_bytes: int | None = None

    @property
    def bytes_before(self) -> int:
        return sum(m.bytes_before for m in self.modules)

    @property
    def bytes_after(self) -> int:
        """Predicted stored bytes of the whole model; equal to the measured ones afterwards."""
        return sum(m.bytes_after for m in self.modules)

    def acting(self, action: str = "quantize") -> tuple[ModulePlan, ...]:
        """The modules to which `action` is done."""
        return tuple(m for m in self.modules if m.action == action)

    @property
    def estimate(self) -> str:
        """ "about 12 s, at most 1.2 GB of memory"; empty where nothing was estimated. Not part of the printed plan, which is
        the same on every machine."""
        from .errors import bytes_text

        if self.seconds is None or self.peak_bytes is None:
            return ""
        time = f"{self.seconds:.2g} s" if self.seconds < 100 else f"{self.seconds / 60:.0f} min"
        return f"about {time}, at most {bytes_text(self.peak_bytes)} of memory"

    def __str__(self) -> str:
        from .errors import bytes_text

        counts: dict[str, int] = {}
        for m in self.modules:
            counts[m.action] = counts.get(m.action, 0) + 1
        done = ", ".join(f"{n} to {action}" for action, n in sorted(counts.items()))
        ratio = self.bytes_before / self.bytes_after if self.bytes_after else float("inf")
        lines = [f"{self.step.label()}: {done}; {bytes_text(self.bytes_before)} -> {bytes_text(self.bytes_after)} ({ratio:.2f}x)"]
        reasons: dict[str, list[str]] = {}
        for m in self.modules:
            if m.action == "keep" and m.reason:
                reasons.setdefault(m.reason, []).append(m.module)
        lines += [
            f"  left alone: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}" for why, names in reasons.items()
        ]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    __repr__ = __str__
