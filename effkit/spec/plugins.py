"""Tables of optional parts, name -> "module:attribute": what is built in, and what plug-ins bring through entry points."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any


def table(group: str, own: Mapping[str, str]) -> dict[str, str]:
    """The built-in names, which no plug-in can take, and those of the entry points of `group`."""
    return {point.name: point.value for point in entry_points(group=group)} | dict(own)


def imported(place: str) -> Any:
    """What stands at "module:attribute"."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
