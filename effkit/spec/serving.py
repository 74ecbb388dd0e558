"""What a measured speed means for those who wait: goodput, and speeds over batches and prompt lengths.

Goodput counts only the requests that were answered in time: first token and further tokens each within their bound
(DistServe, Zhong et al. 2024, arXiv:2401.09670). A batch that is large enough for a high throughput may answer nobody in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import BadInput
from .intervals import Estimate, Noun, wilson
from .record import Profile

if TYPE_CHECKING:
    from collections.abc import Sequence


class Goodput(Noun):
    """Of the requests measured, those whose first token and mean time per further token kept the bounds (in ms).

    share:    of requests, with Wilson's interval over repeats (the requests of one batch keep a bound or miss it together)
    requests: in time, a second, batch after batch; tokens: those of requests in time, a second
    """

    first_token_ms: float | None = None
    output_token_ms: float | None = None
    share: Estimate
    requests: Estimate
    tokens: Estimate


def goodput(profile: Profile, first_token_ms: float | None = None, output_token_ms: float | None = None) -> Goodput:
    """Goodput of a profile under a bound on the time to first token, on the time per output token, or on both.

    Unavailable where the profile holds no times of single repeats (records of older versions).
    """
    for name, bound in (("first_token_ms", first_token_ms), ("output_token_ms", output_token_ms)):
        if bound is not None and not 0 < bound < math.inf:
            raise BadInput(f"{name} is {bound!r}", "Allowed: milliseconds above 0, or None for no bound")
    first, rest = profile.first_token_times, profile.output_token_times
    if first_token_ms is None and output_token_ms is None:
        raise BadInput("neither first_token_ms nor output_token_ms is given", "Goodput needs a bound on one of them, or on both")
    bounds = {"first_token_ms": first_token_ms, "output_token_ms": output_token_ms}
    if not first or (output_token_ms is not None and not rest):
        nothing = Estimate.unavailable()
        return Goodput(**bounds, share=nothing, requests=Estimate.unavailable("1/s"), tokens=Estimate.unavailable("tokens/s"))
    steps = max(profile.new_tokens - 1, 0) if rest else 0
    inside = [
        (first_token_ms is None or a <= first_token_ms) and (output_token_ms is None or b <= output_token_ms)
        for a, b in zip(first, rest or [0.0] * len(first), strict=True)
    ]
    seconds = sum(a + steps * b for a, b in zip(first, rest or [0.0] * len(first), strict=True)) / 1000
    met = sum(inside) * profile.batch
    return Goodput(
        **bounds,
        share=wilson(sum(inside), len(inside)),
        requests=Estimate(value=met / seconds, unit="1/s", n=len(first)),
        tokens=Estimate(value=met * (steps + 1) / seconds, unit="tokens/s", n=len(first)),
    )


class Missing(Noun):
    """A combination of a sweep that could not be measured, and why."""

    batch: int
    prompt: int
    why: str


class Sweep(Noun):
    """Profiles over batches and prompt lengths, in the order in which they were measured, and what could not be measured."""

    profiles: tuple[Profile, ...] = ()
    missing: tuple[Missing, ...] = ()

    def __iter__(self) -> Iterator[Profile]:  # type: ignore[override]
        return iter(self.profiles)

    def __len__(self) -> int:
        return len(self.profiles)

    def at(self, batch: int, prompt: int) -> Profile | None:
        """The profile of one combination; None where it was not measured."""
        return next((p for p in self.profiles if (p.batch, p.prompt) == (batch, prompt)), None)

    def best(self, first_token_ms: float | None = None, output_token_ms: float | None = None) -> Profile | None:
        """The profile with the most requests a second in time; None where no combination keeps the bounds."""
        found = [(goodput(p, first_token_ms, output_token_ms).requests.value or 0.0, p) for p in self.profiles]
        rate, profile = max(found, key=lambda pair: pair[0], default=(0.0, None))
        return profile if rate > 0 else None

    def rows(self) -> Sequence[dict[str, float | int | None]]:
        """One row a combination, ready for a table: batch, prompt, milliseconds, tokens a second."""
        return [
            {
                "batch": p.batch,
                "prompt": p.prompt,
                "time_to_first_token_ms": p.time_to_first_token.value,
                "time_per_output_token_ms": p.time_per_output_token.value,
                "prefill_tokens_per_s": p.prefill.value,
                "decode_tokens_per_s": p.decode.value,
                "cache_bytes": p.decoding.cache_bytes if p.decoding else None,
            }
            for p in self.profiles
        ]
