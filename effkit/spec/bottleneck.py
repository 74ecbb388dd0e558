"""What bounds a forward pass: how much of its measured time each cause explains, and what to do about the largest.

A pure function of figures. Weights take what a pass of a single row takes for its products, arithmetic what further rows add
to that (the roofline of Williams et al. 2009 with the device's own measured products in place of two straight lines); cached
keys and values, and the work around the products, come from the device's calibration.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .intervals import Noun

Name = Literal["weight bytes", "KV bytes", "arithmetic", "launch overhead", "fallback to CPU", "unexplained"]


class Figures(Noun):
    """What is known about one pass. Times in ms.

    weights_ms, arithmetic_ms: products of one row, and what the other rows add; cache_ms: reading cached keys and values
    around_ms:     layers besides that (Python, launches, small kernels); 0 where the pass is compiled
    overlaps:      the device works while the host asks for more, so that only what `around_ms` exceeds the rest by is felt
    head_share:    of the weight bytes, those of the output head
    fallback:      operators that the device does not have, computed on the CPU instead
    """

    phase: Literal["prefill", "decode"] = "decode"
    measured_ms: float = Field(gt=0)
    weights_ms: float = 0.0
    arithmetic_ms: float = 0.0
    cache_ms: float = 0.0
    around_ms: float = 0.0
    overlaps: bool = False
    weight_bytes: float = 0.0
    cache_bytes: float = 0.0
    flops: float = 0.0
    copy_rate: float | None = None
    matrix_rate: float | None = None
    head_share: float = 0.0
    batch: int = 1
    compiled: bool = False
    can_compile: bool = False
    fallback: tuple[str, ...] = ()
    device: str = ""
    simulated: bool = False


class Cause(Noun):
    """One cause: the ms that it accounts for, and their share of the measured time."""

    name: Name
    ms: float
    share: float


class Bottleneck(Noun):
    """The verdict. causes: the largest first, "unexplained" among them; where causes foresee more than was measured, their
    shares add up to more than 1 and nothing is unexplained.

    copy_fraction, matrix_fraction: bytes and operations a second of the pass, over the device's measured rates
    """

    verdict: Name
    causes: tuple[Cause, ...]
    advice: str
    copy_fraction: float | None = None
    matrix_fraction: float | None = None
    figures: Figures

    def share(self, name: Name) -> float:
        return next((cause.share for cause in self.causes if cause.name == name), 0.0)

    def __repr__(self) -> str:
        shares = ", ".join(f"{cause.name} {cause.share:.0%}" for cause in self.causes if cause.share >= 0.005)
        where = f" on {self.figures.device}" if self.figures.device else ""
        simulated = " (simulated)" if self.figures.simulated else ""
        return f"{self.figures.phase} of {self.figures.measured_ms:.3g} ms{where}{simulated}: {shares}. {self.advice}"

    __str__ = __repr__


def verdict(figures: Figures) -> Bottleneck:
    """What bounds the pass with these figures.

    >>> verdict(Figures(measured_ms=10, weights_ms=7, around_ms=2)).verdict
    'weight bytes'
    """
    f = figures
    device = {"weight bytes": f.weights_ms, "arithmetic": f.arithmetic_ms, "KV bytes": f.cache_ms}
    felt = max(f.around_ms - sum(device.values()), 0.0) if f.overlaps else f.around_ms
    explained = {**device, "launch overhead": felt}
    rest = max(f.measured_ms - sum(explained.values()), 0.0)
    # a device that hands operators to the CPU spends there what nothing else explains
    explained["fallback to CPU" if f.fallback else "unexplained"] = rest
    causes = [Cause(name=name, ms=ms, share=ms / f.measured_ms) for name, ms in explained.items()]  # type: ignore[arg-type]
    causes.sort(key=lambda cause: -cause.ms)
    seconds = f.measured_ms / 1000
    return Bottleneck(
        verdict=causes[0].name,
        causes=tuple(causes),
        advice=advice(causes[0].name, f),
        copy_fraction=None if not f.copy_rate else (f.weight_bytes + f.cache_bytes) / seconds / f.copy_rate,
        matrix_fraction=None if not f.matrix_rate else f.flops / seconds / f.matrix_rate,
        figures=f,
    )


def advice(name: Name, f: Figures) -> str:
    """What to do about one cause, in a sentence or two."""
    if name == "weight bytes":
        if f.head_share > 0.5:
            return (
                f"Most of the time is reading weights, {f.head_share:.0%} of them the head's, one row a token of the vocabulary: "
                "prune the vocabulary, or quantize the head too."
            )
        shared = "" if f.batch > 1 else " A larger batch reads them once for several prompts."
        return f"Most of the time is reading weights: fewer bits a weight, or fewer weights, make it faster.{shared}"
    if name == "KV bytes":
        return (
            "Most of the time is reading cached keys and values: a shorter context, a smaller batch, fewer key-value heads "
            "(grouped-query attention), or kv_bits=8 or 4 where the device gains by it."
        )
    if name == "arithmetic":
        smaller = " A smaller batch answers each prompt sooner, and all of them later." if f.batch > 1 else ""
        return (
            "Most of the time is arithmetic: fewer bits a weight will not help; a dtype with a higher rate, a smaller model or "
            f"a faster device will.{smaller}"
        )
    if name == "launch overhead":
        first = "compile it (compiled=True), " if f.can_compile and not f.compiled else ""
        return f"Most of the time goes into starting many small operations: {first}raise the batch, or take fewer and wider layers."
    if name == "fallback to CPU":
        listed = ", ".join(f.fallback)
        return f"The device lacks {listed} and computes it on the CPU: another dtype or attention, or a newer driver, may avoid it."
    return (
        "Most of the time is none of these: another program may have used the machine, or one module is slow in a way of its "
        "own; ek.breakdown(model) shows which."
    )
