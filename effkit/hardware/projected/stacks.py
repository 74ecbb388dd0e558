"""Two devices side by side for the same queries: how fast, how many devices, what a query costs, and where the prices break even.

    found = compare_stacks(model, "h100-sxm", "ascend-910b2", prompt=1024, new_tokens=256, batch=16, format="8-bit")
    found.left.projection, found.right.price, found.right.break_even
    print(found)                              # the verdict in words

Every figure is that of `project`, `price` and `break_even_price`; what is new here is only the number of devices (the smallest
power of two whose memory holds weights and cache) and the format that each device has for "16-bit", "8-bit" and "4-bit".
"""

from __future__ import annotations

from typing import Any, Literal

from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import Estimate, Noun, ratio, three

from .architecture import Architecture
from .catalogue import Accelerator, accelerator
from .price import Price, break_even_price, price
from .projection import Projection, project, shape_of
from .serving import Setting, memory_needed

WIDTHS = ("16-bit", "8-bit", "4-bit")
MOST_DEVICES = 64  # of one replica: beyond that models are split in other ways than by layers' width


class StackSide(Noun):
    """One device and what it would do. `why` says what is unavailable, and the reason; never both None and silent.

    format:       what this device computes in for the width that was asked for; weight_bytes, cache_bytes: of the whole replica
    devices:      of one replica; fewest: the smallest power of two that holds it, None where none does or memory is unknown
    needed_bytes: on each device, of which it has memory_bytes
    break_even:   $ an hour below which this side is the cheaper one at the other side's price
    """

    device: str
    title: str
    stack: str
    announced: bool
    format: str
    devices: int
    fewest: int | None
    weight_bytes: float
    cache_bytes: float
    needed_bytes: float
    memory_bytes: float | None
    projection: Projection | None = None
    price: Price | None = None
    break_even: Estimate | Literal["never"] = Estimate.unavailable("$/h")
    why: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        return None if self.memory_bytes is None else self.needed_bytes <= self.memory_bytes

    @property
    def cost(self) -> Estimate:
        """$ per 1000 queries, unavailable where it could not be projected or no price is known."""
        return self.price.per_1000_queries if self.price else Estimate.unavailable("$")


class StackComparison(Noun):
    """Both sides for the same queries. ratios: right over left, with what both intervals imply."""

    left: StackSide
    right: StackSide
    ratios: dict[str, Estimate]

    @property
    def speed(self) -> str:
        """What is found of the speed, in a sentence; no price changes it."""
        return _speed(self)

    def __str__(self) -> str:
        return f"{self.speed} {_cost(self)}"

    __repr__ = __str__


def compare_stacks(
    model: Any,
    left: str | Accelerator = "h100-sxm",
    right: str | Accelerator = "ascend-910b2",
    *,
    prompt: int = 1024,
    new_tokens: int = 128,
    batch: int = 8,
    format: str = "16-bit",
    left_price: float | None = None,
    right_price: float | None = None,
    left_devices: int | None = None,
    right_devices: int | None = None,
    utilisation: float = 1.0,
) -> StackComparison:
    """Both devices for queries of `prompt` and `new_tokens` tokens, `batch` of them in flight on each replica.

    format: "16-bit", "8-bit" (fp8 where the device has it, else int8) or "4-bit" (int4 weights in groups of 128)
    left_price, right_price: $ an hour of one device; None: its list price, where there is one (none for Ascend)
    left_devices, right_devices: of one replica; None: the fewest that hold it
    Raises BadInput for an unknown device or format, or a number that cannot be; a figure that the catalogue lacks is no error.
    """
    shape, query = shape_of(model), {"prompt": prompt, "new_tokens": new_tokens, "batch": batch}
    if format not in WIDTHS:
        raise choice("format", format, WIDTHS)
    a = _side(shape, accelerator(left), format, left_price, left_devices, utilisation, query)
    b = _side(shape, accelerator(right), format, right_price, right_devices, utilisation, query)
    a, b = _even(b, a, utilisation), _even(a, b, utilisation)
    ratios = {name: Estimate.unavailable() for name in ("first", "each", "rate", "cost")}
    if a.projection and b.projection:
        for name, field in (("first", "time_to_first_token"), ("each", "time_per_output_token"), ("rate", "throughput")):
            ratios[name] = ratio(getattr(b.projection, field), getattr(a.projection, field))
        ratios["cost"] = ratio(b.cost, a.cost)
    return StackComparison(left=a, right=b, ratios=ratios)


def format_on(device: Accelerator, width: str) -> str:
    """The format in which a device serves weights of this width: 8-bit is fp8 on an H100 and int8 on an Ascend 910B."""
    if width == "16-bit":
        return "bf16" if "bf16" in device.rates or "fp16" not in device.rates else "fp16"
    return ("fp8" if "fp8" in device.rates else "int8") if width == "8-bit" else "int4"


def fewest_devices(shape: Architecture, device: Accelerator, setting: Setting) -> int | None:
    """The smallest power of two of devices whose memory holds the weights and the cache of the whole batch; None where unknown.

    Llama-3.1-70B in 16 bits at batch 1 on 80 GiB: 2. What the runtime and activations take is not counted.
    """
    if device.memory_bytes is None:
        return None
    count = 1
    while count <= MOST_DEVICES:
        if memory_needed(shape, _over(setting, count)) <= device.memory_bytes:
            return count
        count *= 2
    return None


def _over(setting: Setting, devices: int) -> Setting:
    return Setting(setting.format, setting.prompt, setting.new_tokens, setting.batch, devices)


def _side(
    shape: Architecture, device: Accelerator, width: str, per_hour: float | None, devices: int | None, busy: float, query: dict[str, int]
) -> StackSide:
    form = format_on(device, width)
    one = Setting(form, query["prompt"], query["new_tokens"], query["batch"])
    fewest = fewest_devices(shape, device, one)
    if devices is not None and (isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= MOST_DEVICES):
        raise BadInput(
            f"the devices of {device.name} are {devices!r}", f"Allowed: 1 to {MOST_DEVICES}, or None for the fewest that hold it"
        )
    count = devices or fewest or 1
    needed = memory_needed(shape, _over(one, count))
    why: list[str] = []
    projected = paid = None
    try:
        projected = project(
            shape,
            on=device,
            prompt=one.prompt,
            new_tokens=one.new_tokens,
            batch=one.batch,
            format=form,
            tensor_parallel=count,
        )
    except BadInput as error:
        why.append(error.given)
    if projected is not None:
        paid = price(projected, per_hour, utilisation=busy)
        if paid.per_hour is None:
            why.append(unpriced(device.name))
    if device.memory_bytes is not None and needed > device.memory_bytes:
        why.append(f"{count} x {device.name} cannot hold it")
    return StackSide(
        device=device.name,
        title=device.title,
        stack=device.stack,
        announced=device.announced,
        format=form,
        devices=count,
        fewest=fewest,
        weight_bytes=shape.weight_bytes(form),
        cache_bytes=query["batch"] * shape.kv_bytes(query["prompt"] + query["new_tokens"], one.element),
        needed_bytes=needed,
        memory_bytes=device.memory_bytes,
        projection=projected,
        price=paid,
        why=tuple(why),
    )


def _even(paid: StackSide, other: StackSide, busy: float) -> StackSide:
    """`other` with the price at which it costs what `paid` costs."""
    if not paid.projection or not other.projection or paid.price is None or paid.price.per_hour is None:
        return other
    even = break_even_price(paid.projection, other.projection, paid.price.per_hour, utilisation=busy)
    return other.model_copy(update={"break_even": even})


def unpriced(device: str) -> str:
    """Why no price of a query is there."""
    return f"no price of {device} is known"


def _name(side: StackSide) -> str:
    return f"{side.devices} x {side.device}" if side.devices > 1 else side.device


def _speed(found: StackComparison) -> str:
    left, right, each = _name(found.left), _name(found.right), found.ratios["each"]
    if each.value is None or each.low is None or each.high is None:
        missing = next(side for side in (found.left, found.right) if side.projection is None)
        return f"Speed cannot be compared: {missing.why[0]}."
    if each.low <= 1 <= each.high:
        return f"The projections of {left} and {right} are not distinguishable in time per output token."
    fast, slow, times = (left, right, each.value) if each.low > 1 else (right, left, 1 / each.value)
    ends = (each.low, each.high) if each.low > 1 else (1 / each.high, 1 / each.low)
    return f"{fast} is projected {three(times)} [{three(ends[0])}, {three(ends[1])}] times as fast per output token as {slow}."


def _cost(found: StackComparison) -> str:
    left, right, cost = found.left, found.right, found.ratios["cost"]
    if cost.value is not None and cost.low is not None and cost.high is not None:
        if cost.low <= 1 <= cost.high:
            return f"At these prices the data cannot tell which query is cheaper ({_even_words(right)})."
        cheap, dear, share = (right, left, cost.value) if cost.value < 1 else (left, right, 1 / cost.value)
        return f"A query costs {share:.0%} on {_name(cheap)} of what it costs on {_name(dear)} ({_even_words(right)})."
    for side in (right, left):
        if side.break_even == "never" or side.break_even.value is not None:
            return f"No price of {side.device} is known: {_even_words(side)}."
    return "Prices cannot be compared."


def _even_words(side: StackSide) -> str:
    even = side.break_even
    if even == "never":
        return f"{side.device} is never the cheaper one"
    if even.value is None:
        return "no break-even price is known"
    ends = "" if even.low is None or even.high is None else f" [{three(even.low)}, {three(even.high)}]"
    return f"{side.device} is the cheaper one below ${three(even.value)}{ends} an hour"
