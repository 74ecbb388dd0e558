"""How fast a model answers: time to first token, time per output token, throughput, peak memory, energy.

A repeat is one prompt of random tokens, read at once (prefill), then greedy decoding with a key-value cache, one token a
step; every step is timed by the device's own clock or after synchronising. The first token is never part of the time
per output token. Repeats that warm the device up are thrown away: as many as it takes until times are stationary
(steady.py), or as many as were asked for. Outliers are named and kept. Execution is eager with a cache that grows, unless
it is asked for otherwise; `decoding` in the result says how it was. Compiling is done before anything is timed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effkit.hardware.attached.clock import Clock
from effkit.hardware.attached.energy import EnergyMeter
from effkit.hardware.attached.memory import PeakMemory, guard
from effkit.hardware.projected.configs import architecture
from effkit.models.decoding import Decoder
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.intervals import Estimate, mean_interval
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.record import Decoding, Outlier, Profile

from .blocks import exponential
from .checks import evaluating, whole
from .steady import outliers, warm_up

SHARES = (0.5, 0.9, 0.99)
WARM_UP_LEAST, WARM_UP_MOST = 1, 10  # repeats that are discarded where the warm-up is found


@long_work
def profile(
    model: Model,
    base: Model | None = None,
    *,
    prompt: int = 128,
    new_tokens: int = 32,
    batch: int = 1,
    repeats: int = 5,
    warmup: int | None = None,
    compiled: bool = False,
    kv_bits: int | None = None,
    isolated: bool = False,
) -> Work[Profile]:
    """Measure the speed of `model` where it is. Times are in ms, throughput in tokens a second over the whole batch.

    base:       is decoded in turns with the model, so that `speed_ratio` says how many times as fast the model is
    prompt:     tokens read before the first one comes out
    new_tokens: tokens that come out; of 1, only the first is there, so that figures of output tokens are unavailable
    batch:      prompts at once
    repeats:    how often, each time with another prompt; intervals are over repeats, percentiles over all steps
    warmup:     repeats that are run first and discarded; None: 1 to 10, until times are stationary
    compiled:   decode with a cache of fixed size and torch.compile, which takes seconds to minutes before the first token
    kv_bits:    8 or 4: keep keys and values rounded to so many bits
    isolated:   in a process of its own, on a copy of the model: nothing that this process holds or does is measured

    A sequence classifier is timed on one forward pass (`new_tokens` 0 in the result). Raises BadInput, OutOfMemory.
    """
    compared = [] if base is None or base is model else [base]
    refuse_profile(model, compared, prompt, new_tokens, batch, repeats, warmup, compiled, kv_bits)
    if isolated:
        from .isolated import profile_isolated

        given = {"prompt": prompt, "new_tokens": new_tokens, "batch": batch, "repeats": repeats, "warmup": warmup}
        return (yield from profile_isolated(model, compared, **given, compiled=compiled, kv_bits=kv_bits))
    decodes = model.task == "causal-lm"
    steps = new_tokens if decodes else 1
    count = _Count(steps * (1 + len(compared)), (WARM_UP_LEAST if warmup is None else warmup) + repeats)
    with evaluating(model.module, *(b.module for b in compared)):
        work, *others = all_ = [_Timing(m, prompt, steps, batch, count, compiled, kv_bits) for m in (model, *compared)]
        work.clock.check()
        meter = EnergyMeter(model.device)
        for repeat in range(count.repeats - repeats):
            for each in all_:
                yield from each.repeat(repeat, "warm-up")
        with PeakMemory(model.device) as memory:
            while count.repeats > len(work.first):
                with meter.running(batch, batch * new_tokens if decodes else 0):
                    yield from work.repeat(len(work.first), "measuring")
                for other in others:
                    yield from other.repeat(len(other.first), "measuring the base")
                if warmup is None and count.repeats == len(work.first) < repeats + WARM_UP_MOST:
                    # the last `repeats` must be of one level, so those of an earlier one are followed by as many more
                    wanted = repeats + min(max(each.warm_up() for each in all_), WARM_UP_MOST)
                    count.repeats = max(wanted, len(work.first))
    discarded = len(work.first) - repeats
    unsteady = warmup is None and max(each.warm_up() for each in all_) > discarded
    for each in all_:
        each.forget(discarded)
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
        warmup=discarded,
        warmup_how="asked for" if warmup is not None else f"not stationary after {discarded}" if unsteady else "found",
        time_to_first_token=_mean([1000 * s for s in first], "ms"),
        time_per_output_token=_mean([1000 * float(np.mean(s)) for s in rest if s], "ms"),
        first_token_percentiles=_percentiles(first),
        output_token_percentiles=_percentiles([s for steps in rest for s in steps]),
        first_token_times=tuple(1000 * s for s in first),
        output_token_times=tuple(1000 * float(np.mean(s)) for s in rest if s),
        outliers=_outliers(first, rest),
        prefill=_mean([batch * prompt / s for s in first], "tokens/s"),
        decode=_mean(work.rates(), "tokens/s"),
        memory=memory.noun(),
        energy=meter.noun(),
        timing=work.clock.how,
        threads=torch.get_num_threads() if model.device.is_cpu else None,
        decoding=work.how(),
        speed_ratio=_ratio(work, others[0]) if others else Estimate.unavailable(),
        architecture=_shape(model),
    )


def _shape(model: Model) -> dict[str, Any] | None:
    try:
        return architecture(model.config).to_dict()
    except BadInput:  # of a kind that is not counted yet: measured all the same
        return None


def refuse_profile(
    model: Model,
    compared: Sequence[Model],
    prompt: int,
    new_tokens: int,
    batch: int,
    repeats: int,
    warmup: int | None = None,
    compiled: bool = False,
    kv_bits: int | None = None,
) -> None:
    """Raise what cannot be profiled, before anything runs; a model without weights will do."""
    for name, value in (("prompt", prompt), ("new_tokens", new_tokens), ("batch", batch), ("repeats", repeats)):
        whole(name, value, 1)
    if warmup is not None:
        whole("warmup", warmup, 0)
    decodes = model.task == "causal-lm"
    length = prompt + new_tokens if decodes else prompt
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


@dataclass
class _Count:
    """Forward passes done, of all that take turns: `steps` a repeat, `repeats` of them as far as is known now."""

    steps: int
    repeats: int
    done: int = 0

    @property
    def total(self) -> int:
        return self.steps * self.repeats


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
        self.clock = Clock(self.model.device)  # asking the model for its device reads the system's files each time
        self.what = f"profiling with batch {self.batch}"
        self.vocabulary = ordinary_tokens(self.model)
        self.decoder: Decoder | None = None
        if self.model.task == "causal-lm":
            length = self.prompt + self.steps
            with guard(self.clock.device, self.what):
                self.decoder = Decoder(self.model, length=length, batch=self.batch, compiled=self.compiled, kv_bits=self.kv_bits)

    def warm_up(self) -> int:
        """Repeats before both phases were stationary."""
        return max(warm_up(self.first, WARM_UP_LEAST), warm_up([sum(s) for s in self.rest], WARM_UP_LEAST))

    def forget(self, count: int) -> None:
        """Drop the first repeats, those of the warm-up."""
        del self.first[:count], self.rest[:count]

    def repeat(self, number: int, what: str) -> Iterator[Progress]:
        """One prompt, `steps` tokens."""
        with guard(self.clock.device, self.what):
            ids = random_prompt(self.vocabulary, self.batch, self.prompt, seed=number).to(self.clock.device.torch)
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
        with guard(self.clock.device, self.what), torch.inference_mode(), self.clock.measure() as span:
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


def _outliers(first: Sequence[float], rest: Sequence[Sequence[float]]) -> tuple[Outlier, ...]:
    """First tokens and output tokens that stand out, each among its like."""
    steps = [(repeat, token + 1, s) for repeat, each in enumerate(rest) for token, s in enumerate(each)]
    found = []
    for like in ([(repeat, 0, s) for repeat, s in enumerate(first)], steps):
        times = [s for _, _, s in like]
        typical = 1000 * float(np.median(times)) if times else 0.0
        found += [Outlier(repeat=like[i][0], token=like[i][1], ms=1000 * like[i][2], typical_ms=typical) for i in outliers(times)]
    return tuple(found)


def _mean(values: Sequence[float], unit: str) -> Estimate:
    return mean_interval(values, unit=unit) if values else Estimate.unavailable(unit)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In ms, keyed "p50", "p90", "p99"; empty where nothing was measured."""
    if not seconds:
        return {}
    return {f"p{round(100 * share)}": 1000 * float(q) for share, q in zip(SHARES, np.quantile(seconds, SHARES), strict=True)}
