"""The verb `distill`: a student learns to give its teacher's probabilities, on text, step by step.

Everything random follows from the seed and the step's number, so that a run resumed from a snapshot goes on bit for
bit (on CPU with the same number of threads): the order of windows is drawn anew for each pass from (seed, pass), and
dropout, where a student has any, from (seed, step).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from effkit.hardware.memory import guard
from effkit.models.datasets import read_text, windows
from effkit.models.model import Model
from effkit.spec.errors import BadInput, EffkitError
from effkit.spec.plan import Plan
from effkit.spec.progress import Progress, Snapshot, Work, long_work
from effkit.spec.recipe import Distill, step_of

from .losses import forward_kl
from .planning import plan_distill, trained_parameters

HELD_OUT_WINDOWS = 4
CLIP = 1.0  # largest gradient norm
WARM_UP = 0.1  # share of the steps over which the learning rate rises from zero


@long_work(knobs=("temperature", "learning_rate"))
def distill(
    teacher: Model,
    student: Model,
    text: str | Path | list[str] | None = None,
    steps: int = 100,
    temperature: float = 1.0,
    learning_rate: float = 3e-4,
    window: int = 128,
    batch: int = 4,
    train: str = "blocks",
    seed: int = 0,
    resume: Snapshot | None = None,
) -> Work[Model]:
    """A new model: the student after `steps` steps of AdamW on KL(teacher || student). Both arguments stay as they were.

    text: a string, a file or a list of strings; None for the offline default (its "train" part)
    window: tokens a sequence; batch: sequences a step; temperature: above 1 softens both distributions
    train: "blocks" (layers and last norm) or "all" (the embedding and the head too)

    Progress: metrics "loss" (KL in nats on the batch), "learning_rate", and every tenth of the way "held_out" (KL at
    temperature 1 on windows that are never trained on). While it runs, temperature and learning_rate may be changed.
    Raises BadInput (text too short, vocabularies that differ, nothing to train), OutOfMemory, EffkitError if it diverges.
    """
    fields: dict[str, Any] = {"steps": steps, "temperature": temperature, "learning_rate": learning_rate, "window": window, "batch": batch}
    step = step_of(Distill, **fields, train=train, text=_file_name(text))
    return (yield from apply_distill(teacher, student, step, text, seed, resume))


def apply_distill(
    teacher: Model, student: Model, step: Distill, text: Any = None, seed: int = 0, resume: Snapshot | None = None
) -> Work[Model]:
    """`distill` for a validated step. `text` None takes the step's own."""
    _check_pair(teacher, student)
    plan = plan_distill(student, step)
    train_ids, held_out_ids = _texts(teacher, step, text)
    with guard(student.device, "copying the student"):
        trainee = student.to(dtype=torch.float32)
    training = _Training.begin(teacher, trainee, step, train_ids, held_out_ids, seed)
    try:
        if resume is not None:
            training.restore_(resume)
        yield from _loop(training)
    finally:
        trainee.module.eval().requires_grad_(False)
    return _finished(student, trainee, step, plan.model_copy(update={"notes": (*plan.notes, *training.changes)}))


@dataclass
class _Training:
    """All that changes while training, and what it is made from."""

    teacher: Model
    student: Model
    step: Distill
    train_ids: torch.Tensor
    held_out_ids: torch.Tensor
    seed: int
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW
    done: int = 0
    changes: list[str] = field(default_factory=list)

    @classmethod
    def begin(
        cls, teacher: Model, student: Model, step: Distill, train_ids: torch.Tensor, held_out_ids: torch.Tensor, seed: int
    ) -> _Training:
        parameters = trained_parameters(student, step.train)
        student.module.requires_grad_(False)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        # The fused kernel takes a third of the time; not every accelerator has it.
        fused = student.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(list(parameters.values()), lr=step.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=fused)
        return cls(teacher, student, step, train_ids, held_out_ids, seed, parameters, optimizer)

    def batch(self) -> torch.Tensor:
        """The windows of the next step, [batch, window]. Every window is seen once before any is seen twice."""
        count = len(self.train_ids)
        positions = range(self.done * self.step.batch, (self.done + 1) * self.step.batch)
        chosen = [int(_order(count, self.seed, p // count)[p % count]) for p in positions]
        return self.train_ids[chosen].to(self.student.device.torch)

    def rate(self) -> float:
        warm_up = max(1, round(self.step.steps * WARM_UP))
        return self.step.learning_rate * min(1.0, (self.done + 1) / warm_up)

    def train_(self) -> float:
        """One step of AdamW; the loss before it."""
        ids = self.batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.student.module.train()
        with guard(self.student.device, "distilling"), _seeded(self.student, self.seed, self.done):
            target = self.teacher.logits(ids)
            output = self.student.module(input_ids=ids, **_no_cache(self.student)).logits
            loss = forward_kl(output, target.to(output.device), self.step.temperature)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), CLIP)
            value = float(loss.detach())
            if not torch.isfinite(torch.tensor(value)):
                raise EffkitError(
                    f"The loss is not finite at step {self.done + 1}: training diverged. "
                    f"Lower the learning rate (it is {self.step.learning_rate:g}) and start again; the student is as it was."
                )
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.student.module.eval()
        self.done += 1
        return value

    def held_out(self) -> float:
        """KL to the teacher at temperature 1, in nats, on windows that are never trained on."""
        total = 0.0
        for ids in self.held_out_ids:
            ids = ids.unsqueeze(0).to(self.student.device.torch)
            total += float(forward_kl(self.student.logits(ids), self.teacher.logits(ids)))
        return total / len(self.held_out_ids)

    def snapshot(self) -> Snapshot:
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"student/{name}"] = parameter.detach().clone()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().clone()
        state = {"done": self.done, "step": self.step.model_dump(mode="json"), "seed": self.seed, "changes": self.changes}
        return Snapshot(tensors, state)

    def restore_(self, snapshot: Snapshot) -> None:
        self.step = Distill.model_validate(snapshot.state["step"])
        self.done, self.seed = int(snapshot.state["done"]), int(snapshot.state["seed"])
        self.changes = list(snapshot.state["changes"])
        names = {name for key in snapshot.tensors if (name := key.partition("/")[2])}
        if self.done and names != set(self.parameters):
            raise BadInput("this snapshot belongs to another student", "Allowed: the student that the run was started with")
        for name, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(snapshot.tensors[f"student/{name}"])
            state = {k.partition("/")[0]: t for k, t in snapshot.tensors.items() if k.partition("/")[2] == name}
            state.pop("student")
            self.optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.clone().to(parameter.device) for key, value in state.items()
            }

    def change_(self, knobs: Any) -> None:
        fields = self.step.model_dump() | dict(knobs)
        self.step = step_of(Distill, **fields)
        self.changes += [f"{name} became {value:g} after step {self.done}" for name, value in dict(knobs).items()]


def _loop(training: _Training) -> Work[None]:
    """Train to the end, held-out loss at the start, every tenth, and at the end."""
    total = training.step.steps
    every = max(1, total // 10)
    if training.done == 0:
        change = yield Progress(
            "distill", 0, total, "steps", "before the first step", {"held_out": training.held_out()}, snapshot=training.snapshot
        )
        if change:
            training.change_(change)
    while training.done < total:
        rate = training.rate()
        metrics = {"loss": training.train_(), "learning_rate": rate}
        if training.done % every == 0 or training.done == total:
            metrics["held_out"] = training.held_out()
        details = {"temperature": training.step.temperature}
        change = yield Progress("distill", training.done, total, "steps", "", metrics, details, training.snapshot)
        if change:
            training.change_(change)


def _finished(student: Model, trainee: Model, step: Distill, plan: Plan) -> Model:
    module = trainee if trainee.dtype == student.dtype else trainee.to(dtype=student.dtype)
    return replace(module, recipe=student.recipe.then(step), plans=(*student.plans, plan), origin=None)


def _check_pair(teacher: Model, student: Model) -> None:
    if teacher.task != student.task:
        raise BadInput(f"the teacher is a {teacher.task} and the student a {student.task}", "Allowed: two models of one task")
    if teacher.device != student.device:
        raise BadInput(f"the teacher is on {teacher.device} and the student on {student.device}", "Allowed: one device", "Use model.to()")
    sizes = teacher.config.vocab_size, student.config.vocab_size
    if sizes[0] != sizes[1] or teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise BadInput(
            f"the vocabularies differ (teacher {sizes[0]} tokens, student {sizes[1]})",
            "Allowed: teacher and student with the same tokenizer",
            "Make the student with ek.prune(teacher, layers=...)",
        )


def _texts(teacher: Model, step: Distill, text: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows to train on and windows to hold out, [n, window]: parts of the default text, or every tenth window of the user's."""
    given = step.text if text is None else text
    if given is None:
        train = windows(read_text(None, part="train"), teacher, step.window, None)
        return train, windows(read_text(None, part="held-out"), teacher, step.window, HELD_OUT_WINDOWS)
    own = windows(read_text(given), teacher, step.window, None)
    if len(own) < 2:
        raise BadInput(
            f"the text fills {len(own)} window of {step.window} tokens",
            "Training needs at least 2: one to train on, one held out",
            "Give more text or a shorter window",
        )
    count = min(HELD_OUT_WINDOWS, max(1, len(own) // 10))
    held = torch.linspace(0, len(own) - 1, count + 2)[1:-1].round().long() if count + 2 <= len(own) else torch.tensor([len(own) - 1])
    mask = torch.ones(len(own), dtype=torch.bool)
    mask[held] = False
    return own[mask], own[held]


def _file_name(text: Any) -> str | None:
    """What a recipe can name: a file. Text given as such stays out of it."""
    return str(text) if isinstance(text, str | Path) and os.path.isfile(text) else None


def _order(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


@contextlib.contextmanager
def _seeded(student: Model, seed: int, step: int) -> Iterator[None]:
    """Dropout that depends on the step's number alone. Students without dropout leave the global random state untouched."""
    if not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in student.module.modules()):
        yield
        return
    device = student.device.torch
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed * 1_000_003 + step)
        yield


def _no_cache(model: Model) -> dict[str, Any]:
    return {"use_cache": False} if model.task == "causal-lm" else {}
