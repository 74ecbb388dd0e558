"""What Prune and Student will do: what stays is chosen (measured where the step asks for it), and the plan says each
module's bytes before and after, read from the very module that will be built, without its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from effkit.models.layers import layer_list
from effkit.models.ledger import Entry, category_of
from effkit.models.mean_bert import MeanBertForSequenceClassification
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.errors import BadInput
from effkit.spec.plan import ModulePlan, Plan
from effkit.spec.progress import Work, finish
from effkit.spec.recipe import Prune, Student

from ..planning import _by_module, _module_plan
from .axes import width_axes
from .calibration import calibration, domain_text
from .cutting import Axes, Kept, cut, is_meta, new_names, refuse_few_bits
from .depth import influential_layers, kept_layers
from .scratch import head_dim_of, new_config, projected_tables
from .vocabulary import cut_tokenizer, kept_tokens, vocabulary_axes, vocabulary_changes
from .width import kept_width, new_width, width_of
from .words import TABLE, domain_words, own_tokenizer, refuse_teacher, words_config

CONTEXT = 128  # tokens before the one whose FLOPs are told


def plan_prune(model: Model, step: Prune, text: Any = None, seed: int = 0) -> Plan:
    """What Prune will do to each module. Measures what the step wants measured; BadInput as the step itself."""
    return outline(model, step, text, seed).plans[-1]


def outline(model: Model, step: Prune | Student, text: Any = None, seed: int = 0) -> Model:
    """The model that the step makes, without weights (meta tensors); its last plan is the step's."""
    if isinstance(step, Student) and step.embeddings == "words":
        words = words_for(model, step, text)
        small = words_outline(model, step, words)
        return replace(small, tokenizer=own_tokenizer(model.tokenizer, words, small.config.max_position_embeddings))
    if isinstance(step, Student):
        kept = finish(decide(model, cut_of(step), text, seed)) if step.vocabulary else Kept()
        small = student_outline(model, step, kept)
    else:
        kept = finish(decide(model, step, text, seed))
        small = prune_outline(model, step, kept)
    return small if kept.vocabulary is None else replace(small, tokenizer=cut_tokenizer(model.tokenizer, kept.vocabulary))


def decide(model: Model, step: Prune, text: Any = None, seed: int = 0) -> Work[Kept]:
    """What stays. On a model without weights nothing can be measured: the numbers are right, and the plan says so."""
    kept, shapes_only = Kept(), is_meta(model.module)
    seed = step.seed + seed
    width = any(size is not None for size in (step.heads, step.ffn, step.hidden_size))
    measured = width or (step.by == "importance" and isinstance(step.layers, int))
    documents = domain_text(step, text) if step.vocabulary or measured else None
    if step.vocabulary is not None:
        assert documents is not None
        refuse_few_bits(model, "vocabulary pruning")
        tokens, note = kept_tokens(model, step.vocabulary, documents.documents)
        kept = replace(kept, vocabulary=tokens, notes=(*kept.notes, f"{note} (text: {documents.name})"))
    if step.layers is not None:
        total = len(layer_list(model)[1])
        stay, note = kept_layers(step, total, seed), ""
        if step.by == "importance" and isinstance(step.layers, int):
            assert documents is not None
            note = "; which ones is measured when the step runs"
            if not shapes_only:
                stay, influence = yield from influential_layers(model, step.layers, calibration(model, documents))
                told = ", ".join(f"{i}: {value:.3f}" for i, value in enumerate(influence))
                note = f"; chosen by their influence (1 - cosine of input and output), measured on {documents.name}: {told}"
        note = f"layers kept: {', '.join(map(str, stay))}; in the student they are numbered 0 to {len(stay) - 1}{note}"
        kept = replace(kept, layers=stay, notes=(*kept.notes, note))
    if width:
        assert documents is not None
        refuse_few_bits(model, "width pruning")
        found = kept_width(model, step, None if shapes_only else calibration(model, documents), seed)
        kept = replace(
            kept,
            axes=found.axes,
            changes=found.changes,
            norms=found.norms,
            notes=(*kept.notes, _width_note(model, step, documents.name, shapes_only)),
        )
    return kept


def _width_note(model: Model, step: Prune, text: str, shapes_only: bool) -> str:
    old, new = width_of(model), new_width(model, step)
    sizes = [f"{name} {before} -> {after}" for name, before, after in zip(old._fields, old, new, strict=True) if before != after]
    how = "which ones is measured when the step runs" if shapes_only else f"the most important ones, measured on {text}"
    return f"{', '.join(sizes) or 'no width'} in every layer: {'drawn at random' if step.by == 'random' else how}"


def axes_and_changes(model: Model, kept: Kept) -> tuple[Axes, Mapping[str, Any]]:
    """Which parameters are cut along which axes, and what changes in the config."""
    axes: dict[str, tuple[str, ...]] = width_axes(model) if kept.axes else {}
    changes: dict[str, Any] = dict(kept.changes)
    if kept.vocabulary is not None:
        axes |= {name: labels for name, labels in vocabulary_axes(model).items() if name not in axes}
        changes |= vocabulary_changes(model, kept.vocabulary)
    return axes, changes


def prune_outline(model: Model, step: Prune, kept: Kept) -> Model:
    axes, changes = axes_and_changes(model, kept)
    small = cut(model, kept, axes, changes, how="shapes")
    name_of, layer_number = new_names(model, kept)

    def fate(entry: Entry, after: int | None) -> tuple[str, str]:
        if after is None:
            return "remove", f"layer {layer_number(entry.module)} is left out"
        return ("cut", "") if after < entry.bytes else ("keep", "")

    plan = Plan(step=step, modules=_compared(model, small, name_of, fate), notes=(*kept.notes, *cost_notes(model, small)))
    return replace(small, recipe=model.recipe.then(step), plans=(*model.plans, plan))


def student_outline(model: Model, step: Student, kept: Kept) -> Model:
    refuse_few_bits(model, "a new student")
    base = model
    if kept.vocabulary is not None:
        base = cut(model, kept, *axes_and_changes(model, kept), how="shapes")
    with torch.device("meta"):
        module: Any = type(model.module)(new_config(base, step))
    filled = {name.rpartition(".")[0] for name in projected_tables(module, base.module)} if step.embeddings == "project" else set()
    return _new_student(model, step, module, filled, "the teacher's table in the student's width", kept.notes)


def words_for(teacher: Model, step: Student, text: Any = None) -> list[str]:
    """The tokens of a student whose tokens are the words of the text. BadInput for a teacher that can have none."""
    refuse_teacher(teacher)
    assert isinstance(step.vocabulary, int)
    return domain_words(teacher, domain_text(step, text).documents, step.vocabulary)


def words_outline(model: Model, step: Student, words: Sequence[str]) -> Model:
    refuse_few_bits(model, "a new student")
    with torch.device("meta"):
        module = MeanBertForSequenceClassification(words_config(model, step, words))
    known = model.tokenizer.get_vocab()
    note = f"{len(words)} tokens, {sum(word not in known for word in words)} of them words that the teacher reads in pieces"
    return _new_student(model, step, module, {TABLE}, "the teacher's answer to each token alone, in the student's width", (note,))


def _new_student(model: Model, step: Student, module: Any, filled: Collection[str], how: str, notes: tuple[str, ...]) -> Model:
    """The outline of a student with its plan. filled: modules that start from the teacher, and `how`."""
    small = replace(model, module=module.to(model.dtype), origin=None)
    path, _ = layer_list(model)

    def name_of(name: str) -> str | None:
        layer = name.removeprefix(f"{path}.").split(".")[0] if name.startswith(f"{path}.") else ""
        return None if layer.isdecimal() and int(layer) >= module.config.num_hidden_layers else name

    def fate(entry: Entry, after: int | None) -> tuple[str, str]:
        if after is None:
            return "remove", "the student has fewer layers" if name_of(entry.module) is None else "the student has no such part"
        if entry.module in filled:
            return "project", how
        return "reset", "random weights"

    plan = Plan(step=step, modules=_compared(model, small, name_of, fate), notes=(*notes, *cost_notes(model, small)))
    return replace(small, recipe=model.recipe.then(step), plans=(*model.plans, plan))


def cost_notes(before: Model, after: Model) -> tuple[str, ...]:
    weights = [sum(p.numel() for p in model.module.parameters()) for model in (before, after)]
    flops = [flops_per_token(model) for model in (before, after)]
    return (
        f"parameters: {weights[0]:,} -> {weights[1]:,} ({weights[1] / weights[0]:.1%})",
        f"FLOPs per token: {flops[0]:.3g} -> {flops[1]:.3g} ({flops[1] / flops[0]:.1%}), modelled: 2 x weights in matrix products"
        f" + attention over {CONTEXT} tokens",
    )


def flops_per_token(model: Model, context: int = CONTEXT) -> int:
    """2 x the weights that multiply each token + 4 x context x heads x head size in every layer.

    A lookup costs nothing, a head counts even where it is tied, and what a classifier does once a text does not count.
    """
    table, head = model.module.get_input_embeddings(), model.module.get_output_embeddings()  # type: ignore[operator]
    weights = 0
    for name, part in model.module.named_modules():
        if part is table and part is not head:
            continue
        if model.task != "causal-lm" and category_of(name, part, model.module) == "head":
            continue
        if is_replaced(part):
            weights += int(part.weight_count)  # type: ignore[arg-type]
        elif isinstance(part, nn.Linear | Conv1D):
            weights += part.weight.numel()
    config = model.config
    return 2 * weights + 4 * context * config.num_hidden_layers * config.num_attention_heads * head_dim_of(config)


def cut_of(step: Student) -> Prune:
    """The vocabulary half of a Student step: what a Prune step does alike."""
    return Prune(vocabulary=step.vocabulary, text=step.text, seed=step.seed)


def _compared(
    model: Model, small: Model, name_of: Callable[[str], str | None], fate: Callable[[Entry, int | None], tuple[str, str]]
) -> tuple[ModulePlan, ...]:
    after: dict[tuple[str, str], int] = {(e.module, e.tensor): e.bytes for e in small.ledger().entries}
    rows = []
    for entry in model.ledger().entries:
        new = name_of(entry.module)
        left = None if new is None else after.pop((new, entry.tensor), None)
        action, reason = fate(entry, left)
        rows.append(_module_plan(entry, action, reason, left or 0))
    if after:
        raise BadInput(
            f"the new model has parts that the old one has not: {sorted(after)[:3]}", "Allowed: models whose parts stay the same"
        )
    return _by_module(rows)
