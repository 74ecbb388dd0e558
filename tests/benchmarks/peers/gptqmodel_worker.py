"""GPTQModel: GPTQ with static groups in order of activation (Frantar et al. 2023, arXiv:2210.17323)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # on two cores it allows itself one, and then needs two
    from gptqmodel import GPTQModel, QuantizeConfig

    bits, group = setting["bits"], setting["group"]
    symmetric = setting.get("symmetric", True)
    config = QuantizeConfig(bits=bits, group_size=group, sym=symmetric, desc_act=False, device="cpu", offload_to_disk=False)
    loaded = GPTQModel.load(model, config, dtype=torch.float32)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in calibration]
    loaded.quantize(rows, batch_size=4)
    names = list(peer.linears(peer.base(model)))
    weights = {}
    for name in names:
        part = loaded.model.get_submodule(name)
        weights[name] = part.dequantize_weight().t().float()
    counted = bits + (16 + bits) / group  # its format always stores zero points
    return weights, counted, f"{bits} bits, group {group}, {'symmetric' if symmetric else 'zero points'}"


if __name__ == "__main__":
    sys.exit(peer.serve(make))
