"""The verb `quantize`: plan, then round one module after the other, into a new model. The base stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from effkit.hardware.attached.memory import guard
from effkit.models.checks import finite
from effkit.models.layers import layer_list
from effkit.models.ledger import layer_of
from effkit.models.model import Model
from effkit.models.stored import storage
from effkit.models.stored.packed import PackedEmbedding, PackedLinear, PackedWeight
from effkit.models.texts.datasets import file_name
from effkit.spec.errors import BadInput
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.progress import Progress, Snapshot, Work, long_work
from effkit.spec.recipe import Quantize, step_of

from .calibrated import Job, Prepared, quantize_layers
from .calibration import GENERATED, check_writes, split
from .calibration import calibration as calibrated
from .folding import fold_layer_
from .methods.rtn import rounded_embedding
from .planning import as_matrix, bias_of, embedding_name, head_name, plan_quantize, scale_of, step_for, tied_head, vocabulary_step
from .registry import method as method_of
from .registry import reads
from .rotation import check_known, rotated
from .rounding import error_by_rows
from .tuning import Tuning
from .tuning import tune as tuned


@long_work
def quantize(
    model: Model,
    method: str = "rtn",
    bits: int | None = None,
    group_size: int | Literal["auto"] | None = "auto",
    symmetric: bool = False,
    embedding_bits: int | None = 8,
    module_bits: Mapping[str, int] | None = None,
    skip: str | tuple[str, ...] = (),
    calibration: Any = None,
    samples: int = 64,
    window: int = 256,
    rotate: bool = False,
    learn_steps: int = 200,
    tune: Literal["scales", "weights"] | None = None,
    tune_steps: int = 100,
    seed: int = 0,
    resume: Snapshot | None = None,
) -> Work[Model]:
    """A new model whose weights are stored in few bits; `model` stays as it was.

    method: "rtn" (round to nearest), "search", "hqq", "gptq", "awq", "learned", "smooth" (8 bits, inputs
        too), "nf4", "fp4", "int8" (bitsandbytes), ..., or a plug-in's name
    bits: 2 to 8 (default 4, or the method's own); group_size: see effkit.Quantize
    embedding_bits: for the token embedding and the head, which are half of a small model; None leaves them alone
    module_bits: bits of single modules, such as `sensitivity(model).allocate(bytes).bits`; 16 leaves a module alone
    calibration: text (string, file, list), "generated", or None for the offline default; read only by methods that look
        at inputs, and by `tune`: `samples` windows of `window` tokens
    rotate: fold orthogonal matrices into the weights first, which spread outliers (effkit.compress.quantization.rotation)
    learn_steps: with which "learned" trains each layer
    tune: train scales and norms ("scales"), and the integers too ("weights"), by KL to the base for `tune_steps` steps on
        all of the calibration text; taken back where held-out windows of it do not agree (a note in the plan says so)

    Raises BadInput (unknown method, bits, group size that does not divide a row, weights that are not finite, text shorter
    than a window), Unavailable (a method that cannot run here), OutOfMemory. Progress comes after every module, with its
    relative error: 4-bit NF4 on normal weights has 0.09, 8-bit rtn about 0.005.
    """
    named = GENERATED if isinstance(calibration, str) and calibration == GENERATED else file_name(calibration)
    given: dict[str, Any] = {"method": method, "group_size": group_size, "symmetric": symmetric, "embedding_bits": embedding_bits}
    given |= {"module_bits": dict(module_bits or {}), "skip": skip, "calibration": named, "samples": samples, "window": window}
    given |= {"rotate": rotate, "learn_steps": learn_steps, "tune": tune, "tune_steps": tune_steps}
    step = step_of(Quantize, **given, **({} if bits is None else {"bits": bits}))
    return (yield from apply_quantize(model, step, calibration, seed, resume))


def apply_quantize(
    model: Model, step: Quantize, text: Any = None, seed: int = 0, resume: Snapshot | None = None, shared: bool = False
) -> Work[Model]:
    """`quantize` for a validated step. `text` None takes the step's own. shared: what tuning compares with is kept for others."""
    text = step.calibration if text is None else text
    plan = plan_quantize(model, step)
    refuse(model, step, text)
    todo = {planned.module: planned for planned in plan.acting()}
    done, prepared = ({}, Prepared()) if resume is None else _restored(resume, model)
    total = len(todo) + (step.tune_steps if step.tune else 0)

    def kept() -> Snapshot:
        tensors = {f"{name}/{key}": t for name, module in done.items() for key, t in module.state_dict().items()}
        specs = {name: module.storage_spec() for name, module in done.items()}  # type: ignore[operator]
        tensors |= {f"fold/{key}": t for key, t in prepared.folds.items()}
        return Snapshot(tensors, {"specs": specs, "prepared": sorted(prepared.layers), "lacking": prepared.note})

    def still(message: str) -> Progress:
        return Progress("quantize", len(done), total, "modules", message, snapshot=kept)

    def finished(name: str, planned: ModulePlan, replacement: nn.Module, exact: torch.Tensor) -> Progress:
        with torch.no_grad():
            error = error_by_rows(_rows_of(replacement), exact)
        return Progress(
            "quantize", len(done), total, "modules", name, {"error": error},
            {"module": name, "kind": planned.kind, "layer": layer_of(name), "error": error,
             "bits": planned.bits, "bytes": planned.bytes_after}, kept,
        )  # fmt: skip

    yield still("planned")
    for name in todo:
        _finite(name, as_matrix(model.module.get_submodule(name)))
    if step.rotate:
        with guard(model.device, "rotating the weights"):
            model, note = rotated(model, seed)
        plan = plan.model_copy(update={"notes": (*plan.notes, note)})
        yield still("rotated")
    streamed = _streamed(model, step, todo)
    for name, planned in todo.items():
        if name in done or name in streamed:
            continue
        with guard(model.device, f"quantizing {name}"), torch.no_grad():
            done[name] = _replacement(model, step, planned, model.module.get_submodule(name))
        yield finished(name, planned, done[name], as_matrix(model.module.get_submodule(name)))
    if not streamed.keys() <= done.keys():
        yield from quantize_layers(model, Job(step, streamed, done, prepared, finished, still), text, seed)
    if prepared.note:
        plan = plan.model_copy(update={"notes": (*plan.notes, prepared.note)})
    if prepared.folds:
        exact = len({name for key in prepared.folds if (name := key.rpartition("/")[0]) not in done})
        where = (
            f"{exact} module{'' if exact == 1 else 's'} that {'is' if exact == 1 else 'are'} not rounded" if exact else "rounded modules"
        )
        plan = plan.model_copy(update={"notes": (*plan.notes, f"factors of inputs are folded into {where}")})
    new = _assembled(model, step, plan, done, prepared.folds, seed)
    if step.tune is None:
        return new
    note = yield from _tuned(model, step, new, text, seed, resume, prepared.folds, (len(todo), total), kept, shared)
    return replace(new, plans=(*model.plans, plan.model_copy(update={"notes": (*plan.notes, note)})))


def refuse(model: Model, step: Quantize, text: Any = None) -> None:
    """Raise what `step` cannot do with this kind of model, before anything is read or rounded. Nothing is computed."""
    if step.tune and model.task != "causal-lm":
        raise BadInput(
            f"tune is {step.tune!r}", "Tuning compares the next token's probabilities: a causal language model's", "Leave it out"
        )
    reading = step.tune or reads(method_of(step.method)) != "weights"
    if reading and (step.calibration if text is None else text) == GENERATED:
        check_writes(model)
    if step.rotate:
        check_known(model)


def _tuned(
    model: Model, step: Quantize, new: Model, text: Any, seed: int, resume: Snapshot | None, folds: Mapping[str, torch.Tensor],
    at: tuple[int, int], kept: Callable[[], Snapshot], shared: bool,
) -> Work[str]:  # fmt: skip
    """Tune `new` in place against `model`; what came of it in a sentence. `at`: modules done, and steps in all."""
    batches = yield from calibrated(model, text, None, step.window, seed=seed)
    windows, held = split(batches)
    with guard(model.device, "tuning"):
        tuning = Tuning(model, new, windows, held, step.tune_steps, step.tune == "weights", seed, folds, shared)
        if resume is not None and "tuning" in resume.state:
            own = {k.removeprefix("tuning/"): t for k, t in resume.tensors.items() if k.startswith("tuning/")}
            tuning.restore_(Snapshot(own, resume.state["tuning"]))
        rounded = kept()

        def with_rounded(inner: Snapshot) -> Snapshot:
            tensors = {**rounded.tensors, **{f"tuning/{k}": t for k, t in inner.tensors.items()}}
            return Snapshot(tensors, {**rounded.state, "tuning": dict(inner.state)})

        return (yield from tuned(tuning, *at, with_rounded))


def _streamed(model: Model, step: Quantize, todo: dict[str, ModulePlan]) -> dict[str, ModulePlan]:
    """The modules that are rounded on calibration text: those of the method that lie inside the layers."""
    if reads(method_of(step.method)) == "weights":
        return {}
    prefix = layer_list(model)[0] + "."
    return {name: planned for name, planned in todo.items() if planned.method == step.method and name.startswith(prefix)}


def _finite(name: str, weight: torch.Tensor) -> None:
    if not finite(weight):
        raise BadInput(
            f"the weight of {name} holds values that are not finite",
            "Only finite weights can be rounded",
            "Load the checkpoint again, or lower the learning rate if it was just trained",
        )


def _replacement(model: Model, step: Quantize, planned: ModulePlan, original: nn.Module) -> nn.Module:
    weight = as_matrix(original)
    group = planned.group_size or weight.shape[1]
    bits = int(planned.bits or step.bits)
    if isinstance(original, nn.Embedding):
        return rounded_embedding(weight, bits, group, weight.dtype, original.padding_idx, scale_of(original))
    own = vocabulary_step(step, planned.module) if planned.module == head_name(model) else step_for(step, planned.module)
    return method_of(planned.method).apply(own, weight, bias_of(original), group, weight.dtype)


def _rows_of(module: nn.Module) -> Callable[[slice], torch.Tensor]:
    """What gives rows of a replacement's weight; packed weights are dequantized only there."""
    if isinstance(packed := getattr(module, "packed", None), PackedWeight):
        return packed.dequantized
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return lambda rows: weight[rows]


def _assembled(model: Model, step: Quantize, plan: Plan, done: dict[str, nn.Module], folds: Mapping[str, torch.Tensor], seed: int) -> Model:
    """A copy of the model with the replacements in place; a head tied to the embedding shares its packed weight."""
    tied = tied_head(model)
    replaced = [*done, tied] if tied and embedding_name(model) in done else list(done)
    new = model.clone(without=replaced)
    for name, module in done.items():
        new.module.set_submodule(name, module)
    if tied and isinstance(table := done.get(embedding_name(model)), PackedEmbedding):
        new.module.set_submodule(tied, PackedLinear(table.packed, bias_of(model.module.get_submodule(tied))))
    fold_layer_(new.module, folds, done=done)
    new.module.eval().requires_grad_(False)
    return replace(new, recipe=model.recipe.then(step, seed), plans=(*model.plans, plan))


def _restored(resume: Snapshot, model: Model) -> tuple[dict[str, nn.Module], Prepared]:
    modules = {}
    for name, spec in resume.state["specs"].items():
        module = storage.build(spec)  # also of a run that was in the middle of tuning: then all of them are there
        own = {key.removeprefix(f"{name}/"): t.to(model.device.torch) for key, t in resume.tensors.items() if key.startswith(f"{name}/")}
        module.load_state_dict(own, assign=True)
        modules[name] = module
    folds = {key.removeprefix("fold/"): t.to(model.device.torch) for key, t in resume.tensors.items() if key.startswith("fold/")}
    return modules, Prepared(folds, set(resume.state.get("prepared", ())), resume.state.get("lacking", ""))
