"""Which modules a Quantize step will round, with which groups and bytes, and why the others are left alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from effkit.models.layers import layer_list
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput, Unavailable, choice
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.recipe import KEPT, Quantize

from .methods.rtn import RTN, RoundToNearest
from .registry import Method, method, reads

if TYPE_CHECKING:
    from effkit.hardware.attached.device import Device

PRODUCTS = ("FalconLinear",)  # classes with a forward of their own that is a linear layer's all the same


@dataclass(frozen=True)
class _Stored:
    """A module of the model and what is stored directly in it."""

    name: str
    module: nn.Module
    category: str
    shape: tuple[int, ...]
    bytes: int
    weight_bytes: int


def plan_quantize(model: Model, step: Quantize, device: Device | None = None) -> Plan:
    """The plan for `step` on the model's device (or `device`, for a copy without weights).

    BadInput: unknown method, bits or group size it cannot have, nothing to quantize.
    Unavailable: the method cannot run on the device.
    """
    device = device or model.device
    chosen: Method = method(step.method)
    if step.bits not in chosen.bits:
        raise choice(f"bits for {step.method}", step.bits, chosen.bits)
    if why := chosen.why_not(device):
        raise Unavailable(f"method {step.method!r} cannot run on {device}", why, "Choose another method or device")
    stored = _inventory(model)
    _check_names(step, [s.name for s in stored], tied_head(model), embedding_name(model))
    inside = "" if reads(chosen) == "weights" else layer_list(model)[0] + "."
    plans = tuple(_plan_module(model, step, chosen if s.name.startswith(inside) else _unread(chosen), s) for s in stored)
    if not any(p.action == "quantize" for p in plans):
        reasons = sorted({p.reason for p in plans if p.reason})
        raise BadInput(
            f"there is nothing to quantize in {model.checkpoint.source}",
            "Its modules are left alone: " + "; ".join(reasons),
            "Load the base again, or choose fewer names in skip",
        )
    return Plan(step=step, modules=plans, notes=_notes(model, step, plans, device))


def as_matrix(module: nn.Module) -> torch.Tensor:
    """The weight as [out_features, in_features]; GPT-2's Conv1D stores its transpose."""
    weight: torch.Tensor = module.weight.detach()  # type: ignore[assignment, operator]
    return weight.t() if isinstance(module, Conv1D) else weight


def is_linear(module: nn.Module) -> bool:
    """Whether it computes x W' + b and nothing else: a router that is made of nn.Linear also chooses experts."""
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward or type(module).__name__ in PRODUCTS
    return isinstance(module, Conv1D)


def is_table(module: nn.Module) -> bool:
    """Whether it looks rows up, and at most multiplies them by one number."""
    return isinstance(module, nn.Embedding) and (type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale"))


def scale_of(table: nn.Module) -> float:
    """The number by which a table multiplies what it looks up, in its own type as Gemma does; 1 for nn.Embedding itself."""
    scale: torch.Tensor | float = getattr(table, "embed_scale", 1.0)  # type: ignore[assignment]
    return float(scale.to(table.weight.dtype) if isinstance(scale, torch.Tensor) else scale)  # type: ignore[arg-type, union-attr]


def bias_of(module: nn.Module) -> torch.Tensor | None:
    """A copy of the module's bias for what replaces it; None where it has none."""
    bias: torch.Tensor | None = getattr(module, "bias", None)
    return None if bias is None else bias.detach().clone()


def head_name(model: Model) -> str | None:
    """The module that turns hidden states into token logits, if it is one."""
    head = model.module.get_output_embeddings() if model.task == "causal-lm" else None  # type: ignore[operator]
    return next((name for name, module in model.module.named_modules() if module is head), None) if head is not None else None


def embedding_name(model: Model) -> str:
    embedding = model.module.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, module in model.module.named_modules() if module is embedding)


def tied_head(model: Model) -> str | None:
    """The head's name where it shares the embedding's weight, else None."""
    head = head_name(model)
    if head is None:
        return None
    table, module = model.module.get_submodule(embedding_name(model)), model.module.get_submodule(head)
    return head if getattr(module, "weight", None) is getattr(table, "weight", 0) else None


def _inventory(model: Model) -> list[_Stored]:
    grouped: dict[str, list] = {}
    for entry in model.ledger().entries:
        grouped.setdefault(entry.module, []).append(entry)
    found = []
    for name, entries in grouped.items():
        module = model.module.get_submodule(name)
        main = max(entries, key=lambda e: e.bytes)
        weight = sum(e.bytes for e in entries if e.tensor == "weight")
        found.append(_Stored(name, module, main.category, tuple(main.shape), sum(e.bytes for e in entries), weight))
    return found


def _unread(chosen: Method) -> Method:
    """What rounds a module outside the layers, where no calibration text is followed: what packs as `chosen` does, by the weights alone."""
    return RTN if isinstance(chosen, RoundToNearest) else chosen


def _plan_module(model: Model, step: Quantize, chosen: Method, s: _Stored) -> ModulePlan:
    keep = ModulePlan(module=s.name, kind=s.category, shape=s.shape, action="keep", bytes_before=s.bytes, bytes_after=s.bytes, reason="")
    if is_replaced(s.module):
        return keep.model_copy(update={"reason": "already stored in few bits"})
    if any(part in s.name for part in step.skip):
        return keep.model_copy(update={"reason": "named in skip"})
    if step.module_bits.get(s.name) == KEPT:
        return keep.model_copy(update={"reason": "module_bits leaves it as it is"})
    vocabulary = s.name in (embedding_name(model), head_name(model))
    if isinstance(s.module, nn.Embedding) and not vocabulary:
        return keep.model_copy(update={"reason": "a small table of positions or types"})
    if not (is_linear(s.module) or (vocabulary and is_table(s.module))):
        what = "lookup" if vocabulary else "linear layer"
        matrix = len(s.shape) > 1
        return keep.model_copy(
            update={"reason": f"{type(s.module).__name__} is no {what}, or does more" if matrix else "a vector: nothing to gain"}
        )
    if not vocabulary and model.task == "sequence-classification" and s.category == "head":
        return keep.model_copy(update={"reason": "the layer that gives the answer: small, kept exact"})
    rows, columns = as_matrix(s.module).shape
    if vocabulary:
        if step.embedding_bits is None and s.name not in step.module_bits:
            return keep.model_copy(update={"reason": "embedding_bits is None"})
        chosen, step = RTN, vocabulary_step(step, s.name)
    elif s.name in step.module_bits:
        step = step_for(step, s.name)
        if step.bits not in chosen.bits:
            raise choice(f"module_bits of {s.name} for {step.method}", step.bits, chosen.bits)
    if why := chosen.check(step, rows, columns):
        return keep.model_copy(update={"reason": why})
    group = chosen.group_for(step, columns)
    after = s.bytes - s.weight_bytes + chosen.predicted_bytes(step, rows, columns, group)
    return keep.model_copy(
        update={"action": "quantize", "method": chosen.name, "bits": step.bits, "group_size": group, "bytes_after": after}
    )


def vocabulary_step(step: Quantize, module: str) -> Quantize:
    """Embedding and head go through rtn in groups that fit, whatever the method of the other layers."""
    return Quantize(method="rtn", bits=step.module_bits.get(module, step.embedding_bits or 8), group_size="auto")


def step_for(step: Quantize, module: str) -> Quantize:
    """The step with the bits that it gives to this module."""
    bits = step.module_bits.get(module, step.bits)
    return step if bits == step.bits else step.model_copy(update={"bits": bits})


def _check_names(step: Quantize, names: list[str], tied: str | None, table: str) -> None:
    """tied: the name of a head that shares the weight of `table`, under whose name alone it can be chosen."""
    such = ", ".join(map(repr, names[1:4]))
    shared = (f"Allowed: {table!r}, whose weight the head shares", "What is chosen for it holds for both")
    unknown = sorted(set(step.module_bits) - set(names))
    if unknown:
        allowed = shared if unknown[0] == tied else (f"Allowed: the modules of the model, such as {such}",)
        raise BadInput(f"module_bits names {unknown[0]!r}", *allowed)
    for part in step.skip:
        if part and any(part in name for name in names):
            continue
        if part and tied and part in tied:
            raise BadInput(f"skip names {part!r}, which is not stored by itself", *shared)
        raise BadInput(
            f"skip names {part!r}, which no module's name holds" if part else "skip names '', which stands in every name",
            f"Allowed: a module's name or a part of it, such as {such}",
        )


def _notes(model: Model, step: Quantize, plans: tuple[ModulePlan, ...], device: Device) -> tuple[str, ...]:
    notes = [note for note in model.checkpoint.notes if "grid" in note]
    if device.type == "cpu":
        odd = [p for p in plans if p.method in ("nf4", "fp4") and p.group_size and p.shape[-1] % p.group_size]
        if odd:
            notes.append(
                f"{len(odd)} modules have rows that are no multiple of the block of {odd[0].group_size}: bitsandbytes' CPU matrix path "
                "is wrong there, so their weights are quantized as one flat vector, which is right"
            )
    chosen = method(step.method)
    if (step.tune or reads(chosen) != "weights") and step.window > model.window:
        notes.append(f"calibration windows have {model.window} tokens instead of {step.window}: this model reads no more at once")
    if step.tune and not isinstance(chosen, RoundToNearest):
        notes.append(f"{step.method} stores no scales of groups, so in the layers tuning trains the norms alone")
    tables = (embedding_name(model), head_name(model))
    outside = [p.module for p in plans if p.method not in ("", step.method) and p.module not in tables]
    if outside:
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        notes.append(f"{outside[0]}{more}: outside the layers, so rounded to nearest")
    groups = {p.group_size for p in plans if p.method == step.method and p.group_size}
    if step.group_size == "auto" and step.method == "rtn" and len(groups) > 1:
        notes.append(f"64 does not divide every row, so groups differ: {', '.join(map(str, sorted(groups)))}")
    return tuple(notes)
