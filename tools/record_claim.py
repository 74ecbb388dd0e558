"""Record the claim on a labelled set: `python tools/record_claim.py healthcare|maintenance [--labels 8 32 128] [--seeds 3]`.

Each run (so many labels a class, one seed) is kept as it ends in data/measured/claim-NAME.json, from which the notebooks 06 and
07 read it; a run of the same labels and seed replaces the one kept. At the end the lines of tests/benchmarks/claim.py are printed
for all that is kept, one for each number of labels (--seeds 0 runs nothing and only prints them).

Take --busy where other work ran on the machine: waiting times then are longer than they need be, and only their ratios, measured
interleaved, say something.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("EFFKIT_PROGRESS", "0")

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "data" / "measured"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", choices=("healthcare", "maintenance"))
    parser.add_argument("--labels", type=int, nargs="+", default=[8, 32, 128], help="labels a class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="other work runs on this machine")
    given = parser.parse_args()

    from effkit.lab.claim import claim

    for seed in range(given.seeds):
        for per_class in given.labels:
            result = claim(given.dataset, per_class, seed)
            print(result, flush=True)
            keep(
                MEASURED / f"claim-{given.dataset}.json",
                {
                    "command": f"python tools/record_claim.py {given.dataset} --labels {per_class} --seeds {seed + 1}",
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                    "busy": given.busy,
                    "claim": result.model_dump(mode="json"),
                },
            )
    told(MEASURED / f"claim-{given.dataset}.json")
    return 0


def told(path: Path) -> None:
    """What tests/benchmarks/claim.py would say last of the runs kept."""
    from effkit.spec.claim import Claim

    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    from claim import summary  # type: ignore[import-not-found]

    kept = [Claim.model_validate(run["claim"]) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    for count in sorted({one.labels_per_class for one in kept}):  # type: ignore[type-var]
        runs = [one for one in kept if one.labels_per_class == count]
        print(json.dumps(summary(runs) | {"seconds": round(sum(one.seconds for one in runs), 1)}), flush=True)


def keep(path: Path, run: dict[str, Any]) -> None:
    """Put one run into the file, in the order of labels and seeds."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    key = _key(run)
    runs = sorted([*(one for one in runs if _key(one) != key), run], key=_key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def _key(run: dict[str, Any]) -> tuple[int, int]:
    return run["claim"]["labels_per_class"], run["claim"]["seed"]


if __name__ == "__main__":
    sys.exit(main())
