"""A linear layer in 8 bits on both sides: int8 weights with a scale a row, and inputs rounded to int8 with a scale a token.

    y = (q_x q_w') * s_x * s_w + b

The product of integers is exact, whatever computes it: torch._int_mm where the device has it for the shape, else float32
products over stretches of inputs so short that every partial sum is an integer that float32 holds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

STRETCH = (1 << 24) // (127 * 127)  # inputs whose products of int8 sum up to less than 2^24: float32 holds them exactly
FEWEST_ROWS = 17  # that torch._int_mm takes on CUDA


class Int8Rows(nn.Module):
    """What linear layers of int8 rows share. integers: int8 [rows, columns]; by the name `scale`: float32 [rows]."""

    kind: str
    scale = "scales"

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, bias: torch.Tensor | None = None, device: Any = "meta") -> None:
        super().__init__()
        self.out_features, self.in_features, self.dtype = rows, columns, dtype
        self.register_buffer("integers", torch.empty(rows, columns, dtype=torch.int8, device=device))
        self.register_buffer(self.scale, torch.empty(rows, dtype=torch.float32, device=device))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    integers: torch.Tensor

    @staticmethod
    def predicted_bytes(rows: int, columns: int) -> int:
        """Without the bias.

        >>> Int8Rows.predicted_bytes(2, 64)
        136
        """
        return rows * columns + 4 * rows

    def dequantized(self) -> torch.Tensor:
        """The weight [rows, columns] in `dtype`."""
        return (self.integers.to(torch.float32) * self.steps().unsqueeze(1)).to(self.dtype)

    def steps(self) -> torch.Tensor:
        """What an integer of 1 stands for in every row, float32 [rows]."""
        return getattr(self, self.scale)

    @property
    def weight(self) -> torch.Tensor:
        return self.dequantized()

    @property
    def weight_count(self) -> int:
        return self.out_features * self.in_features

    def scale_tensors(self) -> set[str]:
        return {self.scale}

    def storage_spec(self) -> dict[str, Any]:
        dtype = str(self.dtype).removeprefix("torch.")
        return {"kind": self.kind, "rows": self.out_features, "columns": self.in_features, "dtype": dtype, "bias": self.bias is not None}

    @classmethod
    def build(cls, spec: dict[str, Any]) -> Int8Rows:
        dtype = getattr(torch, spec["dtype"])
        bias = torch.empty(spec["rows"], dtype=dtype, device="meta") if spec["bias"] else None
        return cls(spec["rows"], spec["columns"], dtype, bias)

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Rows:
        return keep_float32(self, fn, recurse, (self.scale,))


class Int8Linear(Int8Rows):
    """integers: int8 [rows, columns], within -127 ... 127; scales: float32 [rows]."""

    kind = "int8-linear"
    scales: torch.Tensor

    def store_(self, weight: torch.Tensor) -> None:
        """Round a matrix [rows, columns]: the largest weight of every row lies on 127."""
        self.integers, self.scales = rounded_rows(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)
        rows = x.reshape(-1, self.in_features)
        q, scales = rounded_rows(rows)
        y = product(q, self.integers).to(torch.float32) * scales.unsqueeze(1) * self.scales
        y = y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.out_features}x{self.in_features}, int8 rows, int8 inputs"


def keep_float32(module: Any, fn: Any, recurse: bool, names: tuple[str, ...]) -> Any:
    """nn.Module._apply for one that stores integers: `.to(dtype)` changes what it computes in; the tensors in `names` stay float32."""
    stored = {name: getattr(module, name) for name in names}
    module.dtype = fn(torch.empty(0, dtype=module.dtype, device=module.integers.device)).dtype
    nn.Module._apply(module, fn, recurse)
    for name, tensor in stored.items():
        setattr(module, name, tensor.to(getattr(module, name).device))
    return module


def rounded_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [n, m] and float32 scales [n] for a matrix [n, m]: magnitudes up to 127, a scale of its own for each row."""
    exact = x.float()
    scales = exact.abs().amax(dim=1).clamp(min=1e-30) / 127
    return torch.round(exact / scales.unsqueeze(1)).clamp_(-127, 127).to(torch.int8), scales


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [n, k] times b' [m, k], both int8 -> int32 [n, m], exact."""
    if has_int_mm(a.device.type, a.shape[0], a.shape[1], b.shape[0]):
        return torch._int_mm(a, b.t())  # pyright: ignore[reportPrivateImportUsage]
    total = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], STRETCH):
        part = slice(start, start + STRETCH)
        total += (a[:, part].float() @ b[:, part].float().t()).to(torch.int32)
    return total


def has_int_mm(device: str, rows: int, inner: int, columns: int) -> bool:
    """Whether torch multiplies int8 matrices of this shape on this kind of device."""
    if device == "cpu":
        return True
    return device == "cuda" and rows >= FEWEST_ROWS and inner % 8 == 0 and columns % 8 == 0
