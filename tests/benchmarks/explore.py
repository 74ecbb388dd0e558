"""Exploring against one by one: `python tests/benchmarks/explore.py MODEL --text FILE --recipes 40 --minutes 10 [--cluster]`.

1. A sweep of 40 recipes (quantized; pruned, distilled and quantized) with `ek.explore`, and how many it measures an hour.
2. The same recipes one by one: each in a process of its own with nothing kept from the others, as a script would do it. Only a
   sample of every kind of recipe is run (--sample each); the time of all follows from the kinds' means, and the result says so.
   The records of the sample must equal those of the sweep in weights, bytes and quality.
3. Two searches of a larger space for --minutes each, by TPE and by a grid in its order, both sharing alike: the hypervolume of
   their fronts, down to (the base's bytes, nothing retained), as a share of that rectangle.
4. --cluster: the sweep again on two workers of a LocalCluster, one of which is killed in between.

--study FOLDER keeps the searches, so that a second call goes on with them (times are those of the work, not of the waiting).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from reporting import last_line

OBJECTIVES = ("bytes", "retained")


def kinds(layers: int, steps: int, samples: int) -> dict[str, dict[str, Any]]:
    """The kinds of recipes of the sweep: 40 of them for a model of `layers` layers."""
    most, fewer = round(layers * 0.8), round(layers * 0.67)
    student = [{"step": "prune", "layers": [most, fewer]}, {"step": "distill", "steps": steps}]
    gptq = {"step": "quantize", "method": "gptq", "samples": samples}
    return {
        "rounded": {"steps": [{"step": "quantize", "method": ["rtn", "hqq"], "bits": [3, 4, 8], "embedding_bits": [8, 4]}]},
        "gptq": {"steps": [{**gptq, "bits": [3, 4], "embedding_bits": [8, 6, 4]}]},
        "budget": {"steps": [{"step": "quantize", "bytes": [0.15, 0.2, 0.25, 0.3]}]},
        "student": {"steps": student},
        "student, rounded": {"steps": [*student, {"step": "quantize", "bits": [3, 4, 8], "embedding_bits": [8, 4]}]},
        "student, gptq": {"steps": [*student, {**gptq, "bits": 4, "embedding_bits": [8, 4]}]},
    }


def large(samples: int) -> dict[str, Any]:
    """The space of the two searches: 4 methods, 6 widths, 3 group sizes, 4 widths of the embedding, and budgets."""
    open_fields = {"bits": [2, 3, 4, 5, 6, 8], "group_size": [32, 64, "auto"], "embedding_bits": [8, 6, 4, 3]}
    first = {"step": "quantize", "method": ["rtn", "search", "hqq", "gptq"], **open_fields, "samples": samples}
    second = {"step": "quantize", "method": ["rtn", "search"], "bytes": {"from": 0.1, "to": 0.3, "by": 0.01}, "embedding_bits": 8}
    return {"recipes": [{"steps": [first]}, {"steps": [second]}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--recipes", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sample", type=int, default=2, help="recipes of each kind that are made alone")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of distillation")
    parser.add_argument("--samples", type=int, default=16, help="windows of calibration text for gptq")
    parser.add_argument("--speed", action="store_true", help="measure speed too, on both sides")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--study")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        last_line(measured(arguments, Path(arguments.study or folder)))


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import effkit as ek

    base = ek.load(arguments.model)
    layers = int(base.config.num_hidden_layers)
    spaces = kinds(layers, arguments.steps, arguments.samples)
    space = {"recipes": list(spaces.values())}
    how = {"on": Path(arguments.text), "window": arguments.window, "windows": arguments.windows, "store": False, "sampler": "grid"}
    how |= {"trials": arguments.recipes, "speed": arguments.speed}
    begun = time.monotonic()
    sweep = followed(ek.explore.work(base, space, OBJECTIVES, study=folder / "sweep", **how), "sweep")
    of_kind = [list(spaces)[kind_of(trial.draft, ek.Space.of(space))] for trial in sweep.trials]
    result: dict[str, Any] = {
        "model": base.checkpoint.source,
        "device": repr(base.device),
        "cores": os.cpu_count(),
        "recipes": len(sweep.trials),
        "failed": sum(trial.state == "failed" for trial in sweep.trials),
        "front": [trial.label for trial in sweep.front()],
        "minutes": round(sweep.seconds / 60, 2),
        "wall_minutes": round((time.monotonic() - begun) / 60, 2),
        "per_hour": round(len(sweep.trials) / sweep.seconds * 3600, 1),
        "measured": "quality, bytes" + (", speed" if arguments.speed else ""),
    }
    result |= one_by_one(arguments, sweep, of_kind, result["per_hour"])
    result |= searches(arguments, base, how, folder)
    if arguments.cluster:
        result |= on_cluster(base, space, how, folder, sweep)
    return result


def one_by_one(arguments: argparse.Namespace, sweep: Any, of_kind: list[str], per_hour: float) -> dict[str, Any]:
    """The time of all recipes alone, from a sample of every kind, and whether the sample's records are equal."""
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for kind, trial in zip(of_kind, sweep.trials, strict=True):
        if trial.state == "done":
            by_kind[kind].append(trial)
    seconds, equal, sampled = 0.0, 0, 0
    for trials in by_kind.values():
        chosen = [trials[round(i * (len(trials) - 1) / max(1, arguments.sample - 1))] for i in range(min(arguments.sample, len(trials)))]
        took = []
        for trial in chosen:
            found = child(arguments, trial.recipe)
            took.append(found["seconds"])
            sampled += 1
            equal += found["result"] == summary(trial.record)
            print(f"alone: {trial.label}: {found['seconds']:.0f} s (in the sweep {trial.seconds:.0f} s)", file=sys.stderr, flush=True)
        seconds += len(trials) * statistics.fmean(took)
    alone_per_hour = sum(map(len, by_kind.values())) / seconds * 3600
    return {
        "alone_sampled": sampled,
        "alone_equal": equal,
        "alone_minutes_of_all": round(seconds / 60, 1),
        "alone_per_hour": round(alone_per_hour, 1),
        "times_as_many": round(per_hour / alone_per_hour, 2),
    }


def child(arguments: argparse.Namespace, recipe: Any) -> dict[str, Any]:
    """One recipe in a process of its own with an empty home: nothing that was computed before is there."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home, "recipe.json")
        place.write_text(recipe.to_json(), encoding="utf-8")
        command = [sys.executable, __file__, arguments.model, "--text", arguments.text, "--alone", str(place)]
        command += ["--window", str(arguments.window), "--windows", str(arguments.windows), *(["--speed"] if arguments.speed else [])]
        begun = time.monotonic()
        done = subprocess.run(command, env={**os.environ, "EFFKIT_HOME": home}, stdout=subprocess.PIPE, text=True, check=True)
        return {"seconds": time.monotonic() - begun, "result": json.loads(done.stdout.splitlines()[-1])}


def alone(arguments: argparse.Namespace) -> None:
    import effkit as ek
    from effkit.compress.pipeline import compress
    from effkit.lab.records.measuring import recorded

    base = ek.load(arguments.model)
    model = compress(base, ek.Recipe.from_file(arguments.alone))
    quality = ek.evaluate(model, base, Path(arguments.text), window=arguments.window, windows=arguments.windows)
    last_line(summary(recorded(model, base, quality, ek.profile(model, base) if arguments.speed else None)))


def summary(record: Any) -> dict[str, Any]:
    """What must be equal."""
    kl = record.quality.kl.mean
    return {
        "weights": record.fingerprint.weights,
        "bytes": record.cost.bytes,
        "kl": kl.value,
        "perplexity": record.quality.perplexity.value,
    }


def searches(arguments: argparse.Namespace, base: Any, how: dict[str, Any], folder: Path) -> dict[str, Any]:
    import effkit as ek

    found: dict[str, Any] = {}
    for sampler in ("tpe", "grid"):
        given = {**how, "sampler": sampler, "trials": None}
        work = ek.explore.work(base, large(arguments.samples), OBJECTIVES, arguments.minutes, study=folder / sampler, **given)
        one = followed(work, sampler)
        volume = one.hypervolume({"bytes": base.stored_bytes, "retained": 0.0}) / base.stored_bytes
        found |= {f"{sampler}_trials": len(one.trials), f"{sampler}_minutes": round(one.seconds / 60, 2)}
        found[f"{sampler}_hypervolume"] = round(volume, 4)
    return found


def on_cluster(base: Any, space: Any, how: dict[str, Any], folder: Path, sweep: Any) -> dict[str, Any]:
    """The sweep on two workers, of which one is killed after a quarter of the trials."""
    import psutil

    import effkit as ek

    killed: list[int] = []

    def kill(event: Any) -> None:
        if not killed and event.done >= max(1, len(sweep.trials) // 4) and event.details.get("running"):
            workers = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
            os.kill(workers[-1].pid, signal.SIGKILL)
            killed.append(workers[-1].pid)

    found = followed(ek.explore.work(base, space, OBJECTIVES, study=folder / "cluster", cluster=2, **how), "cluster", kill)
    ours, theirs = ({t.label: t.values for t in e.trials} for e in (sweep, found))
    apart = [abs(a - b) for label in ours if label in theirs for a, b in zip(ours[label][1:], theirs[label][1:], strict=True)]
    return {
        "cluster_killed": len(killed),
        "cluster_trials": len(found.trials),
        "cluster_all_present": ours.keys() == theirs.keys() and all(t.state == "done" for t in found.trials),
        "cluster_same_front": [t.label for t in found.front()] == [t.label for t in sweep.front()],
        "cluster_same_weights": sum(
            bool(a.record and b.record and a.record.fingerprint.weights == b.record.fingerprint.weights)
            for a, b in zip(sweep.trials, found.trials, strict=False)
        ),
        "cluster_largest_difference_retained": max(apart, default=None),
        "cluster_minutes": round(found.seconds / 60, 2),
    }


def kind_of(draft: dict[str, Any], space: Any) -> int:
    """Which kind of recipe of the space a draft is: the one whose fixed fields and choices it has."""

    def fits(step: dict[str, Any], template: dict[str, Any]) -> bool:
        if step.keys() != template.keys():
            return False
        return all(value in template[name] if isinstance(template[name], list) else value == template[name] for name, value in step.items())

    for number, template in enumerate(space.recipes):
        if len(template.steps) == len(draft["steps"]) and all(map(fits, draft["steps"], template.steps)):
            return number
    raise SystemExit(f"no kind of recipe fits {draft}")


def followed(work: Any, name: str, seen: Any = None) -> Any:
    """Run to the end, telling of every trial on stderr."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        if "trial" in event.details:
            print(f"{name}: {event.done} of {event.total}: {event.message}", file=sys.stderr, flush=True)
        if seen is not None:
            seen(event)


if __name__ == "__main__":
    main()
