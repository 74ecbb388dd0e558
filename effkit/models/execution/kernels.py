"""The engines: PyTorch's and the vendors' kernels for packed weights, each under the rules it was seen to have.

A stored weight is (q - zero) * scale, q from 0 to 2**bits - 1. Every kernel wants it in a form of its own:
- `_weight_int4pack_mm_for_cpu`: (q - 8) * scale + offset, scale and offset bfloat16 per group. Its float32 path is a
  hundred times slower than its bfloat16 path (torch 2.13), so that one is never taken.
- `_weight_int8pack_mm`: int8 with one scale a row, no zero point; its float32 path is slow in the same way.
- `_weight_int4pack_mm` on CUDA: as on the CPU, in tiles, from compute capability 8.0 on.
- `npu_weight_quant_batchmatmul` on Ascend: (q + offset) * scale with the weight as [columns, rows], scales float16 or
  bfloat16. Its rules are from Huawei's documentation; it has been run on no real NPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effkit.hardware.attached.device import device as find_device

from . import native
from .engines import Work

if TYPE_CHECKING:
    from effkit.models.stored.packed import PackedWeight

GROUPS = (32, 64, 128, 256)


def integers_and_zeros(packed: PackedWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 integers [rows, columns] and float32 zero points [rows, groups] (2**(bits - 1) where symmetric)."""
    from effkit.models.stored.packed import unpack

    q = unpack(packed.integers, packed.bits, packed.columns)
    zeros = packed.zero_points()
    if isinstance(zeros, torch.Tensor):
        return q, zeros.to(torch.float32)
    return q, torch.full_like(packed.scales, zeros, dtype=torch.float32)


def scales_and_offsets(packed: PackedWeight, zeros: torch.Tensor) -> torch.Tensor:
    """bfloat16 [groups, rows, 2]: the scale, and the offset that turns (q - 8) * scale into (q - zero) * scale."""
    scales = packed.scales.to(torch.float32)
    return torch.stack([scales, (8 - zeros) * scales], dim=-1).transpose(0, 1).to(torch.bfloat16).contiguous()


class _Base:
    title = ""
    most_rows = 32
    derives = True

    def extra_bytes(self, work: Work) -> int:
        return 0


def _only_on(kind: str, work: Work) -> str | None:
    return None if work.device.type == kind else f"it runs on {kind}, and this is {work.device.type}"


def _int4_rules(work: Work, rows: int) -> str | None:
    if work.bits != 4:
        return f"it takes 4 bits, not {work.bits}"
    if work.dtype != torch.bfloat16:
        return f"it computes in bfloat16, not {_name(work.dtype)}"
    if work.group not in GROUPS:
        return f"it takes groups of 32, 64, 128 or 256, not {work.group}"
    return None if work.rows % rows == 0 else f"it takes multiples of {rows} output features, not {work.rows}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Int4Pack(_Base):
    """Two integers a byte, scale and offset in bfloat16: what the kernels of both devices do alike."""

    kernel = ""

    def extra_bytes(self, work: Work) -> int:
        return work.rows * (work.columns // 2 + 4 * (work.columns // work.group))

    def multiply(self, x: torch.Tensor, packed: PackedWeight, tensors: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
        weight, scales = tensors
        flat = x.reshape(-1, packed.columns)
        y = getattr(torch.ops.aten, self.kernel)(flat, weight, packed.group_size, scales).view(*x.shape[:-1], packed.rows)
        return y if bias is None else y + bias


class Int4PackCpu(_Int4Pack):
    title = "PyTorch's 4-bit kernel for the CPU, scales in bfloat16"
    kernel = "_weight_int4pack_mm_for_cpu"

    def why_not(self, work: Work) -> str | None:
        return _only_on("cpu", work) or _int4_rules(work, 16)

    def prepare(self, packed: PackedWeight, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        q, zeros = integers_and_zeros(packed)
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1), scales_and_offsets(packed, zeros)


class Int8PackCpu(_Base):
    title = "PyTorch's 8-bit kernel for the CPU"

    def why_not(self, work: Work) -> str | None:
        if reason := _only_on("cpu", work):
            return reason
        if work.bits != 8:
            return f"it takes 8 bits, not {work.bits}"
        if work.dtype != torch.bfloat16:
            return f"it is fast in bfloat16 only, not in {_name(work.dtype)}"
        if work.group != work.columns:
            return f"it takes one scale a row, not groups of {work.group}"
        if work.columns % 32:  # it reads past the end of other rows: seen as NaN and as a crash with 72 and 100
            return f"it takes multiples of 32 input features, not {work.columns}"
        return None if work.symmetric else "it takes no zero points"

    def extra_bytes(self, work: Work) -> int:
        return work.rows * (work.columns + 2)

    def prepare(self, packed: PackedWeight, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        q, _ = integers_and_zeros(packed)
        return (q.to(torch.int16) - 128).to(torch.int8), packed.scales.reshape(-1).to(torch.bfloat16)

    def multiply(self, x: torch.Tensor, packed: PackedWeight, tensors: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
        weight, scales = tensors
        y = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, packed.columns), weight, scales).view(*x.shape[:-1], packed.rows)
        return y if bias is None else y + bias


class NativeCpu(_Base):
    title = "effkit's own kernel for the CPU, on the stored bytes"
    derives = False

    def why_not(self, work: Work) -> str | None:
        if reason := _only_on("cpu", work) or native.why_not():
            return reason
        return "it takes whole zero points" if work.real_zeros else None

    def prepare(self, packed: PackedWeight, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        native.operator()
        return ()

    def multiply(self, x: torch.Tensor, packed: PackedWeight, tensors: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
        run = torch.ops.effkit.packed_linear if torch.compiler.is_compiling() else native.multiply
        return run(x, packed.integers, packed.scales, None if packed.symmetric else packed.zeros, bias, packed.group_size, packed.bits)


class Int4PackCuda(_Int4Pack):
    title = "PyTorch's tiled 4-bit kernel for CUDA, scales in bfloat16"
    kernel = "_weight_int4pack_mm"
    tiles = 8

    def why_not(self, work: Work) -> str | None:
        if reason := _only_on("cuda", work) or _int4_rules(work, 8):
            return reason
        if work.columns % (16 * self.tiles):
            return f"it takes multiples of {16 * self.tiles} input features, not {work.columns}"
        return None if "bfloat16" in find_device(work.device).dtypes else "it needs compute capability 8.0 or later"

    def prepare(self, packed: PackedWeight, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        q, zeros = integers_and_zeros(packed)
        pairs = (q[:, ::2] << 4) | q[:, 1::2]
        return torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), self.tiles), scales_and_offsets(packed, zeros)


class QuantBatchMatmulNpu(_Base):
    title = "Ascend's weight-quantized product"

    def why_not(self, work: Work) -> str | None:
        if reason := _only_on("npu", work):
            return reason
        if work.bits not in (4, 8):
            return f"it takes 4 or 8 bits, not {work.bits}"
        if work.dtype not in (torch.float16, torch.bfloat16):
            return f"it computes in float16 or bfloat16, not {_name(work.dtype)}"
        if work.group != work.columns and (work.group % 32 or work.group < 32):
            return f"it takes whole rows or groups in multiples of 32, not {work.group}"
        if "310P" in find_device(work.device).name and (work.bits == 4 or work.group != work.columns):
            return "on Ascend 310P it takes 8 bits with one scale a row"
        if work.bits == 4 and work.rows % 8:
            return f"eight 4-bit integers share a word, and {work.rows} output features are no multiple of 8"
        if not hasattr(torch.ops.npu, "npu_weight_quant_batchmatmul"):
            return "torch_npu in this process does not have npu_weight_quant_batchmatmul"
        if find_device(work.device).simulated:
            return "the simulated Ascend has no such kernel"
        return None

    def extra_bytes(self, work: Work) -> int:
        return work.rows * (work.columns * work.bits // 8 + 4 * (work.columns // work.group))

    def prepare(self, packed: PackedWeight, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        q, zeros = integers_and_zeros(packed)
        signed = q.to(torch.int32) - 2 ** (packed.bits - 1)
        weight = signed.t().contiguous()
        weight = torch.ops.npu.npu_convert_weight_to_int4pack(weight) if packed.bits == 4 else weight.to(torch.int8)
        offset = 2 ** (packed.bits - 1) - zeros
        return weight, packed.scales.t().to(dtype).contiguous(), offset.t().to(dtype).contiguous()

    def multiply(self, x: torch.Tensor, packed: PackedWeight, tensors: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
        weight, scales, offset = tensors
        group = 0 if packed.groups == 1 else packed.group_size
        y = torch.ops.npu.npu_weight_quant_batchmatmul(
            x.reshape(-1, packed.columns), weight, scales, antiquant_offset=offset, antiquant_group_size=group
        ).view(*x.shape[:-1], packed.rows)
        return y if bias is None else y + bias
