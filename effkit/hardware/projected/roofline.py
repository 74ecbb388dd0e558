"""The roofline of a device with the parts of a model on it: how many operations a byte each does, and how fast it would run.

    found = roofline(model, "h100-sxm", batch=16)
    found.ridge                                # operations a byte above which arithmetic, not bandwidth, is the limit
    {(p.phase, p.part): (p.intensity, p.rate) for p in found.points}

The roof is the smaller of intensity x bandwidth and the arithmetic rate (Williams, Waterman, Patterson 2009, CACM 52:65). Points
are "projected" with the shares of the peak that serving reaches (projection.py), "predicted" from a calibration of the attached
device (spec/calibration.py), or "measured" module by module (spec/breakdown.py). One device, one step, one prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Literal

from effkit.spec.breakdown import Breakdown, Part
from effkit.spec.calibration import Calibration
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Noun, three

from . import attached
from .architecture import Architecture, format_name
from .catalogue import Accelerator, accelerator
from .efficiencies import Efficiencies, efficiencies
from .projection import CORE_RATE, HEAD, HEAD_RATE, prefill_time, shape_of, smooth_maximum, step_parts
from .serving import Setting, demand, part_rate, rate_of

Phase = Literal["decode", "prefill"]
How = Literal["measured", "predicted", "projected"]
# categories of the byte ledger that a breakdown's modules fall into -> parts here
MEASURED = {"attention": "attention", "mlp": "mlp", "head": "head"}


class RooflinePoint(Noun):
    """One part in one phase. flops, bytes: of one step (decode) or one prompt (prefill); seconds: what they take.

    part: "attention" (its products), "cache" (scores over cached keys and values), "mlp", "experts", "head", "whole"
    """

    phase: Phase
    part: str
    how: How
    flops: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds


class RooflineFound(Noun):
    """A roof and points under it. bandwidth: bytes/s; matrix_rate: operations/s in `format`; how they are known in `source`."""

    device: str
    format: str
    batch: int
    prompt: int
    bandwidth: float
    matrix_rate: float
    source: str
    simulated: bool = False
    points: tuple[RooflinePoint, ...]

    @property
    def ridge(self) -> float:
        """Operations a byte where both limits meet. H100 SXM in bf16: 295."""
        return self.matrix_rate / self.bandwidth

    def ceiling(self, intensity: float) -> float:
        """Operations a second that the roof allows."""
        return min(intensity * self.bandwidth, self.matrix_rate)

    def point(self, phase: Phase, part: str = "whole") -> RooflinePoint:
        """The first point of a part. Raises BadInput where there is none."""
        for one in self.points:
            if (one.phase, one.part) == (phase, part):
                return one
        raise BadInput(f"the part is {part!r} in {phase}", f"Allowed: {', '.join(f'{p.part} in {p.phase}' for p in self.points)}")

    def __str__(self) -> str:
        told = []
        for phase in ("decode", "prefill"):
            wholes = [p for p in self.points if p.phase == phase and p.part == "whole"]
            one = min(wholes, key=lambda p: p.how, default=None)  # measured comes before predicted and projected
            if one is not None:
                limit = "bandwidth" if one.intensity < self.ridge else "arithmetic"
                reached = one.rate / self.ceiling(one.intensity)
                told.append(
                    f"{phase} does {three(one.intensity)} operations a byte: {limit} is its limit, of which {reached:.0%} is {one.how}"
                )
        name = f"{self.device} (simulated)" if self.simulated else self.device
        return f"On {name} at batch {self.batch}, {'; '.join(told)}. Both limits meet at {three(self.ridge)} operations a byte."

    __repr__ = __str__


def roofline(
    model: Any,
    on: str | Accelerator,
    *,
    batch: int = 1,
    prompt: int = 1024,
    new_tokens: int = 128,
    format: str = "bf16",
    backend: str | None = None,
    breakdowns: Iterable[Breakdown] = (),
) -> RooflineFound:
    """The roof of a device of the catalogue, and where a model's parts are projected to lie under it.

    Decode is one token for each of `batch` sequences, in the middle of `new_tokens`; prefill is one prompt. Whole steps hold the
    starting of kernels too, so that they lie lower than their parts. breakdowns: measured points, shown where they are of this
    device. Raises BadInput as `project` does.
    """
    shape, device, form = shape_of(model), accelerator(on), format_name(format)
    setting = Setting(form, prompt, new_tokens, batch)
    asked, reached = demand(shape, device, setting), efficiencies(setting.kind, backend, device.stack)
    assert device.bandwidth
    work = _work(shape, setting)
    points = [
        RooflinePoint(phase=phase, part=part, how="projected", flops=flops, bytes=read, seconds=seconds)
        for (phase, part), (flops, read) in work.items()
        if (seconds := _seconds(phase, part, flops, read, shape, device, setting, reached)) > 0
    ]
    step = sum(value for name, value in step_parts(asked, reached).items() if name != "prefill of others")
    points += _wholes(work, {"decode": step, "prefill": prefill_time(asked, reached)}, "projected")
    for one in breakdowns:
        if device.name in (_catalogue_name(one.device), one.device):
            points += measured_points(one)
    return RooflineFound(
        device=device.name,
        format=form,
        batch=batch,
        prompt=prompt,
        bandwidth=device.bandwidth,
        matrix_rate=rate_of(device, form),
        source="data sheet",
        points=tuple(points),
    )


def calibrated_roofline(
    model: Any, calibration: Calibration, *, batch: int = 1, prompt: int = 128, breakdowns: Iterable[Breakdown] = ()
) -> RooflineFound:
    """The measured roof of the attached device, what its calibration predicts of a model, and what was measured of it.

    Predicted are products of the format that the calibration computes in; measured points keep the batch and the prompt that they
    were measured with, and are left out if the device is another one.
    """
    shape, form = shape_of(model), calibration.dtype
    setting = Setting({"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[form], prompt, 2, batch)
    work, points = _work(shape, setting), []
    found = attached.linears(shape, calibration, setting.format)
    working_set = sum(one.bytes * one.count for _, one in found)
    for phase in ("decode", "prefill"):
        seconds: dict[str, float] = {}
        for part, one in found:
            rows = batch if phase == "decode" else prompt if part != "head" else 1
            each = calibration.product_seconds(form, one.inputs, one.outputs, rows, working_set)
            seconds[part] = seconds.get(part, 0.0) + one.count * each
        for part, spent in seconds.items():
            if (phase, part) in work:
                flops, read = work[phase, part]
                points.append(RooflinePoint(phase=phase, part=part, how="predicted", flops=flops, bytes=read, seconds=spent))
    step = calibration.step_seconds([one for _, one in found], shape.layers, batch * shape.kv_bytes(prompt, setting.element), batch)
    points += [one for one in _wholes(work, {"decode": step, "prefill": 1.0}, "predicted") if one.phase == "decode"]
    for one in breakdowns:
        if one.device == calibration.device:
            points += measured_points(one)
    return RooflineFound(
        device=calibration.device,
        format=form,
        batch=batch,
        prompt=prompt,
        bandwidth=max(calibration.copy_rate, calibration.read_rate(form)),
        matrix_rate=calibration.matrix_rate(form),
        source=f"measured, {calibration.date[:10]}",
        simulated=calibration.simulated,
        points=tuple(points),
    )


def measured_points(found: Breakdown) -> list[RooflinePoint]:
    """Attention, MLP and head as they were timed, and the whole pass without hooks. Parts without arithmetic have no place."""
    sums: dict[str, list[float]] = {}
    for module in _outermost(found.root):
        part = MEASURED[module.category]
        if module.flops and module.bytes:
            for index, value in enumerate((module.flops, module.bytes, module.total_ms / 1000)):
                sums.setdefault(part, [0.0, 0.0, 0.0])[index] += value
    if found.root.flops and found.root.bytes and found.plain_ms.value:
        sums["whole"] = [found.root.flops, found.root.bytes, found.plain_ms.value / 1000]
    return [
        RooflinePoint(phase=found.phase, part=part, how="measured", flops=flops, bytes=read, seconds=seconds)
        for part, (flops, read, seconds) in sums.items()
    ]


def _catalogue_name(told: str) -> str | None:
    """The catalogue's name of a device as ek.devices() writes it: "cuda:0 (NVIDIA H200)"; None where it has none."""
    for name in (told, told.partition("(")[2].removesuffix(")")):
        with contextlib.suppress(BadInput):
            return accelerator(name).name
    return None


def _outermost(part: Part) -> Iterable[Part]:
    if part.category in MEASURED:
        yield part
        return
    for child in part.children:
        yield from _outermost(child)


def _work(shape: Architecture, setting: Setting) -> dict[tuple[Phase, str], tuple[float, float]]:
    """Operations and bytes of each part, for one step of the batch and for one prompt; parts that the model lacks are left out."""
    context = setting.prompt + setting.new_tokens / 2
    held, element = shape.parameters(), setting.element
    head = held["head"] or (shape.embedding if shape.tied else 0)
    found: dict[tuple[Phase, str], tuple[float, float]] = {}
    counts = {"decode": shape.decode_flops(setting.batch, context), "prefill": shape.prefill_flops(max(setting.prompt, 1))}
    for phase, tokens in (("decode", setting.batch), ("prefill", setting.prompt)):
        flops = counts[phase]
        read = {part: held[part] * shape.bits(part, setting.format) / 8 for part in ("attention", "mlp", "experts")}
        read["experts"] *= shape.touched(tokens)
        read["head"] = head * shape.bits("head", setting.format) / 8
        cached = setting.batch * shape.read_bytes(context, element) if phase == "decode" else shape.kv_bytes(setting.prompt, element)
        for part in ("attention", "mlp", "experts", "head"):
            if flops[part] and read[part]:
                found[phase, part] = flops[part], read[part]  # type: ignore[index]
        if flops["core"] and cached:
            found[phase, "cache"] = flops["core"], cached  # type: ignore[index]
    return found


def _seconds(
    phase: str, part: str, flops: float, read: float, shape: Architecture, device: Accelerator, setting: Setting, reached: Efficiencies
) -> float:
    """The time of a part by itself, at the shares of the peaks that projection.py uses."""
    whole, bandwidth = part_rate(shape, device, "head", setting.format), device.bandwidth or 1.0
    own = part_rate(shape, device, part, setting.format) if part in ("attention", "mlp", "experts") else whole
    if part == "head":
        return smooth_maximum(read / bandwidth / HEAD, flops / whole / HEAD_RATE)
    if part == "cache":
        return smooth_maximum(read / bandwidth / reached.cache, flops / whole / (CORE_RATE if phase == "decode" else reached.prefill_core))
    share = {"attention": reached.weights, "mlp": reached.weights, "experts": reached.experts}[part]
    if phase == "decode":
        return smooth_maximum(read / bandwidth / share, flops / own / reached.arithmetic)
    return smooth_maximum(read / bandwidth / share, flops / own / reached.prefill / (reached.prefill_experts if part == "experts" else 1.0))


def _wholes(work: dict[tuple[Phase, str], tuple[float, float]], seconds: dict[str, Any], how: How) -> list[RooflinePoint]:
    found = []
    for phase in ("decode", "prefill"):
        parts = [both for (name, _), both in work.items() if name == phase]
        flops, read = sum(both[0] for both in parts), sum(both[1] for both in parts)
        found.append(RooflinePoint(phase=phase, part="whole", how=how, flops=flops, bytes=read, seconds=float(seconds[phase])))
    return found
