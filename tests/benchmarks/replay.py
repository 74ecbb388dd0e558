"""Ten records made, stored, and run again in a process of its own each; then one each with a changed seed, version and text.

    python tests/benchmarks/replay.py [--model FOLDER_OR_NAME] [--windows 8] [--repeats 5] [--no-speed]

The records are of ten recipes: the base, rounding in several widths, methods that read calibration text, a pruned and
distilled student. Each is written to a file and replayed by `effkit replay`, so that nothing of the first process is left.
The last line is one JSON object. Goal: all ten same or within tolerance, each of the three changes named.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import last_line

print = functools.partial(print, flush=True)


def recipes() -> list[Any]:
    import effkit as ek

    calibrated = {"samples": 8, "window": 128}
    steps: list[tuple[Any, ...]] = [
        (),
        (ek.Quantize(bits=8),),
        (ek.Quantize(bits=4),),
        (ek.Quantize(bits=3, group_size=32),),
        (ek.Quantize(bits=4, symmetric=True, embedding_bits=None),),
        (ek.Quantize(method="hqq"),),
        (ek.Quantize(method="gptq", **calibrated),),
        (ek.Quantize(method="awq", **calibrated),),
        (ek.Quantize(rotate=True),),
        (ek.Prune(layers=4), ek.Distill(steps=8, window=64, batch=2), ek.Quantize()),
    ]
    return [ek.Recipe(steps=each, seed=1) for each in steps]


def replayed(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """What `effkit replay` says in a process of its own: its exit code and its last line."""
    done = subprocess.run([sys.executable, "-m", "effkit.cli", "replay", str(path), *more], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def named(last: dict[str, Any], kind: str) -> bool:
    """Whether a change of this kind was told, and is the only cause of any figure that differs."""
    causes = {cause for figure in last["figures"].values() for cause in figure["causes"]}
    return {change["kind"] for change in last["changes"]} == {kind} and causes <= {kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-speed", action="store_true", help="replay quality and bytes only")
    arguments = parser.parse_args()
    begun = time.monotonic()
    import effkit as ek
    from effkit.compress.pipeline import compress
    from effkit.models.texts.datasets import default_text

    more = ["--no-speed"] if arguments.no_speed else []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "text.txt").write_text(default_text().text, encoding="utf-8")
        base = ek.load(arguments.model)
        verdicts: collections.Counter[str] = collections.Counter()
        speeds: collections.Counter[str] = collections.Counter()
        same_weights = 0
        record = None
        for i, recipe in enumerate(recipes()):
            model = compress(base, recipe) if recipe.steps else base
            given = {"windows": arguments.windows, "repeats": arguments.repeats, "new_tokens": 16, "store": False}
            record = ek.measure(model, base, folder / "text.txt", **given)
            path = ek.write_records(record, folder / f"{i}.json", folders=True)
            _, last = replayed(path, *more)
            own = {name: figure["verdict"] for name, figure in last["figures"].items()}
            timed = {name for name in own if name in ("first_token_ms", "output_token_ms", "decode", "prefill")}
            verdicts.update(verdict for name, verdict in own.items() if name not in timed)
            speeds.update(own[name] for name in timed)
            same_weights += bool(last["same_weights"])
            print(f"{record.name}: {own}")
        assert record is not None
        seeded = record.model_copy(update={"recipe": record.recipe.model_copy(update={"seed": 2}), "seed": 2})
        packages = {**record.environment["packages"], "torch": "1.0.0"}
        older = record.model_copy(update={"environment": {**record.environment, "packages": packages}})
        changed = {
            "seed": named(replayed(ek.write_records(seeded, folder / "seed.json", folders=True), "--no-speed")[1], "seed"),
            "version": named(replayed(ek.write_records(older, folder / "version.json", folders=True), "--no-speed")[1], "version"),
        }
        (folder / "text.txt").write_text(default_text().text.replace("the", "a"), encoding="utf-8")
        changed["data"] = named(replayed(ek.write_records(record, folder / "data.json", folders=True), "--no-speed")[1], "data")
    last_line(
        {
            "model": arguments.model,
            "records": len(recipes()),
            "same_weights": same_weights,
            "quality_and_bytes": dict(verdicts),
            "speed": dict(speeds),
            "named": changed,
            "minutes": round((time.monotonic() - begun) / 60, 1),
        }
    )


if __name__ == "__main__":
    main()
