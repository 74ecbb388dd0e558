"""What can go wrong, said so that the reader knows what to do next.

Every error names three things: what was given, what is allowed, what to do. `BadInput` is for what a user
did (it is a ValueError); the others are for what the machine did.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EffkitError(Exception):
    """The root of all errors that effkit raises on purpose."""


class BadInput(EffkitError, ValueError):
    """A value that cannot be used. `str(error)` reads: what was given; what is allowed; what to do."""

    def __init__(self, given: str, allowed: str, todo: str = "") -> None:
        self.given, self.allowed, self.todo = given, allowed, todo
        super().__init__(" ".join(_sentence(part) for part in (given, allowed, todo) if part))


class Unavailable(EffkitError, RuntimeError):
    """Something that this machine lacks: a library, a device, a file. Says what to install or choose."""

    def __init__(self, what: str, why: str, todo: str = "") -> None:
        self.what, self.why, self.todo = what, why, todo
        super().__init__(" ".join(_sentence(part) for part in (what, why, todo) if part))


class OutOfMemory(EffkitError, MemoryError):
    """A device ran out of memory. `asked`, `free` and `total` are bytes, or None where nobody knows."""

    def __init__(
        self,
        doing: str,
        device: str,
        asked: int | None = None,
        free: int | None = None,
        total: int | None = None,
        allocated: int | None = None,
    ) -> None:
        self.doing, self.device = doing, device
        self.asked, self.free, self.total, self.allocated = asked, free, total, allocated
        figures = [
            f"{label} {bytes_text(value)}"
            for label, value in (("asked for", asked), ("free", free), ("in use by this process", allocated), ("total", total))
            if value is not None
        ]
        super().__init__(
            f"Out of memory on {device} while {doing}"
            + (f" ({', '.join(figures)})" if figures else "")
            + ". Choose a smaller batch, window or model, fewer bits, or another device; the base model is as it was."
        )


class CannotWrite(EffkitError, OSError):
    """A file or folder that could not be written. Nothing half-written is left behind."""


class Cancelled(EffkitError):
    """Work that was stopped on request. The arguments are as they were and no partial result is left."""


def choice(field: str, value: object, allowed: Iterable[object], todo: str = "") -> BadInput:
    """The error for a value outside a list: names the field, the value, the list and the nearest match.

    >>> print(choice("method", "rtm", ["rtn", "nf4"]))
    method is 'rtm'. Allowed: 'rtn', 'nf4'. Did you mean 'rtn'?
    """
    options = list(allowed)
    near = difflib.get_close_matches(str(value), [str(o) for o in options], n=1)
    hint = todo or (f"Did you mean {near[0]!r}?" if near else "")
    return BadInput(f"{field} is {value!r}", "Allowed: " + ", ".join(repr(o) for o in options), hint)


def bytes_text(count: float | None) -> str:
    """Bytes in SI units with three significant digits: 79_700_000 -> '79.7 MB'. None -> 'unavailable'."""
    if count is None:
        return "unavailable"
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}" if abs(count) < 999.5 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", ":")) else text + "."
