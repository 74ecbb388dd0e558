"""What the teachers say of a text: one model's logits, or the average of several, once or again and again.

Kept compactly: with `top_k` only the likeliest tokens of every position and the mass of all others are kept, as one more
"token". That is a tenth of a percent of a large vocabulary's logits, so each window is asked for once, whatever the
number of passes. Divergences over these k + 1 outcomes are lower bounds of those over the vocabulary (data processing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effkit.models.model import Model
from effkit.spec.errors import BadInput

from .material import Batch


@dataclass(frozen=True)
class Said:
    """Logits over the student's outcomes [..., n]. tokens: which tokens the first n - 1 of them are, where the last is the rest.
    inside: the first teacher's whole output, where its hidden states or attention were asked for and it was run."""

    logits: Tensor
    tokens: Tensor | None = None
    inside: Any = None

    def same_outcomes(self, student: Tensor, temperature: float) -> Tensor:
        """The student's logits [..., vocabulary] over the same outcomes."""
        return student if self.tokens is None else bundled(student, self.tokens, temperature)


class Teachers:
    """One teacher or several of equal weight: the average of their probabilities at the temperature."""

    def __init__(self, models: Sequence[Model], student: Model, window: int, top_k: int | None = None) -> None:
        self.models, self.window, self.top_k = tuple(models), window, top_k
        self.mappings = [None if student.task != "causal-lm" else vocabulary_map(student, model) for model in self.models]
        self._kept: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._temperature: float | None = None

    @property
    def passes(self) -> int:
        return len(self.models)

    @torch.no_grad()
    def say(self, batch: Batch, temperature: float, look: Mapping[str, bool] | None = None, whole: bool = False) -> Said:
        """What they say of a batch. With top_k, what was said of these windows before is not asked again.

        look: options such as output_hidden_states for the first teacher, which then is run once for logits and insides.
        whole: all logits although there is a top_k, and nothing is kept.
        """
        generated = batch.scored is not None  # new text each time: nothing to keep
        if self.top_k is None or generated or whole:
            inside = self.inside(batch, look) if look else None
            return Said(self._logits(batch, temperature, inside), inside=inside)
        if temperature != self._temperature:
            self._kept, self._temperature = {}, temperature  # the mass of the rest depends on it
        if any(unit not in self._kept for unit in batch.units):
            logits = self._logits(batch, temperature)
            k = min(self.top_k, logits.shape[-1] - 1)
            tokens = logits.topk(k, dim=-1).indices
            few = bundled(logits, tokens, temperature).cpu()
            for i, unit in enumerate(batch.units):
                self._kept[unit] = few[i], tokens[i].to(device="cpu", dtype=torch.int32)
        device = self.models[0].device.torch
        few = torch.stack([self._kept[unit][0] for unit in batch.units]).to(device)
        tokens = torch.stack([t for unit in batch.units if (t := self._kept[unit][1]) is not None]).to(device).long()
        return Said(few, tokens)

    @torch.no_grad()
    def inside(self, batch: Batch, look: Mapping[str, bool]) -> Any:
        """The first teacher's output with the hidden states or attention that `look` asks for."""
        model = self.models[0]
        extra = {"use_cache": False} if model.task == "causal-lm" else {}
        return model.module(**batch.inputs(model, self.window, self.mappings[0]), **extra, **look)

    def _logits(self, batch: Batch, temperature: float, first: Any = None) -> Tensor:
        """first: the first teacher's output, where there is one already."""
        found = []
        for at, (model, mapping) in enumerate(zip(self.models, self.mappings, strict=True)):
            if at == 0 and first is not None:
                logits = first.logits
            else:
                inputs = batch.inputs(model, self.window, mapping)
                logits = model.logits(inputs["input_ids"], inputs.get("attention_mask"))
            found.append(logits if mapping is None else logits[..., mapping])
        if len(found) == 1:
            return found[0]
        average = torch.stack([torch.log_softmax(logits.float() / temperature, -1) for logits in found]).logsumexp(0)
        return (average - math.log(len(found))) * temperature


def bundled(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Logits [..., k + 1]: those of `tokens` [..., k], and one for all others together, exact at this temperature."""
    chosen = logits.float().gather(-1, tokens)
    others = logits.float().scatter(-1, tokens, -math.inf)
    rest = torch.logsumexp(others / temperature, dim=-1, keepdim=True) * temperature
    return torch.cat([chosen, rest], dim=-1)


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
