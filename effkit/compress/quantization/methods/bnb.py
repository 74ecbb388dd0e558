"""NF4, FP4 (arXiv:2305.14314) and LLM.int8() (arXiv:2208.07339) through bitsandbytes.

Every quantized weight is checked once against what the format can lose: a kernel that returns wrong values is caught
here, before it can be mistaken for a bad method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effkit.models.stored.bnb import BLOCKS, BnbLinear4bit, BnbLinear8bit, bitsandbytes
from effkit.spec.errors import BadInput, EffkitError, Unavailable

from ..rounding import relative_error

if TYPE_CHECKING:
    from effkit.hardware.attached.device import Device
    from effkit.spec.recipe import Quantize


class BitsAndBytes:
    """`bound`: largest relative error that normal or heavier-tailed weights can have in this format."""

    def __init__(self, name: str, title: str, summary: str, bits: int, group_sizes: tuple[int, ...], bound: float) -> None:
        self.name, self.title, self.summary = name, title, summary
        self.bits, self.group_sizes, self.bound = (bits,), group_sizes, bound

    def why_not(self, device: Device) -> str | None:
        try:
            bitsandbytes()
        except Unavailable as error:
            return str(error)
        return None

    def group_for(self, step: Quantize, columns: int) -> int:
        if not self.group_sizes:
            if step.group_size not in ("auto", None):
                raise BadInput(f"group_size for {self.name} is {step.group_size}", "Allowed: None (whole rows) or 'auto'")
            return columns
        if step.group_size == "auto":
            return 64
        if step.group_size not in self.group_sizes:
            allowed = ", ".join(map(str, self.group_sizes))
            raise BadInput(f"group_size for {self.name} is {step.group_size}", f"Allowed: {allowed} or 'auto' (64)")
        return int(step.group_size)

    def check(self, step: Quantize, rows: int, columns: int) -> str | None:
        if step.symmetric:
            raise BadInput(f"symmetric is True for {self.name}", "Allowed: False; its levels are fixed", "Leave symmetric out")
        return None

    def predicted_bytes(self, step: Quantize, rows: int, columns: int, group: int) -> int:
        if not self.group_sizes:
            return BnbLinear8bit.predicted_bytes(rows, columns)
        return BnbLinear4bit.predicted_bytes(rows, columns, group)

    def apply(
        self, step: Quantize, weight: torch.Tensor, bias: torch.Tensor | None, group: int, dtype: torch.dtype
    ) -> BnbLinear4bit | BnbLinear8bit:
        rows, columns = weight.shape
        if not self.group_sizes:
            module: BnbLinear4bit | BnbLinear8bit = BnbLinear8bit(rows, columns, dtype, bias)
        else:
            module = BnbLinear4bit(rows, columns, self.name, group, dtype, bias)
        module.store_(weight)
        if (error := relative_error(module.dequantized(), weight)) > self.bound:
            raise EffkitError(
                f"bitsandbytes returned wrong values for a {rows}x{columns} weight in {self.name}: relative error {error:.2f}, "
                f"and the format loses at most {self.bound:.2f}. Choose method 'rtn', or another version of bitsandbytes."
            )
        return module


# Bounds: one weight of 64 dominating its block loses the rest, at most about a third of the block's energy in practice.
NF4 = BitsAndBytes("nf4", "NormalFloat 4 (bitsandbytes)", "Sixteen levels placed for normal weights, blocks of 64.", 4, BLOCKS, 0.2)
FP4 = BitsAndBytes("fp4", "Float 4 (bitsandbytes)", "Sixteen floating-point levels, blocks of 64.", 4, BLOCKS, 0.25)
INT8 = BitsAndBytes("int8", "LLM.int8() (bitsandbytes)", "8-bit rows; inputs are rounded to 8 bits too, outliers kept.", 8, (), 0.2)
