"""Linear layers stored as bitsandbytes stores them (NF4, FP4: arXiv:2305.14314; LLM.int8(): arXiv:2208.07339).

bitsandbytes' own modules keep part of their state outside buffers; these keep all of it inside, so that byte counts and
files are complete. Weights are quantized as one flat vector: bitsandbytes' CPU path for matrices gives wrong values where
a row is not a multiple of the block (0.50.2: relative error 0.25 instead of 0.09 for 288 columns in blocks of 64), while
the flat path is right everywhere.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from effkit.spec.errors import Unavailable

from .int8 import Int8Rows, keep_float32

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@cache
def bitsandbytes() -> ModuleType:
    """The library, imported so that its CPU backend cannot fetch kernels from a hub. Unavailable if it will not import."""
    log, hidden = logging.getLogger("bitsandbytes"), sys.modules.get("kernels")
    before = log.level
    try:
        sys.modules["kernels"] = None  # type: ignore[assignment]  # its import-time get_kernel() would download and run code
        log.setLevel(logging.ERROR)
        import bitsandbytes as library
    except Exception as error:
        raise Unavailable("bitsandbytes cannot be used", f"importing it failed: {error}", "Run: pip install bitsandbytes") from error
    finally:
        log.setLevel(before)
        if hidden is None:
            sys.modules.pop("kernels", None)
        else:
            sys.modules["kernels"] = hidden
    return library


class BnbLinear4bit(nn.Module):
    """y = x W' + b with W in NF4 or FP4 blocks, each with a float32 absolute maximum.

    integers: uint8 [ceil(rows*columns/2)]; absmax: float32 [blocks]; code: float32 [16], the sixteen values.
    """

    kind = "bnb-4bit"

    def __init__(self, rows: int, columns: int, quant_type: str, block: int, dtype: torch.dtype, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = rows, columns
        self.quant_type, self.block, self.dtype = quant_type, block, dtype
        count = rows * columns
        self.register_buffer("integers", torch.empty((count + 1) // 2, dtype=torch.uint8, device="meta"))
        self.register_buffer("absmax", torch.empty(-(-count // block), dtype=torch.float32, device="meta"))
        self.register_buffer("code", torch.empty(16, dtype=torch.float32, device="meta"))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    integers: torch.Tensor
    absmax: torch.Tensor
    code: torch.Tensor

    @staticmethod
    def predicted_bytes(rows: int, columns: int, block: int) -> int:
        count = rows * columns
        return (count + 1) // 2 + 4 * -(-count // block) + 4 * 16

    def store_(self, weight: torch.Tensor) -> None:
        functional = bitsandbytes().functional
        packed, state = functional.quantize_4bit(weight.reshape(-1).contiguous(), blocksize=self.block, quant_type=self.quant_type)
        self.integers, self.absmax, self.code = packed.reshape(-1), state.absmax, state.code.to(packed.device)

    def _state(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        return bitsandbytes().functional.QuantState(
            absmax=self.absmax, shape=torch.Size(shape), code=self.code, blocksize=self.block, quant_type=self.quant_type, dtype=dtype
        )

    def dequantized(self) -> torch.Tensor:
        """[rows, columns] in the compute dtype."""
        flat = self._state((self.out_features * self.in_features,), self.dtype)
        return bitsandbytes().functional.dequantize_4bit(self.integers.reshape(-1, 1), flat).reshape(self.out_features, self.in_features)

    @property
    def weight(self) -> torch.Tensor:
        return self.dequantized()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cuda" and self.in_features % self.block == 0:
            state = self._state((self.out_features, self.in_features), x.dtype)
            return bitsandbytes().matmul_4bit(x, self.integers.reshape(-1, 1).t(), quant_state=state, bias=self.bias)
        return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)

    @property
    def weight_count(self) -> int:
        return self.out_features * self.in_features

    def scale_tensors(self) -> set[str]:
        return {"absmax", "code"}

    def storage_spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "rows": self.out_features,
            "columns": self.in_features,
            "quant_type": self.quant_type,
            "block": self.block,
            "dtype": str(self.dtype).removeprefix("torch."),
            "bias": self.bias is not None,
        }

    @classmethod
    def build(cls, spec: dict[str, Any]) -> BnbLinear4bit:
        dtype = getattr(torch, spec["dtype"])
        bias = torch.empty(spec["rows"], dtype=dtype, device="meta") if spec["bias"] else None
        return cls(spec["rows"], spec["columns"], spec["quant_type"], spec["block"], dtype, bias)

    def _apply(self, fn: Any, recurse: bool = True) -> BnbLinear4bit:
        """`.to(dtype)` changes the compute dtype; block maxima and codes stay float32, as bitsandbytes wants them."""
        return keep_float32(self, fn, recurse, ("absmax", "code"))

    def extra_repr(self) -> str:
        return f"{self.out_features}x{self.in_features}, {self.quant_type}, block {self.block}"


class BnbLinear8bit(Int8Rows):
    """y = x W' + b by LLM.int8(): int8 rows, inputs rounded to int8 too, input outliers (above 6) kept in float16.

    integers: int8 [rows, columns]; absmax: float32 [rows].
    """

    kind = "bnb-int8"
    scale = "absmax"
    threshold = 6.0
    absmax: torch.Tensor

    def store_(self, weight: torch.Tensor) -> None:
        self.integers, self.absmax, _ = bitsandbytes().functional.int8_vectorwise_quant(weight.to(torch.float16).contiguous())

    def steps(self) -> torch.Tensor:
        return self.absmax / 127.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)
        # The operators themselves: bitsandbytes' MatMul8bitLt warns once a layer that float32 inputs are cast.
        ops, half = torch.ops.bitsandbytes, x.reshape(-1, self.in_features).to(torch.float16)
        rounded, scales, outliers = bitsandbytes().functional.int8_vectorwise_quant(half, threshold=self.threshold)
        if outliers is not None and outliers.numel():
            y = ops.int8_mixed_scaled_mm(half, rounded, self.integers, scales, self.absmax, outliers, None)[0]
        else:
            y = ops.int8_scaled_mm.default(rounded, self.integers, scales, self.absmax, bias=None, dtype=half.dtype)
        y = y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.out_features}x{self.in_features}, int8 rows"
