"""What does it cost to watch? Slow-down of quantize, distill and evaluate through `Run` with a RunMonitor attached.

    python tests/benchmarks/overhead.py [--model NAME_OR_PATH] [--repeats N] [--quick]

Everything runs in a real ipykernel, started through jupyter_client, so that the widget's comm and its pump on the kernel's
main loop are real. Each repetition does the same work twice, as a plain call in a cell and as `await ek.start(...)` with
the monitor displayed; which comes first alternates. The figure is the median of the paired ratios of wall time (and of
processor time, which other programs on the machine disturb less); the interval is a bootstrap over the pairs. "Watching"
is the processor time of all threads but the worker, as a share of the plain call's. The run is timed until its result is
usable; "saved" until it lies on disk too, which happens in the background.

Also: `import effkit` in fresh processes, and whether torch came with it. The last line is one JSON object.
Goals: ratios of at most 1.02, import in at most 150 ms without torch.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import queue
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

print = functools.partial(print, flush=True)

GOAL_RATIO, GOAL_IMPORT_MS = 1.02, 150.0

SETUP = """
import asyncio, json, shutil, threading, time
import psutil
import torch
import effkit as ek
from effkit_widgets import RunMonitor
from IPython.display import display

arguments = json.loads({arguments!r})
base = ek.load(arguments["model"], device="cpu")
small = ek.quantize(base, method="rtn", bits=4, group_size=32)
student = ek.prune(base, layers=max(1, base.checkpoint.layers // 3))
TASKS = {{
    "quantize": (ek.quantize, (base,), dict(method="rtn", bits=4, group_size=32)),
    "distill": (ek.distill, (base, student), dict(window=64, batch=2)),
    "evaluate": (ek.evaluate, (small, base), dict(window=128, floor=False)),
}}

def clocks():
    return time.perf_counter(), time.process_time()

def beside(run):
    "Processor seconds of all Python threads but the run's own: what watching costs, whoever else is on the machine."
    ours = {{t.native_id for t in threading.enumerate()}} - {{run._source.thread.native_id}}
    return sum(t.user_time + t.system_time for t in psutil.Process().threads() if t.id in ours)

TIMES = dict.fromkeys(TASKS, 1)  # a task that cannot be made longer is done several times a measurement

def plain(task):
    verb, args, kwargs = TASKS[task]
    wall, cpu = clocks()
    for _ in range(TIMES[task]):
        verb(*args, **kwargs)
    return [b - a for a, b in zip((wall, cpu), clocks())]

async def watched(task):
    return [sum(column) for column in zip(*[await watched_once(task) for _ in range(TIMES[task])])]

async def watched_once(task):
    verb, args, kwargs = TASKS[task]
    wall, cpu = clocks()
    run = ek.start(verb, *args, **kwargs)
    others = beside(run)
    monitor = RunMonitor(run)
    display(monitor)
    await run
    times = [b - a for a, b in zip((wall, cpu), clocks())]
    others = beside(run) - others
    await asyncio.to_thread(run.saved.wait)
    saved = time.perf_counter() - wall
    assert not run.notes, run.notes
    monitor.close()
    shutil.rmtree(run.folder)
    return [*times, saved, len(run.events), others]

def sized(task, option, wanted):
    "Give the work of `task` so many units that it takes about `wanted` seconds, at least 10."
    kwargs = TASKS[task][2]
    kwargs[option] = 4
    plain(task)
    each = plain(task)[0] / 4
    kwargs[option] = max(10, min(2000, round(wanted / each)))
    plain(task)

sized("distill", "steps", arguments["seconds"])
sized("evaluate", "windows", arguments["seconds"])
plain("quantize")
TIMES["quantize"] = max(1, round(arguments["seconds"] / plain("quantize")[0]))
"""

PAIR = """
first = {first!r}
order = [first, "watched" if first == "plain" else "plain"]
found = {{}}
for how in order:
    found[how] = plain({task!r}) if how == "plain" else await watched({task!r})
print("RESULT" + json.dumps(found))
"""


class Kernel:
    """An ipykernel; `run(code)` waits for a cell and returns what it printed. Counts the comm messages of widgets."""

    def __init__(self, environment: dict[str, str]) -> None:
        from jupyter_client.manager import KernelManager

        self.messages = 0
        self.manager = KernelManager(kernel_name="python3")
        self.manager.kernel_spec.argv[0] = sys.executable
        self.manager.start_kernel(env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str, timeout: float = 900) -> str:
        printed: list[str] = []
        wanted = self.client.execute(code)
        until = time.monotonic() + timeout
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                if time.monotonic() > until:
                    raise TimeoutError("the cell did not end") from None
                continue
            kind, content = message["msg_type"], message["content"]
            self.messages += kind == "comm_msg"
            if message["parent_header"].get("msg_id") != wanted:
                continue
            if kind == "stream":
                printed.append(content["text"])
            if kind == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            if kind == "status" and content["execution_state"] == "idle":
                return "".join(printed)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def compared(pairs: list[tuple[float, float]]) -> tuple[float, tuple[float, float]]:
    """The median of watched / plain, and a 95% bootstrap interval over the pairs."""
    ratios = [watched / plain for watched, plain in pairs]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), (medians[50], medians[1949])


def importing(repeats: int) -> tuple[float, bool]:
    """Median milliseconds of `import effkit` in fresh processes, and whether torch was loaded by it."""
    code = "import sys, time; t = time.perf_counter(); import effkit; print((time.perf_counter() - t) * 1000, 'torch' in sys.modules)"
    times, torch = [], False
    for _ in range(repeats):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        times.append(float(out[0]))
        torch = torch or out[1] == "True"
    return statistics.median(times), torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="name or folder (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="pairs for each verb (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long distill and evaluate shall take (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 pairs of 2 seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds = 3, 2.0

    result: dict[str, object] = {}
    milliseconds, torch = importing(7)
    print(f"import effkit: {milliseconds:.0f} ms, torch {'loaded' if torch else 'not loaded'}")
    with tempfile.TemporaryDirectory(prefix="effkit-overhead-") as home:
        # as `make lab` and `effkit lab` start their kernels
        kernel = Kernel({"MALLOC_ARENA_MAX": "1", **os.environ, "EFFKIT_HOME": home, "EFFKIT_PROGRESS": "0", "HF_HUB_OFFLINE": "1"})
        try:
            given = Path(arguments.model)
            model = str(given.resolve()) if given.exists() else arguments.model
            kernel.run(SETUP.format(arguments=json.dumps({"model": model, "seconds": arguments.seconds})))
            for task in ("quantize", "distill", "evaluate"):
                kernel.messages = 0
                found = []
                for i in range(arguments.repeats):
                    said = kernel.run(PAIR.format(task=task, first=("plain", "watched")[i % 2]))
                    found.append(json.loads(said.split("RESULT")[1]))
                wall, interval = compared([(pair["watched"][0], pair["plain"][0]) for pair in found])
                cpu, _ = compared([(pair["watched"][1], pair["plain"][1]) for pair in found])
                saved, _ = compared([(pair["watched"][2], pair["plain"][0]) for pair in found])
                watching = statistics.median(pair["watched"][4] / pair["plain"][1] for pair in found)
                seconds = statistics.median(pair["plain"][0] for pair in found)
                events = found[0]["watched"][3]
                assert kernel.messages > arguments.repeats, "the monitor sent nothing: this measured no widget"
                print(
                    f"{task}: {wall:.3f} [{interval[0]:.3f}, {interval[1]:.3f}] of the plain call's {seconds:.2f} s "
                    f"(processor time {cpu:.3f}, of which watching {watching:.3f}; until saved {saved:.3f}; {events} events, "
                    f"{kernel.messages} widget messages)"
                )
                result[task] = round(wall, 4)
                result[f"{task}_interval"] = [round(x, 4) for x in interval]
                result[f"{task}_cpu"] = round(cpu, 4)
                result[f"{task}_watching"] = round(watching, 4)
                result[f"{task}_saved"] = round(saved, 4)
                result[f"{task}_seconds"] = round(seconds, 3)
                result[f"{task}_messages"] = kernel.messages
        finally:
            kernel.close()
    result |= {"import_ms": round(milliseconds, 1), "torch_imported": torch, "model": arguments.model, "pairs": arguments.repeats}
    within = all(isinstance(r := result[task], float) and r <= GOAL_RATIO for task in ("quantize", "distill", "evaluate"))
    result["within_goals"] = within and milliseconds <= GOAL_IMPORT_MS and not torch
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
