"""An exported model as its reader sees it, in the reader's own environment: `reader_worker.py llama.cpp|transformers PATH ASK OUT`.

ASK is JSON: {"ids": [...], "prompt": n, "text": "..."}. OUT (npz) gets the logits of every position of `ids`, the ids of
`text`, and what the reader itself writes after the first `prompt` ids, always taking the most likely token. The last line
of its output is JSON with versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from typing import Any

import numpy as np


def llama_cpp(path: str, ask: dict[str, Any]) -> tuple[np.ndarray, list[int], list[int]]:
    from llama_cpp import Llama

    ids = ask["ids"]
    model = Llama(
        path, n_ctx=len(ids) + 8, n_batch=len(ids) + 8, n_threads=int(os.environ.get("THREADS", "1")), logits_all=True, verbose=False
    )
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)], dtype=np.float32)
    tokens = model.tokenize(ask["text"].encode(), add_bos=False, special=False)
    model.reset()
    model.eval(ids[: ask["prompt"]])
    written: list[int] = []
    while ask["prompt"] + len(written) < len(ids):
        written.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(written[-1:])
    return logits, tokens, written


def transformers(path: str, ask: dict[str, Any]) -> tuple[np.ndarray, list[int], list[int]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = torch.tensor([ask["ids"]])
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()
    tokens = AutoTokenizer.from_pretrained(path, local_files_only=True)(ask["text"], add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(ids).logits[0].float().numpy()
        prompt = ids[:, : ask["prompt"]]
        count = ids.shape[1] - ask["prompt"]
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=count, max_new_tokens=count)
    return logits, tokens, out[0, ask["prompt"] :].tolist()


def main(reader: str, path: str, asked: str, out: str) -> int:
    with open(asked, encoding="utf-8") as file:
        ask = json.load(file)
    logits, tokens, written = {"llama.cpp": llama_cpp, "transformers": transformers}[reader](path, ask)
    np.savez(out, logits=logits, tokens=np.array(tokens), written=np.array(written))
    names = {"llama.cpp": ["llama-cpp-python"], "transformers": ["transformers", "compressed-tensors", "torch"]}[reader]
    print(json.dumps({name: importlib.metadata.version(name) for name in names}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
