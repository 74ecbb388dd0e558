"""The verb `quantize`: plan, then round one module after the other, into a new model. The base stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from effkit.hardware.memory import guard
from effkit.models import storage
from effkit.models.ledger import layer_of
from effkit.models.model import Model
from effkit.models.packed import PackedEmbedding, PackedLinear, PackedWeight
from effkit.spec.errors import BadInput
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.progress import Progress, Snapshot, Work, long_work
from effkit.spec.recipe import Quantize, step_of

from .methods.rtn import rounded_embedding
from .planning import as_matrix, embedding_name, head_name, plan_quantize, vocabulary_step
from .registry import method as method_of
from .rounding import error_by_rows


@long_work
def quantize(
    model: Model,
    method: str = "rtn",
    bits: int | None = None,
    group_size: int | Literal["auto"] | None = "auto",
    symmetric: bool = False,
    embedding_bits: int | None = 8,
    skip: tuple[str, ...] = (),
    resume: Snapshot | None = None,
) -> Work[Model]:
    """A new model whose weights are stored in few bits; `model` stays as it was.

    method: "rtn" (round to nearest), "nf4", "fp4", "int8" (bitsandbytes), or a plug-in's name
    bits: 2 to 8 (default 4, or the method's own); group_size: see effkit.Quantize
    embedding_bits: for the token embedding and the head, which are half of a small model; None leaves them alone

    Raises BadInput (unknown method, bits, group size that does not divide a row, weights that are not finite),
    Unavailable (a method that cannot run here), OutOfMemory. Progress comes after every module, with its relative
    error: 4-bit NF4 on normal weights has 0.09, 8-bit rtn about 0.005.
    """
    given: dict[str, Any] = {"method": method, "group_size": group_size, "symmetric": symmetric, "embedding_bits": embedding_bits}
    step = step_of(Quantize, **given, skip=tuple(skip), **({} if bits is None else {"bits": bits}))
    return (yield from apply_quantize(model, step, resume))


def apply_quantize(model: Model, step: Quantize, resume: Snapshot | None = None) -> Work[Model]:
    """`quantize` for a validated step."""
    plan = plan_quantize(model, step)
    todo = plan.acting()
    done: dict[str, nn.Module] = {}

    def snapshot() -> Snapshot:
        tensors = {f"{name}/{key}": t for name, module in done.items() for key, t in module.state_dict().items()}
        specs = {name: module.storage_spec() for name, module in done.items()}  # type: ignore[operator]
        return Snapshot(tensors, {"specs": specs})

    if resume is not None:
        done.update(_restored(resume, model))
    yield Progress("quantize", len(done), len(todo), "modules", "planned", snapshot=snapshot)
    for planned in todo:
        if planned.module in done:
            continue
        original = model.module.get_submodule(planned.module)
        with guard(model.device, f"quantizing {planned.module}"), torch.no_grad():
            replacement = _replacement(model, step, planned, original)
            error = error_by_rows(_rows_of(replacement), as_matrix(original))
        done[planned.module] = replacement
        yield Progress(
            "quantize", len(done), len(todo), "modules", planned.module, {"error": error},
            {"module": planned.module, "kind": planned.kind, "layer": layer_of(planned.module), "error": error,
             "bits": planned.bits, "bytes": planned.bytes_after}, snapshot,
        )  # fmt: skip
    return _assembled(model, step, plan, done)


def _replacement(model: Model, step: Quantize, planned: ModulePlan, original: nn.Module) -> nn.Module:
    weight = as_matrix(original)
    if not bool(torch.isfinite(weight).all()):
        raise BadInput(
            f"the weight of {planned.module} holds values that are not finite",
            "Only finite weights can be rounded",
            "Load the checkpoint again, or lower the learning rate if it was just trained",
        )
    group = planned.group_size or weight.shape[1]
    if isinstance(original, nn.Embedding):
        return rounded_embedding(weight, int(planned.bits or 8), group, weight.dtype, original.padding_idx)
    bias = getattr(original, "bias", None)
    bias = None if bias is None else bias.detach().clone()
    own = vocabulary_step(step) if planned.module == head_name(model) else step
    return method_of(planned.method).apply(own, weight, bias, group, weight.dtype)


def _rows_of(module: nn.Module) -> Callable[[slice], torch.Tensor]:
    """What gives rows of a replacement's weight; packed weights are dequantized only there."""
    if isinstance(packed := getattr(module, "packed", None), PackedWeight):
        return packed.dequantized
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return lambda rows: weight[rows]


def _assembled(model: Model, step: Quantize, plan: Plan, done: dict[str, nn.Module]) -> Model:
    """A copy of the model with the replacements in place; a head tied to the embedding shares its packed weight."""
    tied = _tied_head(model)
    replaced = [*done, tied] if tied and embedding_name(model) in done else list(done)
    new = model.clone(without=replaced)
    for name, module in done.items():
        new.module.set_submodule(name, module)
    if tied and isinstance(table := done.get(embedding_name(model)), PackedEmbedding):
        bias = getattr(model.module.get_submodule(tied), "bias", None)
        new.module.set_submodule(tied, PackedLinear(table.packed, None if bias is None else bias.detach().clone()))
    new.module.eval().requires_grad_(False)
    return replace(new, recipe=model.recipe.then(step), plans=(*model.plans, plan))


def _tied_head(model: Model) -> str | None:
    head = head_name(model)
    if head is None:
        return None
    table, module = model.module.get_submodule(embedding_name(model)), model.module.get_submodule(head)
    return head if getattr(module, "weight", None) is getattr(table, "weight", 0) else None


def _restored(resume: Snapshot, model: Model) -> dict[str, nn.Module]:
    modules = {}
    for name, spec in resume.state["specs"].items():
        module = storage.build(spec)
        own = {key.removeprefix(f"{name}/"): t.to(model.device.torch) for key, t in resume.tensors.items() if key.startswith(f"{name}/")}
        module.load_state_dict(own, assign=True)
        modules[name] = module
    return modules
