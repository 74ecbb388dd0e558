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

from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.intervals import Estimate, Noun, three

from .architecture import Architecture
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
    on: str | Accelerator,
    prompt: int = 1024,
    new_tokens: int = 128,
    batch: int = 1,
    format: str = "bf16",
    tensor_parallel: int = 1,
    attention_data_parallel: int = 1,
    expert_parallel: bool = False,
    pipeline_parallel: int = 1,
    accepted: float = 1.0,
    cache_bytes: float | None = None,
    backend: str | None = None,
    reached: Efficiencies | None = None,
) -> Projection:
    """Time per output token, time to first token and throughput of a model on a device of the catalogue.

    model: an effkit model, an Architecture, a transformers config, a config.json or the folder of a model
    on: a device's name, as in `ek.accelerators()`; batch: sequences kept in flight (continuous batching)
    backend: the runtime that serves: "vllm", "sglang", "trtllm"; None: between them
    reached: constants measured on a device of one's own, instead of the fitted ones
    The rest as in serving.Setting. Llama-3.1-8B in bf16 on an H100 at batch 8, 1024+512 tokens: 7.9 ms, and 7.7 with
    backend="trtllm" (measured: 7.4).
    Raises BadInput for an unknown device, format or a figure that the catalogue lacks.
    """
    shape, device = shape_of(model), accelerator(on)
    setting = Setting(
        format, prompt, new_tokens, batch, tensor_parallel, attention_data_parallel, expert_parallel, pipeline_parallel,
        accepted, cache_bytes,
    )  # fmt: skip
    asked = demand(shape, device, setting)
    reached = reached or efficiencies(setting.kind, backend, device.stack)
    parts = {name: 1000 * value for name, value in step_parts(asked, reached).items()}
    token, first = sum(parts.values()), 1000 * first_token(asked, reached)
    off = spread(
        kind=setting.kind, backend=backend, device=device.name, family=shape.family, moe=shape.moe, stack=device.stack, known=shape.known
    )
    memory = memory_needed(shape, setting)
    tpot = _estimate(token, off.tpot, "ms")
    assert tpot.low
    assert tpot.high
    return Projection(
        device=device.name,
        stack=device.stack,
        devices=setting.devices,
        format=setting.format,
        batch=batch,
        prompt=prompt,
        new_tokens=new_tokens,
        time_per_output_token=tpot,
        time_to_first_token=_estimate(first, off.ttft, "ms"),
        throughput=Estimate(
            value=1000 * batch / token, low=1000 * batch / tpot.high, high=1000 * batch / tpot.low, unit="tokens/s", how="modelled"
        ),
        parts=parts,
        bound=max(parts, key=lambda name: parts[name]),
        memory=memory,
        fits=None if device.memory_bytes is None else memory <= device.memory_bytes,
        basis="The interval is that of settings held out of the fit" + (f", wider because {'; '.join(off.reasons)}" if off.reasons else ""),
    )


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
    full bandwidth of the data sheet, and every product runs at its full rate. prompt=0 leaves the cache out.
    Llama-2-7B in bf16 on an A100-80: 154 tokens/s at batch 1, so that the 104.9 of gpt-fast are 68% of it.
    """
    if not tokens_per_s > 0 or not math.isfinite(tokens_per_s):
        raise BadInput(f"tokens_per_s is {tokens_per_s}", "Allowed: a rate above zero")
    shape, device = shape_of(model), accelerator(on)
    setting = Setting(format, prompt, new_tokens, batch, tensor_parallel)
    asked = demand(shape, device, setting)
    reading = asked.weights + asked.head + asked.experts + asked.cache
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
