"""What a model would take on the attached device, from its calibration alone: no weights are loaded.

    calibration = ek.calibrate()
    print(ek.project("Qwen/config.json", on=calibration, prompt=128, new_tokens=32))

The products of a step are looked up among those that were timed (spec/calibration.py), and what a layer needs around them is
added. The interval is how far such predictions were from measured models of other shapes (tests/benchmarks/cpu_projection.py).
"""

from __future__ import annotations

import math

from effkit.spec.calibration import QUIET, Calibration, Linear
from effkit.spec.errors import choice

from .architecture import BITS, Architecture
from .serving import Setting

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8", "int4_g32": "int4", "int4_g128": "int4"}
# Standard deviations of log(predicted / measured) that cpu_projection.py gave on two CPU cores, by what is predicted.
OFF = {"dense": 0.08, "packed": 0.2, "first": 0.15}


def format_of(calibration: Calibration, format: str) -> str:
    """The calibration's word for a format of the catalogue. Raises BadInput where it did not time that format."""
    own = DTYPES.get(format, format)
    if own not in calibration.formats:
        told = {DTYPES[name]: name for name in DTYPES}
        raise choice("format", format, [told.get(name, name) for name in calibration.formats], "Calibrate with this format: formats=[...]")
    return own


def linears(shape: Architecture, calibration: Calibration, format: str) -> list[tuple[str, Linear]]:
    """(part, linear layers) that a token passes through; parts left whole are in the dtype that the calibration computes in."""
    rounded, plain = format_of(calibration, format), next(name for name, dtype in DTYPES.items() if dtype == calibration.dtype)
    found = []
    for count, matrix in [(group.count, m) for group in shape.groups for m in group.matrices] + [(1, m) for m in shape.head]:
        whole = BITS[format] < 16 and shape.bits(matrix.part, format) >= 16
        word, bits = (calibration.dtype, BITS[plain]) if whole else (rounded, BITS[format])
        size = round(matrix.inputs * matrix.outputs * bits / 8)
        one = Linear(format=word, inputs=matrix.inputs, outputs=matrix.outputs, count=count * matrix.used, bytes=size)
        found.append((matrix.part, one))
    return found


def step_parts(shape: Architecture, calibration: Calibration, setting: Setting) -> dict[str, float]:
    """Seconds of one decoding step by part, as `Calibration.step_parts` tells them."""
    each = [one for _, one in linears(shape, calibration, setting.format)]
    cached = setting.batch * shape.read_bytes(setting.prompt + setting.new_tokens / 2, setting.element)
    parts = calibration.step_parts(each, shape.layers, cached, setting.batch)
    if calibration.overlaps:  # what the host needs longer than the device works is its starting of kernels
        parts["launches"] = parts.pop("layers")
    return parts


def first_token(shape: Architecture, calibration: Calibration, setting: Setting) -> float:
    """Seconds to read one prompt a sequence, all at once: products of so many rows, the head's of one, attention at their rate, and
    what lies between the products, once and for each further row."""
    rows = setting.batch * max(setting.prompt, 1)
    found = linears(shape, calibration, setting.format)
    inner, outer = [one for part, one in found if part != "head"], [one for part, one in found if part == "head"]
    products = calibration.products_seconds(inner, rows) + calibration.products_seconds(outer, setting.batch)
    core = shape.prefill_flops(max(setting.prompt, 1), batch=setting.batch)["core"] / calibration.matrix_rate(calibration.dtype)
    between = calibration.further_rows_seconds(inner, rows)
    around = calibration.around_seconds(shape.layers, sum(one.bytes * one.count for _, one in found))
    worked = products + core + between
    return max(worked, around) if calibration.overlaps else worked + around


def spread(format: str, calibration: Calibration) -> tuple[float, float, str]:
    """(tpot, ttft, basis): standard deviations of the logarithm, and what they rest on."""
    packed = BITS[format] < 16
    tpot = OFF["packed" if packed else "dense"]
    basis = f"Predicted from the calibration of {calibration.date[:10]}; the interval is that of other shapes on a CPU"
    disturbed = calibration.processor_share is not None and calibration.processor_share <= QUIET
    if disturbed:
        tpot = math.hypot(tpot, 0.2)
        basis += ", wider because other programs ran during the calibration"
    return tpot, math.hypot(OFF["first"], tpot), basis
