"""GPTQModel: GPTQ, columns in order of activation within its groups (Frantar et al. 2023, arXiv:2210.17323).

"error": "propagated" is its GPTAQ, which also corrects what the layers before have done to the inputs (Li et al. 2025,
arXiv:2504.02692); "mse" is the power of the error by which it searches each group's scale, 0 for none. Its other settings
are its defaults. A model that it has just quantized to its default format, "gptq", holds zero points that are one too small
for the kernel it holds: they are meant for a file, and loading adds the one. "gptq_v2" holds them as they are, in memory and in files.
"""

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
    from gptqmodel.quantization.config import GPTAQConfig

    bits, group, power = setting["bits"], setting["group"], setting.get("mse", 0.0)
    symmetric, propagated = setting.get("symmetric", True), setting.get("error") == "propagated"
    config = QuantizeConfig(
        bits=bits, group_size=group, sym=symmetric, mse=power, gptaq=GPTAQConfig() if propagated else None,
        desc_act=False, format="gptq_v2", device="cpu", offload_to_disk=False,
    )  # fmt: skip
    loaded = GPTQModel.load(model, config, dtype=torch.float32)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in calibration]
    loaded.quantize(rows, batch_size=4)
    weights = {}
    for name, plain in peer.linears(peer.base(model)).items():
        part = loaded.model.get_submodule(name)
        weight = part.dequantize_weight().t().float()
        # a zero point misread by one moves every weight of a group by a step; a right reading leaves errors that average out
        drift = (weight - plain.weight.detach()).reshape(-1, group).mean(1).abs().mean() / part.scales.float().mean()
        assert drift < 0.5, f"{name}: its groups have moved by {drift:.2f} steps"
        assert torch.equal(part.g_idx.long(), torch.arange(weight.shape[1]) // group), f"{name}: its groups are not in order"
        weights[name] = weight
    counted = bits + (16 + bits) / group  # its format always stores zero points; g_idx follows from the column
    words = ["GPTAQ" if propagated else "GPTQ", f"{bits} bits", f"group {group}", "symmetric" if symmetric else "zero points"]
    return weights, counted, ", ".join([*words, f"scales searched (power {power})"] if power else words)


if __name__ == "__main__":
    sys.exit(peer.serve(make))
