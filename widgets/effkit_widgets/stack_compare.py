"""Two devices side by side: how fast each would answer, what fits, what a query costs, and at which price they break even.

card = StackCompare(model, left="h100-sxm", right="ascend-910b2", batch=16); card
card.comparison.right.projection          # what the card shows, as ek.project gives it
card.verdict                              # the sentence on top of it
"""

from __future__ import annotations

import dataclasses
from typing import Any

import traitlets as t

from effkit.hardware.catalogue import accelerator, accelerators
from effkit.hardware.projection import shape_of
from effkit.hardware.stacks import MOST_DEVICES, WIDTHS, StackComparison, StackSide, compare_stacks
from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Estimate

from ._base import Card, explained, refuse_unknown, script, short_name, style

LIMITS = {"batch": (1, 512), "prompt": (1, 262_144), "new_tokens": (1, 32_768)}
OPTIONS = ("batch", "format", "left", "left_price", "name", "new_tokens", "prompt", "right", "right_price", "utilisation")


class StackCompare(Card):
    """Projected latency, throughput, memory and price of one model on two devices of the catalogue, each with its interval.

    model:   an effkit model, an Architecture, a transformers config, a config.json or the folder of a model
    left, right: devices, as in ek.accelerators(); left_price, right_price: $ an hour of one (None: its list price, if there is one)
    batch:   sequences in flight on each replica; prompt, new_tokens: of one query; format: "16-bit", "8-bit" or "4-bit"
    utilisation: the share of paid time in which devices answer; name: the model's, where it has none of its own

    settings: all of these, as the card's fields set them; figures: what Python computed for them, with the settings they are of
    Raises BadInput for no model, an unknown device, a number that cannot be, or an unknown option.
    """

    _esm = script("stack_fields", "stack_compare")
    _css = style("live", "cost_card", "stack_compare")

    settings = t.Dict().tag(sync=True)
    figures = t.Dict().tag(sync=True)

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
        shape = shape_of(model)
        self._shape = dataclasses.replace(shape, name=name or short_name(shape.name) or shape.family)
        settings = {
            "left": accelerator(left).name, "right": accelerator(right).name, "batch": batch, "prompt": prompt,
            "new_tokens": new_tokens, "format": format, "left_price": left_price, "right_price": right_price,
            "utilisation": utilisation,
        }  # fmt: skip
        self._found = self._compared(settings)
        super().__init__(config=_config(self._shape), settings=settings, figures=_told(self._found, settings))
        self.observe(lambda _: self._soon(self._changed), names=["settings"])

    @property
    def comparison(self) -> StackComparison:
        """What the card shows."""
        return self._found

    @property
    def verdict(self) -> str:
        """The sentence that the card shows."""
        return str(self._found)

    def _compared(self, settings: dict[str, Any]) -> StackComparison:
        for name, (low, high) in LIMITS.items():
            value = settings.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise BadInput(f"{name} is {value!r}", f"Allowed: a whole number from {low} to {high}")
        if settings.keys() != {*OPTIONS} - {"name"}:
            raise choice("the settings", ", ".join(sorted(settings)), sorted({*OPTIONS} - {"name"}))
        return compare_stacks(self._shape, **settings)

    def _changed(self) -> None:
        settings = dict(self.settings)
        try:
            self._found = self._compared(settings)
        except BadInput as error:
            self.problem = explained(error)
            return
        self.problem = {}
        self.figures = _told(self._found, settings)

    def __repr__(self) -> str:
        shown = self.settings
        return f"StackCompare({self._shape.name!r}, {shown['left']!r}, {shown['right']!r}, {shown['format']!r}, batch={shown['batch']})"


def devices_told() -> list[dict[str, Any]]:
    """The catalogue as the page's pickers show it."""
    return [{"name": one.name, "title": one.title, "stack": one.stack, "announced": one.announced} for one in accelerators()]


def _config(shape: Any) -> dict[str, Any]:
    limits = {name: list(ends) for name, ends in LIMITS.items()}
    if shape.max_context:
        limits["prompt"][1] = min(limits["prompt"][1], shape.max_context)
    return {
        "name": shape.name,
        "parameters": shape.total,
        "devices": devices_told(),
        "formats": list(WIDTHS),
        "limits": limits,
        "most": MOST_DEVICES,
    }


def _three(e: Estimate) -> list[float | None]:
    return [e.value, e.low, e.high]


def _told(found: StackComparison, settings: dict[str, Any]) -> dict[str, Any]:
    """The comparison as the page draws it: every estimate as [value, low, high], None where unknown."""
    return {
        "left": _side(found.left),
        "right": _side(found.right),
        "ratios": {name: _three(e) for name, e in found.ratios.items()},
        "verdict": str(found),
        "settings": settings,
    }


def _side(side: StackSide) -> dict[str, Any]:
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
        "why": list(side.why),
    }  # fmt: skip
