"""A key-value cache in 8 or 4 bits: what decoding keeps of the tokens it has read.

Keys and values of each head and token are rounded in groups of channels before attention sees them, so that what is
computed is what would be computed from the stored cache, also for the token that has just come. 8 bits: symmetric, one
scale a group. 4 bits: asymmetric, a scale and a smallest value a group (as KIVI does for values, arXiv:2402.02750; its
grouping of keys along tokens would need a tail in full precision). Integers are packed, so bytes are those really held.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from effkit.spec.errors import BadInput, choice

from .packed import pack, unpack

KV_BITS = (8, 4)
GROUP = 32  # channels that share a scale, where the head's width is a multiple of it; else the whole head


def group_of(width: int) -> int:
    return GROUP if width % GROUP == 0 else width


class Rounded:
    """Keys or values [batch, heads, tokens, width] of one layer, packed: integers, scales, and smallest values for 4 bits."""

    def __init__(self, bits: int) -> None:
        self.bits, self.width = bits, 0
        self.parts: tuple[torch.Tensor, ...] = ()

    def append(self, new: torch.Tensor) -> None:
        self.width = new.shape[-1]
        made = self._packed(new)
        self.parts = tuple(torch.cat([old, more], dim=2) for old, more in zip(self.parts, made, strict=True)) if self.parts else made

    def _packed(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        group = group_of(x.shape[-1])
        values = x.to(torch.float32).unflatten(-1, (-1, group))
        if self.bits == 8:
            scale = _stored(values.abs().amax(-1) / 127, x.dtype)
            q = (values / _divisor(scale)).round().clamp(-127, 127) + 128
            rest: tuple[torch.Tensor, ...] = (scale,)
        else:
            low, high = values.aminmax(dim=-1)
            scale, low = _stored((high - low) / 15, x.dtype), low.to(x.dtype if x.dtype != torch.float32 else torch.float16)
            q = ((values - low.to(torch.float32).unsqueeze(-1)) / _divisor(scale)).round().clamp(0, 15)
            rest = (scale, low)
        rows = q.to(torch.uint8).flatten(-2)
        flat = pack(rows.reshape(-1, rows.shape[-1]), self.bits)
        return (flat.reshape(*rows.shape[:-1], flat.shape[-1]), *rest)

    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """What is stored, as numbers [batch, heads, tokens, width]."""
        integers, scale = self.parts[:2]
        flat = unpack(integers.reshape(-1, integers.shape[-1]), self.bits, self.width)
        q = flat.reshape(*integers.shape[:-1], -1, group_of(self.width)).to(torch.float32)
        spread = scale.to(torch.float32).unsqueeze(-1)
        x = (q - 128) * spread if self.bits == 8 else q * spread + self.parts[2].to(torch.float32).unsqueeze(-1)
        return x.flatten(-2).to(dtype)

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.parts)


def _stored(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A scale in 16 bits: bfloat16 where the model computes in it (its range is float32's), else float16."""
    return scale.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float16)


def _divisor(scale: torch.Tensor) -> torch.Tensor:
    return scale.to(torch.float32).clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)


class RoundedLayer(DynamicLayer):
    """One layer's cache. Attention gets the stored numbers, never the exact ones."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.stored_keys, self.stored_values = Rounded(bits), Rounded(bits)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.stored_keys.append(key_states)
        self.stored_values.append(value_states)
        return self.stored_keys.tensor(key_states.dtype), self.stored_values.tensor(value_states.dtype)

    def get_seq_length(self) -> int:
        parts = self.stored_keys.parts
        return parts[0].shape[2] if parts else 0

    @property
    def bytes(self) -> int:
        return self.stored_keys.bytes + self.stored_values.bytes


def rounded_cache(config: Any, bits: int) -> Cache:
    """An empty cache for a model with this config. BadInput for other bits or an architecture it does not fit."""
    if bits not in KV_BITS:
        raise choice("kv_bits", bits, (*KV_BITS, None))
    usual = DynamicCache(config=config).layers
    others = {type(layer).__name__ for layer in usual if type(layer) is not DynamicLayer}
    if others or not usual:
        raise BadInput(
            f"kv_bits is {bits} and this architecture keeps its past as {', '.join(sorted(others)) or 'nothing'}",
            "Allowed: models that keep all keys and values of full attention",
            "Leave kv_bits out",
        )
    return Cache(layers=[RoundedLayer(bits) for _ in usual])


def cache_bytes(cache: Any) -> int:
    """Bytes that a key-value cache holds now, allocated for tokens to come included."""
    total = 0
    for layer in getattr(cache, "layers", ()):
        if isinstance(layer, RoundedLayer):
            total += layer.bytes
        else:
            total += sum(t.numel() * t.element_size() for t in (getattr(layer, n, None) for n in ("keys", "values")) if t is not None)
    return total
