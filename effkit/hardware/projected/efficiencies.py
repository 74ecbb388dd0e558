"""How close devices come to their peaks when they serve: a few constants, fitted to measured serving latencies.

`data/efficiencies.toml` holds them: a base for every constant, factors by kind of format and by runtime, and another base for
a stack that was measured apart. A combination that was never measured gets the base and the factors it shares with others, as
in a mixed model with shrinkage. `tests/benchmarks/fit_efficiencies.py` makes the file, and the file says from what.
"""

from __future__ import annotations

import functools
import math
import tomllib
from dataclasses import dataclass, fields
from typing import Any

from effkit.spec.places import shipped_file

BACKENDS = {
    "tensorrt-llm": "trtllm", "tensorrt_llm": "trtllm", "tensorrtllm": "trtllm", "trt-llm": "trtllm", "trt_llm": "trtllm",
    "vllm-ascend": "vllm", "vllm_ascend": "vllm", "mindie": "",
}  # fmt: skip


@dataclass(frozen=True)
class Efficiencies:
    """Shares of a peak (0 to 1), seconds of overhead, and the shape of queueing. Values may be arrays in a fit."""

    weights: Any  # share of bandwidth: attention and feed-forward weights in decoding
    experts: Any  # share of bandwidth: experts; above 1 where fewer are read than an even choice would touch
    cache: Any  # share of bandwidth: keys and values
    arithmetic: Any  # share of the rate in a step of decoding
    prefill: Any  # share of the rate in prefill
    prefill_experts: Any  # of that, the part that experts reach
    prefill_core: Any  # share of the 16-bit rate: attention between tokens in prefill
    link: Any  # share of the interconnect
    kernel: Any  # seconds a kernel outside of experts
    expert_kernel: Any  # seconds a kernel of the experts
    reduce: Any  # seconds an all-reduce among two devices
    doubling: Any  # seconds more, for each doubling of devices
    sequence: Any  # seconds a sequence and step: sampling, scheduling, text
    step: Any  # seconds a step
    reread: Any  # share of the weights' bytes that a prefill reads again, beside those of the step it joins
    wait: Any  # seconds to the first token that depend on nothing
    eager: Any  # seconds a kernel in prefill, where no graph starts them at once
    steps: Any  # steps of decoding that a new request waits for
    first: Any  # prefills of its own kind in a time to first token
    queue: Any  # prefills waited for, for each other sequence in flight
    apart: Any  # prefills more for each further group of attention: one prompt is read by one group alone


@dataclass(frozen=True)
class Spread:
    """Standard deviations of log(predicted / measured), of settings that the fit never saw, and what they are for."""

    tpot: float
    ttft: float
    reasons: tuple[str, ...]


@functools.cache
def constants() -> dict[str, Any]:
    """The file as it is: base, kind, backend, stack, spread, seen."""
    with shipped_file("efficiencies.toml").open("rb") as stream:
        return tomllib.load(stream)


def efficiencies(kind: str, backend: str | None = None, stack: str = "cuda", told: dict[str, Any] | None = None) -> Efficiencies:
    """The constants for a kind of format, a runtime (vllm, sglang, trtllm; None: their mean) and a stack."""
    told = told or constants()
    values = {**told["base"], **told.get("stack", {}).get(stack, {})}
    for table in (told.get("kind", {}).get(kind, {}), told.get("backend", {}).get(backend_name(backend), {})):
        for name, factor in table.items():
            values[name] *= factor
    return Efficiencies(**{field.name: values[field.name] for field in fields(Efficiencies)})


def backend_name(name: str | None) -> str:
    own = (name or "").strip().lower()
    return BACKENDS.get(own, own)


def spread(*, kind: str, backend: str | None, device: str, family: str, moe: bool, stack: str, known: bool) -> Spread:
    """How far a projection may be off: the spread of held-out settings, with more for each thing that the fit has not seen."""
    told = constants()
    wide, seen = told["spread"], told["seen"]
    tpot, ttft, reasons = [wide["moe" if moe else "dense"]], [wide["first_token"]], []
    for missing, name, why in (
        (device not in seen["devices"], "new_device", f"no row of the fit was measured on {device}"),
        (family not in seen["families"] or not known, "new_model", f"no model of the family {family!r} is in the fit"),
        (kind not in seen["kinds"], "new_format", f"no weights of the kind {kind} are in the fit"),
        (backend_name(backend) not in seen["backends"], "new_backend", "no runtime of the fit is named"),
        (stack not in seen["stacks"], "new_stack", f"the constants of the stack {stack} come from a few published rows"),
    ):
        if missing:
            tpot.append(wide[name])
            ttft.append(wide[name])
            reasons.append(why)
    return Spread(math.hypot(*tpot), math.hypot(*ttft), tuple(reasons))
