"""What a model consists of, as other programs name it: every tensor of the architecture, dense or in few bits, tied ones once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers.pytorch_utils import Conv1D

from effkit.spec.errors import BadInput

from ..building import BUILDING
from ..checks import same_storage
from ..model import Model
from ..stored.packed import PackedEmbedding, PackedLinear, PackedWeight, unpack
from ..stored.storage import is_replaced


@dataclass(frozen=True)
class Part:
    """One tensor of the original architecture.

    module: the module that holds it; name: the tensor's own ("model.norm.weight")
    packed: its integers and scales, if it is in few bits; else `tensor` holds it
    original: the module's class in transformers
    stored: what it became, in words, if it is in another few-bit form ("BnbLinear4bit"); `tensor` is dequantized then
    """

    module: str
    name: str
    original: type[nn.Module]
    shape: tuple[int, ...]
    own_bytes: int
    tensor: torch.Tensor | None = None
    packed: PackedWeight | None = None
    holder: nn.Module | None = None

    @property
    def stored(self) -> str:
        if self.holder is None or self.packed is not None:
            return ""
        return type(self.holder).__name__ + (" with real zero points" if hasattr(self.holder, "packed") else "")

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The numbers as the architecture lays them out, on the CPU."""
        if self.tensor is not None:
            return self.tensor.detach().to("cpu", dtype)
        packed = self.packed or getattr(self.holder, "packed", None)
        if packed is not None:
            value = numbers(packed) if dtype in (None, torch.float32) else packed.dequantized().to(dtype)
        else:
            value = self.holder.dequantized()  # type: ignore[union-attr, operator]
        value = value.detach().to("cpu", dtype)
        return value.t().contiguous() if issubclass(self.original, Conv1D) else value

    @property
    def linear(self) -> bool:
        return issubclass(self.original, nn.Linear)


def blank(model: Model) -> nn.Module:
    """The architecture as transformers makes it, without weights."""
    config: Any = model.module.config
    with BUILDING, init_empty_weights(include_buffers=False):
        return type(model.module)(config)


def linears(model: Model) -> list[str]:
    """The names of all linear layers of the architecture, a tied head among them."""
    return [name for name, module in blank(model).named_modules() if isinstance(module, nn.Linear)]


def parts(model: Model) -> list[Part]:
    """All tensors that a checkpoint of the architecture holds, in its order; of tied ones the first."""
    config: Any = model.module.config
    empty = blank(model)
    ties = bool(getattr(config, "tie_word_embeddings", False))
    found, seen = [], set()
    for name in empty.state_dict():
        path, _, leaf = name.rpartition(".")
        holder = model.module.get_submodule(path)
        original = type(empty.get_submodule(path))
        if is_replaced(holder) and leaf == "weight":
            part = _replaced(path, name, original, holder)
            key = id(part.packed or holder)
        else:
            tensor = getattr(holder, leaf)
            part = Part(path, name, original, tuple(tensor.shape), tensor.numel() * tensor.element_size(), tensor=tensor)
            key = same_storage(tensor)
        if not (ties and key in seen):
            found.append(part)
        seen.add(key)
    return found


def _replaced(path: str, name: str, original: type[nn.Module], holder: nn.Module) -> Part:
    if isinstance(holder, PackedLinear | PackedEmbedding):
        packed = holder.packed
        own = sum(t.numel() * t.element_size() for t in packed.buffers())
        whole = packed.zero_dtype is None  # other formats have no real zero points
        return Part(path, name, original, (packed.rows, packed.columns), own, packed=packed if whole else None, holder=holder)
    if not hasattr(holder, "dequantized"):
        raise BadInput(
            f"{path} is stored as {type(holder).__name__}, which cannot tell its weights",
            "Allowed: dense weights and those that effkit or bitsandbytes packed",
            "Export in the format 'effkit'",
        )
    own = sum(t.numel() * t.element_size() for key, t in holder.state_dict().items() if key != "bias")
    shape = (holder.out_features, holder.in_features)
    return Part(path, name, original, shape, own, holder=holder)  # type: ignore[arg-type]


def integers(packed: PackedWeight, rows: slice | torch.Tensor = slice(None)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(integers uint8 [rows, columns], zero points [rows, groups], scales [rows, groups]) on the CPU."""
    q = unpack(packed.integers[rows].cpu(), packed.bits, packed.columns)
    scales = packed.scales[rows].cpu()
    if packed.symmetric:
        zeros = torch.full(scales.shape, 2 ** (packed.bits - 1), dtype=torch.uint8)
    else:
        zeros = packed.zeros_of(packed.zeros[rows].cpu())
    return q, zeros, scales


def numbers(packed: PackedWeight, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
    """The weights [rows, columns] in float32, whatever the compute dtype: (q - zero) * scale without rounding."""
    q, zeros, scales = integers(packed, rows)
    grouped = q.float().reshape(len(q), packed.groups, packed.group_size)
    return ((grouped - zeros.float().unsqueeze(-1)) * scales.float().unsqueeze(-1)).reshape(len(q), packed.columns)


def span(packed: PackedWeight) -> tuple[int, int]:
    """The least and the largest q - zero that the width allows: (-8, 7) for symmetric 4 bits, (-15, 15) for asymmetric."""
    if packed.symmetric:
        return -(2 ** (packed.bits - 1)), 2 ** (packed.bits - 1) - 1
    return 1 - 2**packed.bits, 2**packed.bits - 1
