"""What the measuring verbs ask of their arguments."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

from torch import nn

from effkit.spec.errors import BadInput


def whole(name: str, value: Any, least: int, most: int | None = None, todo: str = "") -> None:
    """Raise BadInput unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most):
        return
    span = f"from {least} to {most}" if most is not None else f"of at least {least}"
    raise BadInput(f"{name} is {value!r}", f"Allowed: a whole number {span}", todo)


@contextmanager
def evaluating(*modules: nn.Module):
    """Eval mode inside; each submodule's own mode again afterwards."""
    training = [part for module in modules for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True
