"""Let nbval compare numbers with a tolerance and all else exactly: `PYTHONPATH=tests/notebooks pytest -p nbval_tolerance --nbval NOTEBOOK`.

Float32 results move in the fourth digit between processors; integers, shapes and words do not. So a decimal number may
differ by 0.5%, everything around it must be the same. Standard error is not compared: the lint keeps it empty.
"""

from __future__ import annotations

import os
import re

RELATIVE = 5e-3
ABSOLUTE = 1e-9
# Numbers with a decimal point or an exponent, not inside a word or a version such as 2.13.0. Integers stay exact.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?!\w|\.\d)")


def close(reference: str, new: str) -> bool:
    """Whether two texts are equal but for decimal numbers that differ by at most 0.5%.

    >>> close("perplexity 27.00, 4 layers", "perplexity 27.10, 4 layers"), close("4 layers", "5 layers")
    (True, False)
    """
    if NUMBER.sub("#", reference) != NUMBER.sub("#", new):
        return False
    pairs = zip(map(float, NUMBER.findall(reference)), map(float, NUMBER.findall(new)), strict=True)
    return all(abs(a - b) <= max(ABSOLUTE, RELATIVE * max(abs(a), abs(b))) for a, b in pairs)


class Text(str):
    """A text that equals another one that is close to it."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return close(self, other) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other


def pytest_configure() -> None:
    """nbval passes every compared value through `sanitize`: from there on, texts are compared as `Text`."""
    from nbval import plugin
    from nbval.kernel import RunningKernel

    exact = plugin.IPyNbCell.sanitize
    collect = plugin.IPyNbFile.collect

    def sanitize(self, value):
        value = exact(self, value)
        return Text(value) if isinstance(value, str) else value

    def collect_without_stderr(self):
        self.skip_compare = (*self.skip_compare, "stderr")
        return collect(self)

    if os.environ.get("COVERAGE_PROCESS_START"):  # a kernel that nbval kills would tell nothing of the lines that it ran
        RunningKernel.stop = lambda self: (self.kc.stop_channels(), self.km.shutdown_kernel())  # type: ignore[method-assign]
    plugin.IPyNbCell.sanitize = sanitize  # type: ignore[method-assign]
    plugin.IPyNbFile.collect = collect_without_stderr
