"""Speed of random models of 0.5B to 14B on the attached GPU, dense and quantized, kept as records that readers without one can open.

    python tests/gpu/record_profiles.py [--shapes NAME ...] [--bits 16 8 4] [--seconds 480] [--calibration FILE.json]
        [--out data/measured/profiles-DEVICE.json]

Random weights cost what trained ones cost. Each model is profiled eagerly and compiled with a cache of fixed size (`ek.profile`; --eager
leaves the second out), and what the device's calibration foretells is printed beside it: of compiled decoding the products and the
cache, of eager decoding what the host needs too. Each record is written as it comes, over one of the same name; what the seconds did not
suffice for is listed as `skipped`, and a second call adds it: --shapes, --bits. `ek.read_records(FILE)` reads them.

The last line is one JSON object. Goals on CUDA: `bandwidth_percent` of the dense 8B, compiled, at least 70 (bytes that a token reads over
its time, of the copy speed measured here); `median_ape` of the predictions at most 8.
"""

from __future__ import annotations

import argparse
import functools
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

from decode import copy_speed, random_model, read_bytes  # noqa: E402
from reporting import last_line  # noqa: E402

print = functools.partial(print, flush=True)

SHAPES = ("llama-3.1-8b", "qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-3b", "qwen2.5-14b")
GOALS = {"bandwidth_percent": 70.0, "median_ape": 8.0}


def predicted_ms(model: Any, calibration: Any, context: int, compiled: bool) -> float:
    """Of one decoding step. A compiled one is started as a whole: nothing of the host is left in it."""
    from effkit.measure.calibrating import cached_bytes, linears_of

    layers = int(model.config.num_hidden_layers)
    parts = calibration.step_parts(linears_of(model), layers, cached_bytes(model, context))
    return 1000 * (parts["weights"] + parts["cache"] if compiled else sum(parts.values()))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--shapes", nargs="+", default=SHAPES, help="names of data/architectures.toml, or of decode.py")
    ask.add_argument("--bits", nargs="+", type=int, default=(16, 8, 4))
    ask.add_argument("--eager", action="store_true", help="compile nothing")
    ask.add_argument("--device", default="cuda")
    ask.add_argument("--prompt", type=int, default=128)
    ask.add_argument("--new-tokens", type=int, default=64)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--calibration", type=Path, help="a file of it: read where it is there, else written after half a minute")
    ask.add_argument("--seconds", type=float, default=480.0, help="after so many nothing more is begun")
    ask.add_argument("--out", type=Path)
    given = ask.parse_args()

    import torch

    import effkit as ek
    from effkit.hardware.attached.environment import environment
    from effkit.lab.records.measuring import cost_of
    from effkit.spec.record import Record

    begun, device = time.perf_counter(), ek.device(given.device)
    slug = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    out = given.out or ROOT / "data" / "measured" / f"profiles-{slug}.json"
    records = {record.name: record for record in ek.read_records(out)} if out.is_file() else {}
    if given.calibration and given.calibration.is_file():
        calibration = ek.Calibration.from_json(given.calibration.read_text(encoding="utf-8"))
    else:
        calibration = ek.calibrate(device, formats=["bfloat16", "int8", "int4"], dtype="bfloat16")
        if given.calibration:
            given.calibration.write_text(calibration.to_json(), encoding="utf-8")
    copied = copy_speed(device) if not device.is_cpu else calibration.copy_rate
    print(f"{calibration}; copy {copied / 1e9:.1f} GB/s")
    lengths = {"prompt": given.prompt, "new_tokens": given.new_tokens}
    rows, skipped = [], []
    for shape in given.shapes:
        base = None
        for bits in given.bits:
            form, model = "bfloat16" if bits == 16 else f"{bits}-bit", None
            for compiled in (False, True)[: 1 if given.eager else 2]:
                name = f"{shape}, random weights, {form}, {'compiled' if compiled else 'eager'}"
                if time.perf_counter() - begun > given.seconds:
                    skipped.append(name)
                    continue
                base = base or random_model(shape, str(device))
                model = model or (base if bits == 16 else ek.quantize(base, method="rtn", bits=bits, group_size=64))
                profile = ek.profile(model, **lengths, repeats=given.repeats, compiled=compiled)
                cost = cost_of(model, base, profile)
                records[name] = Record(
                    name=name, checkpoint=model.checkpoint, recipe=model.recipe, plans=model.plans, profile=profile, cost=cost,
                    environment=environment(),
                )  # fmt: skip
                ek.write_records(list(records.values()), out)
                rows.append(row_of(name, model, profile, calibration, copied, compiled))
                print(rows[-1])
            model = None
            if not given.eager:
                torch.compiler.reset()  # what was compiled holds on to the model
        base = None
        device.empty_cache()
    errors = [abs(row["error_percent"]) for row in rows if row["error_percent"] is not None]
    compiled_8b = [
        row["bandwidth_percent"] for row in rows if row["compiled"] and row["name"].startswith("llama-3.1-8b, random weights, bf")
    ]
    last_line(
        {
            "device": repr(device),
            "copy_gb_per_s": round(copied / 1e9, 1),
            "rows": rows,
            "skipped": skipped,
            "median_ape": round(statistics.median(errors), 2) if errors else None,
            "bandwidth_percent": compiled_8b[0] if compiled_8b else None,
            "goals": GOALS,
            "records": len(records),
            "out": out.name,
            "seconds": round(time.perf_counter() - begun, 1),
        }
    )


def row_of(name: str, model: Any, profile: Any, calibration: Any, copied: float, asked: bool) -> dict[str, Any]:
    """What is printed of one profile. Where compiling failed the row is one of eager decoding, and `note` says why."""
    compiled, measured = bool(profile.decoding and profile.decoding.compiled), profile.output_token_percentiles.get("p50")
    foretold = predicted_ms(model, calibration, profile.prompt + profile.new_tokens // 2, compiled)
    energy, decode = profile.energy.per_token.value if profile.energy else None, profile.decode.value or 0.0
    return {
        "name": name,
        "asked_compiled": asked,
        "compiled": compiled,
        "note": profile.decoding.note if profile.decoding else "",
        "compile_seconds": profile.decoding.compile_seconds if profile.decoding else None,
        "tokens_per_s": round(decode, 2),
        "first_token_ms": round(profile.time_to_first_token.value, 3),
        "token_ms": None if measured is None else round(measured, 4),
        "predicted_ms": round(foretold, 4),
        "error_percent": None if not measured else round(100 * (foretold / measured - 1), 2),
        "bandwidth_percent": round(100 * read_bytes(model) * decode / copied, 1),
        "peak_gb": None if profile.memory.allocated is None else round(profile.memory.allocated / 1e9, 2),
        "joules_per_token": energy,
        "warmup": profile.warmup_how,
    }


if __name__ == "__main__":
    main()
