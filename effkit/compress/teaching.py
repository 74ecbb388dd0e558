"""The verb `finetune`: a classifier learns a labelled set. This is how teachers are made.

With few labels, a new random head would first pull the body out of shape. So the head starts as the logistic regression on the
frozen body's features (linear probing, then fine-tuning: Kumar et al. 2022, arXiv:2202.10054). Macro-F1 on healthcare, 32 labels
a class: 0.665 for the probe alone, 0.715 after eight epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from effkit.hardware.attached.memory import guard
from effkit.measure.answers import answers
from effkit.measure.coder import Coder, in_batches
from effkit.measure.tasks import macro_f1
from effkit.models.checks import weights_hash
from effkit.models.model import Model
from effkit.models.texts.labelled import LabelledSet
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Snapshot, Work, long_work

from .fitting import Fitting, Settings, is_head

STRENGTH = 10.0  # inverse regularisation of the probe, on features of length 1
LEAST_STEPS, MOST_STEPS = 90, 330
HELD_OUT = 256  # texts that are read for one point of the held-out curve
EMBEDDINGS = ("word_embeddings", "embed_tokens", "position_embeddings", "token_type_embeddings", "wte.", "wpe.")


@long_work(knobs=("learning_rate",))
def finetune(
    model: Model,
    labelled: LabelledSet,
    held_out: LabelledSet | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    learning_rate: float = 5e-5,
    batch: int = 32,
    window: int = 128,
    probe: bool = True,
    patience: int | None = None,
    autocast: str | None = None,
    seed: int = 0,
    resume: Snapshot | None = None,
) -> Work[Model]:
    """A new model: the classifier `model` (see `classifier`) fine-tuned on the labels; `model` stays as it was.

    held_out: for the curve, and for patience; at most 256 of its texts are read each time
    epochs:   passes over the labels; None: as many as make about 90 to 330 steps, 2 to 16
    steps:    at most so many steps, whatever epochs says
    window:   tokens of a text that are read
    probe:    start the head from the logistic regression on the frozen body's features
    patience: stop after so many held-out measurements (each tenth of the way) without a better one, and keep the best
    autocast: "bfloat16": compute so while training

    Token and position embeddings stay as they are. Progress: metrics "loss" (nats), "learning_rate", and every tenth of the way
    "held_out" (macro-F1). While it runs, learning_rate may be changed. Raises BadInput, OutOfMemory, EffkitError if it diverges.
    """
    _check(model, labelled, held_out, epochs=epochs, steps=steps, batch=batch, patience=patience, window=window)
    once = math.ceil(len(labelled) / batch)
    passes = epochs or min(16, max(2, round(min(MOST_STEPS, max(LEAST_STEPS, 8 * once)) / once)))
    with guard(model.device, "copying the model"):
        trainee = model.to(dtype=torch.float32)
    settings = Settings(passes, learning_rate, batch, head_rate=10.0, freeze=EMBEDDINGS, autocast=autocast, most_steps=steps, seed=seed)
    targets = weighted_targets(labelled)
    turned: dict[str, Any] = {}
    if probe and resume is None:
        _, turned = yield from _heard(probe_(trainee, labelled.texts, targets, window, autocast))
    fitting = Fitting.begin(trainee, labelled.texts, targets, settings, window)
    curve = _Curve(trainee, held_out, window, autocast)
    try:
        if resume is not None:
            fitting.restore_(resume)
        if turned:
            fitting.change_(turned)
        yield from _loop(fitting, curve, patience)
        fitting.weights.keep_best_()
    finally:
        trainee.module.eval().requires_grad_(False)
    return _finished(model, trainee, labelled, fitting)


def fitted(model: Model, texts: Sequence[str], targets: Tensor, settings: Settings, window: int, what: str = "distill") -> Work[Model]:
    """A copy of `model` fitted to class probabilities [texts, classes]; reports a point every hundredth of the way."""
    trainee = model.to(dtype=torch.float32)
    fitting = Fitting.begin(trainee, texts, targets, settings, window)
    every = max(1, fitting.total // 100)
    try:
        while fitting.done < fitting.total:
            rate = fitting.rate()
            metrics = {"loss": fitting.step_(), "learning_rate": rate}
            if fitting.done % every == 0 or fitting.done == fitting.total:
                yield Progress(what, fitting.done, fitting.total, "steps", "", metrics)
    finally:
        trainee.module.eval().requires_grad_(False)
    return replace(trainee, origin=None)


def weighted_targets(labelled: LabelledSet) -> Tensor:
    """One-hot rows [texts, classes], those of rarer classes heavier (by the root of their rarity), 1 on average."""
    labels = torch.tensor(labelled.labels)
    counts = torch.bincount(labels, minlength=len(labelled.classes)).float()
    weight = counts.clamp(min=1).rsqrt()[labels]
    rows = nn.functional.one_hot(labels, len(labelled.classes)).float()
    return rows * (weight / weight.mean())[:, None]


def features(model: Model, texts: Sequence[str], window: int = 128, autocast: str | None = None) -> Work[Tensor]:
    """What the head of a classifier reads, [texts, hidden], float32 on the CPU."""
    head = head_of(model)
    coder = Coder(model, window)
    coded = coder.many(texts)
    out = torch.zeros(len(texts), head.in_features)
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    done = 0
    try:
        for rows in in_batches(coded, 64):
            ids, mask = (t.to(model.device.torch) for t in coder.batch([coded[i] for i in rows]))
            kind = getattr(torch, autocast or "bfloat16")
            with torch.inference_mode(), guard(model.device, "reading"), torch.autocast(model.device.type, kind, enabled=bool(autocast)):
                model.module(input_ids=ids, attention_mask=mask)
            read = seen.pop().float().cpu()
            if read.dim() == 3:  # a causal language model answers at the last token of a text
                read = read[torch.arange(len(rows)), torch.tensor([len(coded[i]) - 1 for i in rows])]
            out[rows] = read
            done += len(rows)
            yield Progress("read", done, len(texts), "texts")
    finally:
        hook.remove()
    return out


def head_of(model: Model) -> nn.Linear:
    """The last linear of a classifier."""
    for name in ("classifier", "score"):
        head = getattr(model.module, name, None)
        head = getattr(head, "out_proj", head)
        if isinstance(head, nn.Linear):
            return head
    raise BadInput(
        f"{model.checkpoint.architecture} has no linear head named 'classifier' or 'score'",
        "Allowed: BERT-like encoders and causal language models made with `classifier`",
        "Use probe=False",
    )


def probe_(model: Model, texts: Sequence[str], targets: Tensor, window: int, autocast: str | None = None) -> Work[None]:
    """Set the head to the logistic regression on the frozen body's features, found by L-BFGS."""
    read = yield from features(model, texts, window, autocast)
    head = head_of(model)
    length = read.norm(dim=1).mean().clamp(min=1e-6)
    middle = read.mean(dim=0)
    scaled = (read - middle) / length
    weight = torch.zeros(targets.shape[1], read.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logs = torch.log_softmax(scaled @ weight.T + bias, -1)
        value = -(targets * logs).sum() / len(texts) + weight.square().sum() / (2 * STRENGTH * len(texts))
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[arg-type]
    with torch.no_grad():
        real = weight / length
        head.weight.copy_(real)
        if head.bias is not None:
            head.bias.copy_(bias - real @ middle)
    yield Progress("probe", 1, 1, "steps", "the head starts as a logistic regression")


class _Curve:
    """Macro-F1 on held-out texts."""

    def __init__(self, model: Model, held_out: LabelledSet | None, window: int, autocast: str | None) -> None:
        self.model, self.window, self.autocast = model, window, autocast
        total = len(held_out) if held_out is not None else 0
        rows = range(total) if total <= HELD_OUT else [i * total // HELD_OUT for i in range(HELD_OUT)]
        self.held_out = held_out.take(rows) if held_out is not None and total else None

    def measure(self) -> Work[float]:
        assert self.held_out is not None
        found = yield from answers(self.model, self.held_out.texts, self.window, autocast=self.autocast)
        return macro_f1(self.held_out.labels, found.argmax(1).tolist(), len(self.held_out.classes))


def _heard(work: Work[Any]) -> Work[tuple[Any, dict[str, Any]]]:
    """What `work` gives, and the knobs that were turned between its events, which it does not know."""
    turned: dict[str, Any] = {}
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value, turned
        turned |= (yield event) or {}


def _loop(fitting: Fitting, curve: _Curve, patience: int | None) -> Work[None]:
    total, every = fitting.total, max(1, fitting.total // 10)

    def told(message: str, metrics: dict[str, float]) -> Work[None]:
        change = yield Progress("finetune", fitting.done, total, "steps", message, metrics, {}, fitting.snapshot)
        if change:
            fitting.change_(change)

    def held_out() -> Work[dict[str, float]]:
        f1, turned = yield from _heard(curve.measure())
        if turned:
            fitting.change_(turned)
        if patience is not None:
            fitting.weights.judge_(-f1)
        return {"held_out": f1}

    if fitting.done == 0:
        first = (yield from held_out()) if curve.held_out is not None else {}
        yield from told("before the first step", first)
    while fitting.done < total:
        rate = fitting.rate()
        metrics = {"loss": fitting.step_(), "learning_rate": rate}
        if curve.held_out is not None and (fitting.done % every == 0 or fitting.done == total):
            metrics |= yield from held_out()
        yield from told("", metrics)
        if patience is not None and fitting.weights.waited >= patience:
            fitting.changes.append(
                f"stopped after step {fitting.done}: {fitting.weights.waited} measurements brought no better held-out macro-F1"
            )
            return


def _finished(model: Model, trainee: Model, labelled: LabelledSet, fitting: Fitting) -> Model:
    """The fine-tuned model is a base of its own: what compression keeps is measured against it."""
    notes = [note for note in model.checkpoint.notes if not note.startswith("Its head of")]
    notes.append(f"Fine-tuned on {labelled.name} ({len(labelled)} texts, {fitting.done} steps, seed {fitting.settings.seed}).")
    notes += fitting.changes
    done = trainee if trainee.dtype == model.dtype else trainee.to(dtype=model.dtype)
    point = model.checkpoint.model_copy(update={"hash": weights_hash(done.module), "notes": tuple(notes)})
    return replace(done, checkpoint=point, origin=None)


def _check(model: Model, labelled: LabelledSet, held_out: LabelledSet | None, **whole: Any) -> None:
    for name, value in whole.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < (2 if name == "window" else 1)):
            raise BadInput(f"{name} is {value!r}", f"Allowed: a whole number of at least {2 if name == 'window' else 1}")
    if model.task != "sequence-classification":
        raise BadInput(f"{model.checkpoint.source} is a {model.task}", "Allowed: a classifier", "Make one with classifier(model, classes)")
    classes = int(model.config.num_labels)
    for part in filter(None, (labelled, held_out)):
        if len(part.classes) != classes:
            raise BadInput(
                f"the model has {classes} classes and {part.name} has {len(part.classes)}",
                "Allowed: the same classes",
                "Make the model with classifier(model, labelled.classes)",
            )
    if not len(labelled):
        raise BadInput(f"{labelled.name} is empty", "Allowed: at least one labelled text")
    if whole["patience"] is not None and not held_out:
        raise BadInput("patience is set and no held-out set is given", "Allowed: patience with held_out=...")
    assert is_head("classifier.weight")
