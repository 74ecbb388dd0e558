"""How fast a device copies, multiplies and starts work: the pieces of a calibration that need only torch.

Weights of a product take turns within a buffer that is larger than the caches, as the layers of a model do: one weight used
again and again would be timed from a cache. A figure is the lower quartile over many short spans, which other work on the
machine disturbs least.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from effkit.spec.calibration import Copy, Product

from .clock import Clock
from .device import Device

SIZES = (256, 1024, 4096)  # inputs and outputs of the products of one row
SIZES_OF_MANY = (256, 1024)  # of those of many rows, which take longer and vary less
SETS = (16 << 20, 128 << 20)  # bytes of weights that take turns: within the last cache of most processors, and beyond it
COPIES = (1 << 16, 1 << 20, 1 << 24, 1 << 27)
MANY_ROWS = (8, 64, 256)
# An accelerator does what is much for a processor within the time that it takes to start: only larger work shows its rates.
LARGE_SETS, LARGE_ROWS = (16 << 20, 1 << 30), (*MANY_ROWS, 4096)
MOST_WEIGHTS = 1024  # of one shape that take turns
CACHE = (32, 8, 2048, 64)  # sequences, key-value heads, tokens, width: 128 MiB of keys and values in 16 bits
SPAN_SECONDS = 0.002  # one span: the clock's own time does not matter in it
CASE_SECONDS = 0.05  # for each product or copy, where nothing else is asked for
QUIET = 0.25  # the quantile over spans that counts as undisturbed


def seconds_each(clock: Clock, calls: Sequence[Callable[[], object]], budget: float = CASE_SECONDS) -> float:
    """Seconds of one call, the calls taking turns; at least five spans, whatever the budget."""
    turn = itertools.cycle(calls)
    with clock.measure() as span:
        next(turn)()
    with clock.measure() as span:
        next(turn)()
    count = max(1, min(int(SPAN_SECONDS / max(span.seconds, 1e-7)), 10_000))
    spans: list[float] = []
    while len(spans) < 5 or sum(spans) < budget:
        with clock.measure() as span:
            for _ in range(count):
                next(turn)()
        spans.append(span.seconds)
    return float(np.quantile(spans, QUIET)) / count


def copies(on: Device, budget: float = CASE_SECONDS) -> list[Copy]:
    """Copy rates by size, the largest beyond any cache."""
    clock, found = Clock(on), []
    room = (on.free() or COPIES[-1]) // 4
    for size in COPIES if on.is_cpu else (*COPIES, 1 << 30):
        if size > room:
            continue
        source = torch.ones(size, dtype=torch.uint8, device=on.torch)
        target = torch.empty_like(source)
        seconds = seconds_each(clock, [lambda a=target, b=source: a.copy_(b)], budget)
        found.append(Copy(bytes=size, rate=2 * size / seconds))
    return found


def launch_seconds(on: Device) -> float:
    """One small kernel, asked for and done: the least that any operation costs in eager execution."""
    x = torch.zeros(8, device=on.torch)
    return seconds_each(Clock(on), [lambda: x.add_(1)])


def noise(on: Device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Normal numbers (power, and with it speed, depends on the data); torch's own random state is not touched."""
    make = torch.Generator(on.torch).manual_seed(0)
    return torch.randn(shape, generator=make, device=on.torch).to(dtype)


def cases(on: Device) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(rows, working set, sizes of inputs and outputs) of the products that are timed for each format."""
    large = not (on.is_cpu or on.simulated)
    sets = LARGE_SETS if large else SETS
    yield from ((1, working_set, SIZES) for working_set in sets)
    yield from ((rows, sets[-1], SIZES if large else SIZES_OF_MANY) for rows in (LARGE_ROWS if large else MANY_ROWS))


def cache_seconds(on: Device, dtype: torch.dtype, shape: tuple[int, int, int, int] = CACHE) -> float:
    """Seconds a byte of keys and values that grow by a token and are attended to, as eager decoding does it.

    By itself, and much of it at once: within a small model's step the starting of kernels would hide it on an accelerator.
    """
    sequences, heads, _, width = shape
    keys, values = (noise(on, dtype, *shape) for _ in range(2))
    new = noise(on, dtype, sequences, heads, 1, width)

    def step() -> torch.Tensor:
        return scaled_dot_product_attention(new, torch.cat([keys, new], dim=2), torch.cat([values, new], dim=2))

    with torch.inference_mode():
        return seconds_each(Clock(on), [step]) / (2 * keys.numel() * keys.element_size())


def dense_products(
    on: Device, dtype: torch.dtype, rows: int, working_set: int, sizes: Sequence[int], budget: float = CASE_SECONDS
) -> list[Product]:
    """Products of every shape, as torch's own linear layer runs them."""
    clock, found = Clock(on), []
    element = torch.empty(0, dtype=dtype).element_size()
    most = max(working_set, 2 * max(sizes) ** 2 * element)
    buffer = torch.empty(most // element, dtype=dtype, device=on.torch)
    buffer.copy_(noise(on, dtype, 1 << 16).repeat(len(buffer) // (1 << 16) + 1)[: len(buffer)].mul_(0.02))
    for inputs, outputs in itertools.product(sizes, sizes):
        x = noise(on, dtype, 1, rows, inputs)
        count = max(2, min(working_set // (inputs * outputs * element), MOST_WEIGHTS))
        layers = [_linear(buffer, i * inputs * outputs, inputs, outputs) for i in range(count)]
        with torch.inference_mode():
            seconds = seconds_each(clock, [lambda layer=layer, x=x: layer(x) for layer in layers], budget)
        found.append(
            Product(
                format=str(dtype).removeprefix("torch."), engine="dense", rows=rows, inputs=inputs, outputs=outputs,
                bytes=inputs * outputs * element, working_set=working_set, seconds=seconds,
            )
        )  # fmt: skip
    return found


def _linear(buffer: torch.Tensor, start: int, inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(buffer[start : start + inputs * outputs].view(outputs, inputs), requires_grad=False)
    return layer
