"""Two devices side by side: how fast each would answer, what fits, what a query costs, and at which price they break even.

card = StackCompare(model, left="h100-sxm", right="ascend-910b2", batch=16); card
card.comparison.right.projection          # what the card shows, as ek.project gives it
card.verdict                              # the sentence on top of it
"""

from __future__ import annotations

from typing import Any, ClassVar

from effkit.hardware.projected.catalogue import accelerator
from effkit.hardware.projected.price import break_even_price, price
from effkit.hardware.projected.stacks import MOST_DEVICES, WIDTHS, StackComparison, StackSide, compare_stacks, unpriced
from effkit.spec.errors import choice
from effkit.spec.intervals import Estimate, ratio

from ._base import refuse_unknown, script, style
from ._projected import BATCHES, COMMON, LIMITS, PROMPTS, ProjectedCard

PRICED = ("cost", "input", "output", "even", "per_hour", "price_source")  # which a page without a kernel finds by stack_prices.js
OPTIONS = ("batch", "format", "left", "left_price", "name", "new_tokens", "prompt", "right", "right_price", "utilisation")


class StackCompare(ProjectedCard):
    """Projected latency, throughput, memory and price of one model on two devices of the catalogue, each with its interval.

    model:   an effkit model, an Architecture, a transformers config, a config.json or the folder of a model
    left, right: devices, as in ek.accelerators(); left_price, right_price: $ an hour of one (None: its list price, if there is one)
    batch:   sequences in flight on each replica; prompt, new_tokens: of one query; format: "16-bit", "8-bit" or "4-bit"
    utilisation: the share of paid time in which devices answer; name: the model's, where it has none of its own

    settings: all of these, as the card's fields set them; figures: what Python computed for them, with the settings they are of
    Raises BadInput for no model, an unknown device, a number that cannot be, or an unknown option.
    """

    _esm = script("stack_fields", "stack_prices", "stack_compare")
    _css = style("live", "cost_card", "stack_compare")
    _recorded: ClassVar = {
        "batch": BATCHES[::2],
        "prompt": PROMPTS[1:4],
        "new_tokens": (64, 256, 1024),
        "format": tuple(WIDTHS),
        "right": COMMON,
    }

    def __init__(
        self,
        model: Any,
        left: str = "h100-sxm",
        right: str = "ascend-910b2",
        *,
        batch: int = 8,
        prompt: int = 1024,
        new_tokens: int = 256,
        format: str = "16-bit",
        left_price: float | None = None,
        right_price: float | None = None,
        utilisation: float = 1.0,
        name: str = "",
        **unknown: Any,
    ) -> None:
        refuse_unknown("StackCompare", unknown, ("model", *OPTIONS))
        settings = {
            "left": accelerator(left).name, "right": accelerator(right).name, "batch": batch, "prompt": prompt,
            "new_tokens": new_tokens, "format": format, "left_price": left_price, "right_price": right_price,
            "utilisation": utilisation,
        }  # fmt: skip
        super().__init__(model, name, settings, LIMITS, {"most": MOST_DEVICES})

    @property
    def comparison(self) -> StackComparison:
        """What the card shows."""
        return self._found

    def _at(self, settings: dict[str, Any]) -> StackComparison:
        if settings.keys() != {*OPTIONS} - {"name"}:
            raise choice("the settings", ", ".join(sorted(settings)), sorted({*OPTIONS} - {"name"}))
        return compare_stacks(self._shape, **settings)

    def _told(self, found: StackComparison, settings: dict[str, Any]) -> dict[str, Any]:
        """Every estimate as [value, low, high], None where unknown."""
        sides = (found.left, found.right)
        return {
            "left": _side(found.left, found.right),
            "right": _side(found.right, found.left),
            "speed": found.speed,
            "cost_ratio": _three(ratio(*(price(side.projection, 1.0).per_1000_queries for side in reversed(sides))))
            if all(side.projection for side in sides)
            else None,
            "ratios": {name: _three(e) for name, e in found.ratios.items()},
            "verdict": str(found),
            "settings": settings,
        }

    def _kept(self, told: dict[str, Any]) -> dict[str, Any]:
        sides = {key: {name: v for name, v in told[key].items() if name not in PRICED} for key in ("left", "right")}
        ratios = {name: e for name, e in told["ratios"].items() if name != "cost"}
        return {**{name: v for name, v in told.items() if name != "verdict"}, **sides, "ratios": ratios}

    def __repr__(self) -> str:
        shown = self.settings
        return f"StackCompare({self._shape.name!r}, {shown['left']!r}, {shown['right']!r}, {shown['format']!r}, batch={shown['batch']})"


def _three(e: Estimate) -> list[float | None]:
    return [e.value, e.low, e.high]


def _side(side: StackSide, other: StackSide) -> dict[str, Any]:
    projected, paid = side.projection, side.price
    unknown: list[float | None] = [None, None, None]
    return {
        "device": side.device, "title": side.title, "stack": side.stack, "announced": side.announced, "format": side.format,
        "devices": side.devices, "fewest": side.fewest, "weights": side.weight_bytes, "cache": side.cache_bytes,
        "needed": side.needed_bytes, "memory": side.memory_bytes, "fits": side.fits,
        "first": _three(projected.time_to_first_token) if projected else unknown,
        "each": _three(projected.time_per_output_token) if projected else unknown,
        "rate": _three(projected.throughput) if projected else unknown,
        "cost": _three(side.cost), "bound": projected.bound if projected else None, "basis": projected.basis if projected else None,
        "per_hour": paid.per_hour if paid else None, "price_source": paid.source if paid else "unknown",
        "even": "never" if side.break_even == "never" else _three(side.break_even),
        "input": _three(paid.per_million_input) if paid else unknown, "output": _three(paid.per_million_output) if paid else unknown,
        "why": [reason for reason in side.why if reason != unpriced(side.device)], "unpriced": unpriced(side.device),
        "at_one": _at_one(side, other),
    }  # fmt: skip


def _at_one(side: StackSide, other: StackSide) -> dict[str, Any] | None:
    """What a query costs at $1 an hour of one always busy device, and the break-even price where one of the other costs that: all that
    is asked of a price is proportional to it. The list price beside it, for a page without a kernel."""
    if side.projection is None:
        return None
    one, listed = price(side.projection, 1.0), price(side.projection)
    even = break_even_price(other.projection, side.projection, 1.0) if other.projection else Estimate.unavailable("$/h")
    assert even != "never"  # power is not charged beside the hour
    return {
        "cost": _three(one.per_1000_queries), "input": _three(one.per_million_input), "output": _three(one.per_million_output),
        "even": _three(even), "list": listed.per_hour, "source": listed.source,
    }  # fmt: skip
