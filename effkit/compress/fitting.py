"""One loop that fits a classifier to the class probabilities of texts: labels (probabilities of one) or a teacher's answers.

Texts of like length share a batch, so that little of a step is padding. Everything random follows from the seed and the step's
number: a run resumed from a snapshot goes on bit for bit (on CPU with the same number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from effkit.measure.coder import Coder
from effkit.models.model import Model
from effkit.spec.errors import EffkitError
from effkit.spec.progress import Snapshot

from .weights import Weights, rate_at, working

BUCKET = 16  # batches whose texts are sorted by length together


@dataclass(frozen=True)
class Settings:
    """word_dropout: share of tokens hidden from a step, so that no single word decides; head_rate: the head's learning rate over
    the body's; freeze: parts of parameter names that stay as they are; autocast: "bfloat16" or None;
    most_steps: end there, in the middle of an epoch."""

    epochs: int
    learning_rate: float
    batch: int = 32
    temperature: float = 1.0
    word_dropout: float = 0.0
    head_rate: float = 1.0
    weight_decay: float = 0.01
    freeze: tuple[str, ...] = ()
    autocast: str | None = None
    most_steps: int | None = None
    seed: int = 0


@dataclass
class Fitting:
    """All that changes while fitting, and what it is made from. `model` is the trainee and is changed."""

    model: Model
    coder: Coder
    coded: Sequence[Sequence[int]]
    targets: Tensor
    settings: Settings
    weights: Weights
    done: int = 0
    changes: list[str] = field(default_factory=list)
    _epoch: int = -1
    _steps: list[list[int]] = field(default_factory=list)

    @classmethod
    def begin(cls, model: Model, texts: Sequence[str], targets: Tensor, settings: Settings, window: int) -> Fitting:
        """texts: n of them; targets: [n, classes], each row a distribution (times the weight of its text)."""
        coder = Coder(model, window)
        model.module.requires_grad_(False)
        chosen = {name: p for name, p in model.module.named_parameters() if not any(part in name for part in settings.freeze)}
        head = [name for name in chosen if is_head(name)]
        body = [name for name in chosen if not is_head(name)]
        groups = [(1.0, body), (settings.head_rate, head)]
        weights = Weights(chosen, model.device, settings.autocast, groups, weight_decay=settings.weight_decay)
        return cls(model, coder, coder.many(texts), targets, settings, weights)

    @property
    def batches(self) -> int:
        """Steps of one epoch."""
        return math.ceil(len(self.coded) / self.settings.batch)

    @property
    def total(self) -> int:
        total = self.settings.epochs * self.batches
        return min(total, self.settings.most_steps or total)

    def rate(self) -> float:
        """Rising over the first part of the steps, then falling to zero in a straight line."""
        return self.settings.learning_rate * rate_at(self.done, self.total, falling=True)

    def step_(self) -> float:
        """One step of AdamW; the loss (cross-entropy to the targets, nats) before it."""
        epoch, at = divmod(self.done, self.batches)
        if self._epoch != epoch:
            self._epoch, self._steps = epoch, steps_of_epoch(list(map(len, self.coded)), self.settings.batch, self.settings.seed, epoch)
        rows = self._steps[at]
        number = self.settings.seed * 1_000_003 + self.done
        device = self.model.device.torch
        outcome, value = "again", math.nan
        while outcome == "again":
            with working(self.model, self.model.device, "fine-tuning", number):
                ids, mask = (tensor.to(device) for tensor in self.coder.batch([self.coded[i] for i in rows]))
                mask = hidden_words(mask, self.settings.word_dropout, number)
                with self.weights.autocast():
                    logits = self.model.module(input_ids=ids, attention_mask=mask).logits
                target = self.targets[rows].to(device)
                t = self.settings.temperature
                loss = -(target * torch.log_softmax(logits.float() / t, -1)).sum(-1).mean() * t * t
                self.weights.backward(loss)
                outcome, value = self.weights.step_(self.rate(), float(loss.detach()))
        if outcome == "diverged":
            raise EffkitError(
                f"The loss is not finite at step {self.done + 1}: training diverged. Lower the learning rate "
                f"(it is {self.settings.learning_rate:g}) and start again; the model is as it was."
            )
        self.done += 1
        return value

    def snapshot(self) -> Snapshot:
        return self.weights.snapshot(done=self.done, settings=asdict(self.settings), changes=list(self.changes))

    def restore_(self, snapshot: Snapshot) -> None:
        self.weights.restore_(snapshot)
        settings: dict[str, Any] = dict(snapshot.state["settings"])
        settings["freeze"] = tuple(settings["freeze"])
        self.settings = Settings(**settings)
        self._epoch = -1
        self.done, self.changes = int(snapshot.state["done"]), list(snapshot.state["changes"])

    def change_(self, knobs: Mapping[str, Any]) -> None:
        self.settings = replace(self.settings, **knobs)
        self.changes += [f"{name} became {value:g} after step {self.done}" for name, value in knobs.items()]


def is_head(name: str) -> bool:
    """Whether a parameter belongs to the last linear of a classifier."""
    return name.startswith(("classifier.", "score."))


def hidden_words(mask: Tensor, share: float, number: int) -> Tensor:
    """The mask [texts, time] without some tokens: of each text another share, twice `share` at most; the first token stays."""
    if not share:
        return mask
    draw = torch.Generator().manual_seed(number)
    often = 2 * share * torch.rand((len(mask), 1), generator=draw)
    hidden = (torch.rand(mask.shape, generator=draw) < often).to(mask.device)
    hidden[:, 0] = False
    return mask.masked_fill(hidden, 0)


def steps_of_epoch(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of each step of an epoch: shuffled, sorted by length within buckets, the steps shuffled again."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=draw).tolist()
    steps = []
    for start in range(0, len(order), BUCKET * batch):
        bucket = sorted(order[start : start + BUCKET * batch], key=lambda i: lengths[i])
        steps += [bucket[i : i + batch] for i in range(0, len(bucket), batch)]
    return [steps[i] for i in torch.randperm(len(steps), generator=draw).tolist()]
