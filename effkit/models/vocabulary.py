"""Which tokens two models share: for each token id of the one, the id that the same token has in the other.

A model whose vocabulary was pruned, and its base, mean the same by the same token under other numbers. With this map a student
learns from its teacher and is compared with its base, on the tokens that both know.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effkit.spec.errors import BadInput

from .model import Model


def vocabulary_map(student: Model, teacher: Model) -> Tensor | None:
    """For each token id of the student the teacher's id of the same token [student's vocabulary]; None where they are equal.

    A student whose tokenizer was cut to fewer tokens has a map; so have two paddings of one vocabulary. Raises BadInput
    where the student has a token that the teacher lacks.
    """
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    sizes = int(student.config.vocab_size), int(teacher.config.vocab_size)
    if ours == theirs and sizes[0] == sizes[1]:
        return None
    missing = [token for token, i in ours.items() if token not in theirs and i < sizes[0]]
    # ids without a token pad the table to a round size: there both tables agree in place
    named = set(ours.values())
    padding = [i for i in range(sizes[0]) if i not in named]
    if missing or any(i >= sizes[1] for i in padding):
        example = f", such as {missing[0]!r}" if missing else ""
        raise BadInput(
            f"the vocabularies differ (teacher {sizes[1]} tokens, student {sizes[0]}), and the student has tokens that the teacher "
            f"lacks{example}",
            "Allowed: teacher and student with the same tokenizer, or a student whose tokenizer holds a part of the teacher's tokens",
            "Make the student with ek.prune(teacher, ...)",
        )
    mapping = torch.arange(sizes[0])
    for token, i in ours.items():
        if i < sizes[0]:
            mapping[i] = theirs[token]
    return mapping.to(teacher.device.torch)


def in_part(base: Model, ids: Tensor, mapping: Tensor) -> Tensor:
    """The base's logits [..., time, part] for ids of a model with a part of its vocabulary, among that part's tokens alone."""
    return base.logits(mapping.cpu()[ids])[..., mapping]


def part_of(model: Model, base: Model) -> Tensor | None:
    """`vocabulary_map` where the model's tokens are fewer than the base's and all among them; None in any other case."""
    ours, theirs = model.tokenizer.get_vocab(), base.tokenizer.get_vocab()
    return vocabulary_map(model, base) if len(ours) < len(theirs) and ours.keys() <= theirs.keys() else None
