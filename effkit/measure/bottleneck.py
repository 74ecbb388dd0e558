"""`bottleneck`: measure a pass of a model, and say from the device's calibration what its time went into."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from effkit.models.model import Model
from effkit.spec.bottleneck import Bottleneck, Figures, verdict
from effkit.spec.calibration import Calibration
from effkit.spec.errors import BadInput, choice
from effkit.spec.progress import Work, long_work
from effkit.spec.record import Profile

from .calibrating import BITS, cached_bytes, calibrate, linears_of
from .latency import profile as profile_of

# as torch_npu says it, once for each operator and process
FALLBACK = re.compile(r"operator '(?:aten::)?([\w.]+)'.*fall ?back to run on the CPU", re.DOTALL)
_calibrations: dict[tuple[str, int, tuple[str, ...], str], Calibration] = {}


@long_work
def bottleneck(
    model: Model,
    calibration: Calibration | None = None,
    *,
    phase: Literal["decode", "prefill"] = "decode",
    prompt: int = 128,
    new_tokens: int = 16,
    batch: int = 1,
    repeats: int = 3,
    compiled: bool = False,
) -> Work[Bottleneck]:
    """Profile `model` and say what bounds it: weight bytes, KV bytes, arithmetic, launch overhead, fallback to the CPU.

    calibration: of the model's device; None: made now, for the model's formats, and kept for the next call in this process
    phase:       "decode" (a step after the prompt) or "prefill" (reading it; the only one of a classifier)
    The other arguments are those of ek.profile, and so are the errors.
    """
    if phase not in ("decode", "prefill"):
        raise choice("phase", phase, ["decode", "prefill"])
    if phase == "decode" and (model.task != "causal-lm" or new_tokens < 2):
        raise BadInput(
            f"phase is 'decode', the model a {model.task} model and new_tokens is {new_tokens}",
            "Decoding needs a causal-lm model and at least 2 new tokens",
            "Choose phase='prefill'",
        )
    formats = tuple(dict.fromkeys(linear.format for linear in linears_of(model)))
    if calibration is None:
        dtype = str(model.dtype).removeprefix("torch.")
        key = (str(model.device), torch.get_num_threads(), formats, dtype)
        if key not in _calibrations:
            known = [name for name in formats if name in BITS or name in model.device.dtypes]
            _calibrations[key] = yield from calibrate.work(model.device, formats=known, dtype=dtype)
        calibration = _calibrations[key]
    if calibration.device != repr(model.device):
        raise BadInput(
            f"the calibration is of {calibration.device} and the model on {model.device!r}",
            "Both must be the same device",
            "Leave calibration out, or calibrate this device",
        )
    with _fallbacks() as missing:
        measured = yield from profile_of.work(model, prompt=prompt, new_tokens=new_tokens, batch=batch, repeats=repeats, compiled=compiled)
    return verdict(figures_of(model, measured, calibration, phase, tuple(dict.fromkeys(missing))))


def figures_of(
    model: Model, profile: Profile, calibration: Calibration, phase: Literal["decode", "prefill"] = "decode", fallback: tuple[str, ...] = ()
) -> Figures:
    """The figures of one pass of `model`, from its profile and the device's calibration. Nothing is run."""
    time = profile.time_per_output_token.value if phase == "decode" else profile.time_to_first_token.value
    assert time is not None, "a decode step was asked for and is not in the profile"
    steps = profile.output_token_percentiles if phase == "decode" else profile.first_token_percentiles
    rows = profile.batch if phase == "decode" else profile.batch * profile.prompt
    linears = linears_of(model)
    head = getattr(model.module, "get_output_embeddings", lambda: None)()
    head_bytes = sum(linear.bytes for linear in linears_of(model, only=head)) if head is not None else 0
    weights = sum(linear.bytes * linear.count for linear in linears)
    products = {n: calibration.products_seconds(linears, n) for n in {1, rows}}
    layers = int(getattr(model.config, "num_hidden_layers", 0))
    around = calibration.around_seconds(layers, weights)
    compiled = bool(profile.decoding and profile.decoding.compiled) and phase == "decode"
    context = profile.prompt + (profile.new_tokens + 1) // 2
    cached = cached_bytes(model, context, profile.batch) if phase == "decode" else 0
    formats = [linear.format for linear in linears]
    return Figures(
        phase=phase,
        measured_ms=steps.get("p50", time),  # as undisturbed as the calibration's own figures
        weights_ms=1000 * min(products[1], products[rows]),
        arithmetic_ms=1000 * max(products[rows] - products[1], 0.0),
        cache_ms=1000 * cached * calibration.cache_seconds_per_byte,
        around_ms=0.0 if compiled else 1000 * around,
        overlaps=calibration.overlaps,
        weight_bytes=weights,
        cache_bytes=cached,
        flops=2.0 * rows * sum(each.inputs * each.outputs * each.count for each in linears),
        copy_rate=calibration.copy_rate,
        matrix_rate=calibration.matrix_rate(max(set(formats), key=formats.count)) if formats else None,
        head_share=head_bytes / weights if weights else 0.0,
        batch=profile.batch,
        compiled=compiled,
        can_compile=profile.device_type in ("cpu", "cuda") and bool(getattr(model.module, "_can_compile_fullgraph", False)),
        fallback=fallback,
        device=profile.device,
        simulated=profile.simulated,
    )


@contextmanager
def _fallbacks() -> Iterator[list[str]]:
    """Names of operators that a device hands to the CPU meanwhile, as its warnings say; other warnings are passed on."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            found += [match[1] for warning in said if (match := FALLBACK.search(str(warning.message)))]
    for warning in said:
        if not FALLBACK.search(str(warning.message)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
