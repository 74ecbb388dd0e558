"""auto-round: learned rounding by signed gradients on block outputs (Cheng et al. 2023, arXiv:2309.05516).

Eight windows a step. 200 iterations a block are its default; its recipe "best" takes 1000 of them and 512 windows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    from auto_round import AutoRound

    bits, group, symmetric = setting["bits"], setting["group"], setting.get("symmetric", True)
    module = peer.base(model)
    names = list(peer.linears(module))
    rounding = AutoRound(
        module,
        tokenizer=peer.tokenizer(model),
        scheme={"bits": bits, "group_size": group, "sym": symmetric, "data_type": "int", "act_bits": 16},
        dataset=peer.batches(calibration),
        iters=setting["iterations"],
        nsamples=len(calibration),
        seqlen=len(calibration[0]),
        batch_size=8,
        device_map="cpu",
    )
    done, _ = rounding.quantize()
    weights = {}
    for name in names:
        part = done.get_submodule(name)
        weights[name] = part.weight.detach().float() if hasattr(part, "weight") else part.orig_layer.weight.detach().float()
    counted = bits + (16 + (0 if symmetric else bits)) / group
    how = f"{bits} bits, group {group}, {'symmetric' if symmetric else 'zero points'}, {setting['iterations']} iterations a block"
    return weights, counted, how


if __name__ == "__main__":
    sys.exit(peer.serve(make))
