"""Kill -9 in the middle of a run, attach, resume: are the final weights those of an uninterrupted run, bit for bit?

    python tests/benchmarks/resume.py MODEL [--methods rtn,gptq] [--arguments '{"bits": 4, "tune": "scales"}'] [--kills 3]

One process quantizes without a break. Another one starts the same as a run (`ek.start`), is let past a snapshot and killed
by SIGKILL while it works on; the next attaches to the run's folder, resumes, and is killed further on; the last one
finishes. Whatever `ek.quantize` takes beside the model can be given in --arguments, tuning too, so every method is tested by
the same means. The last line is one JSON object: `identical` says whether for every method all tensors of both results are equal
bit for bit, `killed_after` how many units of work each killed process had done since it began, or -1 where it had finished.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import last_line


def child(folder: Path, model: str, method: str, arguments: dict[str, Any], stop_at: float | None) -> None:
    """Go on with the run in `folder`, or start it. With `stop_at` (a fraction): take a snapshot there, say so, and go on."""
    import effkit as ek

    if (folder / "call.json").exists():
        run = ek.attach(folder)
        if run.state != "done":
            run.resume()
    else:
        run = ek.start(ek.quantize, ek.load(model, device="cpu"), method, folder=folder, **arguments)
    if stop_at is not None and not run.done():
        while run.progress is None and not run.done():
            time.sleep(0.001)
        assert run.progress is not None
        run.pause(at=max(1, int(stop_at * run.progress.total)))
        while run.state == "running":
            time.sleep(0.001)
        if run.state == "paused":
            begun = run.progress.done
            print(f"from {begun}", flush=True)
            run.resume()
            last = begun
            while not run.done():
                if run.progress.done != last:
                    last = run.progress.done
                    print(f"at {last}", flush=True)
    result = run.wait()
    run.saved.wait()
    result.save(folder.parent / f"{folder.name}-model")
    print("done", flush=True)


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


def killed(words: list[str]) -> int:
    """Start a child and kill it at the first sign of work after its snapshot; how far it was then, or -1 if it had finished."""
    process = start(words)
    assert process.stdout is not None
    begun = None
    for line in process.stdout:
        word, _, number = line.strip().partition(" ")
        if word == "from":
            begun = int(number)
        elif word == "at":
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert begun is not None
            return int(number) - begun
    if process.wait():
        raise SystemExit(f"the run failed with code {process.returncode}")
    return -1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, a .gguf file or a built-in name")
    parser.add_argument("--methods", default="rtn", help="one or more, with commas (default: %(default)s)")
    parser.add_argument("--arguments", type=json.loads, default={}, help="more arguments of ek.quantize, as JSON")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--stop-at", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child), given.model, given.methods, given.arguments, given.stop_at)
        return 0

    import torch

    begun = time.perf_counter()
    found = {method: compared(given.model, method, given.arguments, given.kills) for method in given.methods.split(",")}
    identical = all(not one["different"] and min(one["killed_after"], default=0) >= 0 for one in found.values())
    result = {
        "identical": identical, "arguments": given.arguments, "kills": given.kills, "methods": found, "torch": torch.__version__,
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    last_line(result)
    return 0 if identical else 1


def compared(model: str, method: str, arguments: dict[str, Any], kills: int) -> dict[str, Any]:
    """How far each killed process was, and which tensors differ from those of an uninterrupted run."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(prefix="effkit-resume-") as home:
        common = [model, "--methods", method, "--arguments", json.dumps(arguments)]
        plain, broken = Path(home) / "plain", Path(home) / "broken"
        process = start([*common, "--child", str(plain)])
        process.communicate()
        if process.returncode:
            raise SystemExit(f"{method}: the uninterrupted run failed with code {process.returncode}")
        after = []
        for kill in range(kills):
            after.append(killed([*common, "--child", str(broken), "--stop-at", str((kill + 1) / (kills + 1))]))
            print(f"{method}, kill {kill + 1}: {after[-1]} units of work since the process's snapshot", flush=True)
        process = start([*common, "--child", str(broken)])
        process.communicate()
        if process.returncode:
            raise SystemExit(f"{method}: the resumed run failed with code {process.returncode}")
        first, second = (load_file(folder / "model.safetensors") for folder in (Path(home) / "plain-model", Path(home) / "broken-model"))
    names = first.keys() | second.keys()
    different = sorted(name for name in names if not _same(first.get(name), second.get(name)))
    return {"killed_after": after, "tensors": len(names), "different": len(different), "first_different": different[:3]}


def _same(one: Any, other: Any) -> bool:
    """Equal in type, shape and every bit (so that a NaN is itself, and 0 is not -0)."""
    import torch

    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


if __name__ == "__main__":
    sys.exit(main())
