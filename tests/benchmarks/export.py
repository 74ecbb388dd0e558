"""Exported models through their real readers: GGUF through llama.cpp, compressed-tensors through transformers.

    python tests/benchmarks/export.py [MODEL] [--text "Once upon a time"] [--new-tokens 200] [--threads 1]

Cases: the base as it is (GGUF in float32), round-to-nearest 4-bit group 32 (zero points, 8-bit embedding: GGUF takes Q4_1
and Q8_0, the nearest), and a mixed model that both formats hold exactly (4-bit symmetric, 8-bit down_proj; embedding in 6
bits for GGUF). effkit writes `new-tokens` tokens after the prompt; the readers score the same tokens, and write on their
own. For each case and reader the last line holds

    largest    the largest difference of any logit to ours, and `spread`, the standard deviation of our logits
    agreement  the share of the new positions where the most likely token is the same
    written    how many tokens the reader writes on its own before the first that differs from ours
    tokens     whether the reader cuts the text into the same tokens
    exact      whether the file holds our numbers exactly

llama.cpp rounds the inputs of each few-bit layer to 8 bits, so its logits differ even where the file is exact; the base in
float32 shows what is left without that. llama-cpp-python is compiled in an environment of its own (see peers/environments.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import environments
from reporting import last_line, shared

WORKER = Path(__file__).parent / "peers" / "reader_worker.py"


def read(python: Path, reader: str, path: Path, ask: dict[str, Any], threads: int) -> tuple[Any, dict[str, str]]:
    """What the reader says, and its versions."""
    import numpy as np

    asked, out = path.parent / "ask.json", path.parent / f"{reader}.npz"
    asked.write_text(json.dumps(ask), encoding="utf-8")
    variables = {**environments.clean(), "THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([python, "-I", WORKER, reader, path, asked, out], env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{reader} cannot read {path.name}:\n{done.stderr[-3000:]}")
    return np.load(out), json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="(default: the shared stories15m)")
    parser.add_argument("--text", default="Once upon a time, there was a little girl named Lily.")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))

    import numpy as np
    import torch

    import effkit as ek

    begun = time.perf_counter()
    transformers = Path(sys.executable)
    if importlib.util.find_spec("compressed_tensors") is None:
        versions = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "transformers", "accelerate")]
        transformers = environments.environment("compressed-tensors", [*versions, "compressed-tensors<0.18"])
    readers = {"llama.cpp": environments.llama_cpp(), "transformers": transformers}
    base = ek.load(given.model or str(shared("models/stories15m", "python tests/benchmarks/export.py MODEL")), device="cpu")
    four = {"bits": 4, "group_size": 32}
    mixed = ek.quantize(base, **four, symmetric=True, embedding_bits=6, skip=("down_proj",))
    cases = {
        "base": (base, True),
        "rtn 4-bit": (ek.quantize(base, **four), False),
        "mixed": (ek.quantize(mixed, bits=8, group_size=32, symmetric=True), False),
    }
    result: dict[str, Any] = {}
    for name, (model, strict) in cases.items():
        prompt = base.tokens(given.text)
        if base.tokenizer.bos_token_id is not None:
            prompt = [base.tokenizer.bos_token_id, *prompt]
        ids = list(prompt)
        start = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.module.generate(  # type: ignore[operator]
                start, attention_mask=torch.ones_like(start), do_sample=False, min_new_tokens=given.new_tokens,
                max_new_tokens=given.new_tokens,
            )  # fmt: skip
        ids = out[0].tolist()
        ours = model.logits([ids])[0].float().numpy()
        story = base.text(ids[len(prompt) :])
        for format, reader in (("gguf", "llama.cpp"), ("compressed-tensors", "transformers")):
            with tempfile.TemporaryDirectory(prefix="effkit-export-") as home:
                path = Path(home) / ("model.gguf" if format == "gguf" else "model")
                done = ek.export(model, path, format, strict=strict)
                ask = {"ids": ids, "prompt": len(prompt), "text": story}
                theirs, versions = read(readers[reader], reader, path, ask, given.threads)
                logits, written = theirs["logits"], theirs["written"].tolist()
                new = slice(len(prompt) - 1, len(ids) - 1)
                same = [a == b for a, b in zip(written, ids[len(prompt) :], strict=True)]
                found = {
                    "largest": round(float(np.abs(logits - ours).max()), 6),
                    "spread": round(float(ours.std()), 3),
                    "agreement": round(float((logits.argmax(-1) == ours.argmax(-1))[new].mean()), 4),
                    "written": same.index(False) if False in same else len(same),
                    "tokens": theirs["tokens"].tolist() == model.tokens(story),
                    "exact": done.exact,
                    "megabytes": round(done.bytes / 1e6, 2),
                }
            print(name, reader, found, *done.notes, sep="\n  ", flush=True)
            result[f"{name}, {reader}"] = found
            result.update(versions)
    result |= {"new_tokens": given.new_tokens, "seconds": round(time.perf_counter() - begun, 1)}
    last_line(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
