"""What the benchmarks share: seeds put together, material that may lie beside the checkout, and one JSON object as the last line."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# set before torch or a tokenizer starts its threads: idle threads that spin take time from those that work
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("EFFKIT_PROGRESS", "0")

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared(name: str, instead: str) -> Path:
    """A file or folder under `shared/` beside the checkout; where there is none, say which option takes another one."""
    found = SHARED / name
    if not found.exists():
        raise SystemExit(f"shared/{name} is not beside this checkout. Give your own: {instead}")
    return found


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds (n - 1); 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def summed_up(found: Mapping[str, Sequence[float]], digits: int = 4) -> dict[str, object]:
    """For each figure its mean over the seeds, and under `..._spread` the standard deviation."""
    result: dict[str, object] = {}
    for name, values in found.items():
        result[name] = round(statistics.fmean(values), digits)
        result[f"{name}_spread"] = round(spread(values), digits)
    return result


def against(teacher: Any, window: int, batch: int = 4) -> Callable[[Any, Any, int], tuple[float, float]]:
    """A function of (model, text, windows): KL to the teacher in nats a token, and perplexity."""

    def measured(model: Any, text: Any, windows: int) -> tuple[float, float]:
        import effkit as ek

        quality = ek.evaluate(model, teacher, text, window=window, windows=windows, batch=batch, floor=False)
        assert quality.kl is not None
        kl, perplexity = quality.kl.mean.value, quality.perplexity.value
        assert kl is not None
        assert perplexity is not None
        return kl, perplexity

    return measured


def last_line(result: Mapping[str, object]) -> None:
    print(json.dumps(result), flush=True)
