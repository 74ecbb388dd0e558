"""Weights stored in few bits: integers packed into bytes, with a scale (and a zero point) for each group.

A weight w of a row is stored as an integer q of `bits` bits, and stands for (q - zero) * scale, where scale and zero are
shared by `group_size` consecutive inputs of that row. Integers lie in bit planes of 4, 2 and 1 bits (8 is a plane of
its own), e.g. 3 bits as a plane of 2 and a plane of 1: every plane unpacks with two shifts, for any width.
Everything is a buffer, so a byte count and a state dict see all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..execution.engines import Choice, Prepared, Work, choose, prepared, stamp_of

SLICE = 1 << 20  # weights dequantized at once on a CPU: 4 MB of float32 stay in its cache, and never become fresh pages
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def plane_bytes(count: int, bits: int) -> int:
    """Bytes of one row of `count` integers of `bits` bits.

    >>> plane_bytes(64, 4), plane_bytes(64, 3), plane_bytes(10, 3)
    (32, 24, 5)
    """
    return sum(-(-count * width // 8) for width in PLANES[bits])


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 integers [rows, n] below 2**bits -> packed uint8 [rows, plane_bytes(n, bits)].

    A byte of a 4-bit plane holds integer j and integer j + n/2 (of a 2-bit plane j, j + n/4, ...), not two neighbours:
    unpacking then writes long runs, which is twice as fast on a CPU.
    """
    planes, shift = [], 0
    for width in PLANES[bits]:
        plane = (values >> shift) & ((1 << width) - 1)
        shift += width
        per_byte = 8 // width
        if remainder := plane.shape[1] % per_byte:
            plane = nn.functional.pad(plane, (0, per_byte - remainder))
        parts = plane.chunk(per_byte, dim=1)
        byte = parts[0].clone()
        for i in range(1, per_byte):
            byte |= parts[i] << (i * width)
        planes.append(byte)
    return torch.cat(planes, dim=1)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The inverse of `pack`: packed uint8 [rows, bytes] -> uint8 [rows, count]."""
    out, shift, start = None, 0, 0
    for width in PLANES[bits]:
        length = -(-count * width // 8)
        byte = packed[:, start : start + length]
        start += length
        mask = (1 << width) - 1
        plane = byte if width == 8 else torch.cat([(byte >> (i * width)) & mask for i in range(8 // width)], dim=1)[:, :count]
        out = plane if out is None else out | (plane << shift)
        shift += width
    assert out is not None
    return out


class PackedWeight(nn.Module):
    """A matrix [rows, columns] in few bits. Linear and embedding modules hold one; tied modules hold the same one.

    integers: uint8 [rows, plane_bytes(columns, bits)]
    scales:   float16 or bfloat16 [rows, groups]
    zeros:    packed zero points, uint8 [rows, plane_bytes(groups, bits)]; absent when symmetric (zero = 2**(bits-1));
              with a `zero_dtype`, real numbers of that type [rows, groups]
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        bits: int,
        group_size: int | None,
        symmetric: bool,
        dtype: torch.dtype,
        scale_dtype: torch.dtype = torch.float16,
        device: torch.device | str | None = None,
        zero_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rows, self.columns, self.bits, self.symmetric = rows, columns, bits, symmetric
        self.zero_dtype = None if symmetric else zero_dtype
        self.group_size = group_size or columns
        self.dtype, self.scale_dtype = dtype, scale_dtype
        groups = columns // self.group_size
        self.groups = groups
        empty = {"device": device, "dtype": torch.uint8}
        self.register_buffer("integers", torch.empty(rows, plane_bytes(columns, bits), **empty))
        self.register_buffer("scales", torch.empty(rows, groups, device=device, dtype=scale_dtype))
        if self.zero_dtype is not None:
            self.register_buffer("zeros", torch.empty(rows, groups, device=device, dtype=self.zero_dtype))
        elif not symmetric:
            self.register_buffer("zeros", torch.empty(rows, plane_bytes(groups, bits), **empty))

    integers: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    @staticmethod
    def predicted_bytes(rows: int, columns: int, bits: int, group_size: int | None, symmetric: bool, real_zeros: bool = False) -> int:
        """Stored bytes, known before anything is rounded; a test holds it equal to what is stored.

        >>> PackedWeight.predicted_bytes(1, 64, 4, 64, False)
        35
        """
        groups = columns // (group_size or columns)
        zeros = 0 if symmetric else 2 * groups if real_zeros else plane_bytes(groups, bits)
        return rows * (plane_bytes(columns, bits) + 2 * groups + zeros)

    def store_(self, start: int, integers: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None) -> None:
        """Fill rows from `start`: uint8 integers [n, columns], scales [n, groups], zero points [n, groups] (None: symmetric)."""
        rows = slice(start, start + len(integers))
        self.integers[rows] = pack(integers, self.bits)
        self.scales[rows] = scales
        if zeros is not None:
            self.zeros[rows] = zeros if self.zero_dtype is not None else pack(zeros, self.bits)

    def restore_(self, integers: torch.Tensor, scales: torch.Tensor) -> None:
        """Other integers [rows, columns] and scales on the same zero points."""
        self.integers.copy_(pack(integers, self.bits))
        self.scales.copy_(scales)

    def zero_points(self) -> torch.Tensor | float:
        """[rows, groups], uint8 or real, or the one number that serves all."""
        return 2.0 ** (self.bits - 1) if self.symmetric else self.zeros_of(self.zeros)

    def zeros_of(self, stored: torch.Tensor) -> torch.Tensor:
        """Zero points [n, groups] of some stored rows."""
        return stored if self.zero_dtype is not None else unpack(stored, self.bits, self.groups)

    def dequantized(self, rows: slice | torch.Tensor | None = None) -> torch.Tensor:
        """The matrix [rows, columns] it stands for, or only the given rows, in the compute dtype."""
        integers, scales = self.integers, self.scales
        zeros = None if self.symmetric else self.zeros
        if rows is not None:
            integers, scales = integers[rows], scales[rows]
            zeros = None if zeros is None else zeros[rows]
        q = unpack(integers, self.bits, self.columns).to(self.dtype).reshape(-1, self.groups, self.group_size)
        if zeros is None:
            q -= 2 ** (self.bits - 1)
        else:
            q -= self.zeros_of(zeros).to(self.dtype).unsqueeze(-1)
        q *= scales.to(self.dtype).unsqueeze(-1)
        return q.reshape(-1, self.columns)

    def scale_tensors(self) -> set[str]:
        return {"scales"} if self.symmetric else {"scales", "zeros"}

    @property
    def weight_count(self) -> int:
        return self.rows * self.columns

    def spec(self) -> dict[str, Any]:
        real = {} if self.zero_dtype is None else {"zero_dtype": str(self.zero_dtype).removeprefix("torch.")}
        return {
            "rows": self.rows,
            "columns": self.columns,
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
            "dtype": str(self.dtype).removeprefix("torch."),
            "scale_dtype": str(self.scale_dtype).removeprefix("torch."),
            **real,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], device: Any = "meta") -> PackedWeight:
        given = dict(spec)
        for name in {"dtype", "scale_dtype", "zero_dtype"} & given.keys():
            given[name] = getattr(torch, given[name])
        return cls(**given, device=device)

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"{self.rows}x{self.columns}, {self.bits}-bit, group {self.group_size}, {kind}"

    def _apply(self, fn: Any, recurse: bool = True) -> PackedWeight:
        """`.to(dtype)` changes what it computes in, never what is stored: scales keep their dtype."""
        stored = {name: tensor for name, tensor in self._buffers.items() if tensor is not None and tensor.is_floating_point()}
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.scales.device)).dtype
        super()._apply(fn, recurse)
        for name, tensor in stored.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self


class _Packed(nn.Module):
    """What packed linears and embeddings share: the weight they hold, and how they are saved."""

    kind: str

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        self.packed = packed

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized matrix, made anew at each access: for code that looks at `.weight.dtype` or its shape."""
        return self.packed.dequantized()

    @property
    def weight_count(self) -> int:
        return self.packed.weight_count

    def scale_tensors(self) -> set[str]:
        return {f"packed.{name}" for name in self.packed.scale_tensors()}


class PackedLinear(_Packed):
    """A linear layer y = x W' + b whose W is packed.

    x: [..., in_features] -> y: [..., out_features], in x's dtype. A few rows of x are multiplied by the engine that
    effkit.models.execution chooses for the device, the dtype and the shape; many rows, and rows that need a gradient, by
    the dequantized matrix. `engine`: None lets effkit choose, "dequantize" uses no engine.
    """

    kind = "packed-linear"
    engine: str | None = None

    def __init__(self, packed: PackedWeight, bias: torch.Tensor | None = None) -> None:
        super().__init__(packed)
        self.in_features, self.out_features = packed.columns, packed.rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._prepared: dict[torch.dtype, Prepared] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.engine is None and not torch.is_grad_enabled():
            ready = self._prepared.get(x.dtype) or self.prepare(x.dtype)
            if ready.engine is not None and x.numel() <= ready.engine.most_rows * self.in_features:
                engine = ready.engine
                if ready.stamp and not torch.compiler.is_compiling() and ready.stamp != stamp_of(self.packed):
                    ready = self.prepare(x.dtype)  # the same engine: only the weights have changed
                return engine.multiply(x, self.packed, ready.tensors, self.bias)
        return self._dequantized_product(x)

    def choice(self, dtype: torch.dtype) -> Choice:
        """The engine for inputs of this dtype, and why."""
        return choose(Work.of(self.packed, dtype))

    def prepare(self, dtype: torch.dtype) -> Prepared:
        """Let the engine derive what it needs from the stored weight: done at the first input, and after a change of it."""
        ready = self._prepared[dtype] = prepared(self.choice(dtype), self.packed, dtype)
        return ready

    def _dequantized_product(self, x: torch.Tensor) -> torch.Tensor:
        rows = max(1, SLICE // self.in_features)
        if x.device.type != "cpu" or rows >= self.out_features or (torch.is_grad_enabled() and x.requires_grad):
            return nn.functional.linear(x, self.packed.dequantized().to(x.dtype), self.bias)
        y = x.new_empty(*x.shape[:-1], self.out_features)
        for start in range(0, self.out_features, rows):
            part = slice(start, start + rows)
            weight = self.packed.dequantized(part).to(x.dtype)
            y[..., part] = nn.functional.linear(x, weight, None if self.bias is None else self.bias[part])
        return y

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        self._prepared.clear()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """A copy derives its own: what an engine prepared belongs to these tensors on this device."""
        return {**self.__dict__, "_prepared": {}}

    def storage_spec(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.packed.spec(), "bias": self.bias is not None}

    @classmethod
    def build(cls, spec: dict[str, Any]) -> PackedLinear:
        given = {k: v for k, v in spec.items() if k not in ("kind", "bias")}
        packed = PackedWeight.from_spec(given)
        bias = torch.empty(packed.rows, dtype=packed.dtype, device="meta") if spec["bias"] else None
        return cls(packed, bias)


class PackedEmbedding(_Packed):
    """An embedding table whose rows are packed: only the rows that are asked for are dequantized.

    ids: integers [...] -> [..., columns], times `scale` where the table's class multiplies what it looks up (Gemma's does).
    """

    kind = "packed-embedding"

    def __init__(self, packed: PackedWeight, padding_idx: int | None = None, scale: float = 1.0) -> None:
        super().__init__(packed)
        self.num_embeddings, self.embedding_dim, self.padding_idx = packed.rows, packed.columns, padding_idx
        self.scale = scale

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.packed.dequantized(ids.reshape(-1)).reshape(*ids.shape, self.embedding_dim)
        return rows if self.scale == 1.0 else rows * self.scale

    def storage_spec(self) -> dict[str, Any]:
        scaled = {} if self.scale == 1.0 else {"scale": self.scale}
        return {"kind": self.kind, **self.packed.spec(), "padding_idx": self.padding_idx, **scaled}

    @classmethod
    def build(cls, spec: dict[str, Any]) -> PackedEmbedding:
        given = {k: v for k, v in spec.items() if k not in ("kind", "padding_idx", "scale")}
        return cls(PackedWeight.from_spec(given), spec["padding_idx"], spec.get("scale", 1.0))
