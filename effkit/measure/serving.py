"""How a classifier is best served here, and how long one query takes: several models timed in one interleaved run.

A comparison is fair when both sides are in their best form. The forms of one engine are tried for each model: as it is (eager),
and its graph traced and frozen, in float32, bfloat16 and with linears whose weights and activations are rounded to 8 bits while
running (torch.ao dynamic quantization). The best is the fastest that still gives the model's own answers. Queries are real texts;
the models take turns on a few at a time, in an order drawn anew, so that a busy moment hits all of them.
"""

from __future__ import annotations

import contextlib
import copy
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effkit.hardware.attached.device import Device
from effkit.models.model import Model
from effkit.spec.progress import Progress, Work

from .baselines import Linear
from .coder import Coder, in_batches

AGREE = 0.98  # share of answers that a form must have in common with the model as it is
TRIALS = 20  # texts on which forms are compared
BLOCK = 8  # queries that a model answers in a row before the next one's turn, as it would when it served alone


@dataclass
class Served:
    """One model in one form. `alone`: ids [1, time] -> logits; `together`: ids and mask [texts, time] -> logits."""

    form: str
    alone: Callable[[Tensor], Tensor]
    together: Callable[[Tensor, Tensor], Tensor]
    coder: Coder
    on: Device
    stored_bytes: int
    agreement: float = 1.0
    why_not: str = ""
    threads: int | None = None  # None: as many as torch is set to

    def prepare(self, text: str) -> Tensor:
        return torch.tensor([self.coder(text)], device=self.on.torch)

    def answer(self, text: str) -> int:
        """The class of one text, tokenization and all."""
        return int(self.alone(self.prepare(text)).argmax())

    def answer_all(self, texts: Sequence[str], batch: int) -> int:
        """Answer all texts, those of like length in one batch; how many answers there are."""
        coded, count = self.coder.many(texts), 0
        for rows in in_batches(coded, batch):
            ids, mask = (t.to(self.on.torch) for t in self.coder.batch([coded[i] for i in rows]))
            count += len(self.together(ids, mask).argmax(-1).tolist())  # reading the answers waits for the device
        return count

    def seconds(self, query: Any) -> float:
        """Of one query on the wall clock, after the device has finished. query: what `prepare` made, or a text (then it is
        prepared within that time)."""
        self.on.synchronize()
        begun = time.perf_counter()
        self.alone(self.prepare(query) if isinstance(query, str) else query)
        self.on.synchronize()
        return time.perf_counter() - begun


@dataclass
class ServedLinear:
    """A linear model, which has one form. Making its n-grams is most of its work and always counted."""

    linear: Linear
    form: str = "scikit-learn"
    threads: int | None = None

    @property
    def stored_bytes(self) -> int:
        return self.linear.bytes

    def prepare(self, text: str) -> str:
        return text

    def answer(self, text: str) -> int:
        return int(self.linear.predict_proba([text]).argmax())

    def answer_all(self, texts: Sequence[str], batch: int) -> int:
        return len(self.linear.predict_proba(texts).argmax(1))

    def seconds(self, query: str) -> float:
        begun = time.perf_counter()
        self.answer(query)
        return time.perf_counter() - begun


class _Alone(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: Tensor) -> Tensor:
        return self.module(input_ids=ids).logits


class _Together(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.module(input_ids=ids, attention_mask=mask).logits


def best_form(model: Model, texts: Sequence[str], window: int = 128) -> Work[tuple[Served, dict[str, float]]]:
    """(the fastest form whose answers are the model's own, p50 in ms of every form, nan where it cannot be made)."""
    forms = []
    for name in ("eager", "traced", "traced bfloat16", "traced int8"):
        yield Progress("serve", len(forms), 4, "forms", name)
        forms.append(_served(model, name, texts[0], window))
    trials = list(texts[:: max(1, len(texts) // TRIALS)])
    with torch.inference_mode():
        ours = [forms[0].answer(text) for text in texts]
        for form in forms[1:]:
            if not form.why_not:
                form.agreement = float(np.mean([form.answer(text) == right for text, right in zip(texts, ours, strict=True)]))
                yield Progress("serve", 4, 4, "forms", f"{form.form} agrees on {form.agreement:.1%}")
                if form.agreement < AGREE:
                    form.why_not = f"gives the model's own answer to {form.agreement:.1%} of the texts only"
    made = {form.form: form for form in forms if not form.why_not or form.agreement < AGREE}
    if model.device.is_cpu and torch.get_num_threads() > 1:  # a small model loses more than it gains by sharing its work
        alone = {name: f"{name}, 1 thread" for name in made if name != "eager"}
        made |= {named: replace(made[name], form=named, threads=1) for name, named in alone.items()}
    spent = yield from interleaved(made, trials, rounds=2)
    p50 = {name: spent[name]["p50"] if name in spent else float("nan") for name in {**dict.fromkeys(f.form for f in forms), **made}}
    usable = [name for name, form in made.items() if not form.why_not]
    return made[min(usable, key=lambda name: p50[name])], p50


def interleaved(served: Mapping[str, Any], texts: Sequence[str], rounds: int = 3, seed: int = 0) -> Work[dict[str, dict[str, float]]]:
    """Milliseconds of one query at batch 1 for each model: "p50" and "p90" of the model alone, "with_tokenizer" (p50)."""
    draw = random.Random(seed)
    alone: dict[str, list[float]] = {name: [] for name in served}
    whole: dict[str, list[float]] = {name: [] for name in served}
    order = list(served)
    with torch.inference_mode():
        for at in range(rounds + 1):  # the first round warms up
            shuffled = draw.sample(list(texts), len(texts))
            for start in range(0, len(shuffled), BLOCK):
                draw.shuffle(order)
                for name in order:
                    one, block = served[name], shuffled[start : start + BLOCK]
                    with _threads(one.threads):
                        one.answer(block[0])  # what another model left in the caches is not this one's to pay for
                        spent = [one.seconds(one.prepare(text)) for text in block]
                        both = [one.seconds(text) for text in block]
                    if at:
                        alone[name] += [1000 * seconds for seconds in spent]
                        whole[name] += [1000 * seconds for seconds in both]
            yield Progress("serve", at + 1, rounds + 1, "rounds", "timing one query at a time")
    return {
        name: {
            "p50": float(np.median(alone[name])),
            "p90": float(np.quantile(alone[name], 0.9)),
            "with_tokenizer": float(np.median(whole[name])),
        }
        for name in served
    }


def throughput(served: Mapping[str, Any], texts: Sequence[str], batch: int = 32, rounds: int = 3) -> Work[dict[str, float]]:
    """Texts a second at full load, tokenization and all: texts of like length in batches, models in turn, the best round."""
    best = dict.fromkeys(served, float("inf"))
    for at in range(rounds):
        for name, one in served.items():
            begun = time.perf_counter()
            with torch.inference_mode():
                count = one.answer_all(texts, batch)
            best[name] = min(best[name], (time.perf_counter() - begun) / count)
            yield Progress("serve", at + 1, rounds, "rounds", "timing at full load")
    return {name: 1 / seconds for name, seconds in best.items()}


def _served(model: Model, form: str, text: str, window: int) -> Served:
    coder, device = Coder(model, window), model.device.torch
    one = Served(form, _Alone(model.module), _Together(model.module), coder, model.device, model.stored_bytes)
    if form == "eager":
        return one
    if form == "traced int8" and device.type != "cpu":
        one.why_not = "dynamic quantization runs on the CPU only"
        return one
    with _quiet(), torch.no_grad():
        try:
            module = _converted(model.module, form)
            ids = torch.tensor([coder(text)], device=device)
            longer = ids.repeat(2, 1)
            mask = torch.ones_like(longer)
            one.alone = _frozen(_Alone(module), (ids,))
            one.together = _frozen(_Together(module), (longer, mask))
            one.stored_bytes = _bytes(module)
            for _ in range(3):  # the first calls still optimise the graph
                one.alone(ids)
                one.together(longer, mask)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            one.why_not = f"cannot be made ({str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__})"
    return one


def _converted(module: nn.Module, form: str) -> nn.Module:
    if form == "traced bfloat16":
        return copy.deepcopy(module).to(torch.bfloat16).eval()
    if form == "traced int8":
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8).eval()
    return module


def _frozen(module: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    return torch.jit.freeze(torch.jit.trace(module.eval(), example, check_trace=False))


def _bytes(module: nn.Module) -> int:
    """Bytes of all weights, those of linears that dynamic quantization has packed too."""
    stored = {id(p): p for p in module.parameters()}
    for part in module.modules():
        stored |= {id(b): b for name, b in part._buffers.items() if b is not None and name not in part._non_persistent_buffers_set}
    total = sum(t.numel() * t.element_size() for t in stored.values())
    for part in module.modules():
        if isinstance(part, torch.ao.nn.quantized.dynamic.Linear):  # type: ignore[attr-defined]
            packed: Any = part
            weight, bias = packed.weight(), packed.bias()
            total += weight.numel() + 8 + (0 if bias is None else 4 * bias.numel())
    return total


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that tracing and torch.ao give about their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
