"""What every peer's worker needs, in the peer's own environment (torch, transformers and safetensors; no effkit).

A worker is `NAME_worker.py MODEL JOB OUT`. JOB is JSON: {"settings": [...], "calibration": [[token ids], ...], "threads": n}.
For each of its settings it makes the model anew, hands over the weights of the blocks' linears as the peer dequantizes
them (OUT/<number>.safetensors, float32) and prints a line of JSON: number, bits per weight counted from what the format
stores (integers, scales, zero points, anything else), seconds, how. A setting that fails prints its error instead.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def base(model: str) -> Any:
    """The model in float32 on the CPU."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()


def tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True)


def linears(module: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers of the blocks, by name: all but the head."""
    head = module.get_output_embeddings()
    return {name: part for name, part in module.named_modules() if isinstance(part, torch.nn.Linear) and part is not head}


def batches(calibration: list[list[int]], size: int = 1) -> Any:
    """A DataLoader of {"input_ids", "attention_mask"}."""
    rows = [{"input_ids": torch.tensor(row), "attention_mask": torch.ones(len(row), dtype=torch.long)} for row in calibration]
    return torch.utils.data.DataLoader(rows, batch_size=size, shuffle=False)


# (model folder, setting, calibration) -> (weights by name, bits per weight, in words)
Make = Callable[[str, dict[str, Any], list[list[int]]], tuple[Mapping[str, torch.Tensor], float, str]]


def serve(make: Make) -> int:
    """Do the job that the command line names."""
    from safetensors.torch import save_file

    model, job, out = sys.argv[1:4]
    asked = json.loads(Path(job).read_text())
    torch.set_num_threads(asked["threads"])
    for number, setting in enumerate(asked["settings"]):
        torch.manual_seed(0)
        begun = time.perf_counter()
        told: dict[str, Any] = {"number": number, "setting": setting}
        try:
            weights, bits, how = make(model, setting, asked["calibration"])
            told |= {"bits_per_weight": round(bits, 4), "seconds": round(time.perf_counter() - begun, 1), "how": how}
            save_file({name: w.detach().float().contiguous() for name, w in weights.items()}, Path(out) / f"{number}.safetensors")
        except Exception as error:  # noqa: BLE001 (whatever a peer raises is its result here)
            traceback.print_exc()
            told["error"] = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}"
        print("RESULT " + json.dumps(told), flush=True)
    return 0
