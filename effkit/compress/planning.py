"""The verb `plan`: what a step or a whole recipe will do, before anything is touched."""

from __future__ import annotations

from typing import Any, overload

from effkit.hardware.attached.device import Device
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.plan import Plan
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe, Student

from .distillation.planning import plan_distill
from .distillation.pruning.cutting import Kept, cut
from .distillation.pruning.planning import outline
from .quantization.estimating import with_estimates
from .quantization.planning import plan_quantize
from .quantization.quantizing import refuse


@overload
def plan(model: Model, what: Quantize | Prune | Student | Distill, text: Any = None) -> Plan: ...
@overload
def plan(model: Model, what: Recipe, text: Any = None) -> tuple[Plan, ...]: ...
def plan(model: Model, what: Quantize | Prune | Student | Distill | Recipe, text: Any = None) -> Plan | tuple[Plan, ...]:
    """The plan of a step, or one plan for each step of a recipe.

    text: what a step that measures importance or token use reads, where it names none; as for the step itself
    A Quantize step's plan has `seconds` and `peak_bytes` too, estimated for this device within about a factor of two.
    Nothing is changed: later steps are planned on a copy without weights. `plan(...).bytes_after` equals the bytes
    measured afterwards.
    Raises what the step itself would raise: BadInput, Unavailable.
    """
    if isinstance(what, Recipe):
        return _plan_recipe(model, what, model.device, text)[0]
    return _plan_step(model, what, model.device, text)


def outlined(model: Model, recipe: Recipe, text: Any = None) -> tuple[tuple[Plan, ...], Model]:
    """The plans of a recipe, and what its prune and student steps make of `model`: its shape, tokens and window, without weights.

    Raises what `plan` would, without measuring anything: the steps will measure, and once is enough.
    """
    prunes = isinstance(recipe.steps[0], Prune | Student) if recipe.steps else False
    return _plan_recipe(cut(model, Kept(), {}, {}, how="shapes") if prunes else model, recipe, model.device, text)


def _plan_recipe(model: Model, recipe: Recipe, device: Device, text: Any) -> tuple[tuple[Plan, ...], Model]:
    plans: list[Plan] = []
    for i, step in enumerate(recipe.steps):
        following = len(recipe.steps) - i - 1
        if isinstance(step, Prune | Student):
            model = outline(model, step, None if step.text else text, recipe.seed)
            plans.append(model.plans[-1])
        else:
            plans.append(_plan_step(model, step, device, text))
        if following and isinstance(step, Quantize):
            raise BadInput(
                f"step {i + 1} of the recipe is quantize, and {following} more follow",
                "Allowed: quantize as the last step",
                "Prune and distill first",
            )
    return tuple(plans), model


def _plan_step(model: Model, step: Quantize | Prune | Student | Distill, device: Device, text: Any) -> Plan:
    if isinstance(step, Quantize):
        planned = plan_quantize(model, step, device)
        refuse(model, step, None if step.calibration else text)
        return with_estimates(planned, model, device)
    if isinstance(step, Prune | Student):
        return outline(model, step, None if step.text else text).plans[-1]
    if isinstance(step, Distill):
        return plan_distill(model, step)
    raise BadInput(f"cannot plan {type(step).__name__}", "Allowed: Quantize, Prune, Student, Distill or Recipe")
