"""Students: made of their teacher by leaving things out (`prune`), or new ones in its image (`student`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from effkit.models.mean_bert import MeanBertForSequenceClassification
from effkit.models.model import Model
from effkit.models.texts.datasets import file_name
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.recipe import Prune, Student, step_of

from .pruning.cutting import Kept, cut
from .pruning.planning import axes_and_changes, cut_of, decide, prune_outline, student_outline, words_for, words_outline
from .pruning.scratch import drawn, new_config, project_embeddings_
from .pruning.vocabulary import cut_tokenizer, renumber_generation_
from .pruning.words import TABLE, embedded, own_tokenizer, words_config


@long_work
def prune(
    model: Model,
    layers: int | Sequence[int] | None = None,
    *,
    by: Literal["even", "importance", "random"] = "even",
    heads: int | None = None,
    ffn: int | None = None,
    hidden_size: int | None = None,
    vocabulary: int | Literal["used"] | None = None,
    text: Any = None,
    seed: int = 0,
) -> Work[Model]:
    """A new model with fewer layers, heads, channels or tokens; `model` stays as it was. What is None is left alone.

    layers:      how many to keep, or the indices to keep
    by:          how layers are chosen: "even" (spread, with the first and the last), "importance" (measured on `text`), "random"
    heads, ffn, hidden_size: how many to keep, the most important ones, measured on `text` ("random" draws them)
    vocabulary:  how many tokens to keep, the most used ones of `text`, or "used" for all that it uses
    text:        a string, a file or a list of strings of the domain; None for the offline default (its "train" part)

    Its quality is poor until it is distilled (vocabulary pruning alone changes nothing on text of kept tokens).
    Raises BadInput for what this architecture cannot have; `plan` tells all before.
    """
    chosen = layers if layers is None or isinstance(layers, int) else tuple(layers)
    step = step_of(
        Prune, layers=chosen, by=by, heads=heads, ffn=ffn, hidden_size=hidden_size, vocabulary=vocabulary, text=file_name(text), seed=seed
    )
    return (yield from apply_prune(model, step, text))


@long_work
def student(
    teacher: Model,
    layers: int | None = None,
    hidden_size: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    *,
    vocabulary: int | Literal["used"] | None = None,
    embeddings: Literal["random", "project", "words"] = "random",
    window: int | None = None,
    text: Any = None,
    seed: int = 0,
) -> Work[Model]:
    """A new student of the teacher's architecture with random weights, to be trained; what is None is as in the teacher.

    vocabulary, text: as for `prune`
    embeddings:       "project" starts token and position tables from the teacher's, in the new width. "words" makes a BERT's
                      student whose tokens are the frequent words of `text`, beside the pieces that the rest needs, at most
                      `vocabulary` in all; each starts as the teacher's answer to it alone
    window:           with "words": the most tokens that it reads; None: as many as the teacher

    Raises BadInput for a shape that the architecture cannot have, and with "words" for a teacher that is no BERT with a WordPiece
    tokenizer.
    """
    step = step_of(
        Student, layers=layers, hidden_size=hidden_size, heads=heads, ffn=ffn, vocabulary=vocabulary, embeddings=embeddings,
        window=window, text=file_name(text), seed=seed,
    )  # fmt: skip
    return (yield from apply_student(teacher, step, text))


def apply_prune(model: Model, step: Prune, text: Any = None, seed: int = 0) -> Work[Model]:
    """`prune` for a validated step. text: in place of the one that the step names; seed: a recipe's, added to the step's."""
    yield Progress("prune", 0, 1, "steps")
    kept = yield from decide(model, step, text, seed)
    plan = prune_outline(model, step, kept).plans[-1]
    new = _without_tokens(model, kept)
    yield Progress("prune", 1, 1, "steps")
    return replace(new, recipe=model.recipe.then(step, seed), plans=(*model.plans, plan))


def apply_student(teacher: Model, step: Student, text: Any = None, seed: int = 0) -> Work[Model]:
    """`student` for a validated step; text and seed as in `apply_prune`."""
    yield Progress("student", 0, 1, "steps")
    if step.embeddings == "words":
        return (yield from _of_words(teacher, step, text, seed))
    kept = (yield from decide(teacher, cut_of(step), text, seed)) if step.vocabulary else Kept()
    plan = student_outline(teacher, step, kept).plans[-1]
    base = _without_tokens(teacher, kept) if step.vocabulary else teacher
    module = drawn(base, new_config(base, step), step.seed + seed)
    if step.embeddings == "project":
        project_embeddings_(module, base.module)
    module.to(teacher.device.torch)
    yield Progress("student", 1, 1, "steps")
    return replace(base, module=module, recipe=teacher.recipe.then(step, seed), plans=(*teacher.plans, plan), origin=None)


def _of_words(teacher: Model, step: Student, text: Any, seed: int) -> Work[Model]:
    """A student whose tokens are words of the text, each of which its teacher is asked for."""
    words = words_for(teacher, step, text)
    plan = words_outline(teacher, step, words).plans[-1]
    config = words_config(teacher, step, words)
    module: Any = drawn(teacher, config, step.seed + seed, MeanBertForSequenceClassification)
    table = yield from embedded(teacher, words, config.hidden_size)
    with torch.no_grad():
        module.get_parameter(f"{TABLE}.weight").copy_(table)
    module.to(teacher.device.torch)
    tokenizer = own_tokenizer(teacher.tokenizer, words, config.max_position_embeddings)
    yield Progress("student", 1, 1, "steps")
    return replace(
        teacher, module=module, tokenizer=tokenizer, recipe=teacher.recipe.then(step, seed), plans=(*teacher.plans, plan), origin=None
    )


def _without_tokens(model: Model, kept: Kept) -> Model:
    """The model that `kept` leaves, with the tokenizer and the generation config that belong to it."""
    new = cut(model, kept, *axes_and_changes(model, kept))
    if kept.vocabulary is None:
        return new
    renumber_generation_(new.module, kept.vocabulary)
    return replace(new, tokenizer=cut_tokenizer(model.tokenizer, kept.vocabulary))
