"""The verb `plan`: what a step or a whole recipe will do, before anything is touched."""

from __future__ import annotations

from typing import overload

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
    if isinstance(what, Quantize):
        return plan_quantize(model, what)
    if isinstance(what, Prune):
        return plan_prune(model, what)
    if isinstance(what, Distill):
        return plan_distill(model, what)
    if isinstance(what, Recipe):
        plans = []
        for i, step in enumerate(what.steps):
            plans.append(plan(model, step))
            if isinstance(step, Prune) and i + 1 < len(what.steps):
                model = pruned(model, step, plans[-1], weights=False)
            if isinstance(step, Quantize) and i + 1 < len(what.steps):
                raise BadInput(
                    f"step {i + 1} of the recipe is quantize and {len(what.steps) - i - 1} more follow",
                    "Allowed: quantize as the last step",
                    "Prune and distill first",
                )
        return tuple(plans)
    raise BadInput(f"cannot plan {type(what).__name__}", "Allowed: Quantize, Prune, Distill or Recipe")
