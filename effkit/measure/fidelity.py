"""How much of the base a model kept: KL divergence, top-token agreement and perplexity on the same windows of text.

Each figure has an interval from a block bootstrap, is paired with the base, and stands beside a noise floor: what
rounding the base to bfloat16 changes by itself. The base runs once a text; its outputs are kept (`reference`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effkit.hardware.attached.memory import guard
from effkit.models.model import Model
from effkit.models.stored.kvcache import rounded_cache
from effkit.models.texts.datasets import Text
from effkit.models.vocabulary import part_of
from effkit.spec.errors import BadInput, OutOfMemory, Unavailable
from effkit.spec.intervals import Estimate
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.record import KL, Blocks, NoiseFloor, Quality

from .blocks import block_means, cuts, exponential, mean_over, percentiles_over, share_over
from .checks import evaluating, whole
from .coding import Coded, encode
from .divergence import Scores, score
from .material import Material, Windows, material_for
from .reference import Shelf, key_of

On = str | Path | Sequence[str] | Text | None


@long_work
def evaluate(
    model: Model,
    base: Model | None = None,
    on: On = None,
    *,
    window: int = 256,
    windows: int = 8,
    batch: int = 1,
    floor: bool = True,
    kv_bits: int | None = None,
    fresh: bool = False,
) -> Work[Quality]:
    """Measure what `model` keeps of `base` on the text `on`: a string, a file, a list of texts, or None for the default.

    window:  tokens read at once; the model predicts all but the first. A classifier's texts are cut to it
    windows: how many, spread evenly over the text. A classifier reads every text of the list or line of the file
    batch:   windows a forward pass
    floor:   measure too what rounding the base to bfloat16 changes
    kv_bits: 8 or 4: keys and values rounded to so many bits, as they are kept while decoding, before attention sees them
    fresh:   compute the base's outputs even where they were kept from an earlier time

    Without a base only perplexity is measured. A model against itself: KL 0, agreement 1. KL is in nats a token.
    A language model that has a part of its base's vocabulary is compared on the tokens that both know: the text is cut as the model
    cuts it, and of the base's probabilities those are taken that it gives if the next token is one of them (`vocabulary` and
    `covered` of the result say so).
    Raises BadInput (text, window, another vocabulary, logits that are not finite), OutOfMemory.
    """
    whole("batch", batch, 1)
    material = measured_on(model, base, on, window, windows, kv_bits)
    work = _Comparison(model, base, material, floor and base is not None, kv_bits, fresh)
    with evaluating(*(m.module for m in (model, base) if m is not None)):
        yield work.progress("reading the text")
        for first in range(0, material.count, batch):
            yield from work.units(range(first, min(first + batch, material.count)))
    return work.quality()


def measured_on(model: Model, base: Model | None, on: On, window: int, windows: int, kv_bits: int | None = None) -> Material:
    """What `evaluate` reads; raises what cannot be measured, before anything is computed. A model without weights will do."""
    whole("window", window, 2)
    whole("windows", windows, 1)
    if base is not None:
        _comparable(model, base)
    material = material_for(model, base, on, window, windows)
    if kv_bits is not None:
        if model.task != "causal-lm":
            raise BadInput(
                f"kv_bits is {kv_bits} for a sequence classifier", "Allowed: causal language models; others keep no keys and values"
            )
        rounded_cache(model.config, kv_bits)
    return material


def _comparable(model: Model, base: Model) -> None:
    todo = "Compare with the model that this one was made from"
    if model.task != base.task:
        raise BadInput(f"the model is a {model.task} model and the base a {base.task} model", "Both must have the same task", todo)
    ours, theirs = model.checkpoint.vocabulary, base.checkpoint.vocabulary
    if ours is not None and theirs is not None and ours != theirs and part_of(model, base) is None:
        raise BadInput(f"the model's vocabulary has {ours} tokens and the base's {theirs}", "Both must have the same vocabulary", todo)


@dataclass
class _Found:
    """Per-token values, unit after unit."""

    nll: list[Tensor] = field(default_factory=list)
    base_nll: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    agree: list[Tensor] = field(default_factory=list)
    floor_kl: list[Tensor] = field(default_factory=list)
    floor_agree: list[Tensor] = field(default_factory=list)


@dataclass
class _Reference:
    """The base on one unit: its outputs in compact form, its losses and its choices."""

    outputs: Coded
    top: Tensor
    nll: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        kept = {"codes": self.outputs.codes, "step": self.outputs.step, "top": self.top.to(torch.int32)}
        return kept if self.nll is None else {**kept, "nll": self.nll}


class _Comparison:
    """The work of one `evaluate`, unit by unit (a window, or a classifier's text), a forward pass between two yields."""

    def __init__(
        self, model: Model, base: Model | None, material: Material, floor: bool, kv_bits: int | None = None, fresh: bool = False
    ) -> None:
        self.model, self.base, self.material, self.floor, self.kv_bits = model, base, material, floor, kv_bits
        self.same = model is base and kv_bits is None
        self.found = _Found()
        self.rounded: Model | None = None
        self.note = self._vocabulary()
        self.done, self.seconds = 0, 0.0
        self.shelf = None if fresh else self._shelf()
        if floor and base is not None and self._floor_dtype() is None:
            self._no_floor(f"{base.device} computes in no bfloat16")
        units = material.count
        missing = 0 if base is None else sum(not self._kept(f"window-{i}") for i in range(units))
        floors = sum(not self._kept(f"floor-{i}") for i in range(units)) if self.floor else 0
        self.total = missing + floors + (0 if self.same else units)

    def _vocabulary(self) -> str:
        known = self.material.mapping
        if known is None:
            return ""
        return f"compared on the {len(known)} tokens that both know, which are {self.material.covered:.1%} of the base's tokens of the text"

    def units(self, units: Sequence[int]) -> Iterator[Progress]:
        """Run one batch through base, model and rounded base; each is skipped where its outputs are known."""
        references: list[_Reference] = []
        if self.base is not None:
            known = [self._load(i) for i in units]
            if all(r is not None for r in known):
                references = [r for r in known if r is not None]
            else:
                with self._working():
                    references = self._run_base(self.base, units)
                yield self.progress("base", units, passes=len(units))
            self.found.base_nll += [r.nll for r in references if r.nll is not None]
        if self.same:
            self._same(references)
        else:
            with self._working():
                self._run_model(units, references)
            yield self.progress("model", units, passes=len(units))
        if self.floor:
            floors = [self.shelf.load(f"floor-{i}") if self.shelf else None for i in units]
            if any(f is None for f in floors):
                with self._working():
                    floors = self._run_floor(units, references)
                yield self.progress("noise floor", units, passes=len(units))
            for kept in floors:
                if kept is not None:
                    self.found.floor_kl.append(kept["kl"])
                    self.found.floor_agree.append(kept["agree"].double())

    def _run_base(self, base: Model, units: Sequence[int]) -> list[_Reference]:
        references = []
        with guard(base.device, "computing the base's outputs"):
            for i, logits in zip(units, self.material.outputs(base, units, base=True), strict=True):
                scores = self._finite(score(logits, self.material.targets(i)), "base", base, i)
                references.append(_Reference(encode(logits), scores.top, scores.nll))
        if self.shelf:
            for i, reference in zip(units, references, strict=True):
                self.shelf.save(f"window-{i}", reference.tensors())
        return references

    def _run_model(self, units: Sequence[int], references: list[_Reference]) -> None:
        with guard(self.model.device, "comparing the model with its base"):
            for at, (i, logits) in enumerate(zip(units, self.material.outputs(self.model, units, self.kv_bits), strict=True)):
                reference = references[at] if references else None
                scores = self._against(logits, i, reference, "model", self.model)
                if scores.nll is not None:
                    self.found.nll.append(scores.nll)
                if reference is not None and scores.kl is not None:
                    self.found.kl.append(scores.kl)
                    self.found.agree.append((scores.top == reference.top).double())

    def _same(self, references: list[_Reference]) -> None:
        """The model is its own base: what was computed once need not be computed, nor rounded, again."""
        for reference in references:
            if reference.nll is not None:
                self.found.nll.append(reference.nll)
            self.found.kl.append(torch.zeros(len(reference.top), dtype=torch.float64))
            self.found.agree.append(torch.ones(len(reference.top), dtype=torch.float64))

    def _run_floor(self, units: Sequence[int], references: list[_Reference]) -> list[dict[str, Tensor] | None]:
        assert self.base is not None
        dtype = self._floor_dtype()
        floors: list[dict[str, Tensor] | None] = []
        try:
            if self.rounded is None:
                self.rounded = self.base.to(dtype=dtype)
            with guard(self.base.device, "measuring the noise floor"):
                for reference, i, logits in zip(references, units, self.material.outputs(self.rounded, units, base=True), strict=True):
                    scores = self._against(logits, i, reference, f"base in {_name(dtype)}", self.rounded)
                    assert scores.kl is not None
                    kept = {"kl": scores.kl, "agree": (scores.top == reference.top).to(torch.uint8)}
                    floors.append(kept)
                    if self.shelf:
                        self.shelf.save(f"floor-{i}", kept)
        except (OutOfMemory, Unavailable, BadInput) as error:
            # the floor is a yardstick beside the result: without it the result still stands
            self._no_floor(str(error))
            return []
        return floors

    def _against(self, logits: Tensor, unit: int, reference: _Reference | None, who: str, model: Model) -> Scores:
        if reference is not None and logits.shape != reference.outputs.codes.shape:
            raise BadInput(
                f"the model gives {logits.shape[-1]} choices and the base {reference.outputs.codes.shape[-1]}",
                "Both must have the same vocabulary",
                "Compare with the model that this one was made from",
            )
        base = None if reference is None else reference.outputs
        return self._finite(score(logits, self.material.targets(unit), base), who, model, unit)

    def _finite(self, scores: Scores, who: str, model: Model, unit: int) -> Scores:
        if scores.finite:
            return scores
        wider = " or compute in float32" if model.dtype != torch.float32 else ""
        raise BadInput(
            f"the {who} gives logits that are not finite numbers ({self.material.unit} {unit + 1} of {self.material.count})",
            "They must be finite to be compared",
            f"Check its weights for NaN and overflow{wider}",
        )

    def _shelf(self) -> Shelf | None:
        """Where the base's outputs are kept. A classifier's are so quickly computed that they are not."""
        if self.base is None or not isinstance(self.material, Windows):
            return None
        base = self.base
        facts: Mapping[str, Any] = {
            "checkpoint": base.checkpoint.hash,
            "recipe": base.recipe.hash(),
            "dtype": str(base.dtype),
            "device": base.device.type,
            "simulated": base.device.simulated,
            "ids": self.material.hash(),
        }
        return Shelf(key_of(base.module, facts))

    def _kept(self, name: str) -> bool:
        return self.shelf is not None and self.shelf.has(name)

    def _load(self, unit: int) -> _Reference | None:
        n = self.material.positions
        kept = self.shelf.load(f"window-{unit}", nll=(n,), top=(n,), step=(n,)) if self.shelf else None
        if kept is None:
            return None
        return _Reference(Coded(kept["codes"], kept["step"]), kept["top"].long(), kept["nll"])

    def _floor_dtype(self) -> torch.dtype | None:
        """What the base is computed in for its floor: bfloat16, or float32 where the base itself is narrower already."""
        assert self.base is not None
        if self.base.dtype != torch.float32:
            return torch.float32
        return torch.bfloat16 if "bfloat16" in self.base.device.dtypes else None

    def _no_floor(self, why: str) -> None:
        self.floor, self.rounded = False, None
        self.found.floor_kl, self.found.floor_agree = [], []
        self.note = "; ".join(filter(None, (self._vocabulary(), f"the noise floor is unavailable: {why}")))

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Counts the time of our own work, not of a pause between two yields."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun

    def progress(self, what: str, units: Sequence[int] = (), passes: int = 0) -> Progress:
        self.done += passes
        self.total = max(self.total, self.done)
        metrics = {}
        if self.found.kl:
            metrics["kl"] = float(torch.cat(self.found.kl).mean())
            metrics["agreement"] = float(torch.cat(self.found.agree).mean())
        if self.found.nll:
            metrics["perplexity"] = float(torch.cat(self.found.nll).mean().clamp(max=709).exp())
        trouble = self.shelf.trouble if self.shelf else ""
        message = "; ".join(text for text in (what, self.note, trouble) if text)
        details = {"pass": what, "first": units[0], "last": units[-1]} if units else {"pass": what}
        return Progress("evaluate", self.done, self.total, self.material.unit + "s", message, metrics, details)

    def quality(self) -> Quality:
        found, material = self.found, self.material
        nll, base_nll, kl, agree = (_table(values, material) for values in (found.nll, found.base_nll, found.kl, found.agree))
        floor = None
        if found.floor_kl and self.base is not None:
            kind = torch.bfloat16 if self.base.dtype == torch.float32 else self.base.dtype
            floor_kl, floor_agree = (_table(v, material) for v in (found.floor_kl, found.floor_agree))
            assert floor_kl is not None
            assert floor_agree is not None
            floor = NoiseFloor(kl=mean_over(floor_kl, "nats"), agreement=share_over(floor_agree), dtype=_name(kind))
        none = Estimate.unavailable()
        difference = None if nll is None or base_nll is None else mean_over(nll - base_nll)
        spread = None
        if kl is not None:
            median, p90, p99 = percentiles_over(kl, (0.5, 0.9, 0.99), "nats")
            spread = KL(mean=_positive(mean_over(kl, "nats")), median=median, p90=p90, p99=p99)
        agreement = none
        if agree is not None:
            # against itself nothing is left to chance
            agreement = mean_over(agree) if self.same else share_over(agree)
        edges = cuts(material.count, material.positions)
        return Quality(
            perplexity=none if nll is None else exponential(mean_over(nll)),
            base_perplexity=none if base_nll is None else exponential(mean_over(base_nll)),
            perplexity_ratio=none if difference is None else exponential(difference),
            kl=spread,
            agreement=agreement,
            floor=floor,
            indistinguishable=_indistinguishable(difference, spread, floor),
            text=material.text.hash,
            text_source=material.text.source,
            tokens=material.count * material.positions,
            window=material.length,
            windows=material.count,
            kv_bits=self.kv_bits,
            vocabulary=None if material.mapping is None else len(material.mapping),
            covered=material.covered,
            blocks=Blocks(
                tokens=material.positions // (len(edges) - 1),
                **{
                    name: tuple(block_means(v).tolist())
                    for name, v in (("nll", nll), ("base_nll", base_nll), ("kl", kl), ("agreement", agree))
                    if v is not None
                },
            ),
            seconds=self.seconds,
        )


def _indistinguishable(difference: Estimate | None, kl: KL | None, floor: NoiseFloor | None) -> bool | None:
    """Whether the data cannot tell the model from its base.

    The paired difference in loss may be zero, and the KL divergence is within what rounding the base changes. A KL of
    exactly zero needs no statistics; a classifier without a noise floor has nothing else to judge by.
    """
    if kl is None or kl.mean.value is None:
        return None
    if kl.mean.value < 1e-7:
        return True
    verdicts = []
    if difference is not None:
        if difference.low is None or difference.high is None:
            return None
        verdicts.append(difference.low <= 0 <= difference.high)
    if floor is not None and kl.mean.low is not None and floor.kl.high is not None:
        verdicts.append(kl.mean.low <= floor.kl.high)
    return all(verdicts) if verdicts else None


def _table(values: list[Tensor], material: Material) -> np.ndarray | None:
    """Per-token values as [units, positions]; None where they were not measured for every unit."""
    if len(values) != material.count:
        return None
    return torch.stack(values).numpy()


def _positive(estimate: Estimate) -> Estimate:
    return estimate if estimate.low is None else estimate.model_copy(update={"low": max(0.0, estimate.low)})


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
