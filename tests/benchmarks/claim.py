"""The claim on one labelled set: does a specialist keep 90% of its teacher's quality at 10% of its cost per query?

    python tests/benchmarks/claim.py --data FILE.csv --text COLUMN --label COLUMN [--labels-per-class 32] [--seeds 3]
    python tests/benchmarks/claim.py --dataset healthcare|maintenance [--labels-per-class 8|32|128|all]

Each seed draws other labels and trains anew: teacher, student, linear and distilled linear model; all are measured on the same
test texts, each in its best form. The last line is one JSON object: means over the seeds, KEY_spread (the largest less the
smallest), and of the macro-F1s and of retained KEY_interval (the mean over seeds of both ends of the 95% interval).
latency_ratio is p50 at batch 1 of the models alone, latency_ratio_whole with tokenization; cost_ratio is that of the seconds a
query takes at full load, which on one device is the ratio of prices. Goals: retained at least 0.95, the three ratios at most 0.10.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("EFFKIT_PROGRESS", "0")

print = functools.partial(print, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="a .csv, .tsv, .jsonl or .json file")
    parser.add_argument("--text", help="its column with the text")
    parser.add_argument("--label", help="its column with the class")
    parser.add_argument("--group", help="a column whose rows must stay in one part")
    parser.add_argument("--dataset", help="healthcare or maintenance, instead of a file")
    parser.add_argument("--labels-per-class", default="32", help="a number, or all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", default="minilm-l6")
    parser.add_argument("--window", type=int, default=128)
    given = parser.parse_args()
    if (given.data is None) == (given.dataset is None):
        parser.error("give either --data with --text and --label, or --dataset")

    from effkit.lab.claim import claim
    from effkit.spec.errors import EffkitError

    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; allowed: at least 1")
    if given.labels_per_class != "all" and not given.labels_per_class.isdecimal():
        parser.error(f"--labels-per-class is {given.labels_per_class!r}; allowed: a number, or all")
    per_class = None if given.labels_per_class == "all" else int(given.labels_per_class)
    begun, results = time.perf_counter(), []
    try:
        for seed in range(given.seeds):
            columns = {"text": given.text, "label": given.label, "group": given.group} if given.data else {}
            result = claim(given.data or given.dataset, per_class, seed, given.teacher, window=given.window, **columns)
            results.append(result)
            print(f"seed {seed}, {result.seconds:.0f} s\n{result}")
            for note in result.notes:
                print(f"  {note}")
    except EffkitError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(summary(results) | {"seconds": round(time.perf_counter() - begun, 1)}))
    return 0


def summary(results: list) -> dict:
    """Means over the seeds, their spread and intervals."""
    out: dict = {"data": results[0].data, "labels_per_class": results[0].labels_per_class, "seeds": len(results)}
    columns: dict[str, list] = {}
    for result in results:
        for name, one in result.contenders.items():
            key = name.replace(" ", "_")
            columns.setdefault(f"{key}_f1", []).append(one.macro_f1)
            for what in ("latency", "latency_whole", "rate", "training_seconds"):
                if getattr(one, what) is not None:
                    columns.setdefault(f"{key}_{what}", []).append(getattr(one, what))
            if one.bytes:
                columns.setdefault(f"{key}_bytes", []).append(one.bytes)
        for key in ("retained", "above_chance", "latency_ratio", "latency_ratio_whole", "bytes_ratio", "cost_ratio"):
            columns.setdefault(key, []).append(getattr(result, key))
        columns.setdefault("seconds_per_seed", []).append(result.seconds)
    for key, values in columns.items():
        plain = [value.value if hasattr(value, "value") else value for value in values]
        if any(value is None for value in plain):
            out[key] = None
            continue
        out[key] = mean(plain)
        out[f"{key}_spread"] = max(plain) - min(plain)
        if all(hasattr(value, "low") and value.low is not None for value in values):
            out[f"{key}_interval"] = [round(mean([v.low for v in values]), 4), round(mean([v.high for v in values]), 4)]
    first = results[0]
    out |= {name: getattr(first, name) for name in ("classes", "labelled", "pool", "test", "device")}
    out["holds"] = [result.holds for result in results]
    out["cheapest"] = [result.cheapest for result in results]
    out["forms"] = {name: one.form for name, one in first.contenders.items() if one.form}
    out["verdict"] = first.verdict()
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in out.items()}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    raise SystemExit(main())
