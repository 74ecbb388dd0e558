"""The verb `plan`: what a step or a whole recipe will do, before anything is touched."""

from __future__ import annotations

from typing import overload

from effkit.hardware.device import Device
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.plan import Plan
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe

from .distillation.planning import plan_distill, plan_prune
from .distillation.students import pruned
from .quantization.planning import plan_quantize


@overload
def plan(model: Model, what: Quantize | Prune | Distill) -> Plan: ...
@overload
def plan(model: Model, what: Recipe) -> tuple[Plan, ...]: ...
def plan(model: Model, what: Quantize | Prune | Distill | Recipe) -> Plan | tuple[Plan, ...]:
    """The plan of a step, or one plan for each step of a recipe.

    Pure: later steps are planned on a copy without weights. `plan(...).bytes_after` equals the bytes measured afterwards.
    Raises what the step itself would raise: BadInput, Unavailable.
    """
    if isinstance(what, Recipe):
        return _plan_recipe(model, what)
    return _plan_step(model, what, model.device)


def _plan_recipe(model: Model, recipe: Recipe) -> tuple[Plan, ...]:
    plans: list[Plan] = []
    device = model.device
    for i, step in enumerate(recipe.steps):
        plans.append(_plan_step(model, step, device))
        following = len(recipe.steps) - i - 1
        if following and isinstance(step, Prune):
            model = pruned(model, step, plans[-1], weights=False)
        if following and isinstance(step, Quantize):
            raise BadInput(
                f"step {i + 1} of the recipe is quantize, and {following} more follow",
                "Allowed: quantize as the last step",
                "Prune and distill first",
            )
    return tuple(plans)


def _plan_step(model: Model, step: Quantize | Prune | Distill, device: Device) -> Plan:
    if isinstance(step, Quantize):
        return plan_quantize(model, step, device)
    if isinstance(step, Prune):
        return plan_prune(model, step)
    if isinstance(step, Distill):
        return plan_distill(model, step)
    raise BadInput(f"cannot plan {type(step).__name__}", "Allowed: Quantize, Prune, Distill or Recipe")
