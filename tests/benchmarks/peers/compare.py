"""effkit's quantization beside its peers': one model, one calibration text, one test text, one scorer, bits counted alike.

    python tests/benchmarks/peers/compare.py --work FOLDER --out data/measured/peers-stories15m.json
    python tests/benchmarks/peers/compare.py MODEL --calibration FILE --test FILE [--peers hqq,gptqmodel] [--work FOLDER] [--out FILE]

The first line is the whole comparison that the committed file holds; it makes every environment (some GB from PyPI) and takes
about two hours. It reads stories15m and a sample of TinyStories, in shared/ beside the checkout: the first half calibrates,
the last quarter tests. The model was trained on such stories, perhaps on these; what is asked is how far it moves from itself.

Each peer runs in an environment of its own (environments.py) and hands over the weights of the blocks' linear layers as it
dequantizes them; embeddings, head and norms stay the base's (AWQ's norms are its own: it folds scales into them). All are
scored here by `ek.evaluate`: KL to the float32 base on the same windows of the test text. bits_per_weight counts, over those
layers, integers, scales, zero points and whatever else the peer's format stores, with scales in 16 bits where its files hold
them so. The sizes compared are at most 4.63, 3.63 and 2.63 bits, and each program's line is its best of the settings below,
by the KL on the test text. Settings are a peer's defaults, or better ones that it documents, in groups that fit the size; no
peer's training was lengthened. llama.cpp rounds without an importance matrix, and its k-quants need rows of a multiple of
256, which this model has in one matrix of seven. A peer that cannot be installed or fails is in the table with its error.
--work keeps every program's result, so that the comparison can be made in several goes, of a peer with more settings only
those, and one program anew (delete its file). Seconds are of one run each; --busy says in the result that other work ran on
the machine.

effkit's lines: round-to-nearest, GPTQ and GPTQ with tuned scales through the same scorer; and what tests/benchmarks/quantization.py
prints for the same files and sizes ("effkit, its benchmark"), scored by itself: it mixes widths and tunes for minutes.
The last line is one JSON object; with --out it is written there too, with versions, the date and all settings.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.append(str(HERE))

import environments  # noqa: E402
from reporting import last_line, shared  # noqa: E402

SIZES = (4.63, 3.63, 2.63)
TORCH, READERS = environments.TORCH, ["transformers", "accelerate", "safetensors"]


@dataclass(frozen=True)
class Peer:
    """packages: what pip installs; settings: one for each result, in the words of its worker (NAME_worker.py)."""

    packages: tuple[str, ...]
    worker: str
    settings: tuple[dict[str, Any], ...]
    shown: tuple[str, ...] = field(default=("torch", "transformers"))


def widths(**more: Any) -> list[dict[str, Any]]:
    return [{"bits": bits, **more} for bits in (4, 3, 2)]


PEERS = {
    "bitsandbytes": Peer(
        (TORCH, *READERS, "bitsandbytes"),
        "bitsandbytes",
        (
            {"type": "nf4", "block": 64, "nested": False},
            {"type": "nf4", "block": 32, "nested": True},
        ),
    ),
    "hqq": Peer((TORCH, *READERS, "hqq"), "hqq", (*widths(group=64), *widths(group=64, axis=0))),
    "torchao": Peer(
        (TORCH, "transformers", "safetensors", "torchao"),
        "torchao",
        (*widths(group=32, asymmetric=True), *widths(group=32, algorithm="hqq_scale_only")),
    ),
    "optimum-quanto": Peer(
        (TORCH, *READERS, "optimum-quanto"), "quanto", tuple({"bits": b, "optimizer": o} for o in ("max", "hqq") for b in (4, 2))
    ),
    "auto-round": Peer((TORCH, "auto-round"), "auto_round", tuple(widths(group=32, symmetric=False, iterations=200))),
    "gptqmodel": Peer(
        (TORCH, "gptqmodel"),
        "gptqmodel",
        (*widths(group=32, symmetric=False), *widths(group=32, symmetric=False, error="propagated", mse=2.4)),
    ),
    "llmcompressor": Peer(
        (TORCH, "llmcompressor"),
        "llmcompressor",
        (
            *widths(method="gptq", group=32, symmetric=False),
            *widths(method="gptq", group=32, symmetric=False, observer="memoryless_mse", shrink=0.5),
            *widths(method="awq", group=32, symmetric=False),
        ),
    ),
}
LLAMA_TYPES = ("MOSTLY_Q4_0", "MOSTLY_IQ4_NL", "MOSTLY_Q3_K_S", "MOSTLY_Q2_K")
OURS = tuple(
    {"bits": bits, "group_size": 32, **way}
    for bits in (4, 3, 2)
    for way in ({"method": "rtn"}, {"method": "gptq"}, {"method": "gptq", "tune": "scales"})
)


class Comparison:
    """The base, the texts and the scorer."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import effkit as ek

        self.given = arguments
        self.base = ek.load(arguments.model, device="cpu", dtype="float32")
        ids = self.base.tokens(arguments.calibration.read_text(encoding="utf-8"))
        length, count = arguments.window, arguments.samples
        if len(ids) < length * count:
            raise SystemExit(f"the calibration text has {len(ids)} tokens; {count} windows of {length} are asked for")
        step = len(ids) // count  # spread over the text
        self.calibration = [ids[i * step : i * step + length] for i in range(count)]
        self.work: Path = arguments.work

    def scored(self, weights: dict[str, Any]) -> dict[str, float]:
        """KL, agreement and perplexity of the base with other weights."""
        import torch

        model = self.base.clone()
        names = dict(model.module.named_parameters())
        with torch.no_grad():
            for name, weight in weights.items():
                target = names[name] if name in names else names[f"{name}.weight"]
                assert target.shape == weight.shape, name
                target.copy_(weight)
        return self.quality(model)

    def quality(self, model: Any) -> dict[str, float]:
        import effkit as ek

        found = ek.evaluate(model, self.base, self.given.test, window=self.given.window, windows=self.given.windows, floor=False)
        assert found.kl is not None
        mean = found.kl.mean
        return {
            "kl": round(mean.value, 5), "kl_low": round(mean.low, 5), "kl_high": round(mean.high, 5),
            "agreement": round(found.agreement.value, 4), "perplexity": round(found.perplexity.value, 4),
        }  # fmt: skip

    def peer(self, name: str, peer: Peer) -> dict[str, Any]:
        """Install it, let it work, score what it gives."""
        from safetensors.torch import load_file

        python = environments.environment(name, peer.packages)
        told: dict[str, Any] = {"versions": environments.versions(python, [*peer.shown, name])}
        with tempfile.TemporaryDirectory(prefix="effkit-peer-") as home:
            job = {"settings": peer.settings, "calibration": self.calibration, "threads": self.given.threads}
            (Path(home) / "job.json").write_text(json.dumps(job), encoding="utf-8")
            variables = {**environments.clean(), "OMP_NUM_THREADS": str(self.given.threads), "HF_HUB_OFFLINE": "1"}
            command = [python, "-I", HERE / f"{peer.worker}_worker.py", Path(self.given.model).resolve(), "job.json", "."]
            with (self.work / f"{name}.log").open("w") as log:
                try:
                    done = subprocess.run(
                        command, cwd=home, env=variables, stdout=subprocess.PIPE, stderr=log, text=True, timeout=60 * self.given.minutes
                    )
                    said, end = done.stdout, f"ended with code {done.returncode}"
                except subprocess.TimeoutExpired as late:
                    said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
                    end = f"stopped after {self.given.minutes:g} minutes"
            results = [json.loads(line.removeprefix("RESULT ")) for line in said.splitlines() if line.startswith("RESULT ")]
            for result in results:
                if "error" not in result:
                    result |= self.scored(load_file(Path(home) / f"{result['number']}.safetensors"))
            if len(results) < len(peer.settings):
                missing = peer.settings[len(results) :]
                results += [{"setting": setting, "error": f"no result: the process {end}"} for setting in missing]
        return {**told, "results": results}

    def llama_cpp(self) -> dict[str, Any]:
        """llama.cpp's quantizer on an exact GGUF of the base; its blocks are dequantized by the package gguf."""
        import effkit as ek

        python = environments.llama_cpp()
        told: dict[str, Any] = {"versions": environments.versions(python, ["llama-cpp-python"])}
        results = []
        with tempfile.TemporaryDirectory(prefix="effkit-peer-") as home:
            source = Path(home) / "base.gguf"
            ek.export(self.base, source, "gguf", strict=True)
            for kind in LLAMA_TYPES:
                out, begun = Path(home) / f"{kind}.gguf", time.perf_counter()
                command = [python, "-I", HERE / "llama_cpp_worker.py", source, out, kind]
                done = subprocess.run(command, env=environments.clean(), capture_output=True, text=True)
                result: dict[str, Any] = {"setting": {"type": kind}, "seconds": round(time.perf_counter() - begun, 1)}
                if done.returncode or not out.exists():
                    result["error"] = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1][:300]
                else:
                    weights, result["bits_per_weight"], types = read_blocks(self.base, out)
                    result["how"] = f"{kind.removeprefix('MOSTLY_').lower()}, pure: {types}"
                    result |= self.scored(weights)
                results.append(result)
        return {**told, "results": results}

    def ours(self) -> dict[str, Any]:
        """effkit through the same scorer."""
        import effkit as ek
        from effkit.models.stored.packed import PackedLinear

        results = []
        text = self.given.calibration
        for setting in OURS:
            begun = time.perf_counter()
            reads = {} if setting["method"] == "rtn" else {"calibration": text, "samples": self.given.samples, "window": self.given.window}
            model = ek.quantize(self.base, embedding_bits=None, **setting, **reads)  # type: ignore[arg-type]
            seconds = round(time.perf_counter() - begun, 1)
            packed = [m.packed for m in model.module.modules() if isinstance(m, PackedLinear)]
            bits = 8 * sum(t.nbytes for p in packed for t in p.buffers()) / sum(p.weight_count for p in packed)
            how = f"{setting['method']}, {setting['bits']} bits, group 32" + (", tuned scales" if "tune" in setting else "")
            results.append({"setting": setting, "bits_per_weight": round(bits, 4), "seconds": seconds, "how": how, **self.quality(model)})
        return {"versions": {"effkit": ek.__version__}, "results": results}

    def benchmark(self) -> dict[str, Any]:
        """What tests/benchmarks/quantization.py prints for each size."""
        script = HERE.parent / "quantization.py"
        if not script.exists():
            return {"versions": {}, "error": "tests/benchmarks/quantization.py is not there"}
        results = []
        for size in SIZES:
            words = ["--calibration", self.given.calibration, "--test", self.given.test, "--bits-per-weight", str(size)]
            words += ["--test-window", str(self.given.window), "--windows", str(self.given.windows)]
            done = subprocess.run([sys.executable, script, self.given.model, *words], capture_output=True, text=True)
            result: dict[str, Any] = {"setting": {"bits_per_weight": size}, "how": f"quantization.py --bits-per-weight {size}"}
            if done.returncode:
                result["error"] = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            else:
                line = json.loads(done.stdout.strip().splitlines()[-1])
                result |= {key: line.get(key) for key in ("bits_per_weight", "kl", "perplexity", "seconds")}
            results.append(result)
        return {"versions": {}, "results": results}


def read_blocks(base: Any, path: Path) -> tuple[dict[str, Any], float, str]:
    """(weights of the blocks' matrices in transformers' order, bits per weight, types) of a GGUF of the base."""
    import gguf
    import torch

    from effkit.models.exporters.gguf import order
    from effkit.models.exporters.parts import parts

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.config.num_hidden_layers)
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    weights, size, count, types = {}, 0, 0, set()
    for part in parts(base):
        name = names.get_name(part.name, try_suffixes=(".weight",))
        if name is None or not name.startswith("blk.") or len(part.shape) != 2:
            continue
        tensor = stored[name]
        weight = torch.empty(part.shape)
        weight[order(part, base.config)] = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        weights[part.name] = weight
        size, count = size + tensor.n_bytes, count + weight.numel()
        types.add(tensor.tensor_type.name)
    return weights, round(8 * size / count, 4), ", ".join(sorted(types))


def best(found: dict[str, Any], size: float) -> dict[str, dict[str, Any]]:
    """For each program its result of least KL that takes at most `size` bits, and more than the next smaller size."""
    less = max((s for s in SIZES if s < size), default=0.0)
    chosen: dict[str, dict[str, Any]] = {}
    for name, told in found.items():
        fit = [r for r in told.get("results", ()) if r.get("kl") is not None and less < r["bits_per_weight"] <= size]
        if fit:
            chosen[name] = min(fit, key=lambda r: r["kl"])
    return dict(sorted(chosen.items(), key=lambda item: item[1]["kl"]))


def table(found: dict[str, Any]) -> str:
    lines = []
    for size in SIZES:
        lines.append(f"at most {size} bits per weight{'':24}bits      KL  95% interval       agreement  seconds")
        for name, r in best(found, size).items():
            interval = f"{r['kl_low']:.4f} .. {r['kl_high']:.4f}" if "kl_low" in r else ""
            agreement = f"{r['agreement']:.3f}" if "agreement" in r else ""
            label = f"{name}: {r['how']}"
            lines.append(f"  {label:47.47} {r['bits_per_weight']:6.3f} {r['kl']:7.4f}  {interval:18} {agreement:>9} {r['seconds']:8}")
    for name, told in found.items():
        errors = [told["error"]] if "error" in told else []
        errors += [f"{r['setting']}: {r['error']}" for r in told.get("results", ()) if "error" in r]
        lines += [f"  {name} failed: {error}" for error in errors]
    return "\n".join(lines)


def unmeasured(told: dict[str, Any] | None, peer: Peer | None) -> tuple[dict[str, Any], ...] | None:
    """The settings of a peer that have no result in what was kept of it; None: nothing was kept, or it failed as a whole."""
    if told is None or "results" not in told:
        return None
    measured = [result["setting"] for result in told["results"]]
    return tuple(setting for setting in (peer.settings if peer else ()) if setting not in measured)


def halves(folder: Path) -> tuple[Path, Path]:
    """The first half of the sample of TinyStories, to calibrate with, and its last quarter, to test with: two new files in `folder`."""
    whole = shared("eval/tinystories-sample/tinystories_sample.txt", "--calibration FILE --test FILE").read_text(encoding="utf-8")
    files = folder / "calibration.txt", folder / "test.txt"
    for file, part in zip(files, (whole[: len(whole) // 2], whole[-(len(whole) // 4) :]), strict=True):
        file.write_text(part, encoding="utf-8")
    return files


def _names(text: str) -> list[str]:
    """Names between commas; one of them holds a comma itself."""
    return [name.strip().replace(";", ",") for name in text.replace("effkit, its", "effkit; its").split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a folder with a model of the Llama family (default: shared/models/stories15m)")
    parser.add_argument("--calibration", type=Path, help="text in UTF-8 (default: the first half of TinyStories in shared/eval)")
    parser.add_argument("--test", type=Path, help="other text (default: its last quarter)")
    everyone = [*PEERS, "llama.cpp", "effkit", "effkit, its benchmark"]
    parser.add_argument("--peers", type=_names, default=everyone, help=f"in this order; default: {', '.join(everyone)}")
    parser.add_argument("--samples", type=int, default=64, help="calibration windows of every program (default: %(default)s)")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=32, help="test windows (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="the longest that a peer may work (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where every program's result is kept, and taken from if it is there")
    parser.add_argument("--out", type=Path, help="a JSON file, such as data/measured/peers-stories15m.json")
    parser.add_argument("--busy", action="store_true", help="other work runs on this machine")
    given = parser.parse_args()
    if (given.calibration is None) != (given.test is None):
        parser.error("--calibration and --test: give both, or neither")
    if unknown := set(given.peers) - set(everyone):
        parser.error(f"--peers names {', '.join(sorted(unknown))}; allowed: {', '.join(everyone)}")
    own = given.work is None
    given.work = given.work or Path(tempfile.mkdtemp(prefix="effkit-peers-"))
    given.work.mkdir(parents=True, exist_ok=True)
    model = "" if given.model is None else f"{Path(given.model).name} "
    texts = "" if given.calibration is None else "--calibration FILE --test FILE "
    given.model = given.model or str(shared("models/stories15m", "compare.py MODEL"))
    if given.calibration is None:
        given.calibration, given.test = halves(given.work)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    comparison = Comparison(given)
    found: dict[str, Any] = {}
    special = {"llama.cpp": comparison.llama_cpp, "effkit": comparison.ours, "effkit, its benchmark": comparison.benchmark}
    for name in [*(n for n in everyone if n not in given.peers), *given.peers]:
        kept = given.work / f"{name}.json"
        if kept.exists():
            found[name] = json.loads(kept.read_text())
        missing = unmeasured(found.get(name), PEERS.get(name))
        if name not in given.peers or missing == ():
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            if missing is None:
                found[name] = special[name]() if name in special else comparison.peer(name, PEERS[name])
            else:
                results = found[name]["results"] + comparison.peer(name, replace(PEERS[name], settings=missing))["results"]
                found[name]["results"] = [{**result, "number": number} for number, result in enumerate(results)]
        except environments.CannotInstall as error:
            found[name] = {"versions": {}, "error": f"cannot be installed: {error}"}
        kept.write_text(json.dumps(found[name], indent=1))
    print(table(found), flush=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": f"python tests/benchmarks/peers/compare.py {model}{texts}"
        f"--samples {given.samples} --window {given.window} --windows {given.windows} --threads {given.threads}",
        "model": Path(given.model).name,
        "calibration_sha256": hashlib.sha256(given.calibration.read_bytes()).hexdigest(),
        "test_sha256": hashlib.sha256(given.test.read_bytes()).hexdigest(),
        "best": {
            str(size): {name: {k: r.get(k) for k in ("how", "bits_per_weight", "kl", "seconds")} for name, r in best(found, size).items()}
            for size in SIZES
        },
        "not_run": [name for name in everyone if name not in found],
        "programs": found,
        "seconds": round(sum(r.get("seconds") or 0.0 for told in found.values() for r in told.get("results", ())), 1),
        "busy": given.busy,
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if own:
        shutil.rmtree(given.work)
    last_line({key: value for key, value in result.items() if key != "programs"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
