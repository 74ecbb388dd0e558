"""torchao: IntxWeightOnlyConfig, round to nearest or its HQQ variant, scales in bfloat16; no calibration text.

In memory its integers and zero points have 8 bits each; counted are those that were asked for, as its packed formats hold them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerGroup, quantize_
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    bits, group, asymmetric = setting["bits"], setting["group"], setting.get("asymmetric", False)
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=PerGroup(group),
        mapping_type=MappingType.ASYMMETRIC if asymmetric else MappingType.SYMMETRIC,
        scale_dtype=torch.bfloat16,
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm(setting.get("algorithm", "affine")),
    )
    module = peer.base(model)
    names = list(peer.linears(module))
    quantize_(module, config, filter_fn=lambda part, name: name in names)
    weights = {name: module.get_submodule(name).weight.dequantize().float() for name in names}
    counted = bits + (16 + (bits if asymmetric else 0)) / group
    return weights, counted, f"{bits} bits, group {group}, {setting.get('algorithm', 'affine')}{', zero points' if asymmetric else ''}"


if __name__ == "__main__":
    sys.exit(peer.serve(make))
