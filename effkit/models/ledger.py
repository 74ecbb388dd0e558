"""Where every stored byte goes: one entry a tensor, a tied tensor once, under the first module that holds it.

Bytes are read from the tensors themselves, never inferred from the bits that were asked for. What is not stored
(rotary frequencies and other buffers that are computed again while loading) is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .checks import same_storage

CATEGORIES = ("embeddings", "head", "attention", "mlp", "norms", "scales", "other")

# parts of a module's name, as transformers' architectures use them
NAMES = {
    "head": ("lm_head", "embed_out", "classifier", "score", "qa_outputs", "cls", "pooler", "pre_classifier", "classification_head"),
    "embeddings": ("wte", "wpe", "embed_tokens", "embed_positions", "embed_in", "embeddings", "embedding", "tok_embeddings", "embed"),
    "attention": (
        "attn", "attention", "self_attn", "self_attention", "selfattention", "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn",
        "query_key_value", "crossattention", "linear_attn",
    ),
    "mlp": (
        "mlp", "ffn", "feed_forward", "feedforward", "intermediate", "output", "experts", "expert", "shared_expert", "block_sparse_moe",
        "moe", "router", "gate", "up_proj", "down_proj", "gate_proj", "fc1", "fc2", "fc_in", "fc_out", "lin1", "lin2",
        "dense_h_to_4h", "dense_4h_to_h",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One stored tensor. `tensor` is its name inside `module`, e.g. "weight" or "packed.scales"."""

    module: str
    tensor: str
    category: str
    bytes: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Ledger:
    """All stored tensors of a model. `weights`: how many base weights they stand for."""

    entries: tuple[Entry, ...]
    weights: int

    @property
    def total(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    @property
    def bits_per_weight(self) -> float:
        """8 x bytes / weights, scales and zero points included: 32 for a float32 model."""
        return 8 * self.total / self.weights if self.weights else 0.0

    def by_category(self) -> dict[str, int]:
        """Bytes of every category, in the order of CATEGORIES; those without bytes are left out."""
        sums: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        for entry in self.entries:
            sums[entry.category] += entry.bytes
        return {name: count for name, count in sums.items() if count}

    def by_layer(self) -> dict[int | None, int]:
        """Bytes of every transformer layer by its index; None: what stands outside the layers."""
        sums: dict[int | None, int] = {}
        for entry in self.entries:
            layer = layer_of(entry.module)
            sums[layer] = sums.get(layer, 0) + entry.bytes
        return dict(sorted(sums.items(), key=lambda item: (item[0] is not None, item[0] or 0)))


def ledger_of(module: nn.Module) -> Ledger:
    """The ledger of a model, or of any module."""
    entries, seen, weights, counted = [], set(), 0, set()
    for path, name, tensor, holder in stored_tensors(module):
        key = same_storage(tensor)
        if key in seen:
            continue
        seen.add(key)
        scales = holder is not None and name in holder.scale_tensors()  # type: ignore[operator]
        entries.append(
            Entry(
                module=path,
                tensor=name,
                category="scales" if scales else category_of(path, holder or module.get_submodule(path), module),
                bytes=tensor.numel() * tensor.element_size(),
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
            )
        )
        if holder is None or name == "bias":
            weights += tensor.numel()
        elif path not in counted:
            counted.add(path)
            weights += int(holder.weight_count)  # type: ignore[arg-type]
    return Ledger(tuple(entries), weights)


def stored_tensors(module: nn.Module) -> Iterator[tuple[str, str, torch.Tensor, nn.Module | None]]:
    """(module name, tensor name inside it, tensor, replaced module or None) of all that a state dict would hold."""
    replaced: dict[str, nn.Module] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        if hasattr(part, "storage_spec"):
            replaced[path] = part
        holder = next((p for p in _upwards(path) if p in replaced), None)
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None or name in part._non_persistent_buffers_set:
                continue
            if holder is None:
                yield path, name, tensor, None
            else:
                inner = f"{path}.{name}".removeprefix(f"{holder}.") if holder else (f"{path}.{name}" if path else name)
                yield holder, inner, tensor, replaced[holder]


def module_bytes(module: nn.Module) -> int:
    """Stored bytes of one module and all inside it, tied tensors once."""
    tensors = {same_storage(tensor): tensor for _, _, tensor, _ in stored_tensors(module)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def category_of(path: str, part: nn.Module, model: nn.Module) -> str:
    """What a module is for, by its type and then by the parts of its name, the innermost first."""
    kind = type(part).__name__.lower()
    names = path.lower().split(".")
    if "norm" in kind or any(word in names[-1] for word in ("norm", "ln_")):
        return "norms"
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if part is head:
        return "head"
    if "embedding" in kind and not any(name in NAMES["attention"] for name in names):
        return "embeddings"
    layer = layer_of(path)
    if layer is None and any(name in NAMES["head"] for name in names):
        return "head"
    if any(name in NAMES["attention"] for name in names):
        return "attention"
    if layer is not None and any(name in NAMES["mlp"] for name in names):
        return "mlp"
    return "embeddings" if any(name in NAMES["embeddings"] for name in names) else "other"


def layer_of(path: str) -> int | None:
    """The index of the transformer layer that a module belongs to: "model.layers.3.mlp" -> 3; None outside the layers."""
    return next((int(part) for part in path.split(".") if part.isdecimal()), None)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
