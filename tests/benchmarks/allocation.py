"""Can the budget slider be trusted, and does it follow the hand? Predicted against measured KL of random plans; time to re-solve.

    python tests/benchmarks/allocation.py [--model NAME] [--plans 20] [--calibration FILE] [--test FILE]

Every plan draws its own mixture of widths, then a width for each module from it. The models are rounded with searched
scales (no tuning), and measured on text that the sensitivities never read. Re-solving is timed over 50 budgets.
The last line is one JSON object. Goals: rank correlation (Spearman) at least 0.9, a re-solve under 50 ms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from reporting import last_line  # first: it sets what torch reads when it starts

import numpy as np  # isort: skip
from scipy.stats import spearmanr  # isort: skip

import effkit as ek  # isort: skip


def text_of(path: str | None) -> Any:
    return None if path is None else [Path(path).read_text(encoding="utf-8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--calibration", help="default: a part of the offline text")
    parser.add_argument("--test", help="default: another part of it")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--method", default="search")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    base = ek.load(args.model, device="cpu")
    calibration = text_of(args.calibration)
    sensitivity = ek.sensitivity(base, calibration)

    budgets = np.linspace(sensitivity.smallest, sensitivity.largest, 50).astype(int).tolist()
    times = []
    for budget in budgets:
        begun = time.perf_counter()
        sensitivity.allocate(budget)
        times.append(1000 * (time.perf_counter() - begun))

    draw = np.random.default_rng(args.seed)
    widths = [2, 3, 4, 5, 6, 8]
    predicted, measured = [], []
    for number in range(args.plans):
        mixture = draw.dirichlet(np.full(len(widths), 0.7))
        bits = {m.module: int(draw.choice(widths, p=mixture)) for m in sensitivity.modules}
        expected = sensitivity.at(bits)
        model = ek.quantize(base, args.method, module_bits=bits, calibration=calibration, samples=8)
        quality = ek.evaluate(model, base, on=text_of(args.test), windows=args.windows, floor=False)
        assert quality.kl is not None
        assert model.stored_bytes == expected.bytes, (model.stored_bytes, expected.bytes)
        predicted.append(expected.kl)
        measured.append(quality.kl.mean.value)
        print(f"plan {number + 1}: {expected.bytes:,} bytes, KL predicted {expected.kl:.3f}, measured {measured[-1]:.3f}", flush=True)
    rank: Any = spearmanr(predicted, measured)
    ratios = [m / p for m, p in zip(measured, predicted, strict=True)]
    last_line(
        {
            "rank_correlation": round(float(rank.statistic), 4),
            "plans": args.plans,
            "resolve_ms_median": round(statistics.median(times), 3),
            "resolve_ms_worst": round(max(times), 3),
            "modules": len(sensitivity.modules),
            "measured_over_predicted_median": round(statistics.median(ratios), 3),
            "kl_measured_range": [round(min(measured), 4), round(max(measured), 4)],
            "model": args.model,
        }
    )


if __name__ == "__main__":
    main()
