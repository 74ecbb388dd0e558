"""Is a run a tree? Pause, change the temperature, resume, branch, undo: each way against the same training without interruption.

    python tests/benchmarks/tree.py [--model NAME_OR_PATH] [--steps N]

A run is paused in the middle. From there one branch goes on without a change, and must end bit for bit as a run that was never
paused (so must the run itself, when it goes on). Another branch gets another temperature, and must differ. Then the run makes a
mistake (a high learning rate), pauses again and is undone; its end, too, must be that of the uninterrupted run. The tree that the
record shows is printed; the last line is one JSON object. CPU, the same number of threads throughout: bits are only promised there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import last_line, shared

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(200))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="name or folder of the teacher (default: shared/models/stories15m)")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.steps < 8:
        parser.error(f"--steps is {arguments.steps}; allowed: at least 8")

    import torch

    import effkit as ek

    begun = time.perf_counter()
    teacher = ek.load(arguments.model or str(shared("models/stories15m", "--model FOLDER")), device="cpu")
    student = ek.prune(teacher, layers=2)
    way: dict[str, Any] = {"text": TEXT, "steps": arguments.steps, "window": 32, "batch": 2, "learning_rate": 1e-3, "temperature": 2.0}
    half, later = arguments.steps // 2, arguments.steps // 2 + 2

    def same(one: Any, other: Any) -> bool:
        theirs = other.module.state_dict()
        return all(torch.equal(tensor, theirs[name]) for name, tensor in one.module.state_dict().items())

    plain = ek.distill(teacher, student, **way)
    with tempfile.TemporaryDirectory(prefix="effkit-tree-") as home:
        run = ek.start(ek.distill, teacher, student, **way, folder=Path(home) / "run")
        run.pause(at=half)
        asyncio.run(run.paused())
        twin, hot = run.branch(), run.branch(temperature=4.0)
        run.change(learning_rate=0.1)
        run.pause(at=later)
        run.resume()
        asyncio.run(run.paused())
        run.undo(half)
        ends = {"undone": run.wait(), "branch without a change": twin.wait(), "branch at temperature 4": hot.wait()}
        equal = {name: same(model, plain) for name, model in ends.items()}
        again = ek.start(ek.distill, teacher, student, **way, folder=Path(home) / "resumed")
        again.pause(at=half)
        asyncio.run(again.paused())
        again.resume()
        resumed = same(again.wait(), plain)
        tree = run.tree
        print(tree)
        told = {
            "branches": len(tree["children"]),
            "changes": [child["change"] for child in tree["children"]],
            "undone": list(tree["undone"]),
        }
    result = {
        "resumed_equals_uninterrupted": resumed, "undone_equals_uninterrupted": equal["undone"],
        "branch_without_a_change_equals_uninterrupted": equal["branch without a change"],
        "branch_at_another_temperature_differs": not equal["branch at temperature 4"], **told,
        "steps": arguments.steps, "paused_at": half, "threads": torch.get_num_threads(), "model": teacher.checkpoint.source,
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    result["within_goals"] = all(value for name, value in result.items() if name.endswith(("uninterrupted", "differs"))) and bool(
        told["branches"] == 2 and told["undone"]
    )
    last_line(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
