"""Where bits should go: what each width would cost every module in bytes and in KL, and the best choice for a budget.

The sum of the modules' KL is the prediction, as if their errors were small and independent. Choosing one width for each
module under a budget of bytes is a multiple-choice knapsack; it is solved on the lower convex hull of every module's
(bytes, KL) points, in the order of KL saved a byte, and what then remains of the budget is spent where it saves most
(Sinha and Zoltners 1979, doi:10.1287/opre.27.3.503). Milliseconds for hundreds of modules, so a slider can call it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from .errors import BadInput, bytes_text
from .intervals import Noun


class Choice(Noun):
    """One way to store a module: `bits` (16: as it is now), the stored `bytes` of the whole module, and the KL it adds (nats a token)."""

    bits: int
    bytes: int
    kl: float


class Sensitive(Noun):
    """One module with its choices, by rising bits. `weights`: how many weights it has."""

    module: str
    kind: str
    layer: int | None
    weights: int
    choices: tuple[Choice, ...] = Field(min_length=1)

    def choice(self, bits: int) -> Choice:
        """BadInput where the module has no such choice."""
        for one in self.choices:
            if one.bits == bits:
                return one
        raise BadInput(f"{self.module} has no choice of {bits} bits", f"Allowed: {', '.join(str(c.bits) for c in self.choices)}")


class Allocation(Noun):
    """Bits for every module, the bytes of the whole model, and the predicted KL to the base."""

    bits: dict[str, int]
    bytes: int
    kl: float


class Sensitivity(Noun):
    """What every width would cost every module of one model. `fixed_bytes`: of all that is never quantized.

    `group_size` and `symmetric` as in Quantize. `scale`: measured KL over the plain sum, 1 until a measurement has calibrated it.
    """

    source: str
    text: str
    group_size: int | Literal["auto"] | None = "auto"
    symmetric: bool = False
    modules: tuple[Sensitive, ...]
    fixed_bytes: int
    scale: float = 1.0

    @property
    def smallest(self) -> int:
        """Bytes of the model with every module at its fewest bytes."""
        return self.fixed_bytes + sum(min(c.bytes for c in m.choices) for m in self.modules)

    @property
    def told_smallest(self) -> str:
        """ "The fewest bits take 61 MB, 12 MB of them for what is never quantized"."""
        return f"The fewest bits take {bytes_text(self.smallest)}, {bytes_text(self.fixed_bytes)} of them for what is never quantized"

    @property
    def largest(self) -> int:
        return self.fixed_bytes + sum(max(c.bytes for c in m.choices) for m in self.modules)

    def at(self, bits: Mapping[str, int]) -> Allocation:
        """The bytes and predicted KL of given bits; a module that is not named keeps its most exact choice."""
        unknown = sorted(set(bits) - {m.module for m in self.modules})
        if unknown:
            raise BadInput(f"there is no module {unknown[0]!r}", f"Allowed: {', '.join(m.module for m in self.modules[:4])}, ...")
        chosen = {m.module: m.choice(bits[m.module]) if m.module in bits else m.choices[-1] for m in self.modules}
        return self._allocation(chosen)

    def calibrated(self, bits: Mapping[str, int], kl: float) -> Sensitivity:
        """The same, its `scale` such that `bits` are predicted the KL that was measured; itself where either is not above 0."""
        predicted = self.at(bits).kl
        return self.model_copy(update={"scale": self.scale * kl / predicted}) if predicted > 0 and kl > 0 else self

    def allocate(self, bytes: int, fixed: Mapping[str, int] | None = None) -> Allocation:
        """The widths with the least predicted KL that fit into `bytes` (of the whole model).

        fixed: bits of modules that are not to be chosen. Raises BadInput where not even the fewest bits fit.
        """
        fixed = fixed or {}
        hulls = {m.module: [m.choice(fixed[m.module])] if m.module in fixed else _hull(m.choices) for m in self.modules}
        at = dict.fromkeys(hulls, 0)
        spent = self.fixed_bytes + sum(hull[0].bytes for hull in hulls.values())
        if spent > bytes:
            raise BadInput(
                f"a budget of {bytes_text(bytes)} is too small",
                f"With the bits set by hand at least {bytes_text(spent)} are needed" if fixed else self.told_smallest,
                "Give at least that, or allow fewer bits",
            )
        queue = [(-_gain(hull, 0), name) for name, hull in hulls.items() if len(hull) > 1]
        heapq.heapify(queue)
        while queue:
            _, name = heapq.heappop(queue)
            hull, i = hulls[name], at[name]
            more = hull[i + 1].bytes - hull[i].bytes
            if spent + more > bytes:
                continue  # does not fit: cheaper steps of other modules still may
            at[name], spent = i + 1, spent + more
            if i + 2 < len(hull):
                heapq.heappush(queue, (-_gain(hull, i + 1), name))
        return self._allocation({name: hulls[name][i] for name, i in at.items()})

    def _allocation(self, chosen: Mapping[str, Choice]) -> Allocation:
        total = self.fixed_bytes + sum(c.bytes for c in chosen.values())
        return Allocation(
            bits={name: c.bits for name, c in chosen.items()}, bytes=total, kl=self.scale * sum(c.kl for c in chosen.values())
        )


def _gain(hull: list[Choice], i: int) -> float:
    """KL saved a byte by the next step."""
    return (hull[i].kl - hull[i + 1].kl) / (hull[i + 1].bytes - hull[i].bytes)


def _hull(choices: tuple[Choice, ...]) -> list[Choice]:
    """The choices that lie on the lower convex hull of (bytes, KL), by rising bytes and falling KL."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bytes, c.kl)):
        if hull and choice.kl >= hull[-1].kl:
            continue
        while len(hull) > 1 and _slope(hull[-1], choice) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: Choice, b: Choice) -> float:
    return (a.kl - b.kl) / (b.bytes - a.bytes)
