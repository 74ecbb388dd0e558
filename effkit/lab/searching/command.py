"""effkit explore SPACE.json --out FOLDER: a search without a notebook, and the same command again goes on with it.

FOLDER is the folder of the search (`effkit.lab.searching.search`); exploration.json in it holds all trials when the command ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from effkit.spec.exploration import Exploration
from effkit.spec.files import write_text
from effkit.spec.frontier import FIGURES

from ..options import add_base, add_windows
from ..records.exchange import RESULT
from ..runs.foreground import driven, stoppable


def add_explore(commands: Any) -> None:
    """The parser of `effkit explore`."""
    parser = commands.add_parser("explore", help="search a space of recipes for the best trade-offs; goes on where it was stopped")
    parser.add_argument("space", help='a JSON file: {"steps": [{"step": "quantize", "method": ["rtn", "gptq"], "bits": [3, 4, 8]}]}')
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or one in which the same search was stopped")
    add_base(parser)
    parser.add_argument(
        "--objective", nargs="+", default=["bytes", "retained"], metavar="NAME", help=f"of {', '.join(FIGURES)} (default: bytes retained)"
    )
    parser.add_argument("--sampler", default="tpe", help="tpe, nsga2, random or grid (default: %(default)s)")
    parser.add_argument("--trials", type=int, help="how many (default: all of a grid, until the budget ends, or 40)")
    parser.add_argument("--minutes", type=float, help="of work; no trial is begun that would not end within them")
    parser.add_argument("--price", type=float, help="$ that it may cost, with --price-per-hour")
    parser.add_argument("--price-per-hour", type=float, help="$ of all that it runs on")
    parser.add_argument("--halving", type=int, nargs="+", default=[], metavar="WINDOWS", help="few windows that all are measured on first")
    add_windows(parser)
    parser.add_argument("--speed", action="store_true", help="measure speed too, where no objective asks for it")
    parser.add_argument("--cluster", metavar="WORKERS", help="a number of workers on this machine, or the address of a Dask scheduler")
    parser.add_argument("--no-store", action="store_true", help="do not add the records to the user's store")
    parser.set_defaults(command=_explore)


def _explore(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    out = Path(arguments.out).expanduser().absolute()
    with stoppable():
        from effkit.models.loading import load
        from effkit.spec.space import Space

        from .explore import explore

        space = Space.from_file(arguments.space)
        limits = {"minutes": arguments.minutes, "price": arguments.price, "price_per_hour": arguments.price_per_hour}
        base = driven(load.work(arguments.model, device=arguments.device, dtype=arguments.dtype))
        work = explore.work(
            base,
            space,
            arguments.objective,
            {name: value for name, value in limits.items() if value is not None} or None,
            arguments.trials,
            sampler=arguments.sampler,
            halving=arguments.halving,
            on=arguments.text and Path(arguments.text),
            window=arguments.window,
            windows=arguments.windows,
            speed=arguments.speed or None,
            cluster=int(arguments.cluster) if (arguments.cluster or "").isdecimal() else arguments.cluster,
            study=out,
            store=False if arguments.no_store else None,
        )
        found: Exploration = driven(work)
    write_text(out / RESULT, found.to_json() + "\n")
    print(found.table(), file=sys.stderr)
    print(json.dumps({**summary(found), "folder": str(out), "seconds": round(time.monotonic() - begun, 1)}))
    return 0


def summary(found: Exploration) -> dict[str, Any]:
    """What the last line of the command says."""
    states = [trial.state for trial in found.trials]
    front = [{"trial": t.number, "name": t.label, **dict(zip(found.objectives, t.values, strict=True))} for t in found.front()]
    counted = {state: states.count(state) for state in ("done", "stopped", "failed")}
    return {"trials": len(states), **counted, "front": front, "ended": found.ended, "minutes": round(found.seconds / 60, 2)}
