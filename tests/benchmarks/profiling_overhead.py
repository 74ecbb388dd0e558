"""What profiling itself costs: a decoding loop as `ek.profile` runs it, against the same loop bare.

    python tests/benchmarks/profiling_overhead.py [--pairs 7] [--clock wall|processor]

Bare is `Decoder.read` and `Decoder.step` with the choice of a token, five prompts of 32 + 32 tokens, each waited for once at the
end. Profiled is a whole call of `ek.profile` that does the same: a clock and an event around every step, peak memory and energy
read, intervals and all. The two take turns; the figure is the median of the paired ratios. Also: how much longer the profile's
own figures are than bare, and what the hooks of `ek.breakdown` add. Goal: profiling adds at most 1%. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from types import SimpleNamespace

from cpu_projection import random_model
from reporting import last_line

REPEATS = 5

print = functools.partial(print, flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--pairs", type=int, default=7)
    ask.add_argument("--clock", choices=["wall", "processor"], default="wall")
    ask.add_argument("--device", default="auto")
    given = ask.parse_args()

    import torch

    import effkit as ek
    import effkit.hardware.attached.clock
    from effkit.hardware.attached.memory import PeakMemory
    from effkit.measure.breakdown import breakdown
    from effkit.measure.latency import ordinary_tokens, random_prompt
    from effkit.models.decoding import Decoder

    read = time.process_time if given.clock == "processor" else time.perf_counter
    if given.clock == "processor":
        torch.set_num_threads(1)
        effkit.hardware.attached.clock.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    model = random_model("balanced").to(ek.device(given.device))
    prompt, new_tokens, vocabulary = 32, 32, ordinary_tokens(model)

    def bare() -> float:
        decoder = Decoder(model, length=prompt + new_tokens)
        begun = read()
        for seed in range(REPEATS):
            with torch.inference_mode():
                ids = random_prompt(vocabulary, 1, prompt, seed).to(model.device.torch)
                ids = decoder.read(ids).argmax(-1, keepdim=True)
                for _ in range(new_tokens - 1):
                    ids = decoder.step(ids).argmax(-1, keepdim=True)
                model.device.synchronize()
        return read() - begun

    def profiled() -> tuple[float, float]:
        """(seconds of the whole call, seconds that its own figures add up to)."""
        begun = read()
        found = ek.profile(model, prompt=prompt, new_tokens=new_tokens, repeats=REPEATS, warmup=0)
        taken = read() - begun
        figures = sum(found.first_token_times) + (new_tokens - 1) * sum(found.output_token_times)
        return taken, figures / 1000

    bare()
    profiled()
    whole, figures, plain = [], [], []
    for i in range(given.pairs):
        if i % 2:
            alone, (taken, said) = bare(), profiled()
        else:
            (taken, said), alone = profiled(), bare()
        whole.append(taken / alone)
        figures.append(said / alone)
        plain.append(alone)
    ratio, distortion = statistics.median(whole), statistics.median(figures)
    tokens = REPEATS * new_tokens
    step = statistics.median(plain) / tokens
    begun = read()
    with PeakMemory(model.device):
        pass
    memory = read() - begun
    hooks = breakdown(model, prompt=prompt, repeats=10)
    print(f"profiling adds {100 * (ratio - 1):.2f}% to {tokens} tokens of {1000 * step:.2f} ms; its figures are {distortion:.4f} of bare")
    print(f"of that, peak memory {1000 * memory:.2f} ms; the hooks of a breakdown add {hooks.overhead}")
    last_line(
        {
            "device": repr(model.device),
            "clock": given.clock,
            "pairs": given.pairs,
            "overhead_percent": round(100 * (ratio - 1), 3),
            "figures_over_bare": round(distortion, 4),
            "token_ms": round(1000 * step, 3),
            "hooks_percent": round(100 * (hooks.overhead.value or 0.0), 2),
            "goal": 1.0,
            "within_goal": ratio <= 1.01,
        }
    )


if __name__ == "__main__":
    main()
