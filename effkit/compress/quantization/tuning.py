"""Tuning what was quantized: scales and norms (and, if asked, the integers) are trained by KL to the base.

Rounding methods look at one layer at a time; here the whole model's output is what counts. The base reads the calibration
text once, and of it only the hidden states in front of the head are kept, from which its logits are made anew, exactly.
Training only the step sizes follows LSQ (Esser et al. 2019, arXiv:1902.08153), with the base as teacher as in ZeroQuant
(Yao et al. 2022, arXiv:2206.01861). Every tenth of the way the KL on held-out windows is measured; the best state is kept,
and if nothing was better than the untuned model, that is what is returned, with a note that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from effkit.models.layers import layer_list
from effkit.models.ledger import category_of
from effkit.models.model import Model
from effkit.models.stored.packed import PackedEmbedding, PackedLinear
from effkit.spec.progress import Progress, Snapshot, Work

from ..stages import Stages
from ..states import States
from ..weights import Weights
from .folding import folded
from .planning import as_matrix
from .tunable import Grid, packed_again_, tunable_

WINDOWS = 4  # a step
PIECE = 5e10  # floating-point operations between two yields: about half a second of two processor cores
RATE = 2e-3  # relative change of a scale or of a norm's weight in a step
GRID_WAY = 0.5  # how far an integer may travel in all steps together, in units of the grid
GRID_RATE = 0.005  # and at most in one
WARM_UP = 10
SLICE = 1 << 20  # logits compared at once
LAST = 0.02  # the rate at the end, over that at the beginning


class Tuning:
    """The training of one quantized model. `model.module` is changed in place; `finish_` makes it packed again."""

    def __init__(
        self, base: Model, model: Model, windows: list[Tensor], held: list[Tensor], steps: int, weights: bool, seed: int,
        folds: Mapping[str, Tensor] | None = None, shared: bool = False,
    ) -> None:  # fmt: skip
        self.base, self.model, self.windows, self.held = base, model, windows, held
        self.steps, self.seed, self.done = steps, seed, 0
        self.teacher = _Teacher(base, shared)
        module = model.module
        self.originals = {
            name: m for name, m in module.named_modules(remove_duplicate=False) if isinstance(m, PackedLinear | PackedEmbedding)
        }
        exact = {}
        if weights:
            for name in self.originals:
                exact[name] = folded(as_matrix(base.module.get_submodule(name)), name, folds or {})
        self.grids: dict[str, Grid] = tunable_(module, exact, fast_dtype(base))
        self.norms = {name: p for name, p in module.named_parameters() if p.dim() == 1 and _in_norm(name, module)}
        # a norm's weight is trained as a relative change too, so that one rate suits all
        self.factors = {name: nn.Parameter(torch.zeros_like(p, dtype=torch.float32)) for name, p in self.norms.items()}
        self.before = {name: p.detach().clone() for name, p in self.norms.items()}
        module.requires_grad_(False)
        integers = {f"integers/{name}": grid.integers for name, grid in self.grids.items() if grid.learned}
        rest = {f"change/{name}": grid.change for name, grid in self.grids.items()} | {
            f"norm/{name}": f for name, f in self.factors.items()
        }
        groups = [(RATE, list(rest)), (min(GRID_RATE, GRID_WAY / steps), list(integers))]
        self.weights = Weights({**rest, **integers}, base.device, None, groups, betas=(0.9, 0.99), fused=None)
        weights_read = sum(p.numel() for p in base.module.parameters())
        window = 2.0 * weights_read * len(windows[0])  # operations of one forward pass
        self.piece = max(1, int(PIECE / (3 * window)))
        layers = layer_list(model)[1]
        self.stages = Stages(list(layers), max(1, int(PIECE * len(layers) / (2 * window))))
        self.first = math.inf

    @property
    def fine(self) -> bool:
        """Whether a step takes so long that its pieces are told."""
        return self.piece < WINDOWS

    @torch.no_grad()
    def exact(self, windows: list[Tensor]) -> Tensor:
        """The base's logits of some windows, [tokens, vocabulary]."""
        return torch.cat([self.teacher.logits(window) for window in windows])

    def loss(self, windows: list[Tensor], exact: Tensor) -> Tensor:
        """Mean KL in nats a token."""
        return _Divergence.apply(self._logits(torch.stack(windows)).flatten(0, -2), exact)  # type: ignore[return-value]

    def _logits(self, ids: Tensor) -> Tensor:
        scaled = {name: (self.before[name] * (1 + f)).to(self.before[name].dtype) for name, f in self.factors.items()}
        return torch.func.functional_call(self.model.module, scaled, (), {"input_ids": ids, "use_cache": False}).logits

    def train_(self) -> Generator[None, None, float]:
        """One step over WINDOWS windows. Yields between pieces, also inside a large model's backward pass; its value is the loss."""
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.done)
        chosen = torch.randperm(len(self.windows), generator=draw)[:WINDOWS].tolist()
        self.weights.clear_()
        total = 0.0
        for start in range(0, len(chosen), self.piece):
            part = chosen[start : start + self.piece]
            windows = [self.windows[i] for i in part]
            exact = self.exact(windows)
            yield
            with torch.enable_grad(), self.stages.cutting():
                loss = self.loss(windows, exact) * (len(part) / len(chosen))
            total += float(loss.detach())
            yield
            self.weights.backward(loss)
            yield from self.stages.backward()
            yield
        self.weights.step_(self._shape(), total, clip=math.inf)  # one that is not finite is left out
        self.done += 1
        return total

    def _shape(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        return min(1.0, (self.done + 1) / WARM_UP) * (LAST + (1 - LAST) * cosine)

    def measure_(self) -> Generator[None, None, float]:
        """Held-out KL; the best state so far is kept. Yields after each forward pass."""
        total = 0.0
        for window in self.held:
            exact = self.exact([window])
            yield
            with torch.no_grad():
                total += float(self.loss([window], exact))
            yield
        held = total / len(self.held)
        if self.done == 0:
            self.first = held
        self.weights.judge_(held)
        return held

    def finish_(self) -> str:
        """Write the best state into the packed model and say what tuning did."""
        self.weights.keep_best_()
        helped = self.weights.best < self.first
        if helped:
            for grid in self.grids.values():
                grid.store_()
        packed_again_(self.model.module, self.originals)
        named = dict(self.model.module.named_parameters())
        with torch.no_grad():
            for name, f in self.factors.items():
                if helped:
                    named[name].copy_((self.before[name] * (1 + f)).to(named[name].dtype))
        self.model.module.requires_grad_(False)
        if not helped:
            return f"tuning did not help on held-out text (KL {self.first:.4f} before, no less afterwards), so it was taken back"
        return f"tuning {self.done} steps: KL on held-out calibration text {self.first:.4f} -> {self.weights.best:.4f}"

    def snapshot(self) -> Snapshot:
        return self.weights.snapshot(done=self.done, first=self.first)

    def restore_(self, snapshot: Snapshot) -> None:
        self.weights.restore_(snapshot)
        self.done, self.first = int(snapshot.state["done"]), float(snapshot.state["first"])


def _in_norm(name: str, module: nn.Module) -> bool:
    """Whether a parameter is a norm's, whatever the architecture calls it: GPT-2 says ln_1."""
    path = name.rpartition(".")[0]
    return category_of(path, module.get_submodule(path), module) == "norms"


def tune(tuning: Tuning, before: int, total: int, wrap: Callable[[Snapshot], Snapshot]) -> Work[str]:
    """Train to the end. `before` of `total` units of the whole work were done already."""

    def told(message: str, metrics: dict[str, float]) -> Progress:
        return Progress(
            "quantize", before + tuning.done, total, "steps", message, metrics, {"phase": "tuning"}, lambda: wrap(tuning.snapshot())
        )

    def pieces(work: Generator[None, None, float], message: str) -> Work[float]:
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            if tuning.fine:
                yield Progress("quantize", before + tuning.done, total, "steps", message)

    every = max(1, tuning.steps // 10)
    if tuning.done == 0:
        held = yield from pieces(tuning.measure_(), "tuning: reading held-out text")
        yield told("tuning begins", {"held_out": held})
    while tuning.done < tuning.steps:
        loss = yield from pieces(tuning.train_(), f"tuning: step {tuning.done + 1} of {tuning.steps}")
        metrics = {"loss": loss}
        if tuning.done % every == 0 or tuning.done == tuning.steps:
            metrics["held_out"] = yield from pieces(tuning.measure_(), "tuning: reading held-out text")
        yield told(f"tuning: step {tuning.done} of {tuning.steps}", metrics)
    return tuning.finish_()


def fast_dtype(model: Model) -> torch.dtype:
    """bfloat16 where a CPU multiplies in it (its rounding is far below that of few bits), else what the model computes in."""
    if model.device.type == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return model.dtype


class _Divergence(torch.autograd.Function):
    """Mean KL(base || model) of logits [n, vocabulary], and its slope q - p, made a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, base: Tensor) -> Tensor:
        n = len(logits)
        rows = max(1, SLICE // logits.shape[1])
        slope = torch.empty_like(logits)
        total = torch.zeros((), device=logits.device)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            expected = base[part].float().log_softmax(-1)
            found = logits[part].float().log_softmax(-1)
            p = expected.exp()
            total += (p * (expected - found)).sum()
            slope[part] = found.exp_().sub_(p).div_(n)
        ctx.save_for_backward(slope)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return slope * grads[0], None


class _Teacher:
    """The base's logits of a window, by a head that works in `dtype`, the first time too, so that a resumed training sees the same."""

    def __init__(self, base: Model, shared: bool = False) -> None:
        self.base = base
        self.states = States(base, self._whole, memory=True, disk=shared)
        self.dtype = fast_dtype(base)

    @torch.no_grad()
    def logits(self, window: Tensor) -> Tensor:
        """[window, vocabulary] of one window."""
        hidden, whole = self.states.of({"input_ids": window[None]})
        if hidden is None:
            assert whole is not None
            return whole[0]
        return nn.functional.linear(hidden[0].to(self.dtype), *self._head)

    @cached_property
    def _head(self) -> tuple[Tensor, Tensor | None]:
        head: Any = self.states.head
        return head.weight.to(self.dtype), None if head.bias is None else head.bias.to(self.dtype)

    def _whole(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.base.module(**inputs, use_cache=False).logits
