"""Predicted against measured on this CPU: time per output token of five random models, dense and int8, after one calibration.

    python tests/benchmarks/cpu_projection.py [--clock wall|processor] [--repeats 3] [--prompt 64] [--new-tokens 24] [--device cuda]

`ek.calibrate` runs first (products, layers, cached tokens); no model of the list is timed before its prediction is made.
Predicted is `expected_step_seconds` at the mean context, measured is the lower quartile of the steps that `ek.profile` times:
both are undisturbed moments, as the calibration's figures are. The median is printed beside it. `--clock processor` reads
the process's processor time instead of the wall clock, which other work on the machine does not lengthen (one thread only).

The time to the first token is projected from the config alone (`ek.project(config, on=calibration)`) and compared with the
quickest repeat; no goal was set for it.

Goal: the median error over the ten rows is at most 10%, with --device cuda (in bfloat16, eagerly) at most 8%. The last line is one
JSON object. tests/gpu/record_profiles.py holds models of 0.5B to 14B against predictions, compiled ones too.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from types import SimpleNamespace
from typing import Any

from reporting import last_line

print = functools.partial(print, flush=True)

SHAPES: dict[str, dict[str, int]] = {
    # hidden, MLP, layers, heads, key-value heads, vocabulary: aspect ratios as far apart as seconds of work allow
    "deep and narrow": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 24, "num_attention_heads": 4,
                        "num_key_value_heads": 2, "vocab_size": 4096},
    "shallow and wide": {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 3, "num_attention_heads": 12,
                         "num_key_value_heads": 4, "vocab_size": 8192},
    "balanced": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12,
                 "num_key_value_heads": 4, "vocab_size": 8192},
    "large vocabulary": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8,
                         "num_key_value_heads": 8, "vocab_size": 65536},
    "long MLP": {"hidden_size": 640, "intermediate_size": 5120, "num_hidden_layers": 6, "num_attention_heads": 10,
                 "num_key_value_heads": 5, "vocab_size": 16384},
}  # fmt: skip


def random_model(name: str) -> Any:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from effkit.models.model import wrap

    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(**SHAPES[name], max_position_embeddings=1024, tie_word_embeddings=False))
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(1000)}, unk_token="w0"))
    return wrap(module, PreTrainedTokenizerFast(tokenizer_object=words), f"random, {name}", hash="random")


def timed(work: Any, steps: list[float]) -> Any:
    """Let a profile run to its end; milliseconds of every measured step are added to `steps`."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        if event.message == "measuring" and "ms" in event.metrics:
            steps.append(event.metrics["ms"])


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--clock", choices=["wall", "processor"], default="wall")
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--prompt", type=int, default=64)
    ask.add_argument("--new-tokens", type=int, default=24)
    ask.add_argument("--device", default="cpu")
    given = ask.parse_args()

    import numpy as np
    import torch

    import effkit as ek
    import effkit.hardware.attached.clock
    from effkit.measure.calibrating import calibrate, expected_step_seconds

    if given.clock == "processor":
        torch.set_num_threads(1)
        effkit.hardware.attached.clock.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    device = ek.device(given.device)
    plain = "float32" if device.is_cpu else "bfloat16"
    goal = 10.0 if device.is_cpu else 8.0
    calibration = calibrate(device, formats=[plain, "int8"])
    print(f"{calibration} in {calibration.seconds:.1f} s, {torch.get_num_threads()} threads, {given.clock} clock")
    context = given.prompt + given.new_tokens / 2
    rows, errors, firsts = [], {"dense": [], "int8": []}, []
    for name in SHAPES:
        base = random_model(name).to(device, plain)
        for kind in ("dense", "int8"):
            model = base if kind == "dense" else ek.quantize(base, method="rtn", bits=8, group_size=64)
            predicted = 1000 * expected_step_seconds(model, calibration, context=round(context))
            steps: list[float] = []
            lengths = {"prompt": given.prompt, "new_tokens": given.new_tokens}
            profile = timed(ek.profile.work(model, **lengths, repeats=given.repeats, warmup=1), steps)
            measured, median = float(np.quantile(steps, 0.25)), statistics.median(steps)
            error = 100 * (predicted - measured) / measured
            errors[kind].append(abs(error))
            megabytes = model.stored_bytes / 1e6
            times = f"{predicted:7.2f} ms predicted, {measured:7.2f} measured ({median:.2f} median), {error:+.1f}%"
            print(f"{name:18} {kind:6} {megabytes:6.1f} MB: {times}")
            own = "int8" if kind == "int8" else "fp32" if device.is_cpu else "bf16"
            first = ek.project(base.config, on=calibration, format=own, **lengths)
            reading, read = first.time_to_first_token.value, min(profile.first_token_times)
            firsts.append(100 * abs(reading - read) / read)
            print(f"{'':25} first token: {reading:7.2f} ms predicted, {read:7.2f} measured, {100 * (reading - read) / read:+.1f}%")
            row = {"shape": name, "kind": kind, "predicted_ms": predicted, "measured_ms": measured, "median_ms": median, "error": error}
            rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    both = [*errors["dense"], *errors["int8"]]
    last_line(
        {
            "device": calibration.device,
            "threads": torch.get_num_threads(),
            "clock": given.clock,
            "calibration_seconds": round(calibration.seconds, 1),
            "rows": rows,
            "dense_median_ape": round(statistics.median(errors["dense"]), 2),
            "int8_median_ape": round(statistics.median(errors["int8"]), 2),
            "median_ape": round(statistics.median(both), 2),
            "first_token_median_ape": round(statistics.median(firsts), 2),
            "mape": round(statistics.fmean(both), 2),
            "goal": goal,
            "within_goal": statistics.median(both) <= goal,
        }
    )


if __name__ == "__main__":
    main()
