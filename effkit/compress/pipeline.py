"""A whole recipe, step by step: prune, distill, quantize. One long verb, which resumes in the middle of any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.plan import Plan
from effkit.spec.progress import Snapshot, Work, long_work
from effkit.spec.recipe import Distill, Prune, Quantize, Recipe, Step, Student

from .distillation.distilling import apply_distill
from .distillation.planning import plan_distill
from .distillation.students import apply_prune, apply_student
from .planning import outlined
from .quantization.quantizing import apply_quantize


@long_work
def compress(model: Model, recipe: Recipe, text: Any = None, resume: Snapshot | None = None) -> Work[Model]:
    """The model that `recipe` makes of the base `model`, which stays as it was and is the teacher of a Distill step.

    text: for every step that reads text and names none. All steps are planned first, so that a mistake in the last one
    is found before the first begins. Raises what the steps raise: BadInput, Unavailable, OutOfMemory.
    """
    refuse(model, recipe, text)
    at = int(resume.state["at"]) if resume else 0
    trained = {k.removeprefix("trained/"): t for k, t in resume.tensors.items() if k.startswith("trained/")} if resume else {}
    current = model
    for i, step in enumerate(recipe.steps):
        if i < at and isinstance(step, Distill):
            current = _as_trained(current, step, trained, recipe.seed)
            continue
        inner = _inner(resume) if resume and i == at else None
        work = step_work(model, current, step, text, recipe.seed, inner)
        current = yield from _relayed(work, i, len(recipe.steps), trained)
        if isinstance(step, Distill):
            trained = {name: t.detach() for name, t in current.module.state_dict().items()}
    return current


def refuse(model: Model, recipe: Recipe, text: Any = None) -> tuple[tuple[Plan, ...], Model]:
    """Raise what is wrong with `recipe` for the base `model`, before anything is made; else what `outlined` says of it."""
    if model.recipe.steps:
        raise BadInput(f"this model was already made by {model.recipe.label()!r}", "Allowed: a base model", "Load the base again")
    found = outlined(model, recipe, text)
    for before, step in zip((None, *recipe.steps), recipe.steps, strict=False):
        if isinstance(step, Distill) and not isinstance(before, Prune | Student):
            raise BadInput(
                "a distill step follows no prune step", "A student that equals its teacher has nothing to learn", "Add prune before it"
            )
    return found


def step_work(
    base: Model, current: Model, step: Step, text: Any, seed: int, resume: Snapshot | None = None, shared: bool = False
) -> Work[Model]:
    """One step of a recipe, done to `current`, which the steps before it made of `base`. shared: what teachers compute is kept."""
    if isinstance(step, Quantize):
        return apply_quantize(current, step, None if step.calibration else text, seed, resume, shared)
    if isinstance(step, Distill):
        return apply_distill((base,), current, step, None if step.text else text, seed, resume, shared=shared)
    if isinstance(step, Student):
        return apply_student(current, step, None if step.text else text, seed)
    return apply_prune(current, step, None if step.text else text, seed)


def _relayed(work: Work[Model], at: int, steps: int, trained: Mapping[str, torch.Tensor]) -> Work[Model]:
    """Pass events and knobs through, saying which step of how many, with snapshots that hold the recipe's position too."""
    change: Any = None
    try:
        while True:
            try:
                event = work.send(change)
            except StopIteration as end:
                return end.value
            details = {**event.details, "step": at + 1, "steps": steps}
            change = yield replace(event, details=details, snapshot=_outer(event.snapshot, at, trained))
    finally:
        work.close()


def _outer(inner: Callable[[], Snapshot] | None, at: int, trained: Mapping[str, torch.Tensor]) -> Callable[[], Snapshot]:
    def take() -> Snapshot:
        own = inner() if inner else None
        tensors = {f"trained/{name}": t for name, t in trained.items()}
        tensors |= {f"inner/{name}": t for name, t in own.tensors.items()} if own else {}
        return Snapshot(tensors, {"at": at, "inner": dict(own.state) if own else None})

    return take


def _inner(snapshot: Snapshot) -> Snapshot | None:
    if snapshot.state["inner"] is None:
        return None
    tensors = {k.removeprefix("inner/"): t for k, t in snapshot.tensors.items() if k.startswith("inner/")}
    told = {name: snapshot.state[name] for name in ("note", "change") if name in snapshot.state}  # by undo or branch
    return Snapshot(tensors, {**snapshot.state["inner"], **told})


def _as_trained(student: Model, step: Distill, trained: Mapping[str, torch.Tensor], seed: int) -> Model:
    """The student as it was after a distillation that had ended before the interruption."""
    new = student.clone()
    new.module.load_state_dict(dict(trained))
    return replace(new, recipe=student.recipe.then(step, seed), plans=(*student.plans, plan_distill(student, step)))
