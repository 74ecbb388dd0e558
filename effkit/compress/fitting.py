"""One loop that fits a classifier to the class probabilities of texts: labels (probabilities of one) or a teacher's answers.

Texts of like length share a batch, so that little of a step is padding. Everything random follows from the seed and the step's
number: a run resumed from a snapshot goes on bit for bit (on CPU with the same number of threads).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from effkit.hardware.memory import guard
from effkit.measure.coder import Coder
from effkit.models.model import Model
from effkit.spec.errors import BadInput, EffkitError
from effkit.spec.progress import Snapshot

CLIP = 1.0  # largest gradient norm
WARM_UP = 0.1  # share of the steps over which the learning rate rises; then it falls to zero in a straight line
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
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW
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
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        head = [p for name, p in chosen.items() if is_head(name)]
        body = [p for name, p in chosen.items() if not is_head(name)]
        groups = [{"params": body, "scale": 1.0}, {"params": head, "scale": settings.head_rate}]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=model.device.type in ("cpu", "cuda"),
        )
        return cls(model, coder, [coder(text) for text in texts], targets, settings, chosen, optimizer)

    @property
    def batches(self) -> int:
        """Steps of one epoch."""
        return math.ceil(len(self.coded) / self.settings.batch)

    @property
    def total(self) -> int:
        total = self.settings.epochs * self.batches
        return min(total, self.settings.most_steps or total)

    def rate(self) -> float:
        warm_up = max(1, round(self.total * WARM_UP))
        falling = (self.total - self.done) / max(1, self.total - warm_up)
        return self.settings.learning_rate * min(1.0, (self.done + 1) / warm_up, falling)

    def step_(self) -> float:
        """One step of AdamW; the loss (cross-entropy to the targets, nats) before it."""
        epoch, at = divmod(self.done, self.batches)
        if self._epoch != epoch:
            self._epoch, self._steps = epoch, steps_of_epoch(list(map(len, self.coded)), self.settings.batch, self.settings.seed, epoch)
        rows = self._steps[at]
        number = self.settings.seed * 1_000_003 + self.done
        device = self.model.device.torch
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["scale"]
        self.model.module.train()
        try:
            with guard(self.model.device, "fine-tuning"), _seeded(device, number):
                ids, mask = (tensor.to(device) for tensor in self.coder.batch([self.coded[i] for i in rows]))
                mask = self._hidden_words(mask, number)
                kind = self.settings.autocast
                with torch.autocast(device.type, getattr(torch, kind)) if kind else contextlib.nullcontext():
                    logits = self.model.module(input_ids=ids, attention_mask=mask).logits
                target = self.targets[rows].to(device)
                t = self.settings.temperature
                loss = -(target * torch.log_softmax(logits.float() / t, -1)).sum(-1).mean() * t * t
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), CLIP)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise EffkitError(
                        f"The loss is not finite at step {self.done + 1}: training diverged. Lower the learning rate "
                        f"(it is {self.settings.learning_rate:g}) and start again; the model is as it was."
                    )
                self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.model.module.eval()
        self.done += 1
        return value

    def _hidden_words(self, mask: Tensor, number: int) -> Tensor:
        """The mask without some tokens: of each text another share, twice word_dropout at most; the first token stays."""
        share = self.settings.word_dropout
        if not share:
            return mask
        draw = torch.Generator().manual_seed(number)
        often = 2 * share * torch.rand((len(mask), 1), generator=draw)
        hidden = (torch.rand(mask.shape, generator=draw) < often).to(mask.device)
        hidden[:, 0] = False
        return mask.masked_fill(hidden, 0)

    def snapshot(self) -> Snapshot:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"model/{name}"] = parameter.detach().clone()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().clone()
        return Snapshot(tensors, {"done": self.done, "settings": asdict(self.settings), "changes": list(self.changes)})

    def restore_(self, snapshot: Snapshot) -> None:
        names = {name for key in snapshot.tensors if (name := key.partition("/")[2]) and not key.startswith("best/")}
        if names != set(self.parameters):
            raise BadInput("this snapshot belongs to another model", "Allowed: the model that the run was started with")
        settings: dict[str, Any] = dict(snapshot.state["settings"])
        settings["freeze"] = tuple(settings["freeze"])
        self.settings = Settings(**settings)
        self._epoch = -1
        self.done, self.changes = int(snapshot.state["done"]), list(snapshot.state["changes"])
        for name, parameter in self.parameters.items():
            state = {k.partition("/")[0]: t for k, t in snapshot.tensors.items() if k.partition("/")[2] == name}
            state.pop("best", None)
            with torch.no_grad():
                parameter.copy_(state.pop("model"))
            self.optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.clone().to(parameter.device) for key, value in state.items()
            }

    def change_(self, knobs: Mapping[str, Any]) -> None:
        self.settings = replace(self.settings, **knobs)
        self.changes += [f"{name} became {value:g} after step {self.done}" for name, value in knobs.items()]


def is_head(name: str) -> bool:
    """Whether a parameter belongs to the last linear of a classifier."""
    return name.startswith(("classifier.", "score."))


def steps_of_epoch(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of each step of an epoch: shuffled, sorted by length within buckets, the steps shuffled again."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=draw).tolist()
    steps = []
    for start in range(0, len(order), BUCKET * batch):
        bucket = sorted(order[start : start + BUCKET * batch], key=lambda i: lengths[i])
        steps += [bucket[i : i + batch] for i in range(0, len(bucket), batch)]
    return [steps[i] for i in torch.randperm(len(steps), generator=draw).tolist()]


@contextlib.contextmanager
def _seeded(device: torch.device, number: int) -> Iterator[None]:
    """Dropout that depends on the step alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(number)
        yield
