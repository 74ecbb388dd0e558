"""A measured value with its uncertainty, and the bootstrap that gives it.

Tokens of one text are not independent, so the unit that is drawn again is a block of neighbouring tokens
(block bootstrap: Künsch 1989, Annals of Statistics 17:1217), and two models are compared on the same blocks (paired).
"""

from __future__ import annotations

import functools
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

How = Literal["measured", "counter", "sampled", "modelled", "unavailable"]

Z = 1.959964  # 97.5% quantile of the normal distribution


class Noun(BaseModel):
    """Frozen, closed, comparable by value: the base of everything that travels as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Estimate(Noun):
    """A value with a 95% interval. `value` None means unavailable, and is never shown as zero.

    unit: "" for a pure number; n: how many independent units (blocks, repeats) stand behind it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int = 0
    how: How = "measured"

    @classmethod
    def unavailable(cls, unit: str = "") -> Estimate:
        """What could not be measured: no value, which is not zero."""
        return cls(value=None, unit=unit, how="unavailable")

    def __str__(self) -> str:
        """Three significant digits and the interval: '0.034 [0.031, 0.037]'."""
        if self.value is None:
            return "unavailable"
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None or self.high is None:
            return f"{three(self.value)}{unit}"
        return f"{three(self.value)} [{three(self.low)}, {three(self.high)}]{unit}"

    def overlaps(self, other: Estimate) -> bool | None:
        """Whether the two intervals meet; None where either is unknown."""
        if None in (self.low, self.high, other.low, other.high):
            return None
        return self.low <= other.high and other.low <= self.high  # type: ignore[operator]


def three(value: float) -> str:
    """Three significant digits without needless zeros or exponents: 0.0340 -> '0.034', 79700000 -> '79700000'.

    >>> three(0.03401), three(1234.5), three(27.04), three(0.0)
    ('0.034', '1230', '27', '0')
    """
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e9:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:.{max(digits, 0)}f}".rstrip("0").rstrip(".") if digits > 0 else f"{rounded:.0f}"


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """a / b of two values measured apart, with the interval that theirs imply; unavailable unless b is above zero.

    MOVER on the logarithms (Zou & Donner 2008, Statistics in Medicine 27:1693): each limit is as far from the ratio as the
    two nearer limits together, in quadrature. Where a may be zero or less, every combination of limits is allowed instead.
    Values measured on the same texts are better compared in pairs: this interval is wider.
    """
    if a.value is None or b.value is None or b.value <= 0:
        return Estimate.unavailable()
    value, n, how = a.value / b.value, min(a.n, b.n), _joint(a, b)
    if a.low is None or a.high is None or b.low is None or b.high is None or b.low <= 0:
        return Estimate(value=value, n=n, how=how)
    if a.low <= 0:
        return Estimate(value=value, low=a.low / b.low, high=a.high / (b.low if a.high > 0 else b.high), n=n, how=how)
    down = math.hypot(math.log(a.value / a.low), math.log(b.high / b.value))
    up = math.hypot(math.log(a.high / a.value), math.log(b.value / b.low))
    return Estimate(value=value, low=value * math.exp(-down), high=value * math.exp(up), n=n, how=how)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two values measured apart, by the same method as `ratio`; `paired_difference` is for values of the same blocks."""
    if a.value is None or b.value is None:
        return Estimate.unavailable(a.unit)
    value, n, how = a.value - b.value, min(a.n, b.n), _joint(a, b)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(value=value, unit=a.unit, n=n, how=how)
    down, up = math.hypot(a.value - a.low, b.high - b.value), math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(value=value, low=value - down, high=value + up, unit=a.unit, n=n, how=how)


def _joint(a: Estimate, b: Estimate) -> How:
    """How something computed from two values was obtained: as they were, or modelled where they differ."""
    return a.how if a.how == b.how else "modelled" if "modelled" in (a.how, b.how) else "measured"


@functools.lru_cache(maxsize=8)
def resample(blocks: int, draws: int = 1000, seed: int = 0):
    """Indices of shape (draws, blocks), drawn with replacement; the same for the same arguments."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, blocks, size=(draws, blocks))


def mean_interval(blocks, unit: str = "", seed: int = 0) -> Estimate:
    """The mean of block means with a 95% bootstrap-t-like interval.

    The percentile bootstrap is too narrow for few blocks, so its half-widths are stretched by t(n-1)/z
    and by sqrt(n/(n-1)). A single block has no interval.
    """
    import numpy as np

    values = np.asarray(blocks, dtype=float)
    mean = float(values.mean())
    n = len(values)
    if n < 2:
        return Estimate(value=mean, unit=unit, n=n)
    draws = values[resample(n, seed=seed)].mean(axis=1)
    low, high = (float(q) for q in np.quantile(draws, [0.025, 0.975]))
    stretch = small_sample_stretch(n)
    return Estimate(value=mean, low=mean - (mean - low) * stretch, high=mean + (high - mean) * stretch, unit=unit, n=n)


def small_sample_stretch(n: int) -> float:
    """t quantile over normal quantile (97.5%) times sqrt(n/(n-1)); Cornish-Fisher expansion of t, within 1% for n > 4."""
    z, df = Z, n - 1
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    return t / z * math.sqrt(n / df)


def wilson(hits: int, n: int) -> Estimate:
    """A share with its 95% interval (Wilson 1927), which is sound for few and for all or none: 5 of 5 is [0.566, 1].

    >>> print(wilson(5, 5))
    1 [0.566, 1]
    """
    p, z2 = hits / n, Z * Z
    centre, half = (p + z2 / (2 * n)) / (1 + z2 / n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(value=p, low=min(max(centre - half, 0.0), p), high=max(min(centre + half, 1.0), p), n=n)


def paired_difference(a, b, seed: int = 0) -> Estimate:
    """Mean of a - b over the same blocks, with its interval. The two differ only if the interval excludes zero."""
    import numpy as np

    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired blocks differ in number: {a.shape} and {b.shape}")
    return mean_interval(a - b, seed=seed)


def holds_zero(a, b) -> list[bool | None]:
    """For each row of `a` and `b` (pairs by blocks): whether the interval of `paired_difference` holds zero; None for one block.

    Hundreds of pairs at once: a draw's mean is a product with its counts, which are the same for all pairs.
    """
    import numpy as np

    apart = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if not apart.size:
        return []
    mean, n = apart.mean(axis=1), apart.shape[1]
    if n < 2:
        return [True if not value else None for value in mean]
    counts = np.stack([np.bincount(draw, minlength=n) for draw in resample(n)])
    low, high = np.quantile(apart @ counts.T / n, [0.025, 0.975], axis=1)
    stretch = small_sample_stretch(n)
    held = (mean - (mean - low) * stretch <= 0) & (mean + (high - mean) * stretch >= 0)
    return [bool(value) for value in held | ~apart.any(axis=1)]
