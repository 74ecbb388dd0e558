"""Peak memory while quantizing, over the model's bytes: a random model of a billion parameters, a process for each method.

    python tests/benchmarks/memory.py [--methods rtn gptq] [--layers 16] [--dtype float32]

The base itself counts as 1: it stays as it was beside what is made of it. The last line is one JSON object.
Goal: at most 1.3.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from reporting import last_line  # first: it sets what torch reads when it starts

import torch  # isort: skip
import transformers  # isort: skip

import effkit as ek  # isort: skip
from effkit.hardware.attached.memory import PeakMemory  # isort: skip
from effkit.models.model import Model  # isort: skip
from effkit.spec.record import Checkpoint  # isort: skip


def random_model(layers: int, dtype: torch.dtype) -> Model:
    """Llama 3.2 1B's shape, its weights drawn; with the tokenizer of the offline default."""
    tokenizer = ek.load("smollm2-135m", device="cpu").tokenizer
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    checkpoint = Checkpoint(
        source="random", hash="0" * 64, architecture="LlamaForCausalLM", task="causal-lm", layers=layers, vocabulary=128256
    )
    return Model(module, tokenizer, checkpoint)


def one(method: str, layers: int, dtype: str) -> None:
    model = random_model(layers, getattr(torch, dtype))
    size = model.stored_bytes
    begun = time.perf_counter()
    with PeakMemory("cpu") as peak:
        made = ek.quantize(model, method, samples=8, window=128)
    beside = (peak.resident or 0) - (peak.resident_before or 0)
    print(
        json.dumps(
            {
                "ratio": round((size + beside) / size, 3),
                "base_bytes": size,
                "made_bytes": made.stored_bytes,
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["rtn", "gptq"])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.layers, args.dtype)
        return
    found = {}
    for method in args.methods:
        command = [sys.executable, __file__, "--one", method, "--layers", str(args.layers), "--dtype", args.dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{method} failed:\n{done.stderr[-2000:]}")
        found[method] = json.loads(done.stdout.splitlines()[-1])
        print(method, found[method], flush=True)
    ratios = {method: one["ratio"] for method, one in found.items()}
    last_line(
        {"peak_memory_ratio": max(ratios.values()), "by_method": ratios, "details": found, "dtype": args.dtype, "layers": args.layers}
    )


if __name__ == "__main__":
    main()
