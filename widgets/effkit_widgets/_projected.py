"""What the cards of models on devices that need not be attached have in common: fields in, figures of Python out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import traitlets as t

from effkit.hardware.projected.architecture import Architecture
from effkit.hardware.projected.catalogue import accelerators
from effkit.hardware.projected.projection import shape_of
from effkit.hardware.projected.stacks import WIDTHS
from effkit.lab.pages.parts import Grid
from effkit.spec.errors import BadInput

from ._base import Card, explained, short_name

# what a shared page can be asked for: its answers are computed beforehand, and each value multiplies them
COMMON = ("h100-sxm", "a100-sxm-80gb", "rtx-4090", "ascend-910b2", "ascend-310p")
BATCHES, PROMPTS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (128, 512, 1024, 4096, 16384)
DIGITS = 5  # of a figure computed beforehand
LIMITS = {"batch": (1, 512), "prompt": (1, 262_144), "new_tokens": (1, 32_768)}


class ProjectedCard(Card):
    """A card whose `figures` follow its `settings`. A subclass says what is found for settings, and how the page is told."""

    settings = t.Dict().tag(sync=True)
    figures = t.Dict().tag(sync=True)

    def __init__(self, model: Any, name: str, settings: dict[str, Any], limited: Iterable[str], config: dict[str, Any]) -> None:
        """limited: which of LIMITS are fields of this card; config: what the page gets beside name, devices, formats and limits."""
        shape = shape_of(model)
        shape = dataclasses.replace(shape, name=name or short_name(shape.name) or shape.family)
        self._shape: Architecture = shape
        self._limited = tuple(limited)
        self._found = self._checked(settings)
        limits = {field: list(LIMITS[field]) for field in self._limited}
        if shape.max_context:
            limits["prompt"][1] = min(limits["prompt"][1], shape.max_context)
        devices = [{"name": one.name, "title": one.title, "stack": one.stack, "announced": one.announced} for one in accelerators()]
        shared = {"name": shape.name, "parameters": shape.total, "devices": devices, "formats": list(WIDTHS), "limits": limits}
        super().__init__(config={**shared, **config}, settings=settings, figures=self._told(self._found, settings))
        self.observe(lambda _: self._soon(self._changed), names=["settings"])

    @property
    def verdict(self) -> str:
        """The sentence that the card shows."""
        return str(self._found)

    def recorded_answers(self) -> Grid:
        """What this card answers to every combination of `_recorded` settings, for a page without a kernel."""
        axes = {field: _steps(values, self.settings[field], self.config["limits"].get(field)) for field, values in self._recorded.items()}
        figures = []
        for values in itertools.product(*axes.values()):
            settings = {**self.settings, **dict(zip(axes, values, strict=True))}
            figures.append(_rounded(self._kept(self._told(self._checked(settings), settings))))
        return Grid(axes, figures)

    # for subclasses

    _recorded: ClassVar[Mapping[str, Sequence[Any]]] = {}  # field -> values that a shared page can be asked for, beside the card's own

    def _at(self, settings: dict[str, Any]) -> Any:
        """What is found for settings whose numbers lie within LIMITS; BadInput for others that cannot be."""
        raise AssertionError(f"{type(self).__name__} says what it finds")

    def _told(self, found: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """What was found for these settings as the page draws it."""
        raise AssertionError(f"{type(self).__name__} says what it tells")

    def _kept(self, told: dict[str, Any]) -> dict[str, Any]:
        """What a page without a kernel holds of it: all, but what its script finds by itself."""
        return told

    def _checked(self, settings: dict[str, Any]) -> Any:
        for name in self._limited:
            value, (low, high) = settings.get(name), LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise BadInput(f"{name} is {value!r}", f"Allowed: a whole number from {low} to {high}")
        return self._at(settings)

    def _changed(self) -> None:
        settings = dict(self.settings)
        try:
            self._found = self._checked(settings)
        except BadInput as error:
            self.problem = explained(error)
            return
        self.problem = {}
        self.figures = self._told(self._found, settings)


def _steps(values: Sequence[Any], own: Any, limits: Sequence[int] | None) -> list[Any]:
    """The values of an axis within its limits, the card's own among them; names keep their order, numbers rise."""
    kept = [value for value in values if limits is None or limits[0] <= value <= limits[1]]
    together = list(dict.fromkeys([own, *kept]))
    return sorted(together) if limits is not None else together


def _rounded(data: Any) -> Any:
    """Figures with the digits that a reader sees and some more: what is drawn has three."""
    if isinstance(data, float):
        return float(f"{data:.{DIGITS}g}") if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(value) for value in data] if isinstance(data, list | tuple) else data
