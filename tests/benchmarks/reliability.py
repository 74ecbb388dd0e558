"""What goes wrong on other people's machines, done on purpose and counted: is anything lost?

    python tests/benchmarks/reliability.py [store] [kills] [disk] [clock] [--writers 8] [--records 1000] [--kills 50]

store   8 processes write 1,000 records each to one store while others read it
kills   kill -9 at random moments of quantize, distill and explore, 50 times in all; every run is attached to and resumed, and its
        weights (of a search: every trial) must equal those of an uninterrupted one, bit for bit
disk    a disk that is really full (a small tmpfs where root may mount one, else a limit on the size of files) while a model is
        quantized as a run, saved, exported, and while records are stored; with space again, everything goes on
clock   the system's clock jumps by ten years, forth and back, under a running process (clock_shim.c stands before the C library)

The last line is one JSON object: for each part what was `tried` and what was `lost`; lost is 0 where all is well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import last_line

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TEXT = " ".join(f"valve {i} of pump {i % 7} was found to leak oil near the left wing {i * i % 97}" for i in range(900))
PREPARED = [
    "effkit",
    "torch",
    "transformers",
    "safetensors.torch",
    "effkit.compress.pipeline",
    "effkit.lab.records.store",
    "effkit.measure.fidelity",
]


# --- a store that many write to ---


def write_records(path: str, writer: int, count: int) -> None:
    from effkit.lab.records.store import Store

    store = Store(path)
    for number in range(count):
        store.add(made_record(f"{writer}-{number}"))


def made_record(name: str) -> Any:
    from effkit.spec.record import Checkpoint, Cost, Record

    checkpoint = Checkpoint(source="toy", hash="0" * 16, architecture="LlamaForCausalLM")
    return Record(
        id=name, name=name, checkpoint=checkpoint, cost=Cost(bytes=1, base_bytes=2, bits_per_weight=4.0), environment={"n": name * 20}
    )


def read_records(path: str, stop: Any, found: Any) -> None:
    """Read again and again; a reading must be whole and hold no less than the one before."""
    from effkit.lab.records.store import Store

    store, before, readings, torn = Store(path), 0, 0, 0
    while not stop.is_set():
        records = store.records()
        torn += len(store.unreadable) + (len(records) < before)
        before, readings = len(records), readings + 1
    found.put((readings, torn))


def many_writers(home: Path, writers: int, count: int, readers: int = 2) -> dict[str, Any]:
    from effkit.lab.records.store import Store

    begun = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    path, stop, found = str(home / "records.sqlite"), context.Event(), context.Queue()
    looking = [context.Process(target=read_records, args=(path, stop, found)) for _ in range(readers)]
    writing = [context.Process(target=write_records, args=(path, i, count)) for i in range(writers)]
    for process in (*looking, *writing):
        process.start()
    for process in writing:
        process.join()
    stop.set()
    told = [found.get(timeout=60) for _ in looking]
    for process in looking:
        process.join()
    store = Store(path)
    there = {record.id: record for record in store.records()}
    wanted = {f"{i}-{number}" for i in range(writers) for number in range(count)}
    whole = {id for id, record in there.items() if record.environment == {"n": id * 20}}
    failed = sum(process.exitcode != 0 for process in (*looking, *writing))
    return {
        "processes": writers, "tried": len(wanted), "lost": len(wanted - whole), "failed_processes": failed,
        "readings_meanwhile": sum(readings for readings, _ in told), "torn_readings": sum(torn for _, torn in told),
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip


# --- kill -9 ---


def call_of(kind: str, model: Path, place: Path) -> tuple[Any, tuple, dict[str, Any]]:
    """The verb, and what it is called with."""
    import effkit as ek

    base = ek.load(str(model), device="cpu")
    if kind == "quantize":
        few = {"method": "gptq", "bits": 3, "group_size": 32, "calibration": str(model.parent / "text.txt"), "window": 64, "samples": 24}
        return ek.quantize, (base,), {**few, "tune": "scales", "tune_steps": 30}
    if kind == "distill":
        student = ek.prune(base, layers=2, by="even")
        return ek.distill, (base, student), {"steps": 90, "window": 64, "batch": 4, "text": str(model.parent / "text.txt")}
    steps = [{"step": "quantize", "method": ["rtn", "hqq"], "bits": [2, 3, 4, 6], "group_size": 32}]
    few = {"window": 64, "windows": 4, "prompt": 8, "new_tokens": 3, "repeats": 2, "on": str(model.parent / "text.txt")}
    return ek.explore, (base, {"steps": steps}), {
        **few, "sampler": "grid", "study": place / "study", "store": place / "records.sqlite",
    }  # fmt: skip


def work(kind: str, model: str, place: str, told: Any) -> None:
    """Start the run of `place`, or go on with it, to its end; say when it works and what it came to."""
    import torch

    import effkit as ek
    import effkit.lab.runs.worker as worker
    from effkit.spec.errors import Unavailable

    torch.set_num_threads(1)
    worker.SNAPSHOT_SECONDS = 0.3  # these models are small: what takes hours elsewhere takes seconds here
    folder = Path(place) / "run"
    told.put(("begun", time.monotonic()))
    if (folder / "call.json").exists():
        run = ek.attach(folder)
        at = run.progress.done if run.progress else 0
        if run.state != "done":
            run.resume()
    else:
        verb, positional, named = call_of(kind, Path(model), Path(place))
        at = 0
        run = ek.start(verb, *positional, folder=folder, **named)
    try:
        result = run.wait()
    except Unavailable as error:
        # a model that cannot be loaded again by name is saved some seconds into a run; before that there is nothing to go on with
        if error.todo != "Start the run again":
            raise
        shutil.rmtree(folder)
        work(kind, model, place, told)
        return
    run.saved.wait()
    told.put(("done", at, outcome(kind, result, Path(place)), run.notes))


def outcome(kind: str, result: Any, place: Path) -> Any:
    """What must not differ: the weights; of a search, each trial's recipe, weights and quality."""
    if kind != "explore":
        from effkit.models.checks import weights_hash

        return weights_hash(result.module)
    from effkit.lab.records.store import Store

    rows = [
        [
            record.recipe.hash(),
            record.fingerprint and record.fingerprint.weights,
            record.quality and record.quality.model_dump(mode="json", exclude={"seconds"}),
        ]
        for record in Store(place / "records.sqlite").records()
    ]
    return [len(rows), hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()]


class Victim:
    """A process that works on the run in `place`; `until_done`, or `killed` after some seconds of it."""

    def __init__(self, kind: str, model: Path, place: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        self.told = context.Queue()
        self.process = context.Process(target=work, args=(kind, str(model), str(place), self.told))
        self.process.start()
        self.begun = self.told.get(timeout=120)[1]

    def killed(self, after: float) -> bool:
        """Kill -9 after so many seconds; False if it had ended by itself before."""
        time.sleep(max(0.0, self.begun + after - time.monotonic()))
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return alive and self.process.exitcode == -9

    def until_done(self, seconds: float = 300) -> tuple[int, Any, list[str]]:
        word = ("begun",)
        while word[0] == "begun":
            word = self.told.get(timeout=seconds)
        self.process.join()
        _, at, found, notes = word
        return at, found, notes


def kills(home: Path, kind: str, count: int, draw: random.Random) -> dict[str, Any]:
    """Runs that are killed up to three times each at random moments, until `count` kills have struck."""
    begun = time.perf_counter()
    model = home / "tiny"
    plain = home / f"{kind}-plain"
    plain.mkdir()
    first = Victim(kind, model, plain)
    _, wanted, _ = first.until_done()
    lasts = time.monotonic() - first.begun
    found: dict[str, Any] = {"tried": 0, "runs": 0, "lost": 0, "left_over_files": 0, "begun_anew": 0, "gone_on_from": []}
    while found["tried"] < count:
        place = home / f"{kind}-{found['runs']}"
        place.mkdir()
        found["runs"] += 1
        for _ in range(min(draw.randint(1, 3), count - found["tried"])):
            found["tried"] += Victim(kind, model, place).killed(draw.uniform(0.0, lasts))
        at, result, notes = Victim(kind, model, place).until_done()
        found["begun_anew"] += at == 0
        found["gone_on_from"].append(at)
        strays = [file for file in place.rglob(".*") if file.suffix in (".part", ".old")]
        found["left_over_files"] += len(strays)
        whole = result == wanted and not notes
        found["lost"] += not whole
        if not whole:
            print(f"{kind} {place.name}: {result} instead of {wanted}; {notes}", flush=True)
        print(f"{kind}: {found['tried']} kills in {found['runs']} runs, {found['lost']} lost; the last went on from {at}", flush=True)
    return {**found, "uninterrupted_seconds": round(lasts, 1), "seconds": round(time.perf_counter() - begun, 1)}


def all_kills(home: Path, count: int, seed: int) -> dict[str, Any]:
    import effkit as ek

    kinds = ["quantize", "distill"] + (["explore"] if "explore" in ek.__all__ else [])
    draw = random.Random(seed)
    shares = {kind: count // len(kinds) + (i < count % len(kinds)) for i, kind in enumerate(kinds)}
    from conftest import random_llama

    random_llama(home / "tiny", layers=4)
    (home / "text.txt").write_text(TEXT)
    found: dict[str, Any] = {kind: kills(home, kind, share, draw) for kind, share in shares.items()}
    found |= {name: sum(part[name] for part in found.values()) for name in ("tried", "lost")}
    return found if "explore" in kinds else {**found, "explore": "this effkit has none"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="store, kills, disk, clock; all where none is named")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--records", type=int, default=1000, help="for each writer")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from failures import clock_jumps, full_disk

    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "store": lambda home: many_writers(home, given.writers, given.records),
        "kills": lambda home: all_kills(home, given.kills, given.seed),
        "disk": full_disk,
        "clock": clock_jumps,
    }
    if unknown := set(given.parts) - parts.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; allowed: {', '.join(parts)}")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PREPARED)
    found: dict[str, Any] = {}
    for name in given.parts or parts:
        with tempfile.TemporaryDirectory(prefix=f"effkit-{name}-") as home:
            found[name] = parts[name](Path(home))
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    lost = sum(part["lost"] for part in found.values())
    last_line({"tried": sum(part["tried"] for part in found.values()), "lost": lost, **found})
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
