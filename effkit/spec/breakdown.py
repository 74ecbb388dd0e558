"""Where the time of a forward pass goes, module by module: a tree that an icicle chart can draw as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .intervals import Estimate, Noun


class Part(Noun):
    """One module as its parent called it. Figures are per forward pass, over all its calls.

    name:     its full name, "" for the model; kind: its class; category: one of the byte ledger's (attention, mlp, ...)
    own_ms:   outside of the modules inside it; total_ms: with them, so that total = own + the children's totals
    flops:    arithmetic operations (2 a multiply-add); bytes: weights and cached keys and values read; both with what is inside
    """

    name: str
    kind: str
    category: str = "other"
    own_ms: float
    total_ms: float
    calls: int
    flops: int | None = None
    bytes: int | None = None
    children: tuple[Part, ...] = ()

    def walk(self) -> Iterator[Part]:
        """This part and all inside it, depth first, in the order of their first calls."""
        yield self
        for child in self.children:
            yield from child.walk()


class Breakdown(Noun):
    """The time of one forward pass by module.

    phase:    "prefill" reads `prompt` tokens a prompt, "decode" one more token after them; a classifier only reads
    plain_ms: the same pass without the hooks that time modules, measured in turns with it (both are means of the middle half)
    overhead: what the hooks added, as a share of plain_ms (it is in own_ms of the modules that call many others)
    """

    phase: Literal["prefill", "decode"]
    root: Part
    plain_ms: Estimate
    overhead: Estimate
    repeats: int
    batch: int
    prompt: int
    device: str
    device_type: str
    simulated: bool = False
    dtype: str
    timing: str

    def by_category(self) -> dict[str, float]:
        """Own milliseconds summed by category, the largest first."""
        sums: dict[str, float] = {}
        for part in self.root.walk():
            sums[part.category] = sums.get(part.category, 0.0) + part.own_ms
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def by_kind(self) -> dict[str, float]:
        """Own milliseconds summed by class of module, the largest first."""
        sums: dict[str, float] = {}
        for part in self.root.walk():
            sums[part.kind] = sums.get(part.kind, 0.0) + part.own_ms
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def __repr__(self) -> str:
        whole = self.root.total_ms or 1.0
        shares = ", ".join(f"{name} {ms / whole:.0%}" for name, ms in self.by_category().items())
        simulated = ", simulated" if self.simulated else ""
        return f"Breakdown({self.phase}: {self.root.total_ms:.3g} ms on {self.device}{simulated}: {shares})"

    __str__ = __repr__
