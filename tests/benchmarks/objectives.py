"""Which objective? A student distilled in each way that effkit has: same start, same windows, same steps, several seeds.

    python tests/benchmarks/objectives.py [--model NAME_OR_PATH] [--text FILE] [--steps N] [--seeds N] [--only NAME,...] [--quick]

The teacher is stories15m, the student 2 of its 6 layers, the text TinyStories (both in shared/ beside the checkout, or
yours). Each row changes one thing against "forward KL". The training text is so long that it is read twice, which is what
a cache of the teacher's words is for. The learning rate is the same for all (--rate), so a row says what an objective does
at that rate, not what it can do at its best. Seeds differ in the order of the windows and in what is written anew.

KL to the teacher (nats a token) and perplexity are of the last tenth of the text, which no student saw; stories15m itself
was trained on it, so its own perplexity there is not one of unseen text. Rows in 4 bits are measured in 4 bits, against the
full-precision teacher. Seconds a step are the median over steps, without the held-out measurements.
"Several teachers" are the teacher and its copy in 4 bits (round-to-nearest): the only second opinion at hand is a worse one.

A table, then one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from typing import Any

from reporting import against, last_line, shared, spread

print = functools.partial(print, flush=True)

WINDOW, BATCH = 64, 4
BITS: dict[str, Any] = {"method": "rtn", "bits": 4, "group_size": 32}
WAYS: dict[str, dict[str, Any]] = {
    "forward KL": {},
    "reverse KL": {"objective": "reverse-kl"},
    "Jensen-Shannon": {"objective": "jensen-shannon"},
    "skew KL": {"objective": "skew-kl"},
    "hard labels, no teacher": {"objective": "hard-labels"},
    "temperature 2": {"temperature": 2.0},
    "+ hard labels 0.5": {"hard": 0.5},
    "+ hidden states 1": {"hidden": 1.0},
    "+ attention 1": {"attention": 1.0},
    "top 50, cached": {"top_k": 50},
    "teacher-written text": {"source": "teacher"},
    "on-policy text": {"source": "student"},
    "several teachers": {"teachers": 2},
    "forward KL, then 4 bits": {"after": BITS},
    "quantization-aware, 4 bits": {"quantize": BITS, "after": BITS},
}


def trained(work: Any) -> tuple[Any, float]:
    """The student, and the median seconds of a step that measured nothing held out."""
    times: dict[bool, list[float]] = {False: [], True: []}
    start = time.perf_counter()
    try:
        while True:
            event = next(work)
            now = time.perf_counter()
            if event.done:
                times["held_out" in event.metrics].append(now - start)
            start = now
    except StopIteration as end:
        return end.value, statistics.median(times[False] or times[True])  # runs of under 20 steps measure after each


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name or folder of the teacher (default: shared/models/stories15m)")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--text", help="a text file (default: TinyStories in shared/eval)")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="names of rows, separated by ;")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's)")
    parser.add_argument("--quick", action="store_true", help="20 steps, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.seeds = 20, 1
    ways = WAYS if not arguments.only else {name: WAYS[name] for name in arguments.only.split(";")}

    import torch

    import effkit as ek
    from effkit.models.texts.datasets import read_text

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    begun = time.perf_counter()
    teacher = ek.load(arguments.model or str(shared("models/stories15m", "--model FOLDER")), device="cpu")
    student = ek.prune(teacher, layers=arguments.layers)
    whole = read_text(arguments.text or shared("eval/tinystories-sample/tinystories_sample.txt", "--text FILE")).text
    cut = whole.find("\n", int(len(whole) * 0.9))
    # four windows are held out by distill itself, the others are read twice
    needed = arguments.steps * BATCH // 2 + 4
    ids = teacher.tokens(whole[: min(cut, needed * WINDOW * 12)])[: needed * WINDOW]
    train, test = teacher.text(ids), whole[cut:]

    measured = against(teacher, WINDOW, batch=8)
    rows: dict[str, list[list[float]]] = {"pruned, not trained": [[*measured(student, test, 32), 0.0]]}
    rough = ek.quantize(teacher, **BITS) if any("teachers" in way for way in ways.values()) else None
    for seed in range(arguments.seeds):  # all rows of a seed before the next: whoever stops early has a whole table
        for name, way in ways.items():
            options = {"hard": 0.0} | {k: v for k, v in way.items() if k not in ("after", "teachers")}
            if "quantize" in options:
                options["quantize"] = ek.Quantize(**BITS)
            who = [teacher, rough] if "teachers" in way else teacher
            work = ek.distill.work(
                who, student, train, arguments.steps, learning_rate=arguments.rate, window=WINDOW, batch=BATCH, seed=seed, **options
            )  # type: ignore[arg-type]
            model, pace = trained(work)
            if "after" in way:
                model = ek.quantize(model, **way["after"])
            rows.setdefault(name, []).append([*measured(model, test, 32), pace])
            kl, perplexity, _ = rows[name][-1]
            print(f"  seed {seed}, {name}: KL {kl:.3f}, perplexity {perplexity:.2f}, {pace * 1000:.0f} ms a step")

    width = max(map(len, rows))
    print(f"\n{'objective':{width}}  {'KL to the teacher':>18}  {'perplexity':>18}  {'ms/step':>8}")
    result: dict[str, Any] = {"kl": {}, "kl_spread": {}, "perplexity": {}, "perplexity_spread": {}, "seconds_per_step": {}}
    for name, values in rows.items():
        kls, perplexities, paces = zip(*values, strict=True)
        kl, perplexity, pace = statistics.fmean(kls), statistics.fmean(perplexities), statistics.median(paces)
        print(f"{name:{width}}  {kl:9.3f} ± {spread(kls):6.3f}  {perplexity:9.4g} ± {spread(perplexities):6.2f}  {pace * 1000:8.0f}")
        result["kl"][name], result["kl_spread"][name] = round(kl, 4), round(spread(kls), 4)
        result["perplexity"][name], result["perplexity_spread"][name] = round(perplexity, 3), round(spread(perplexities), 3)
        result["seconds_per_step"][name] = round(pace, 4)
    result |= {
        "steps": arguments.steps, "window": WINDOW, "batch": BATCH, "rate": arguments.rate, "seeds": arguments.seeds,
        "layers": student.config.num_hidden_layers, "of_layers": teacher.config.num_hidden_layers,
        "threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    last_line(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
