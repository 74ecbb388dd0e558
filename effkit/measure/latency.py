"""How fast a model answers: time to first token, time per output token, throughput, peak memory.

A repeat is one prompt of random tokens, read at once (prefill), then greedy decoding with a key-value cache, one token a
step; every step is timed by the device's own clock or after synchronising. The first token is never part of the time
per output token, and repeats that warm the device up are thrown away. Execution is eager: no compilation, no graphs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effkit.hardware.clock import Clock
from effkit.hardware.memory import PeakMemory, guard
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate, mean_interval
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.record import Profile

from .checks import evaluating, whole

SHARES = (0.5, 0.9, 0.99)


@long_work
def profile(model: Model, *, prompt: int = 128, new_tokens: int = 32, batch: int = 1, repeats: int = 5, warmup: int = 2) -> Work[Profile]:
    """Measure the speed of `model` where it is. Times are in ms, throughput in tokens a second over the whole batch.

    prompt:     tokens read before the first one comes out
    new_tokens: tokens that come out; of 1, only the first is there, so that figures of output tokens are unavailable
    batch:      prompts at once
    repeats:    how often, each time with another prompt; intervals are over repeats, percentiles over all steps
    warmup:     repeats that are run first and discarded

    A sequence classifier is timed on one forward pass (`new_tokens` 0 in the result). Raises BadInput, OutOfMemory.
    """
    for name, value in (("prompt", prompt), ("new_tokens", new_tokens), ("batch", batch), ("repeats", repeats)):
        whole(name, value, 1)
    whole("warmup", warmup, 0)
    decodes = model.task == "causal-lm"
    steps, length = (new_tokens, prompt + new_tokens) if decodes else (1, prompt)
    if length > model.window:
        given = f"prompt is {prompt} tokens" + (f" and new_tokens is {new_tokens}, {length} in all" if decodes else "")
        todo = "Choose a shorter prompt" + (" or fewer new tokens" if decodes else "")
        raise BadInput(given, f"This model reads at most {model.window} at once", todo)
    work = _Timing(model, prompt, steps, batch, repeats + warmup)
    memory: PeakMemory | None = None
    with evaluating(model.module):
        for repeat in range(warmup):
            yield from work.repeat(repeat, "warm-up")
        work.forget()
        with PeakMemory(model.device) as memory:
            for repeat in range(warmup, warmup + repeats):
                yield from work.repeat(repeat, "measuring")
    first, rest = work.first, work.rest
    return Profile(
        device=repr(model.device),
        device_type=model.device.type,
        simulated=model.device.simulated,
        dtype=str(model.dtype).removeprefix("torch."),
        prompt=prompt,
        new_tokens=new_tokens if decodes else 0,
        batch=batch,
        repeats=repeats,
        warmup=warmup,
        time_to_first_token=_mean([1000 * s for s in first], "ms"),
        time_per_output_token=_mean([1000 * float(np.mean(s)) for s in rest if s], "ms"),
        first_token_percentiles=_percentiles(first),
        output_token_percentiles=_percentiles([s for steps in rest for s in steps]),
        prefill=_mean([batch * prompt / s for s in first], "tokens/s"),
        decode=_mean([batch * len(s) / sum(s) for s in rest if s], "tokens/s"),
        memory=memory.noun(),
        timing=work.clock.how,
        threads=torch.get_num_threads() if model.device.is_cpu else None,
    )


@dataclass
class _Timing:
    """The work of one `profile`: repeats of prefill and decode, a forward pass between two yields."""

    model: Model
    prompt: int
    steps: int
    batch: int
    repeats: int
    first: list[float] = field(default_factory=list)
    rest: list[list[float]] = field(default_factory=list)
    done: int = 0

    def __post_init__(self) -> None:
        self.clock = Clock(self.model.device)
        self.vocabulary = ordinary_tokens(self.model)
        accepted = inspect.signature(self.model.module.forward).parameters
        # What generate() asks for too: only the last position's logits, instead of prompt x vocabulary of them.
        self.prefill: Mapping[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def forget(self) -> None:
        self.first.clear()
        self.rest.clear()

    def repeat(self, number: int, what: str) -> Iterator[Progress]:
        """One prompt, `steps` tokens."""
        ids = random_prompt(self.vocabulary, self.batch, self.prompt, seed=number).to(self.model.device.torch)
        total = self.repeats * self.steps
        cache: Any = None
        spent: list[float] = []
        for step in range(self.steps):
            yield Progress("profile", self.done, total, "steps", what, self._metrics(spent), {"repeat": number, "token": step})
            ids, cache, seconds = self._step(ids, cache, step)
            spent.append(seconds)
            self.done += 1
            if cache is None:
                # this architecture keeps no key-value cache: it has no decode steps to speak of
                self.done += self.steps - step - 1
                break
        self.first.append(spent[0])
        self.rest.append(spent[1:])

    def _step(self, ids: Tensor, cache: Any, step: int) -> tuple[Tensor, Any, float]:
        """One forward pass and the choice of the most likely token, timed together."""
        with guard(self.model.device, f"profiling with batch {self.batch}"), torch.inference_mode(), self.clock.measure() as span:
            if self.model.task != "causal-lm":
                logits, cache = self.model.module(input_ids=ids).logits, None
                ids = logits.argmax(-1)
            else:
                given = self.prefill if cache is None else {}
                out = self.model.module(input_ids=ids, past_key_values=cache, use_cache=True, **given)
                cache = getattr(out, "past_key_values", None)
                ids = out.logits[:, -1:].argmax(-1)
        return ids, cache, span.seconds

    def _metrics(self, spent: Sequence[float]) -> dict[str, float]:
        if not spent:
            return {}
        latest = {"first_token_ms": 1000 * spent[0]}
        return {**latest, "ms": 1000 * spent[-1]} if len(spent) > 1 else latest


def ordinary_tokens(model: Model) -> Tensor:
    """The ids that a prompt may hold: all that the model knows, but for special tokens."""
    known = min(n for n in (model.checkpoint.vocabulary, len(model.tokenizer)) if n)
    special = {int(i) for i in getattr(model.tokenizer, "all_special_ids", ())}
    return torch.tensor([i for i in range(known) if i not in special] or [0])


def random_prompt(vocabulary: Tensor, batch: int, length: int, seed: int) -> Tensor:
    """Token ids [batch, length], the same for the same seed; torch's own random state is not touched."""
    make = torch.Generator().manual_seed(seed)
    return vocabulary[torch.randint(len(vocabulary), (batch, length), generator=make)]


def _mean(values: Sequence[float], unit: str) -> Estimate:
    return mean_interval(values, unit=unit) if values else Estimate.unavailable(unit)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In ms, keyed "p50", "p90", "p99"; empty where nothing was measured."""
    if not seconds:
        return {}
    return {f"p{round(100 * share)}": 1000 * float(q) for share, q in zip(SHARES, np.quantile(seconds, SHARES), strict=True)}
