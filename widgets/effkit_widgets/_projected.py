"""What the cards of models on devices that need not be attached have in common: fields in, figures of Python out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import traitlets as t

from effkit.hardware.architecture import Architecture
from effkit.hardware.catalogue import accelerators
from effkit.hardware.projection import shape_of
from effkit.hardware.stacks import WIDTHS
from effkit.spec.errors import BadInput

from ._base import Card, explained, short_name

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
        super().__init__(config={**shared, **config}, settings=settings, figures=self._told(settings))
        self.observe(lambda _: self._soon(self._changed), names=["settings"])

    @property
    def verdict(self) -> str:
        """The sentence that the card shows."""
        return str(self._found)

    # for subclasses

    def _at(self, settings: dict[str, Any]) -> Any:
        """What is found for settings whose numbers lie within LIMITS; BadInput for others that cannot be."""
        raise AssertionError(f"{type(self).__name__} says what it finds")

    def _told(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What was found as the page draws it."""
        raise AssertionError(f"{type(self).__name__} says what it tells")

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
        self.figures = self._told(settings)
