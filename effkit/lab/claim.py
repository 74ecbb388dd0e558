"""`claim`: from a labelled set to an answer whether 90% of the capability at 10% of the cost is to be had on it.

The user's situation is few labels and many texts without. The teacher learns from the labels. It then answers the other texts,
and the student and a distilled linear model learn from its answers. What each is worth is measured on test texts that were in
neither, each model in its best form on this device. Nothing is tuned here: the settings were chosen on held-out parts, and no
label beyond the budget is used.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effkit.compress.distillation.pruning.words import refuse_teacher
from effkit.compress.distillation.students import apply_student
from effkit.compress.fitting import Settings
from effkit.compress.pool import augmented
from effkit.compress.teaching import finetune, fitted
from effkit.hardware.attached.environment import environment
from effkit.measure.answers import answers
from effkit.measure.baselines import Linear, distilled_linear, linear, majority
from effkit.measure.coder import Coder
from effkit.measure.serving import Served, ServedLinear, best_form, interleaved, throughput
from effkit.measure.tasks import difference, retained, score
from effkit.models.classifying import classifier
from effkit.models.model import Model, wrap
from effkit.models.texts.labelled import LabelledSet, Split, budget, read_labelled, split
from effkit.spec.claim import Claim, Contender
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.recipe import Student

TEACHER_TOKENS = 260_000  # read while fine-tuning
POOL_TOKENS = 330_000  # read by the teacher to answer the pool
POOL_TEXTS = 14_000
LEAST_TEXTS = 6_000  # below which the pool is augmented
STUDENT = Student(layers=1, hidden_size=96, heads=2, ffn=192, vocabulary=8000, embeddings="words")
STUDENT_STEPS, STUDENT_BATCH, STUDENT_RATE = 1200, 64, 2e-3
WORD_DROPOUT = 0.1
TEST_TEXTS = 3_000  # answered one by one
TIMED, FULL_LOAD = 100, 512


@long_work
def claim(
    data: Any,
    labels_per_class: int | None = 32,
    seed: int = 0,
    teacher: str | Path | Model = "minilm-l6",
    *,
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    window: int = 128,
    kept: dict[str, Any] | None = None,
) -> Work[Claim]:
    """Teacher, student, linear, distilled linear and majority class on one labelled set, and the verdict.

    data:   what `read_labelled` reads: "healthcare", "maintenance", a file with its columns text and label, pairs
    labels_per_class: how many labels may be used; None: all of the train part. seed: which ones, and all training
    teacher: a built-in encoder or a folder, to be fine-tuned; a Model: a fine-tuned classifier, taken as it is
    window: tokens of a text that teacher and student read
    kept:   a dict that receives the fine-tuned "teacher", the "student", the "linear" models and the "split"

    Raises BadInput where there is too little data: every class needs a label, and the test part a text.
    """
    work = _Trial(read_labelled(data, text, label, group), labels_per_class, seed, window)
    yield from work.teach(teacher)
    yield from work.distill()
    yield from work.fit_linear()
    result = yield from work.compare()
    if kept is not None:
        kept |= {**work.models, **work.linears, "split": work.parts}
    return result


@dataclass
class _Trial:
    """What is learned and measured on the way. `spent`: seconds that making each model took, its teacher's not counted."""

    labelled_set: LabelledSet
    per_class: int | None
    seed: int
    window: int
    parts: Split = field(init=False)
    labelled: LabelledSet = field(init=False)
    pool: tuple[str, ...] = field(init=False)
    models: dict[str, Model] = field(default_factory=dict)
    linears: dict[str, Linear] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    taught: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        self.begun = time.perf_counter()
        self.parts = split(self.labelled_set)
        self.notes += [note] if (note := self.parts.train.note) else []
        self.labelled, self.pool = budget(self.parts.train, self.per_class, self.seed)
        if not len(self.parts.test) or len(set(self.labelled.labels)) < 2:
            raise BadInput(
                f"{self.labelled_set.name} has {len(self.labelled)} texts to learn from and {len(self.parts.test)} to test on",
                "Allowed: at least two classes with texts in the train part, and a test part",
                "Give more rows, or groups that are smaller",
            )
        self.autocast = "bfloat16" if _computes_bfloat16() else None

    def teach(self, teacher: str | Path | Model) -> Work[None]:
        begun = time.perf_counter()
        if isinstance(teacher, Model):
            model = teacher
            refuse_teacher(model)
        else:
            base = yield from classifier.work(teacher, self.labelled.classes, seed=self.seed)
            refuse_teacher(base)  # before it is trained
            tokens = 32 * max(1, _mean_length(base, self.labelled.texts, self.window))
            steps = max(40, round(TEACHER_TOKENS / tokens))
            labelled = self._readable(steps)
            model = yield from finetune.work(base, labelled, steps=steps, window=self.window, autocast=self.autocast, seed=self.seed)
        self.models["teacher"] = model
        self.spent["teacher"] = time.perf_counter() - begun

    def _readable(self, steps: int) -> LabelledSet:
        """The labels that so many steps can read: of very many, drawn ones, with some of each class."""
        most = 2 * 32 * steps
        if len(self.labelled) <= most:
            return self.labelled
        order, rows, held = list(range(len(self.labelled))), [], Counter()
        random.Random(self.seed).shuffle(order)
        for rank, i in enumerate(order):
            label = self.labelled.labels[i]
            if rank < most or held[label] < 8:
                rows.append(i)
                held[label] += 1
        self.notes.append(f"The teacher was trained on {len(rows)} of the {len(self.labelled)} labels, all that its steps can read.")
        return self.labelled.take(sorted(rows))

    def distill(self) -> Work[None]:
        """The teacher answers labelled texts and pool; the student learns its answers."""
        begun, teacher = time.perf_counter(), self.models["teacher"]
        length = _mean_length(teacher, self.pool or self.labelled.texts, self.window)
        most = max(2000, min(POOL_TEXTS, round(POOL_TOKENS / max(1, length))))
        draw, known, pool = random.Random(self.seed), list(self.labelled.texts), list(self.pool)
        draw.shuffle(pool)
        if len(known) > most:
            draw.shuffle(known)
        self.texts = [*known, *pool][:most]
        real = len(self.texts)
        beginnings = [" ".join(text.split(None, self.window)[: self.window]) for text in self.texts]  # all that a teacher reads of them
        self.texts += augmented(beginnings, max(0, min(LEAST_TEXTS, most) - real), self.seed)
        if len(self.texts) > real:
            self.notes.append(f"The pool is small: {len(self.texts) - real} texts were made from its {real}.")
        said = yield from answers(teacher, self.texts, self.window, autocast=self.autocast)
        self.taught = torch.softmax(said, -1)
        self.spent["teacher's answers"] = time.perf_counter() - begun
        step = STUDENT.model_copy(update={"window": max(8, min(self.window, teacher.window))})
        new = yield from apply_student(teacher, step, beginnings, self.seed)
        # a model of its own: what it learns below is no step of a recipe, since its teacher's answers serve the linear model too
        point = teacher.checkpoint
        new = wrap(new.module, new.tokenizer, point.source, revision=point.revision, licence=point.licence, notes=(step.label(),))
        epochs = max(2, round(STUDENT_STEPS * STUDENT_BATCH / len(self.texts)))
        settings = Settings(epochs, STUDENT_RATE, STUDENT_BATCH, word_dropout=WORD_DROPOUT, seed=self.seed)
        self.models["student"] = yield from fitted(new, self.texts, self.taught, settings, self.window)
        self.spent["student"] = time.perf_counter() - begun

    def fit_linear(self) -> Work[None]:
        """On the labels, and on the teacher's answers to the texts that the student read."""
        begun = time.perf_counter()
        self.linears["linear"] = yield from linear.work(self.labelled)
        self.spent["linear"] = time.perf_counter() - begun
        begun = time.perf_counter()
        self.linears["distilled linear"] = yield from distilled_linear.work(self.texts, self.taught.numpy(), self.labelled.classes)
        self.spent["distilled linear"] = self.spent["teacher's answers"] + time.perf_counter() - begun

    def compare(self) -> Work[Claim]:
        test = self.parts.test
        if len(test) > TEST_TEXTS:
            test = test.take([i * len(test) // TEST_TEXTS for i in range(TEST_TEXTS)])
            self.notes.append(f"{TEST_TEXTS} of {len(self.parts.test)} test texts were read, evenly spread.")
        trial = list((self.parts.held_out if len(self.parts.held_out) > 20 else self.labelled).texts)[:300]
        served: dict[str, Any] = {}
        forms: dict[str, dict[str, float]] = {}
        for name, model in self.models.items():
            served[name], forms[name] = yield from best_form(model, trial, self.window)
        served |= {name: ServedLinear(linear) for name, linear in self.linears.items()}
        said: dict[str, list[int]] = {}
        for name, one in served.items():
            said[name] = yield from _answer_each(one, test.texts, name)
        said["majority"] = [majority(self.parts.train).majority] * len(test)  # the balance of the domain, not of the budget
        timed = list(test.texts)[:: max(1, len(test) // TIMED)][:TIMED]
        waited = yield from interleaved(served, timed, seed=self.seed)
        rates = yield from throughput(served, list(test.texts)[:: max(1, len(test) // FULL_LOAD)][:FULL_LOAD])
        truth, groups = test.labels, test.groups
        f1 = {name: score(truth, answered, groups) for name, answered in said.items()}
        best = max(f1, key=lambda name: f1[name].value or 0.0)
        lead = {name: difference(truth, answered, said[best], groups) for name, answered in said.items()}
        contenders = {}
        for name, estimate in f1.items():
            one, model = served.get(name), self.models.get(name)
            contenders[name] = Contender(
                name=name,
                macro_f1=estimate,
                bytes=one.stored_bytes if one else 0,
                parameters=model.checkpoint.parameters if model else None,
                form=one.form if one else "",
                forms={form: None if np.isnan(ms) else ms for form, ms in forms.get(name, {}).items()},
                latency=waited[name]["p50"] if one else None,
                latency_whole=waited[name]["with_tokenizer"] if one else None,
                rate=rates.get(name),
                training_seconds=self.spent.get(name),
                behind=name != best and (lead[name].high or 0.0) < 0,  # the whole interval of the paired difference
            )
        yield Progress("claim", 1, 1, "steps")
        return Claim(
            data=self.labelled_set.name,
            data_hash=self.labelled_set.hash,
            classes=len(test.classes),
            labels_per_class=self.per_class,
            labelled=len(self.labelled),
            pool=len(self.pool),
            test=len(test),
            seed=self.seed,
            contenders=contenders,
            retained=retained(truth, said["student"], said["teacher"], groups),
            above_chance=retained(truth, said["student"], said["teacher"], groups, chance=said["majority"][0]),
            latency_ratio=waited["student"]["p50"] / waited["teacher"]["p50"],
            latency_ratio_whole=waited["student"]["with_tokenizer"] / waited["teacher"]["with_tokenizer"],
            bytes_ratio=served["student"].stored_bytes / served["teacher"].stored_bytes,
            cost_ratio=rates["teacher"] / rates["student"],
            seconds=time.perf_counter() - self.begun,
            device=repr(self.models["teacher"].device),
            notes=tuple(self.notes),
            environment=environment(),
        )


def _answer_each(one: Served | ServedLinear, texts: Sequence[str], name: str) -> Work[list[int]]:
    out = []
    with torch.inference_mode():
        for i, words in enumerate(texts):
            out.append(one.answer(words))
            if i % 50 == 49 or i + 1 == len(texts):
                yield Progress("test", i + 1, len(texts), "texts", name)
    return out


def _mean_length(model: Model, texts: Sequence[str], window: int) -> float:
    """Tokens of a text, of up to 200 of them."""
    coder = Coder(model, window)
    some = texts[:: max(1, len(texts) // 200)]
    return sum(len(coder(text)) for text in some) / max(1, len(some))


def _computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated, it is slower than float32."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
