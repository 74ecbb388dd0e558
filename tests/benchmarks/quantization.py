"""The best model that a budget of bits allows: format and widths chosen, GPTQ, then tuning; against round-to-nearest and NF4.

    python tests/benchmarks/quantization.py MODEL --calibration FILE --test FILE [--bits-per-weight X | --bytes N]

MODEL: a name, a folder or a GGUF, as for `effkit.load`. FILE: any text in UTF-8; calibration and test must not overlap.
--bits-per-weight counts the linear layers of the blocks, scales and zero points included; embedding and head have 8 bits.
--bytes counts the weights' file of the whole saved model; embedding and head are part of the choice.
Quality is that of the first 40 windows of 512 tokens of the test text.

The last line is one JSON object: bits_per_weight (of the linear layers; of the whole model with --bytes), bytes (of the
weights' file), kl (to the base, nats a token, with kl_interval), perplexity, base_perplexity, kl_rtn (round to nearest, the
widest uniform bits that fit the budget), kl_nf4 (4.5 bits), seconds (choosing, rounding and tuning; not measuring) and
peak_memory_ratio (most memory while quantizing, over the base's bytes; the base itself is 1).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import last_line  # first: it sets what torch reads when it starts

import effkit as ek  # isort: skip
from effkit.compress.planning import plan
from effkit.hardware.attached.memory import PeakMemory
from effkit.models.files.saving import WEIGHTS
from effkit.models.model import Model
from effkit.models.texts.datasets import Text, read_text
from effkit.spec.allocation import Allocation, Sensitivity
from effkit.spec.errors import EffkitError

ENTRY = 400  # bytes of a quantized module's names in the file's header
SECONDS = 900.0  # aimed at for tuning, of two processor cores
RATE = 1e11  # operations a second that they do
STEPS = (60, 120)


def text_of(path: str) -> Text:
    file = Path(path)
    if not file.is_file():
        raise SystemExit(f"There is no file {path!r}. Give a text file in UTF-8.")
    return read_text([file.read_text(encoding="utf-8")])


def beginning(text: Text, base: Model, count: int) -> Text:
    """The first `count` tokens of the text, or all of it where the tokenizer cannot say where a token ends."""
    if not base.tokenizer.is_fast:
        return text
    ends = base.tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    for _, end in ends[count - 1 :]:
        first = text.text[:end]
        if len(base.tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"]) >= count:
            return read_text([first])  # a word cut in two may have fewer tokens than the whole one began with
    return text


def tuning_steps(base: Model, window: int) -> int:
    """As many as fit into SECONDS for a model of this size, at least and at most STEPS."""
    weights = sum(p.numel() for p in base.module.parameters())
    return int(min(max(SECONDS * RATE / (6.0 * weights * 4 * window), STEPS[0]), STEPS[1]))


def file_bytes(model: Model) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return (model.save(Path(folder) / "model") / WEIGHTS).stat().st_size


def linear_bits(model: Model, names: set[str]) -> float:
    """Bits a weight of the named modules, everything stored for them counted."""
    stored = sum(e.bytes for e in model.ledger().entries if e.module in names)
    weights = sum(model.module.get_submodule(name).weight_count for name in names)  # type: ignore[operator]
    return 8 * stored / weights


def memory_ratio(peak: PeakMemory, base: int) -> float:
    """Most memory over the base's bytes, the base itself counted: of the device's allocator, or of the process on a CPU."""
    if peak.allocated is not None:
        return peak.allocated / base
    return (base + (peak.resident or 0) - (peak.resident_before or 0)) / base


def uniform(base: Model, budget: int, whole: bool) -> int | None:
    """The widest bits of round-to-nearest with zero points, in groups as rtn chooses them, that fit the budget."""
    fits = [bits for bits in range(2, 9) if _planned(base, bits, bits if whole else 8) <= budget]
    return max(fits, default=None)


def _planned(base: Model, bits: int, tables: int) -> int:
    return plan(base, ek.Quantize(method="rtn", bits=bits, embedding_bits=tables)).bytes_after


def best(base: Model, text: Text, args: argparse.Namespace, window: int) -> tuple[Model, Sensitivity, Allocation]:
    named = len(plan(base, ek.Quantize(method="rtn")).acting())
    budget = None if args.bytes is None else args.bytes - ENTRY * named
    sensitivity, allocation = ek.best_format(base, text, bytes=budget, bits_per_weight=args.bits_per_weight, window=window)
    steps = args.steps if args.steps is not None else tuning_steps(base, window)
    model = ek.quantize(
        base,
        args.method,
        group_size=sensitivity.group_size,
        symmetric=sensitivity.symmetric,
        module_bits=allocation.bits,
        calibration=text,
        window=window,
        samples=args.samples,
        tune=args.tune if steps else None,
        tune_steps=max(1, steps),
        seed=args.seed,
    )
    return model, sensitivity, allocation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--test", required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--bits-per-weight", type=float)
    size.add_argument("--bytes", type=int)
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--tune", default="weights", choices=("scales", "weights"))
    parser.add_argument("--steps", type=int, help="of tuning; 0: none; default: by the model's size")
    parser.add_argument("--samples", type=int, default=64, help="windows that the method reads; tuning reads all of the text")
    parser.add_argument("--window", type=int, default=256, help="tokens of a calibration window")
    parser.add_argument("--test-window", type=int, default=512, help="tokens of a test window, or what the model reads at most")
    parser.add_argument("--windows", type=int, default=40, help="how many, from the beginning of the test text")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.bytes is None and args.bits_per_weight is None:
        args.bits_per_weight = 4.63
    calibration, test = text_of(args.calibration), text_of(args.test)
    base = ek.load(args.model, device=args.device)
    window = min(args.window, base.window)

    begun = time.perf_counter()
    with PeakMemory(base.device) as peak:
        model, sensitivity, allocation = best(base, calibration, args, window)
    seconds = time.perf_counter() - begun
    print(f"groups of {sensitivity.group_size}, {'symmetric' if sensitivity.symmetric else 'with zero points'}")
    counts: dict[int, int] = {}
    for bits in allocation.bits.values():
        counts[bits] = counts.get(bits, 0) + 1
    print("bits:", ", ".join(f"{n} modules of {b}" for b, n in sorted(counts.items())), "\n".join(model.plans[-1].notes))

    length = min(args.test_window, base.window)
    test = beginning(test, base, args.windows * length)

    def quality(one: Model) -> Any:
        return ek.evaluate(one, base, on=test, window=length, windows=args.windows, floor=False)

    kept = quality(model)
    whole = args.bytes is not None
    bits = uniform(base, args.bytes or model.stored_bytes, whole)  # tables have 8 bits unless they are chosen too
    rtn = None if bits is None else quality(ek.quantize(base, "rtn", bits, embedding_bits=bits if whole else 8))
    nf4 = quality(ek.quantize(base, "nf4", embedding_bits=8))
    named = set(allocation.bits) & {name for name, m in model.module.named_modules() if hasattr(m, "weight_count")}
    last_line(
        {
            "bits_per_weight": round(model.ledger().bits_per_weight if whole else linear_bits(model, named), 4),
            "bytes": file_bytes(model),
            "kl": round(kept.kl.mean.value, 5),
            "kl_interval": [round(kept.kl.mean.low, 5), round(kept.kl.mean.high, 5)],
            "perplexity": round(kept.perplexity.value, 3),
            "base_perplexity": round(kept.base_perplexity.value, 3),
            "perplexity_rise": round(kept.perplexity.value / kept.base_perplexity.value - 1, 4),
            "kl_nf4": round(nf4.kl.mean.value, 5),
            "kl_rtn": None if rtn is None else round(rtn.kl.mean.value, 5),
            "rtn_bits": bits,
            "kl_predicted": round(allocation.kl, 5),
            "seconds": round(seconds, 1),
            "peak_memory_ratio": round(memory_ratio(peak, base.stored_bytes), 2),
            "method": model.recipe.label(),
            "group_size": sensitivity.group_size,
            "model": args.model,
        }
    )


if __name__ == "__main__":
    try:
        main()
    except EffkitError as error:
        raise SystemExit(str(error)) from None
