"""bitsandbytes: NF4 and FP4 in blocks, scales of blocks in float32 or nested in 8 bits (Dettmers et al. 2023, arXiv:2305.14314).

It has no widths below 4 bits and no calibration. Bits are counted from the tensors that it makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

import peer


def make(model: str, setting: dict[str, Any], calibration: list[list[int]]) -> tuple[dict[str, torch.Tensor], float, str]:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights, stored, count = {}, 0, 0
    for name, linear in peer.linears(peer.base(model)).items():
        # flat: the CPU path for matrices is wrong where a row is no multiple of the block
        flat = linear.weight.detach().reshape(-1, 1).contiguous()
        packed, state = quantize_4bit(
            flat, blocksize=setting["block"], quant_type=setting["type"], compress_statistics=setting["nested"], quant_storage=torch.uint8
        )
        weights[name] = dequantize_4bit(packed, state).reshape(linear.weight.shape)
        stored += packed.nbytes + state.absmax.nbytes
        if setting["nested"]:
            stored += state.state2.absmax.nbytes + state.offset.nbytes
        count += flat.numel()
    return (
        weights,
        8 * stored / count,
        f"{setting['type']} in blocks of {setting['block']}{', scales in 8 bits' if setting['nested'] else ''}",
    )


if __name__ == "__main__":
    sys.exit(peer.serve(make))
