"""What serving a model asks of each device: seconds at the device's peak, part by part, and how many kernels are started.

A `Setting` says how a model is served; `demand` turns it, an `Architecture` and an `Accelerator` into a `Demand`. Nothing here
knows how close to its peak a device comes: that is for efficiencies.py and projection.py.

Continuous batching (Orca: Yu et al. 2022, OSDI) keeps `batch` sequences in flight. While one of them produces its new tokens,
each of the others ends once and is followed by a new one, whose prompt is read in between: batch - 1 prefills in new_tokens steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from effkit.spec.errors import BadInput

from .architecture import Architecture, Group, format_name
from .catalogue import Accelerator
from .configs import HEAD_NORMS, WIDE_NORMS

# Kernels that a served layer starts, after fusion of the element-wise ones (counted in vLLM's and TensorRT-LLM's traces):
# norm, in, rotary and cache, attention and its reduction, out; the latent form adds its down and up projections.
ATTENTION_KERNELS = {"full": 6, "window": 6, "latent": 11, "linear": 9}
DENSE_KERNELS = 4  # norm, up and gate, activation, down
SHARED_KERNELS = 3  # the same without the norm
EXPERT_KERNELS = 8  # router, choice, sorting, two grouped products, activation, quantization, combination
# scores with a bias, chosen in two rounds
GROUPED_ROUTERS = {"deepseek_v3", "deepseek_v32", "kimi_k2", "minimax_m2", "glm_moe_dsa", "glm4_moe", "glm4_moe_lite"}

# The rate that a product in this format runs at, the first that the device has. Without its own, weights are widened to 16 bits.
RATES = {
    "bf16": ("bf16", "fp16"),
    "fp16": ("fp16", "bf16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "fp8_block": ("fp8", "bf16", "fp16"),
    "int8": ("int8", "bf16", "fp16"),
    "nvfp4": ("fp4", "bf16", "fp16"),
    "int4_g32": ("bf16", "fp16"),
    "int4_g128": ("bf16", "fp16"),
}
KINDS = {"fp16": "bf16", "nvfp4": "fp4", "mxfp4": "fp4", "int4_g32": "int4", "int4_g128": "int4"}
# Devices within reach of `link_bandwidth`, where that is not a server of eight, and what leaves a server for each device beyond.
NODES = {"gb200": 72, "gb300": 72, "ascend-910c": 192, "ascend-910c-die": 384}
BETWEEN_NODES = 50e9  # bytes/s: one port of 400 Gb/s a device
EIGHT_BIT_CACHE = ("fp8", "fp8_block", "nvfp4", "mxfp4")


@dataclass(frozen=True)
class Setting:
    """How a model is served.

    batch: sequences in flight over all devices. tensor_parallel: devices that share each layer; attention_data_parallel: into
    how many groups these fall for attention (each holds all its heads, for its own sequences); expert_parallel: whole experts
    lie on one device. pipeline_parallel: stages one after another. accepted: tokens that a step of speculative decoding yields.
    cache_bytes: of one cached number; by default 1 with floating-point weights of 8 or 4 bits, else 2.
    """

    format: str = "bf16"
    prompt: int = 1024
    new_tokens: int = 128
    batch: int = 1
    tensor_parallel: int = 1
    attention_data_parallel: int = 1
    expert_parallel: bool = False
    pipeline_parallel: int = 1
    accepted: float = 1.0
    cache_bytes: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", format_name(self.format))
        for name in ("prompt", "new_tokens", "batch", "tensor_parallel", "attention_data_parallel", "pipeline_parallel"):
            if getattr(self, name) < (0 if name == "prompt" else 1):
                raise BadInput(f"{name} is {getattr(self, name)}", f"Allowed: {0 if name == 'prompt' else 1} or more")
        if self.tensor_parallel % self.attention_data_parallel:
            given = f"attention_data_parallel is {self.attention_data_parallel} and tensor_parallel {self.tensor_parallel}"
            raise BadInput(given, "Allowed: a divisor of tensor_parallel, which counts all devices that share a layer")
        if self.accepted < 1:
            raise BadInput(f"accepted is {self.accepted}", "Allowed: 1 (no speculation) or more tokens a step")

    @property
    def devices(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def kind(self) -> str:
        """The family of formats that efficiencies are kept for: bf16, fp8, fp8_block, fp4, int4, int8."""
        return KINDS.get(self.format, self.format)

    @property
    def element(self) -> float:
        return self.cache_bytes or (1.0 if self.format in EIGHT_BIT_CACHE else 4.0 if self.format == "fp32" else 2.0)


@dataclass(frozen=True)
class Demand:
    """Seconds at peak for one step of decoding and for reading one prompt, on each device; counts where said.

    Every field may also be an array over many settings (the fit does so).
    """

    weights: Any  # reading attention and feed-forward weights
    head: Any  # reading the output matrix
    experts: Any  # reading the experts that the batch touches
    cache: Any  # reading keys and values
    weight_flops: Any
    head_flops: Any
    expert_flops: Any
    core_flops: Any
    reduces: Any  # count: all-reduces (or all-to-alls) in a step
    reduce_bytes: Any  # their transfer
    doublings: Any  # log2 of the devices that take part
    hops: Any  # count: hand-overs between pipeline stages
    kernels: Any  # count: outside of experts
    expert_kernels: Any  # count
    batch: Any
    groups: Any  # count: of attention, by sequences
    accepted: Any
    prefill_flops: Any  # one prompt: all products but those of experts
    prefill_expert_flops: Any
    prefill_core: Any
    prefill_weights: Any  # reading the weights once
    prefill_reduce: Any
    interrupting: Any  # prompts read by others during one step, on average
    rereads: Any  # of the weights for them: once a step at most

    @classmethod
    def stacked(cls, rows: list[Demand]) -> Demand:
        """Many demands as one of arrays."""
        import numpy as np

        return cls(**{f.name: np.array([getattr(row, f.name) for row in rows], dtype=float) for f in fields(cls)})


def kernels(group: Group, family: str) -> tuple[int, int]:
    """How many kernels a layer of this group starts: outside of its experts, and for them."""
    count, experts = ATTENTION_KERNELS[group.core.kind], 0
    if group.core.kind == "full":
        count += (family in HEAD_NORMS or family in WIDE_NORMS) + 2 * (family in WIDE_NORMS)
    count += 4 if group.core.scanned else 0
    parts = {matrix.part for matrix in group.matrices}
    if "experts" in parts:
        experts = EXPERT_KERNELS + (2 if family in GROUPED_ROUTERS else 0)
        count += 1 + (SHARED_KERNELS if "mlp" in parts else 0)
    else:
        count += DENSE_KERNELS
    return group.count * count, group.count * experts


def rate_of(device: Accelerator, format: str) -> float:
    """Peak dense operations per second for products in a format. Raises BadInput where the catalogue has none."""
    if format == "fp32":  # tensor cores take it as TF32, at half the rate of 16 bits wherever both are published
        return next((device.rates[name] for name in ("tf32", "fp32") if name in device.rates), rate_of(device, "bf16") / 2)
    # MXFP4 weights meet 8-bit activations where the device has 4-bit arithmetic, and are widened to 16 bits elsewhere.
    names = (("fp8", "bf16") if "fp4" in device.rates else ("bf16", "fp16")) if format == "mxfp4" else RATES[format]
    found = next((device.rates[name] for name in (*names, "bf16", "fp16") if device.rates.get(name)), None)
    if format == "int8" and found:  # some devices keep next to no integer arithmetic: weights are then widened
        found = max(found, device.rates.get("bf16", 0.0))
    # Where only 8-bit arithmetic is announced: all devices of the catalogue that have both do 16 bits at half that rate.
    found = found or (device.rates.get("fp8") or device.rates.get("int8") or 0) / 2 or None
    if found is None:
        raise BadInput(f"no arithmetic rate of {device.name} is known", "Allowed: a device whose rate the catalogue has", "Choose another")
    return found


def part_rate(shape: Architecture, device: Accelerator, part: str, format: str) -> float:
    """The rate of a part's products: that of the format where it narrows their weights, of 32 bits where it widens them, else of 16."""
    bits = shape.bits(part, format)
    return rate_of(device, format if bits < 16 else "fp32" if bits > 16 else "bf16")


def demand(shape: Architecture, device: Accelerator, setting: Setting) -> Demand:
    """What one step of decoding and one prefill ask of each device. Raises BadInput where a needed figure is unknown."""
    if not device.bandwidth:
        raise BadInput(f"the memory bandwidth of {device.name} is unknown", "Allowed: a device whose bandwidth the catalogue has")
    link = device.link_bandwidth
    if setting.devices > 1 and not link:
        raise BadInput(f"the link of {device.name} is unknown", "Allowed: tensor_parallel=1, or a device whose link the catalogue has")
    if link and setting.devices > NODES.get(device.name, 8):
        link = min(link, BETWEEN_NODES)
    share, groups, stages = setting.tensor_parallel, setting.attention_data_parallel, setting.pipeline_parallel
    per_group = share // groups
    batch = max(1.0, setting.batch / stages)  # a stage works on one part of the batch at a time
    # A step of speculative decoding checks about twice as many tokens as there are sequences.
    tokens = batch * (2.0 if setting.accepted > 1 else 1.0)
    held = shape.parameters()
    whole = part_rate(shape, device, "head", setting.format)

    def read(part: str, over: float) -> float:
        return held[part] * shape.bits(part, setting.format) / 8 / over / device.bandwidth  # type: ignore[operator]

    def rate(part: str) -> float:
        return part_rate(shape, device, part, setting.format)

    step = shape.decode_flops(1, setting.prompt + setting.new_tokens / 2)
    prefill = shape.prefill_flops(max(setting.prompt, 1))
    cached = shape.read_bytes(setting.prompt + setting.new_tokens / 2, setting.element)
    started = [kernels(group, shape.family) for group in shape.groups]
    reduces, moved = _exchanged(shape, setting)
    moved = moved / link if link else 0.0
    head = held["head"] or (shape.embedding if shape.tied else 0)
    return Demand(
        weights=read("attention", per_group) + read("mlp", share),
        head=head * shape.bits("head", setting.format) / 8 / share / device.bandwidth,
        experts=shape.touched(tokens) * read("experts", share),
        cache=batch * cached / (groups * min(per_group, shape.kv_heads)) / device.bandwidth,
        weight_flops=tokens * (step["attention"] / rate("attention") + step["mlp"] / rate("mlp")) / share,
        head_flops=tokens * step["head"] / whole / share,
        expert_flops=tokens * step["experts"] / rate("experts") / share,
        core_flops=tokens * step["core"] / whole / (groups * min(per_group, shape.heads)),
        reduces=reduces,
        reduce_bytes=moved * tokens,
        doublings=math.log2(share),
        hops=stages - 1,
        kernels=sum(count for count, _ in started),
        expert_kernels=sum(count for _, count in started),
        batch=batch,
        groups=groups,
        accepted=setting.accepted,
        prefill_flops=sum(prefill[part] / rate(part) for part in ("attention", "mlp", "router")) / share,
        prefill_expert_flops=prefill["experts"] / rate("experts") / share,
        prefill_core=prefill["core"] / whole / share,
        prefill_weights=(shape.touched(setting.prompt) * read("experts", share) + read("attention", share) + read("mlp", share)),
        prefill_reduce=moved * setting.prompt,
        interrupting=(batch - 1) / setting.new_tokens,
        rereads=min(1.0, (batch - 1) / setting.new_tokens),
    )


def _exchanged(shape: Architecture, setting: Setting) -> tuple[int, float]:
    """Collectives of one step, and the bytes that a device sends for each token in flight.

    An all-reduce after attention and one after the feed-forward layer, each sending 2 (n-1)/n of the hidden state in 16 bits (ring).
    Where attention is split by sequences and experts lie whole on devices, tokens travel to their experts in 8 bits and back in
    16 instead (all-to-all: DeepSeek-V3, arXiv 2412.19437).
    """
    share = setting.tensor_parallel
    if share == 1:
        return 0, 0.0
    others = (share - 1) / share
    count = (3 if shape.family in WIDE_NORMS else 2) * shape.layers
    if setting.expert_parallel and setting.attention_data_parallel > 1 and shape.moe:
        dense = shape.layers - shape.sparse_layers
        away = shape.sparse_layers * shape.active_experts * (1 + 2) / setting.attention_data_parallel
        return count, shape.hidden * others * (away + dense * 2 * 2 * 2)
    return count, shape.hidden * others * shape.layers * 2 * 2 * 2


def memory_needed(shape: Architecture, setting: Setting) -> float:
    """Bytes on each device: its share of the weights and of the cache at full length. Activations and the runtime come on top."""
    per_group, stages = setting.tensor_parallel // setting.attention_data_parallel, setting.pipeline_parallel
    attention = shape.parameters()["attention"] * shape.bits("attention", setting.format) / 8
    others = shape.weight_bytes(setting.format) - attention
    weights = attention / per_group / stages + others / setting.tensor_parallel / stages
    sequences = setting.batch / setting.attention_data_parallel
    split = min(per_group, shape.kv_heads) * stages
    return weights + sequences * shape.kv_bytes(setting.prompt + setting.new_tokens, setting.element) / split
