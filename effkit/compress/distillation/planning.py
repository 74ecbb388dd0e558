"""Plans of Prune and Distill: which layers go, which weights are trained. Pure."""

from __future__ import annotations

from torch import nn

from effkit.models.ledger import Entry
from effkit.models.model import Model
from effkit.models.storage import is_replaced
from effkit.spec.errors import BadInput
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.recipe import Distill, Prune


def plan_prune(model: Model, step: Prune) -> Plan:
    """Which layers are removed. BadInput: more layers than there are, none, or an index twice."""
    name, layers = layer_list(model)
    kept = kept_layers(step, len(layers))

    def fate(entry: Entry) -> ModulePlan:
        index = _index_under(entry.module, name)
        gone = index is not None and index not in kept
        return _module_plan(entry, "remove" if gone else "keep", f"layer {index} is left out" if gone else "", 0 if gone else entry.bytes)

    note = f"layers kept: {', '.join(map(str, kept))}; in the student they are numbered 0 to {len(kept) - 1}"
    return Plan(step=step, modules=_by_module([fate(e) for e in model.ledger().entries]), notes=(note,))


def plan_distill(model: Model, step: Distill) -> Plan:
    """Which weights of the student are trained. BadInput if none would be: weights in few bits cannot be."""
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


def trained_parameters(model: Model, train: str) -> dict[str, nn.Parameter]:
    """The parameters that a distillation trains, by name: all, or those inside the layers and the last norm ("blocks")."""
    outside = {id(p) for part in _vocabulary(model) for p in part.parameters()} if train == "blocks" else set()
    replaced = {id(p) for part in model.module.modules() if is_replaced(part) for p in part.parameters()}
    return {
        name: p for name, p in model.module.named_parameters() if p.is_floating_point() and id(p) not in outside and id(p) not in replaced
    }


def layer_list(model: Model) -> tuple[str, nn.ModuleList]:
    """The list of transformer layers and its name, e.g. 'model.layers'. BadInput where there is none to find."""
    count = getattr(model.config, "num_hidden_layers", None)
    for name, part in model.module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return name, part
    raise BadInput(
        f"the layers of {model.checkpoint.architecture} were not found",
        "Pruning needs a list of num_hidden_layers equal layers, as Llama, GPT-2 or BERT have",
    )


def kept_layers(step: Prune, total: int) -> tuple[int, ...]:
    """Indices that stay. A number keeps that many, evenly spread, always with the first and the last."""
    if isinstance(step.layers, int):
        count = step.layers
        if not 1 <= count <= total:
            raise BadInput(f"layers is {count}", f"Allowed: 1 to {total}, or a list of indices from 0 to {total - 1}")
        if count == 1:
            return (0,)
        return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))
    wrong = [i for i in step.layers if not 0 <= i < total]
    if wrong or not step.layers or len(set(step.layers)) != len(step.layers):
        raise BadInput(f"layers is {list(step.layers)}", f"Allowed: different indices from 0 to {total - 1}, at least one")
    return tuple(sorted(step.layers))


def _vocabulary(model: Model) -> list[nn.Module]:
    table, head = model.module.get_input_embeddings(), model.module.get_output_embeddings()  # type: ignore[operator]
    return [part for part in (table, head if model.task == "causal-lm" else None) if part is not None]


def _index_under(module: str, layers: str) -> int | None:
    rest = module.removeprefix(f"{layers}.")
    return int(rest.split(".")[0]) if rest != module and rest.split(".")[0].isdecimal() else None


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
