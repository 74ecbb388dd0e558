"""optimum-quanto: qint4 and qint2 in groups that it chooses (128, or less where that does not divide a row); no calibration text.

A scale and a shift a group are counted with 16 bits each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    from optimum.quanto import HqqOptimizer, MaxOptimizer, freeze, qint2, qint4, quantize

    optimizer = {"hqq": HqqOptimizer, "max": MaxOptimizer}[setting["optimizer"]]()
    bits = setting["bits"]
    module = peer.base(model)
    names = list(peer.linears(module))
    quantize(module, weights={2: qint2, 4: qint4}[bits], include=names, optimizer=optimizer)
    freeze(module)
    weights, stored, count, groups = {}, 0.0, 0, set()
    for name in names:
        packed = module.get_submodule(name).weight
        weights[name] = packed.dequantize()
        # a scale and a shift each, in 16 bits as its files would hold them
        stored += bits * packed.numel() + 16 * (packed._scale.numel() + packed._shift.numel())
        count += packed.numel()
        groups.add(getattr(packed, "_group_size", None))
    return weights, stored / count, f"qint{bits}, groups of {sorted(map(str, groups))}, {setting['optimizer']}"


if __name__ == "__main__":
    sys.exit(peer.serve(make))
