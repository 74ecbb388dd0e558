"""What a model would cost on a device that is not attached: time per output token and to the first token, with an interval.

A step of decoding is the sum of its parts; each part takes the longer of its bytes over bandwidth and its operations over rate
(a smooth maximum: the roofline of Williams et al. 2009, CACM 52:65), each at the share of the peak that serving reaches. To
that come a time for every kernel, the all-reduces, and, in serving, the prompts that others have read in between
(interference of prefill: Sarathi-Serve, Agrawal et al. 2024, arXiv 2403.02310).

    print(ek.project(model, on="h100-sxm", prompt=1024, new_tokens=512, batch=16, format="fp8"))
    print(ek.plausible(2000, model=model, on="rtx-4090", format="int4"))
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from effkit.spec.calibration import Calibration
from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.intervals import Estimate, Noun, three
from effkit.spec.recipe import Quantize
from effkit.spec.record import Profile, Record

from . import attached
from .architecture import Architecture, format_name
from .catalogue import Accelerator, accelerator
from .configs import architecture
from .efficiencies import Efficiencies, efficiencies, spread
from .serving import Demand, Setting, demand, memory_needed

SHARPNESS = 3  # of the smooth maximum: bytes and operations of one part overlap, but not wholly
HEAD = 0.72  # share of bandwidth for the one large output matrix
HEAD_RATE, CORE_RATE = 0.6, 0.3  # shares of the 16-bit rate in decoding
HOP = 10e-6  # seconds to hand a step over to the next pipeline stage
Z = 1.96


class Projection(Noun):
    """A projected cost. Times in ms; parts and prefill add up to time_per_output_token (in ms).

    bound: the part that takes longest; devices: how many share the work; memory: bytes on each, fits: whether it has them.
    basis: what the interval rests on.
    """

    device: str
    stack: str
    devices: int
    format: str
    batch: int
    prompt: int
    new_tokens: int
    time_per_output_token: Estimate
    time_to_first_token: Estimate
    throughput: Estimate
    parts: dict[str, float] = Field(default_factory=dict)
    bound: str = ""
    memory: float
    fits: bool | None = None
    basis: str = ""

    def __str__(self) -> str:
        count = f"{self.devices} x " if self.devices > 1 else ""
        room = {True: "", False: f"; does not fit: it needs {bytes_text(self.memory)} a device", None: ""}[self.fits]
        return (
            f"{count}{self.device}, {self.format}, batch {self.batch}, {self.prompt}+{self.new_tokens} tokens (projected): "
            f"{self.time_per_output_token} per output token, {self.time_to_first_token} to the first, "
            f"{self.throughput}; most of it {self.bound}{room}. {self.basis}."
        )


class Plausible(Noun):
    """Whether a published figure can be. bound: tokens/s that the device's peaks allow; share: figure / bound."""

    possible: bool
    share: float
    bound: float
    expected: Estimate
    sentence: str

    def __str__(self) -> str:
        return self.sentence

    def __bool__(self) -> bool:
        return self.possible


def project(
    model: Any,
    *,
    on: str | Accelerator | Calibration,
    prompt: int | None = None,
    new_tokens: int | None = None,
    batch: int | None = None,
    format: str | None = None,
    tensor_parallel: int = 1,
    attention_data_parallel: int = 1,
    expert_parallel: bool = False,
    pipeline_parallel: int = 1,
    accepted: float = 1.0,
    cache_bytes: float | None = None,
    backend: str | None = None,
    graph: bool = False,
    reached: Efficiencies | None = None,
) -> Projection:
    """Time per output token, time to first token and throughput of a model on a device of the catalogue.

    model: an effkit model, an Architecture, a transformers config, a config.json or the folder of a model, or what `ek.profile`
        or `ek.measure` returned: its lengths, batch and width of weights then stand in for those that are not given
    on: a device's name, as in `ek.accelerators()`, or what `ek.calibrate` returned, for the attached device in one process
    prompt, new_tokens, batch, format: 1024, 128, 1 and "bf16" (on a calibration: its dtype) where neither you nor a profile say
        otherwise; batch: sequences kept in flight (continuous batching)
    backend: the runtime that serves: "vllm", "sglang", "trtllm"; None: between them
    graph: on Ascend, whether a whole step of decoding is started at once (vllm-ascend's FULL_DECODE_ONLY) instead of piece by piece,
        its default; on CUDA runtimes do so anyway
    reached: constants measured on a device of one's own, instead of the fitted ones
    The rest as in serving.Setting. Llama-3.1-8B in bf16 on an H100 at batch 8, 1024+512 tokens: 7.9 ms, and 7.7 with
    backend="trtllm" (measured: 7.4).
    Raises BadInput for an unknown device, format or a figure that the catalogue lacks.
    """
    shape = shape_of(model)
    prompt, new_tokens, batch, format = _asked(model, on, prompt, new_tokens, batch, format)
    setting = Setting(
        format, prompt, new_tokens, batch, tensor_parallel, attention_data_parallel, expert_parallel, pipeline_parallel,
        accepted, cache_bytes,
    )  # fmt: skip
    if isinstance(on, Calibration):
        return _attached(shape, on, setting)
    device = accelerator(on)
    asked = demand(shape, device, setting)
    stack = f"{device.stack}-graph" if graph and device.stack == "ascend" else device.stack
    reached = reached or efficiencies(setting.kind, backend, stack)
    parts = {name: 1000 * value for name, value in step_parts(asked, reached).items()}
    first = 1000 * first_token(asked, reached)
    off = spread(kind=setting.kind, backend=backend, device=device.name, family=shape.family, moe=shape.moe, stack=stack, known=shape.known)
    basis = "The interval is that of settings held out of the fit" + (f", wider because {'; '.join(off.reasons)}" if off.reasons else "")
    return _projection(device.name, device.stack, device.memory_bytes, shape, setting, parts, first, (off.tpot, off.ttft), basis)


def _attached(shape: Architecture, calibration: Calibration, setting: Setting) -> Projection:
    """The same from a calibration: one process on one device, without a server around it."""
    if setting.devices > 1 or setting.accepted > 1:
        raise BadInput(
            f"{setting.devices} devices and {setting.accepted:g} accepted tokens on a calibration",
            "Allowed: one device, without speculation",
            "Name a device of the catalogue for more: ek.accelerators()",
        )
    parts = {name: 1000 * value for name, value in attached.step_parts(shape, calibration, setting).items()}
    tpot, ttft, basis = attached.spread(setting.format, calibration)
    name = f"{calibration.device} (simulated)" if calibration.simulated else calibration.device
    first = 1000 * attached.first_token(shape, calibration, setting)
    stack = {"cuda": "cuda", "npu": "ascend"}.get(calibration.device_type, calibration.device_type)
    return _projection(name, stack, None, shape, setting, parts, first, (tpot, ttft), basis)


def _projection(
    device: str,
    stack: str,
    room: float | None,
    shape: Architecture,
    setting: Setting,
    parts: dict[str, float],
    first: float,
    off: tuple[float, float],
    basis: str,
) -> Projection:
    """parts, first: in ms; off: standard deviations of the logarithms of the two times; room: the device's bytes."""
    token, memory = sum(parts.values()), memory_needed(shape, setting)
    tpot = _estimate(token, off[0], "ms")
    assert tpot.low
    assert tpot.high
    rate = 1000 * setting.batch
    return Projection(
        device=device,
        stack=stack,
        devices=setting.devices,
        format=setting.format,
        batch=setting.batch,
        prompt=setting.prompt,
        new_tokens=setting.new_tokens,
        time_per_output_token=tpot,
        time_to_first_token=_estimate(first, off[1], "ms"),
        throughput=Estimate(value=rate / token, low=rate / tpot.high, high=rate / tpot.low, unit="tokens/s", how="modelled"),
        parts=parts,
        bound=max(parts, key=lambda name: parts[name]),
        memory=memory,
        fits=None if room is None else memory <= room,
        basis=basis,
    )


def _asked(
    model: Any, on: Any, prompt: int | None, new_tokens: int | None, batch: int | None, format: str | None
) -> tuple[int, int, int, str]:
    """What is asked for, else what a profile was measured with, else the defaults."""
    seen = profile_of(model)
    plain = on.dtype if isinstance(on, Calibration) else "bfloat16"
    return (
        (seen.prompt if seen else 1024) if prompt is None else prompt,
        (max(seen.new_tokens, 1) if seen else 128) if new_tokens is None else new_tokens,
        (seen.batch if seen else 1) if batch is None else batch,
        _format(model, plain) if format is None else format,
    )


def profile_of(model: Any) -> Profile | None:
    """The profile that stands for a model: itself, or a record's."""
    return model if isinstance(model, Profile) else model.profile if isinstance(model, Record) else None


def _format(model: Any, plain: str) -> str:
    """The catalogue's word for what a record's weights were rounded to, else for a dtype."""
    steps = model.recipe.steps if isinstance(model, Record) else ()
    bits = min((step.bits for step in steps if isinstance(step, Quantize) and isinstance(step.bits, int)), default=16)
    return "int4" if bits <= 4 else "int8" if bits <= 8 else "fp32" if plain == "float32" else format_name(plain)


def plausible(
    tokens_per_s: float,
    *,
    model: Any,
    on: str | Accelerator,
    batch: int = 1,
    format: str = "bf16",
    prompt: int = 0,
    new_tokens: int = 1,
    tensor_parallel: int = 1,
    backend: str | None = None,
) -> Plausible:
    """Whether a device's peaks allow a published decoding rate (tokens/s over the whole batch), and how it compares with serving.

    The bound counts only what no runtime can avoid: every weight that the batch needs and the cache are read once a step, at the
    full bandwidth of the data sheet, and every product runs at its full rate. prompt=0 leaves the cache out. Of experts only those
    of one token count, because all may choose the same ones.
    Llama-2-7B in bf16 on an A100-80: 154 tokens/s at batch 1, so that the 104.9 of gpt-fast are 68% of it.
    """
    if not tokens_per_s > 0 or not math.isfinite(tokens_per_s):
        raise BadInput(f"tokens_per_s is {tokens_per_s}", "Allowed: a rate above zero")
    shape, device = shape_of(model), accelerator(on)
    setting = Setting(format, prompt, new_tokens, batch, tensor_parallel)
    asked = demand(shape, device, setting)
    fewest = shape.active_experts / shape.experts / shape.touched(batch) if shape.moe else 0.0
    reading = asked.weights + asked.head + fewest * asked.experts + asked.cache
    working = asked.weight_flops + asked.head_flops + asked.expert_flops + asked.core_flops
    bound, limit = batch / max(reading, working), "bandwidth" if reading >= working else "arithmetic"
    expected = project(
        shape, on=device, prompt=prompt, new_tokens=max(new_tokens, 128), batch=batch, format=format,
        tensor_parallel=tensor_parallel, backend=backend,
    ).throughput  # fmt: skip
    share = tokens_per_s / bound
    who = f"{tensor_parallel} x {device.name}" if tensor_parallel > 1 else device.name
    given = f"{three(tokens_per_s)} tokens/s"
    told = f"the {limit} of {who} allows at most {three(bound)} at batch {batch} in {setting.format}"
    assert expected.low
    assert expected.high
    if share > 1:
        sentence = f"No: {told}, and {given} is {three(share)} times that. Look for speculation, a larger batch or another format."
    elif tokens_per_s > expected.high:
        sentence = f"Hardly: {told}, and {given} would be {share:.0%} of it; serving is projected at {expected}."
    else:
        below = " It is slower than projected." if tokens_per_s < expected.low else ""
        sentence = f"Yes: {told}, and {given} is {share:.0%} of it; serving is projected at {expected}.{below}"
    return Plausible(possible=share <= 1, share=share, bound=bound, expected=expected, sentence=sentence)


def shape_of(model: Any) -> Architecture:
    """The Architecture of whatever describes a model."""
    if isinstance(model, Architecture):
        return model
    own = getattr(model, "architecture", None)
    if isinstance(own, Architecture):
        return own
    seen = profile_of(model)
    if seen is not None:
        if seen.architecture is None:
            raise BadInput("a profile that does not hold its model's shape", "Allowed: a profile made by this version", "Profile it again")
        return Architecture.from_dict(seen.architecture)
    config = getattr(model, "config", None)
    return architecture(config if config is not None else model)


def smooth_maximum(a: Any, b: Any) -> Any:
    return (a**SHARPNESS + b**SHARPNESS) ** (1 / SHARPNESS)


def step_parts(asked: Demand, reached: Efficiencies) -> dict[str, Any]:
    """Seconds of one output token by part; their sum is the time per output token."""
    step = {
        "weights": smooth_maximum(asked.weights / reached.weights, asked.weight_flops / reached.arithmetic)
        + smooth_maximum(asked.head / HEAD, asked.head_flops / HEAD_RATE),
        "experts": smooth_maximum(asked.experts / reached.experts, asked.expert_flops / reached.arithmetic),
        "cache": smooth_maximum(asked.cache / reached.cache, asked.core_flops / CORE_RATE),
        "communication": asked.reduces * (reached.reduce + reached.doubling * asked.doublings)
        + asked.reduce_bytes / reached.link
        + asked.hops * HOP,
        "launches": asked.kernels * reached.kernel + asked.expert_kernels * reached.expert_kernel + reached.step,
        "sequences": asked.batch / asked.groups * reached.sequence,
    }
    parts = {name: value / asked.accepted for name, value in step.items()}
    parts["prefill of others"] = prefill_time(asked, reached, asked.interrupting, asked.rereads)
    return parts


def prefill_time(asked: Demand, reached: Efficiencies, prompts: Any = 1.0, rereads: Any = 1.0) -> Any:
    """Seconds that reading so many prompts adds to the steps they share, with the weights read again so many times for them."""
    products = asked.prefill_flops / reached.prefill + asked.prefill_expert_flops / (reached.prefill * reached.prefill_experts)
    reading = rereads * reached.reread * asked.prefill_weights / reached.weights
    between = asked.prefill_core / reached.prefill_core + asked.prefill_reduce / reached.link
    return smooth_maximum(prompts * products, reading) + prompts * between


def first_token(asked: Demand, reached: Efficiencies) -> Any:
    """Seconds to the first token: the steps in hand end, the prompts before it are read, then its own."""
    step = sum(step_parts(asked, reached).values())
    started = reached.wait + reached.eager * (asked.kernels + asked.expert_kernels)
    read = reached.first * (1 + reached.queue * (asked.batch - 1)) + reached.apart * (asked.groups - 1)
    in_hand = reached.steps * step * (1 - 1 / asked.batch)  # nobody waits for steps where nothing else is in flight
    return started + in_hand + prefill_time(asked, reached) * read


def _estimate(value: float, off: float, unit: str) -> Estimate:
    return Estimate(value=value, low=value * math.exp(-Z * off), high=value * math.exp(Z * off), unit=unit, how="modelled")
