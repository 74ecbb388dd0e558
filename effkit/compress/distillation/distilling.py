"""The verb `distill`: a student learns to give its teacher's probabilities, on text, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from effkit.hardware.attached.memory import guard
from effkit.models.model import Model
from effkit.models.texts.datasets import file_name
from effkit.spec.errors import BadInput
from effkit.spec.plan import Plan
from effkit.spec.progress import Progress, Snapshot, Work, long_work
from effkit.spec.recipe import Distill, Quantize, step_of

from .material import texts_for, windows_for
from .planning import plan_distill
from .training import Training

KNOBS = ("temperature", "learning_rate", "hard", "hidden", "attention", "mix")
SAMPLE_TOKENS = 16
CHUNKS = 16  # chunks of texts that are tokenized between two events


@long_work(knobs=KNOBS, check=lambda **knobs: step_of(Distill, **knobs))
def distill(
    teacher: Model | Sequence[Model],
    student: Model,
    text: str | Path | list[str] | None = None,
    steps: int = 100,
    temperature: float = 1.0,
    learning_rate: float = 3e-4,
    window: int = 128,
    batch: int = 4,
    train: str = "blocks",
    seed: int = 0,
    *,
    objective: str = "forward-kl",
    mix: float | None = None,
    hard: float | None = None,
    labels: Sequence[int | None] | None = None,
    hidden: float = 0.0,
    attention: float = 0.0,
    layer_map: Sequence[tuple[int, int]] | None = None,
    source: Literal["text", "teacher", "student"] = "text",
    quantize: Quantize | None = None,
    autocast: str | None = None,
    patience: int | None = None,
    top_k: int | None = None,
    schedule: Literal["constant", "linear"] = "constant",
    word_dropout: float = 0.0,
    augment: int | None = None,
    prompts: Sequence[str] = (),
    resume: Snapshot | None = None,
) -> Work[Model]:
    """A new model: the student after `steps` steps of AdamW towards what the teacher says. Both arguments stay as they were.

    teacher: one, or several whose probabilities are averaged (the first one's insides, where these are asked for)
    text:   a string, a file or a list of strings; None for the offline default (its "train" part). A classifier reads every
            text of a list, or every line; labels: the class of each, None where nobody knows
    window: tokens a sequence (a classifier's texts are cut to it); batch: sequences a step
    prompts: texts that teacher and student continue side by side, every tenth of the way (details "samples")
    The other arguments are the fields of effkit.Distill, where they are explained.

    Progress: metrics "loss" (the objective and what is added to it, on the batch, nats), "learning_rate", and every tenth of the way
    "held_out" (KL at temperature 1 on what is never trained on); the first event's details "references" say what that means: 0 is
    the teacher, "constant answer" a student that always says the teacher's average. Large models on a CPU report pieces of a step.
    While it runs, temperature, learning_rate, mix and the weights hard, hidden and attention may be changed.
    Started by `accelerate launch` or torchrun, each process works on a share of every batch; all end with the same student
    (`effkit run` writes it once). A knob is then to be changed in all of them.
    A classifier's teachers are asked in advance, each text once, where every text will be read at least twice.
    A loss that is not finite takes the run back to the last held-out measurement with half the learning rate, three times.
    Raises BadInput (text too short, vocabularies without a map, nothing to train), OutOfMemory, EffkitError if it diverges.
    """
    fields: dict[str, Any] = {
        "steps": steps, "temperature": temperature, "learning_rate": learning_rate, "window": window, "batch": batch, "train": train,
        "objective": objective, "mix": mix, "hard": hard, "hidden": hidden, "attention": attention, "source": source,
        "quantize": quantize, "autocast": autocast, "patience": patience, "top_k": top_k,
        "schedule": schedule, "word_dropout": word_dropout, "augment": augment,
        "layer_map": None if layer_map is None else tuple(tuple(pair) for pair in layer_map),
    }  # fmt: skip
    step = step_of(Distill, **fields, text=file_name(text))
    teachers = (teacher,) if isinstance(teacher, Model) else tuple(teacher)
    return (yield from apply_distill(teachers, student, step, text, seed, resume, labels=labels, prompts=prompts))


def apply_distill(
    teachers: Sequence[Model],
    student: Model,
    step: Distill,
    text: Any = None,
    seed: int = 0,
    resume: Snapshot | None = None,
    *,
    labels: Sequence[int | None] | None = None,
    prompts: Sequence[str] = (),
    shared: bool = False,
) -> Work[Model]:
    """`distill` for a validated step. `text` None takes the step's own. shared: what the teachers compute is kept for other students."""
    _check(teachers, student, step, labels)
    plan = plan_distill(student, step)
    given = step.text if text is None else text
    if student.task == "causal-lm":
        material = windows_for(student, given, step.window)
    else:
        material = texts_for(given, labels, int(student.config.num_labels), step.augment or 0, seed)
    with guard(student.device, "copying the student"):
        trainee = student.to(dtype=torch.float32)
    training = Training.begin(teachers, trainee, step, material, seed, shared)
    try:
        if resume is not None:
            training.restore_(resume)
        yield from _loop(training, tuple(prompts))
        training.weights.keep_best_()
    finally:
        trainee.module.eval().requires_grad_(False)
    step = step.model_copy(update={"steps": training.step.steps})  # a branch may have lengthened it; other knobs are told in notes
    return _finished(student, trainee, step, plan.model_copy(update={"notes": (*plan.notes, *training.changes)}), seed)


def _loop(training: Training, prompts: tuple[str, ...]) -> Work[None]:
    """Train to the end, held-out loss at the start, every tenth, and at the end."""
    total = training.step.steps
    every = max(1, total // 10)
    fine = training.piece < training.step.batch  # pieces that take long enough to be told
    samples = _Samples(training, prompts)

    def pieces(work: Iterator[None], message: str) -> Work[None]:
        for _ in work:
            if fine:
                change = yield Progress("distill", training.done, total, "steps", message, snapshot=training.snapshot)
                if change:
                    training.change_(change)

    def told(message: str, metrics: dict[str, float], details: dict[str, Any]) -> Work[None]:
        change = yield Progress("distill", training.done, total, "steps", message, metrics, details, training.snapshot)
        if change:
            training.change_(change)

    for event in training.ask_():
        yield from told(f"asking the teacher: {event.done} of {event.total} texts", {}, {})
    for chunk, _ in enumerate(training.read_(), 1):
        if chunk % CHUNKS == 0:
            yield from told("reading the texts", {}, {})
    if training.done == 0:
        yield from pieces(training.measure_(), "reading the held-out text")
        details: dict[str, Any] = {"references": training.references()}
        details |= yield from samples.taken(pieces)
        yield from told("before the first step", {"held_out": training.held_out}, details)
    while training.done < total and not training.stalled:
        rate, before = training.rate(), training.done
        yield from pieces(training.train_(), f"step {training.done + 1}")
        if training.done <= before:  # it diverged and was taken back
            yield from told(training.changes[-1], {}, {})
            continue
        metrics = {"loss": training.loss, "learning_rate": rate}
        details = {"temperature": training.step.temperature}
        if training.done % every == 0 or training.done == total:
            yield from pieces(training.measure_(), "reading the held-out text")
            metrics["held_out"] = training.held_out
            details |= yield from samples.taken(pieces)
        yield from told("", metrics, details)
    if training.teachers.trouble:
        training.changes.append(training.teachers.trouble)
    if training.stalled:
        training.changes.append(
            f"stopped after step {training.done}: {training.weights.waited} measurements brought no better held-out loss"
        )


class _Samples:
    """The same prompts continued by teacher and student; the teacher's continuations are made once."""

    def __init__(self, training: Training, prompts: tuple[str, ...]) -> None:
        self.training, self.prompts = training, prompts
        self.teachers: list[str] = []

    def taken(self, pieces: Any) -> Work[dict[str, Any]]:
        found: list[dict[str, str]] = []

        def write() -> Iterator[None]:
            for at, prompt in enumerate(self.prompts):
                if at == len(self.teachers):
                    self.teachers.append(self.training.teachers.models[0].generate(prompt, SAMPLE_TOKENS))
                    yield
                found.append(
                    {"prompt": prompt, "teacher": self.teachers[at], "student": self.training.student.generate(prompt, SAMPLE_TOKENS)}
                )
                yield

        yield from pieces(write(), "writing samples")
        return {"samples": found} if found else {}


def _finished(student: Model, trainee: Model, step: Distill, plan: Plan, seed: int) -> Model:
    module = trainee if trainee.dtype == student.dtype else trainee.to(dtype=student.dtype)
    return replace(module, recipe=student.recipe.then(step, seed), plans=(*student.plans, plan), origin=None)


def _check(teachers: Sequence[Model], student: Model, step: Distill, labels: Any) -> None:
    """Raise BadInput for what does not go together, before any work."""
    if not teachers or not all(isinstance(teacher, Model) for teacher in teachers):
        raise BadInput(f"the teacher is {teachers!r}", "Allowed: a Model, or a list of at least one", "ek.load(...) gives one")
    for teacher in teachers:
        if teacher.task != student.task:
            raise BadInput(f"the teacher is a {teacher.task} and the student a {student.task}", "Allowed: two models of one task")
        if teacher.device != student.device:
            raise BadInput(
                f"the teacher is on {teacher.device} and the student on {student.device}", "Allowed: one device", "Use model.to()"
            )
        classes = getattr(teacher.config, "num_labels", 0), getattr(student.config, "num_labels", 0)
        if student.task == "sequence-classification" and classes[0] != classes[1]:
            raise BadInput(f"the teacher has {classes[0]} classes and the student {classes[1]}", "Allowed: the same classes")
    if student.task == "causal-lm" and labels is not None:
        raise BadInput("labels were given", "Only classifiers have them; a language model's labels are its next tokens", "Leave labels out")
    if student.task != "causal-lm":
        if step.source != "text":
            raise BadInput(f"source is {step.source!r}", "Allowed for a classifier: 'text'", "It writes no text")
        if (step.objective == "hard-labels" or step.hard) and labels is None:
            raise BadInput("hard labels are asked for and none are given", "Allowed: labels=[...], a class or None for each text")
