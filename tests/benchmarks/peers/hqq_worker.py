"""HQQ: half-quadratic quantization without data (Badri and Shaji 2023), scales and zero points in float16.

"axis" is the side along which weights share a scale: 1, a row's, which its fast kernels read; or 0, a column's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    from hqq.core.quantize import Quantizer

    weights, stored, count = {}, 0.0, 0
    for name, linear in peer.linears(peer.base(model)).items():
        given = {"nbits": setting["bits"], "group_size": setting["group"], "axis": setting.get("axis", 1), "optimize": True}
        packed, meta = Quantizer.quantize(linear.weight.detach(), **given, compute_dtype=torch.float32, device="cpu")
        meta["scale"], meta["zero"] = meta["scale"].half().float(), meta["zero"].half().float()  # as its files hold them
        weights[name] = Quantizer.dequantize(packed, meta).reshape(linear.weight.shape)
        stored += setting["bits"] * linear.weight.numel() + 16 * (meta["scale"].numel() + meta["zero"].numel())
        count += linear.weight.numel()
    return weights, stored / count, f"{setting['bits']} bits, group {setting['group']}, axis {setting.get('axis', 1)}"


if __name__ == "__main__":
    sys.exit(peer.serve(make))
