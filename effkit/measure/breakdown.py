"""Time per module, from hooks that mark the device's own clock before and after each: no profiler is needed.

torch.profiler's summaries are missing on some devices (Ascend among them) and slow a model down; a mark is one event, or a
reading of the clock on a CPU. Hooks cost time too, so that passes with and without them take turns and the difference is
part of the result. Arithmetic is counted in one more pass by torch's FlopCounterMode, except for compressed layers, whose
kernels it does not know and whose arithmetic is that of the dense product. Always eager: a compiled pass has no modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from effkit.hardware.attached.clock import Clock, Mark
from effkit.hardware.attached.memory import guard
from effkit.models.decoding import Decoder
from effkit.models.ledger import category_of, module_bytes
from effkit.models.model import Model
from effkit.models.stored.storage import is_replaced
from effkit.spec.breakdown import Breakdown, Part
from effkit.spec.errors import BadInput, choice
from effkit.spec.intervals import mean_interval
from effkit.spec.progress import Progress, Work, long_work

from .checks import evaluating, whole
from .latency import ordinary_tokens, random_prompt

T = TypeVar("T")
WARM_UP = 3  # pairs of passes that are run first and discarded


@long_work
def breakdown(
    model: Model, *, phase: Literal["decode", "prefill"] = "decode", prompt: int = 128, batch: int = 1, repeats: int = 10
) -> Work[Breakdown]:
    """Time, arithmetic and bytes of every module in one forward pass.

    phase:   "decode" (one token after the prompt) or "prefill" (the prompt); a sequence classifier has only "prefill"
    repeats: passes with hooks, and as many without; times are means over the middle half of them
    """
    whole("prompt", prompt, 1)
    whole("batch", batch, 1)
    whole("repeats", repeats, 1)
    if phase not in ("decode", "prefill"):
        raise choice("phase", phase, ["decode", "prefill"])
    decodes = model.task == "causal-lm"
    if phase == "decode" and not decodes:
        raise BadInput("phase is 'decode'", "A sequence classifier only reads: allowed is 'prefill'")
    length = prompt + (2 * (repeats + WARM_UP) + 1 if phase == "decode" else 0)
    if length > model.window:
        raise BadInput(
            f"prompt is {prompt} tokens and repeats is {repeats}, {length} tokens in all",
            f"This model reads at most {model.window} at once",
            "Choose a shorter prompt or fewer repeats",
        )
    step = _Step(model, phase, prompt, batch, length)
    step.clock.check()
    plain: list[float] = []
    hooked: list[_Node] = []
    with evaluating(model.module):
        for repeat in range(-WARM_UP, repeats):
            yield Progress("breakdown", max(repeat, 0), repeats, "passes", "warm-up" if repeat < 0 else f"timing modules of a {phase} pass")
            without, log = step.plain(), step.hooked()
            if repeat >= 0:
                plain.append(without)
                hooked.append(log)
        counted = step.counted()
    added = [(node.total - without) / without for node, without in zip(hooked, plain, strict=True)]
    return Breakdown(
        phase=phase,
        root=_part(_middle(hooked, lambda node: node.total), counted, step),
        plain_ms=mean_interval([1000 * s for s in _middle(plain)], unit="ms"),
        overhead=mean_interval(_middle(added)),
        repeats=repeats,
        batch=batch,
        prompt=prompt,
        device=repr(model.device),
        device_type=model.device.type,
        simulated=model.device.simulated,
        dtype=str(model.dtype).removeprefix("torch."),
        timing=step.clock.how,
    )


@dataclass
class _Node:
    """One module under one caller. total: seconds (of a counted pass unused)."""

    name: str
    total: float = 0.0
    calls: int = 0
    flops: int = 0
    bytes: int = 0
    children: dict[str, _Node] = field(default_factory=dict)

    def child(self, name: str) -> _Node:
        return self.children.setdefault(name, _Node(name))


class _Step:
    """The forward pass that is taken apart, run plainly, with timing hooks, and once more to count."""

    def __init__(self, model: Model, phase: str, prompt: int, batch: int, length: int) -> None:
        self.model, self.phase, self.clock = model, phase, Clock(model.device)
        self.names = {part: name for name, part in model.module.named_modules()}
        self._batch, self._prompt, self._vocabulary, self._seed = batch, prompt, ordinary_tokens(model), 0
        self.decoder: Decoder | None = None
        if model.task == "causal-lm":
            self.decoder = Decoder(model, length=length, batch=batch)
        self._ids: Tensor | None = None

    def plain(self) -> float:
        """Seconds without hooks."""
        ids = self._next()
        with self._guarded(), self.clock.measure() as span:
            self._run(ids)
        return span.seconds

    def hooked(self) -> _Node:
        """The tree of times."""
        log: list[tuple[str | None, Mark]] = []  # a name where a module begins, None where the last one ends

        def begin(module: nn.Module, *_: Any) -> None:
            log.append((self.names[module], self.clock.mark()))

        def end(*_: Any) -> None:
            log.append((None, self.clock.mark()))

        ids = self._next()
        self.clock.device.synchronize()
        with self._guarded(), _hooks(self.names, begin, end):
            self._run(ids)
        return self._tree(log)

    def _tree(self, log: list[tuple[str | None, Mark]]) -> _Node:
        root = _Node("")
        above: list[tuple[_Node, Mark]] = []
        for name, mark in log:
            if name is not None:
                node = above[-1][0].child(name) if above else root
                above.append((node, mark))
            else:
                node, begun = above.pop()
                node.total += self.clock.seconds(begun, mark)
                node.calls += 1
        return root

    def counted(self) -> _Node:
        """The tree of arithmetic and bytes, from one more pass."""
        root, above = _Node(""), []
        counter = FlopCounterMode(display=False)
        corrected = 0  # what the counter misses in compressed layers

        def begin(module: nn.Module, *_: Any) -> None:
            node = above[-1][0].child(self.names[module]) if above else root
            above.append((node, counter.get_total_flops() + corrected))

        def end(module: nn.Module, args: tuple[Any, ...], *_: Any) -> None:
            nonlocal corrected
            node, before = above.pop()
            spent = counter.get_total_flops() + corrected - before
            x = args[0] if args and isinstance(args[0], Tensor) else None
            if x is not None and is_replaced(module) and hasattr(module, "in_features"):
                dense = 2 * (x.numel() // module.in_features) * int(module.weight_count)  # type: ignore[operator, arg-type]
                corrected, spent = corrected + dense - spent, dense
            node.flops += spent
            node.bytes += self._own_bytes(module, x)

        ids = self._next()
        with self._guarded(), counter, _hooks(self.names, begin, end):
            self._run(ids)
        return root

    def _own_bytes(self, module: nn.Module, x: Tensor | None) -> int:
        """Bytes that a call reads of the module's own weights (of a table: the rows), and of the layer's keys and values."""
        held = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        own = module_bytes(module) if is_replaced(module) else sum(t.numel() * t.element_size() for t in held)
        if "Embedding" in type(module).__name__ and x is not None and held and not x.is_floating_point():
            table = max(held, key=Tensor.numel)
            own = min(own, x.numel() * table[0].numel() * table.element_size() if table.dim() > 1 else own)
        config = self.model.config
        chosen, experts = (
            getattr(config, "num_experts_per_tok", None),
            getattr(config, "num_local_experts", getattr(config, "num_experts", None)),
        )
        if type(module).__name__.endswith("Experts") and chosen and experts and x is not None:
            tokens = x.numel() // x.shape[-1]
            own = round(own * (1 - (1 - chosen / experts) ** tokens))  # those that some token chooses, if they choose evenly
        return own + self._cached_bytes(module)

    def _cached_bytes(self, module: nn.Module) -> int:
        layer = getattr(module, "layer_idx", None)
        layers = getattr(getattr(self.decoder, "cache", None), "layers", None)
        if self.phase != "decode" or "attention" not in type(module).__name__.lower() or layers is None or layer is None:
            return 0
        kept = [getattr(layers[layer], name, None) for name in ("keys", "values")] if layer < len(layers) else []
        return sum(t.numel() * t.element_size() for t in kept if isinstance(t, Tensor))

    def _next(self) -> Tensor:
        """What the pass reads: a fresh prompt, or the token after the last pass (after a fresh prompt at the beginning)."""
        if self.phase == "prefill" or self._ids is None:
            self._seed += 1
            ids = random_prompt(self._vocabulary, self._batch, self._prompt, seed=self._seed).to(self.clock.device.torch)
            if self.phase == "prefill" or self.decoder is None:
                return ids
            with self._guarded():
                self._ids = self.decoder.read(ids).argmax(-1, keepdim=True)
            if not self.decoder.caches:
                raise BadInput(
                    f"{self.model.checkpoint.architecture} keeps no keys and values", "It has no decode step: allowed is 'prefill'"
                )
        return self._ids

    def _run(self, ids: Tensor) -> None:
        if self.decoder is None:
            self.model.module(input_ids=ids)
        elif self.phase == "prefill":
            self.decoder.read(ids)
        else:
            self.decoder.step(ids)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with guard(self.clock.device, "timing modules"), torch.inference_mode():
            yield


@contextmanager
def _hooks(names: dict[nn.Module, str], begin: Any, end: Any) -> Iterator[None]:
    handles = []
    try:
        for module in names:
            handles.append(module.register_forward_pre_hook(begin))
            handles.append(module.register_forward_hook(end, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _middle(values: Sequence[T], key: Callable[[T], float] | None = None) -> list[T]:
    """The middle half: a pass during which the system did something else says nothing about the modules."""
    ordered = sorted(values, key=key or float)  # type: ignore[arg-type]
    return ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4]


def _part(times: list[_Node], counted: _Node | None, step: _Step) -> Part:
    """One node of the result: the mean of the trees in `times`, which all have the same modules."""
    known = list(dict.fromkeys(name for node in times for name in node.children))
    children = tuple(
        _part([node.children.get(name, _Node(name)) for node in times], counted.children.get(name) if counted else None, step)
        for name in known
    )
    total = 1000 * float(np.mean([node.total for node in times]))
    module = step.model.module.get_submodule(times[0].name)
    return Part(
        name=times[0].name,
        kind=type(module).__name__,
        category=category_of(times[0].name, module, step.model.module) if times[0].name else "other",
        own_ms=total - math.fsum(child.total_ms for child in children),
        total_ms=total,
        calls=round(float(np.mean([node.calls for node in times]))),
        flops=None if counted is None else counted.flops,
        bytes=None if counted is None else counted.bytes + sum(child.bytes or 0 for child in children),
        children=children,
    )
