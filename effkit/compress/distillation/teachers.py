"""What the teachers say of a text: one model's logits, or the average of several, each time anew or kept (see kept.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from effkit.measure.answers import answers
from effkit.measure.coding import Coded, encode
from effkit.measure.reference import fingerprint, key_of
from effkit.models.model import Model
from effkit.models.vocabulary import vocabulary_map
from effkit.spec.progress import Work

from ..states import States
from .kept import SLOWNESS, Kept, bundled_at, name_of, reaches, summary
from .material import Batch

# A second pass costs its calls: for a BERT of 4 layers of 128 about an eighth of a batch of 32 texts.
SPARED = 0.2  # share of a batch's tokens
WORTH = 1e8  # tokens x parameters


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
    """One teacher or several of equal weight: the average of their probabilities at the temperature.

    shared: without top_k too, what they compute of a text is kept for their other students (see compress/states.py)
    """

    def __init__(self, models: Sequence[Model], student: Model, window: int, top_k: int | None = None, shared: bool = False) -> None:
        self.models, self.window, self.top_k = tuple(models), window, top_k
        self.mappings = [None if student.task != "causal-lm" else vocabulary_map(student, model) for model in self.models]
        self._kept: dict[float | None, Kept] = {}
        keep = shared and top_k is None and student.task == "causal-lm"
        self._states = [States(model, partial(_run, model), disk=True) for model in self.models] if keep else None
        self._rows: dict[str, int] = {}  # of a text in the answers that were asked for in advance
        self._answers: list[Tensor] = []

    @property
    def passes(self) -> int:
        return len(self.models)

    @property
    def asked(self) -> bool:
        """Whether all of a classifier's texts were answered in advance."""
        return bool(self._rows)

    @torch.no_grad()
    def say(self, batch: Batch, temperature: float, look: Mapping[str, bool] | None = None) -> Said:
        """What they say of a batch. With top_k, what was ever said of these windows is not asked again.

        look: options such as output_hidden_states for the first teacher, which then is run once for logits and insides.
        """
        if self.top_k is None or batch.scored is not None:  # text that was written for this step is new each time
            inside = self.inside(batch, look) if look else None
            return Said(self._logits(batch, temperature, inside, again=batch.scored is None), inside=inside)
        # the average of several depends on the temperature
        alone = self.passes == 1 and reaches(temperature)
        slowness = SLOWNESS if alone else (1 / temperature,)

        def ask(one: Batch) -> dict[str, Tensor]:
            logits = self._logits(one, temperature)
            return summary(logits.flatten(0, -2), self.top_k or 0, slowness)

        found = self._each(batch, None if alone else temperature, f"top{self.top_k}", ask)
        shape = (len(batch), -1) if batch.ids is not None else (len(batch),)
        few = torch.cat([bundled_at(one, temperature, slowness) for one in found])
        tokens = torch.cat([one["tokens"] for one in found]).long()
        device = self.models[0].device.torch
        return Said(few.reshape(*shape, few.shape[-1]).to(device), tokens.reshape(*shape, tokens.shape[-1]).to(device))

    def ask_(self, texts: Sequence[str], autocast: str | None = None) -> Work[None]:
        """Ask for all these texts of a classifier at once, texts of like length together, and remember what is said (float32)."""
        found = []
        for model in self.models:
            found.append((yield from answers(model, texts, self.window, autocast=autocast)))
        self._rows, self._answers = {text: row for row, text in enumerate(texts)}, found

    @torch.no_grad()
    def all(self, batch: Batch) -> Tensor:
        """Logits over all of the vocabulary at temperature 1; with top_k these are kept too, in two bytes each."""
        if self.top_k is None:
            return self._logits(batch, 1.0, again=True)

        def ask(one: Batch) -> dict[str, Tensor]:
            logits = self._logits(one, 1.0)
            coded = encode(logits.flatten(0, -2))
            return {"codes": coded.codes, "step": coded.step}

        found = [Coded(one["codes"], one["step"]) for one in self._each(batch, None if self.passes == 1 else 1.0, "all", ask)]
        logits = torch.stack([coded.decode(slice(None), self.models[0].device.torch) for coded in found])
        return logits if batch.ids is not None else logits[:, 0]

    @property
    def trouble(self) -> str:
        """Why not all of it is kept on disk, where that is so."""
        return next((kept.shelf.trouble for kept in self._kept.values() if kept.shelf.trouble), "")

    def _each(
        self, batch: Batch, temperature: float | None, what: str, ask: Callable[[Batch], dict[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """What is kept of each window or text. Each is asked for by itself, so that it does not depend on its neighbours."""
        if temperature not in self._kept:
            first, *others = self.models
            facts = {
                "others": [fingerprint(model.module) for model in others], "temperature": temperature, "device": first.device.type,
                "simulated": first.device.simulated, "maps": [None if m is None else name_of([m]) for m in self.mappings],
            }  # fmt: skip
            self._kept[temperature] = Kept(key_of(first.module, facts))
        kept = self._kept[temperature]
        return [kept.of(f"{what}-{self._name(one)}", partial(ask, one)) for one in batch.parts(1)]

    def _name(self, one: Batch) -> str:
        return name_of([one.inputs(m, self.window, mapping)["input_ids"] for m, mapping in zip(self.models, self.mappings, strict=True)])

    @torch.no_grad()
    def inside(self, batch: Batch, look: Mapping[str, bool]) -> Any:
        """The first teacher's output with the hidden states or attention that `look` asks for."""
        model = self.models[0]
        extra = {"use_cache": False} if model.task == "causal-lm" else {}
        return model.module(**batch.inputs(model, self.window, self.mappings[0]), **extra, **look)

    def _logits(self, batch: Batch, temperature: float, first: Any = None, again: bool = False) -> Tensor:
        """first: the first teacher's output, where there is one already. again: the batch may come again, for another student."""
        found = []
        rows = [self._rows.get(text, -1) for text in batch.texts] if self._rows else [-1]
        for at, (model, mapping) in enumerate(zip(self.models, self.mappings, strict=True)):
            if at == 0 and first is not None:
                logits = first.logits
            elif min(rows) >= 0:
                logits = self._answers[at][rows].to(model.module.device)  # type: ignore[arg-type]
            else:
                inputs = batch.inputs(model, self.window, mapping)
                logits = self._states[at].logits(inputs) if self._states is not None and again else _run(model, inputs)
            found.append(logits if mapping is None else logits[..., mapping])
        if len(found) == 1:
            return found[0]
        average = torch.stack([torch.log_softmax(logits.float() / temperature, -1) for logits in found]).logsumexp(0)
        return (average - math.log(len(found))) * temperature


def _run(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    """The model's logits. On a CPU short texts are read apart from long ones where that spares enough padding."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    parts = [] if mask is None or ids.device.type != "cpu" else apart(mask, model.checkpoint.parameters)
    if not parts:
        return model.logits(ids, mask)
    assert mask is not None
    said = torch.cat([model.logits(ids[rows, :longest], mask[rows, :longest]) for rows, longest in parts])
    return said[torch.cat([rows for rows, _ in parts]).argsort()]


def apart(mask: Tensor, parameters: int) -> list[tuple[Tensor, int]]:
    """Short and long texts of a batch as (rows, longest), cut where the fewest tokens are left; empty where one pass is better.

    mask: [texts, time], 1 for tokens. Padding on the left stays: what a position is called may depend on it.
    """
    count, longest = mask.shape
    if count * longest * parameters < WORTH or not bool(mask[:, 0].all()):
        return []
    lengths, order = mask.sum(1).sort()
    first = torch.arange(1, count + 1)
    tokens = first * lengths + (count - first) * longest
    cut = int(tokens.argmin()) + 1
    spared = count * longest - int(tokens[cut - 1])
    if spared < SPARED * count * longest or spared * parameters < WORTH:
        return []
    return [(order[:cut], int(lengths[cut - 1])), (order[cut:], longest)]


def bundled(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Logits [..., k + 1]: those of `tokens` [..., k], and one for all others together, exact at this temperature."""
    chosen = logits.float().gather(-1, tokens)
    others = logits.float().scatter(-1, tokens, -math.inf)
    rest = torch.logsumexp(others / temperature, dim=-1, keepdim=True) * temperature
    return torch.cat([chosen, rest], dim=-1)
