"""What the attached device was seen to do in half a minute: copies, products of every format, launches, layers.

A `Calibration` turns sizes into seconds: `product_seconds` for one matrix, `step_seconds` for a decoding step of a model. A
product of a few rows takes as long as its weights take to arrive, and small weights in a cache arrive faster than large ones
from memory; therefore products are kept as measured, over shapes and working sets, and interpolated in logarithms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import Field

from .errors import BadInput, choice
from .intervals import Noun

QUIET = 0.85  # of the processor time used on the machine: with less, the figures are disturbed
TINY = 1e-9  # seconds: what came out as nothing or less is below what a clock can tell


class Copy(Noun):
    """Copying `bytes` from one place of the device's memory to another. rate: bytes read and written a second."""

    bytes: int
    rate: float


class Product(Noun):
    """x [rows, inputs] times a weight [outputs, inputs], as a linear layer of a model runs it.

    format:      "float32", "bfloat16", "float16", "int8", "int4"; engine: "dense" or that of execution.engines
    bytes:       of the weight as stored; working_set: bytes of all weights that took turns, so that each came from as far away
    """

    format: str
    engine: str
    rows: int
    inputs: int
    outputs: int
    bytes: int
    working_set: int
    seconds: float

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs


class Layer(Noun):
    """A transformer layer in eager decoding besides its products and cached tokens. weight_bytes: of its linears.

    The more weights a layer reads, the more of what Python and the small kernels need has left the caches meanwhile.
    """

    weight_bytes: int
    seconds: float


class Linear(Noun):
    """Linear layers of one shape that a model has."""

    format: str
    inputs: int
    outputs: int
    count: int = 1
    bytes: int


class Calibration(Noun):
    """What one device did, on one day, with one set of versions. Times are what an undisturbed moment takes, not means.

    launch_seconds: one small kernel, asked for and done; step_overhead_seconds: a decoding step besides layers and products
    cache_seconds_per_byte: of keys and values, read and lengthened by a token
    number_seconds: what norms, activations, residuals and positions take of each further row, for each number that goes into or comes
        out of a linear layer of it
    overlaps: work is queued, so that a step takes the longer of what the host and what the device need
    processor_share: of the processor time that was used on the machine meanwhile, this process's; far below 1, others disturbed it
    """

    device: str
    device_type: str
    simulated: bool = False
    date: str
    versions: dict[str, Any] = Field(default_factory=dict)
    threads: int | None = None
    timing: str
    dtype: str
    copies: tuple[Copy, ...]
    products: tuple[Product, ...]
    launch_seconds: float
    layers: tuple[Layer, ...]
    step_overhead_seconds: float
    cache_seconds_per_byte: float
    number_seconds: float = 0.0
    overlaps: bool = False
    processor_share: float | None = None
    seconds: float = 0.0

    @property
    def copy_rate(self) -> float:
        """Bytes read and written a second when nothing fits into a cache: the largest copy's rate."""
        return max(self.copies, key=lambda copy: copy.bytes).rate

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(product.format for product in self.products))

    def read_rate(self, format: str) -> float:
        """Bytes of weights a second that products of one row reached at best from the largest working set."""
        return max(p.bytes / p.seconds for p in self._of(format) if p.rows == 1 and p.working_set == self._largest_set(format))

    def matrix_rate(self, format: str) -> float:
        """Operations a second of the fastest product of many rows."""
        return max(p.flops / p.seconds for p in self._of(format))

    def product_seconds(self, format: str, inputs: int, outputs: int, rows: int = 1, working_set: float | None = None) -> float:
        """Seconds of one linear layer. working_set: bytes that are read between two uses of it; None: more than any cache holds."""
        known = self._of(format)
        asked = math.inf if working_set is None else working_set

        def at_rows(count: int) -> float:
            group = [p for p in known if p.rows == count]
            sets = sorted({p.working_set for p in group})
            return along(sets, asked, lambda size: _at_shape([p for p in group if p.working_set == size], inputs, outputs), beyond=0.0)

        return along(sorted({p.rows for p in known}), rows, at_rows)

    def layer_seconds(self, weight_bytes: float) -> float:
        """Seconds of a layer around its products."""
        known = {layer.weight_bytes: layer.seconds for layer in self.layers}
        return along(sorted(known), weight_bytes, lambda size: known[size], beyond=0.0)

    def around_seconds(self, layers: int, weight_bytes: float) -> float:
        """Seconds of one pass besides its products and cached tokens. weight_bytes: of all its linears."""
        return layers * self.layer_seconds(weight_bytes / max(layers, 1)) + self.step_overhead_seconds

    def further_rows_seconds(self, linears: Iterable[Linear], rows: int) -> float:
        """Seconds that rows beyond the first take between these layers, which `around_seconds` has for one."""
        return (rows - 1) * self.number_seconds * sum(each.count * (each.inputs + each.outputs) for each in linears)

    def products_seconds(self, linears: Iterable[Linear], rows: int = 1) -> float:
        """Seconds of all these layers with inputs of so many rows, one after another, each read anew."""
        linears = list(linears)
        working_set = sum(each.bytes * each.count for each in linears)
        return sum(each.count * self.product_seconds(each.format, each.inputs, each.outputs, rows, working_set) for each in linears)

    def step_parts(self, linears: Iterable[Linear], layers: int, cache_bytes: float = 0.0, batch: int = 1) -> dict[str, float]:
        """Seconds of one decoding step: "weights" (products), "cache" (keys and values), "layers" (what is around them).

        linears: all that a token passes through, the head too; cache_bytes: keys and values of the whole batch, all layers
        Where work is queued, "layers" is what the host needs longer than the device works.
        """
        linears = list(linears)
        products, weights = self.products_seconds(linears, batch), sum(each.bytes * each.count for each in linears)
        cached = cache_bytes * self.cache_seconds_per_byte
        around = self.around_seconds(layers, weights) + self.further_rows_seconds(linears, batch)
        return {"weights": products, "cache": cached, "layers": max(around - products - cached, 0.0) if self.overlaps else around}

    def step_seconds(self, linears: Iterable[Linear], layers: int, cache_bytes: float = 0.0, batch: int = 1) -> float:
        """Seconds of one decoding step: the sum of `step_parts`."""
        return sum(self.step_parts(linears, layers, cache_bytes, batch).values())

    def _of(self, format: str) -> list[Product]:
        found = [p for p in self.products if p.format == format]
        if not found:
            raise choice("format", format, self.formats, "Calibrate with this format, or take one of these")
        return found

    def _largest_set(self, format: str) -> int:
        return max(p.working_set for p in self._of(format))

    def to_json(self) -> str:
        """The calibration as JSON, to be stored."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote. Raises BadInput for anything else."""
        try:
            return cls.model_validate_json(text)
        except ValueError as error:
            raise BadInput("this text is no calibration", "Allowed: what Calibration.to_json wrote", str(error).splitlines()[0]) from error

    def __repr__(self) -> str:
        simulated = ", simulated" if self.simulated else ""
        rates = ", ".join(f"{f} {self.matrix_rate(f) / 1e9:.3g} GFLOP/s" for f in self.formats)
        share = self.processor_share
        busy = "" if share is None or share > QUIET else f"; other programs used {1 - share:.0%} of the processor time meanwhile"
        return f"Calibration({self.device}{simulated}, {self.date}: copy {self.copy_rate / 1e9:.3g} GB/s, {rates}{busy})"

    __str__ = __repr__


def _at_shape(products: list[Product], inputs: int, outputs: int) -> float:
    """Seconds for a shape, from products measured on a grid of inputs and outputs."""
    times = {(p.inputs, p.outputs): p.seconds for p in products}
    widths, heights = sorted({i for i, _ in times}), sorted({o for _, o in times})
    return along(widths, inputs, lambda i: along(heights, outputs, lambda o: times[i, o]))


def along(points: list[int], at: float, value: Callable[[int], float], beyond: float = 1.0) -> float:
    """`value` at `at`, interpolated in logarithms between measured points; below the first point as there, above the last one
    growing with the power `beyond`."""
    if at <= points[0]:
        return value(points[0])
    if at >= points[-1]:
        return value(points[-1]) * ((at / points[-1]) ** beyond if beyond else 1.0)
    low, high = next((a, b) for a, b in itertools.pairwise(points) if a <= at <= b)
    share = math.log(at / low) / math.log(high / low)
    return math.exp((1 - share) * math.log(max(value(low), TINY)) + share * math.log(max(value(high), TINY)))
