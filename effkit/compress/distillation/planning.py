"""The plan of Distill: which weights are trained; and what other plans are made with. Pure."""

from __future__ import annotations

from torch import nn

from effkit.models.ledger import Entry
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.recipe import Distill

HARD = 0.2  # weight of the next token beside forward KL; of 0 to 1, on held-out stories, 0.2 to 0.5 gave the best of both


def plan_distill(model: Model, step: Distill) -> Plan:
    """Which weights of the student are trained. BadInput if none would be (weights in few bits cannot be), and for what is asked of
    a language model that only classifiers have."""
    for name in ("word_dropout", "augment"):
        if model.task == "causal-lm" and getattr(step, name):
            raise BadInput(f"{name} is {getattr(step, name)}", "Allowed for a classifier only", "Leave it out")
    trained = trained_parameters(model, step.train)
    names = {name.rpartition(".")[0] for name in trained}
    if not any(p.dim() > 1 for p in trained.values()):
        raise BadInput(
            "this step would train nothing: the student's weights are stored in few bits",
            "Allowed: a student whose layers are not quantized",
            "Distill first, quantize afterwards",
        )

    def fate(entry: Entry) -> ModulePlan:
        if entry.module in names:
            return _module_plan(entry, "train", "", entry.bytes)
        vocabulary = entry.category in ("embeddings", "head")
        return _module_plan(entry, "keep", "the embedding and the head stay as they are" if vocabulary else "not trained", entry.bytes)

    return Plan(step=step, modules=_by_module([fate(e) for e in model.ledger().entries]))


def hard_weight(step: Distill, task: str) -> float:
    """The weight of the cross-entropy with the next token or the class that a step comes to, for a model of this task."""
    if step.objective == "hard-labels":
        return 1.0
    usual = step.objective == "forward-kl" and step.source == "text" and task == "causal-lm"
    return step.hard if step.hard is not None else HARD if usual else 0.0


def trained_parameters(model: Model, train: str) -> dict[str, nn.Parameter]:
    """The parameters that a distillation trains, by name: all, or those inside the layers and the last norm ("blocks")."""
    outside = {id(p) for part in _vocabulary(model) for p in part.parameters()} if train == "blocks" else set()
    replaced = {id(p) for part in model.module.modules() if is_replaced(part) for p in part.parameters()}
    return {
        name: p for name, p in model.module.named_parameters() if p.is_floating_point() and id(p) not in outside and id(p) not in replaced
    }


def _vocabulary(model: Model) -> list[nn.Module]:
    table, head = model.module.get_input_embeddings(), model.module.get_output_embeddings()  # type: ignore[operator]
    return [part for part in (table, head if model.task == "causal-lm" else None) if part is not None]


def _module_plan(entry: Entry, action: str, reason: str, after: int) -> ModulePlan:
    return ModulePlan(
        module=entry.module, kind=entry.category, shape=entry.shape, action=action, reason=reason,  # type: ignore[arg-type]
        bytes_before=entry.bytes, bytes_after=after,
    )  # fmt: skip


def _by_module(plans: list[ModulePlan]) -> tuple[ModulePlan, ...]:
    """One row a module: weight and bias belong together."""
    rows: dict[str, ModulePlan] = {}
    for p in plans:
        old = rows.get(p.module)
        if old is None:
            rows[p.module] = p
            continue
        main = p if p.bytes_before > old.bytes_before else old
        rows[p.module] = main.model_copy(
            update={"bytes_before": old.bytes_before + p.bytes_before, "bytes_after": old.bytes_after + p.bytes_after}
        )
    return tuple(rows.values())
