"""How fast a model answers: time to first token, time per output token, throughput, peak memory.

A repeat is one prompt of random tokens, read at once (prefill), then greedy decoding with a key-value cache, one token a
step; every step is timed by the device's own clock or after synchronising. The first token is never part of the time
per output token, and repeats that warm the device up are thrown away. Execution is eager with a cache that grows, unless
it is asked for otherwise; `decoding` in the result says how it was. Compiling is done before anything is timed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from effkit.hardware.clock import Clock
from effkit.hardware.memory import PeakMemory, guard
from effkit.models.decoding import Decoder
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate, mean_interval
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.record import Decoding, Profile

from .blocks import exponential
from .checks import evaluating, whole

SHARES = (0.5, 0.9, 0.99)


@long_work
def profile(
    model: Model,
    base: Model | None = None,
    *,
    prompt: int = 128,
    new_tokens: int = 32,
    batch: int = 1,
    repeats: int = 5,
    warmup: int = 2,
    compiled: bool = False,
    kv_bits: int | None = None,
) -> Work[Profile]:
    """Measure the speed of `model` where it is. Times are in ms, throughput in tokens a second over the whole batch.

    base:       is decoded in turns with the model, so that `speed_ratio` says how many times as fast the model is
    prompt:     tokens read before the first one comes out
    new_tokens: tokens that come out; of 1, only the first is there, so that figures of output tokens are unavailable
    batch:      prompts at once
    repeats:    how often, each time with another prompt; intervals are over repeats, percentiles over all steps
    warmup:     repeats that are run first and discarded
    compiled:   decode with a cache of fixed size and torch.compile, which takes seconds to minutes before the first token
    kv_bits:    8 or 4: keep keys and values rounded to so many bits

    A sequence classifier is timed on one forward pass (`new_tokens` 0 in the result). Raises BadInput, OutOfMemory.
    """
    for name, value in (("prompt", prompt), ("new_tokens", new_tokens), ("batch", batch), ("repeats", repeats)):
        whole(name, value, 1)
    whole("warmup", warmup, 0)
    decodes = model.task == "causal-lm"
    steps, length = (new_tokens, prompt + new_tokens) if decodes else (1, prompt)
    compared = [] if base is None or base is model else [base]
    for who, m in (("model", model), *(("base", b) for b in compared)):
        if m.task != model.task:
            raise BadInput(f"the model is a {model.task} model and the base a {m.task} model", "Both must have the same task")
        if length > m.window:
            given = f"prompt is {prompt} tokens" + (f" and new_tokens is {new_tokens}, {length} in all" if decodes else "")
            todo = "Choose a shorter prompt" + (" or fewer new tokens" if decodes else "")
            raise BadInput(given, f"This {who} reads at most {m.window} at once", todo)
    if not decodes and (compiled or kv_bits is not None):
        raise BadInput(
            "compiled or kv_bits is given for a sequence classifier", "It decodes nothing, so there is nothing to compile or keep"
        )
    count = _Count((1 + len(compared)) * (warmup + repeats) * steps)
    with evaluating(model.module, *(b.module for b in compared)):
        work, *others = [_Timing(m, prompt, steps, batch, count, compiled, kv_bits) for m in (model, *compared)]
        for repeat in range(warmup):
            for each in (work, *others):
                yield from each.repeat(repeat, "warm-up")
        for each in (work, *others):
            each.forget()
        with PeakMemory(model.device) as memory:
            for repeat in range(warmup, warmup + repeats):
                yield from work.repeat(repeat, "measuring")
                for other in others:
                    yield from other.repeat(repeat, "measuring the base")
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
        decode=_mean(work.rates(), "tokens/s"),
        memory=memory.noun(),
        timing=work.clock.how,
        threads=torch.get_num_threads() if model.device.is_cpu else None,
        decoding=work.how(),
        speed_ratio=_ratio(work, others[0]) if others else Estimate.unavailable(),
    )


@dataclass
class _Count:
    """Forward passes done, of all that take turns."""

    total: int
    done: int = 0


@dataclass
class _Timing:
    """The part of one model in a `profile`: repeats of prefill and decode, a forward pass between two yields."""

    model: Model
    prompt: int
    steps: int
    batch: int
    count: _Count
    compiled: bool
    kv_bits: int | None
    first: list[float] = field(default_factory=list)
    rest: list[list[float]] = field(default_factory=list)
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        self.clock = Clock(self.model.device)
        self.vocabulary = ordinary_tokens(self.model)
        self.decoder: Decoder | None = None
        if self.model.task == "causal-lm":
            length = self.prompt + self.steps
            with guard(self.model.device, f"profiling with batch {self.batch}"):
                self.decoder = Decoder(self.model, length=length, batch=self.batch, compiled=self.compiled, kv_bits=self.kv_bits)

    def forget(self) -> None:
        self.first.clear()
        self.rest.clear()

    def repeat(self, number: int, what: str) -> Iterator[Progress]:
        """One prompt, `steps` tokens."""
        ids = random_prompt(self.vocabulary, self.batch, self.prompt, seed=number).to(self.model.device.torch)
        spent: list[float] = []
        for step in range(self.steps):
            metrics, details = self._metrics(spent), {"repeat": number, "token": step}
            yield Progress("profile", self.count.done, self.count.total, "steps", what, metrics, details)
            ids, seconds = self._step(ids, step)
            spent.append(seconds)
            self.count.done += 1
            if self.decoder is None or not self.decoder.caches:
                # this architecture keeps no key-value cache: it has no decode steps to speak of
                self.count.done += self.steps - step - 1
                break
        self.first.append(spent[0])
        self.rest.append(spent[1:])
        self.cache_bytes = self.decoder.cache_bytes if self.decoder else None

    def _step(self, ids: Tensor, step: int) -> tuple[Tensor, float]:
        """One forward pass and the choice of the most likely token, timed together."""
        with guard(self.model.device, f"profiling with batch {self.batch}"), torch.inference_mode(), self.clock.measure() as span:
            if self.decoder is None:
                ids = self.model.module(input_ids=ids).logits.argmax(-1)
            else:
                logits = self.decoder.read(ids) if step == 0 else self.decoder.step(ids)
                ids = logits.argmax(-1, keepdim=True)
        return ids, span.seconds

    def rates(self) -> list[float]:
        """Tokens a second after the first one, repeat by repeat."""
        return [self.batch * len(s) / sum(s) for s in self.rest if s]

    def how(self) -> Decoding | None:
        return self.decoder.how.model_copy(update={"cache_bytes": self.cache_bytes}) if self.decoder else None

    def _metrics(self, spent: Sequence[float]) -> dict[str, float]:
        if not spent:
            return {}
        latest = {"first_token_ms": 1000 * spent[0]}
        return {**latest, "ms": 1000 * spent[-1]} if len(spent) > 1 else latest


def _ratio(work: _Timing, base: _Timing) -> Estimate:
    """How many times as fast as its base the model decodes (a classifier: answers): the geometric mean over repeats in turns."""
    if work.decoder is None:
        pairs = [(b, a) for a, b in zip(work.first, base.first, strict=True)]
    else:
        pairs = list(zip(work.rates(), base.rates(), strict=False))
    return exponential(_mean([math.log(a / b) for a, b in pairs], ""))


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
