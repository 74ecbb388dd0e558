"""Weights in training: a step of their AdamW, the best of them so far, and a copy of all of it to go on from, bit for bit.

Distillation, fine-tuning and scale tuning differ in what they read and compare; this is what they share. In float16 the loss
is scaled, since small gradients would vanish (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from effkit.hardware.attached.device import Device
from effkit.hardware.attached.memory import guard
from effkit.hardware.attached.processes import Crew
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.progress import Snapshot

CLIP = 1.0  # largest gradient norm
WARM_UP = 0.1  # share of the steps over which the learning rate rises from zero
SCALE = 2.0**16  # of the loss, at first, where gradients are float16

Outcome = Literal["done", "again", "diverged"]


class Weights:
    """Named tensors that are trained on a device. adam: arguments of AdamW.

    groups: names that share a factor of the learning rate, after that factor; None: 1 for all
    best, waited: the lowest loss that `judge_` was told, and how many judgements ago that was
    """

    def __init__(
        self,
        named: Mapping[str, Tensor],
        device: Device,
        autocast: str | None = None,
        groups: Sequence[tuple[float, Sequence[str]]] | None = None,
        **adam: Any,
    ) -> None:
        self.named, self.device, self.kind = dict(named), device, autocast
        for tensor in self.named.values():
            tensor.requires_grad_(True)
        # The fused kernel takes a third of the time; not every accelerator has it.
        adam = {"weight_decay": 0.0, "fused": device.type in ("cpu", "cuda"), **adam}
        shares = groups or [(1.0, list(self.named))]
        self.optimizer = torch.optim.AdamW(
            [{"params": [self.named[name] for name in names], "share": share} for share, names in shares if names], lr=0.0, **adam
        )
        self.scaler = torch.amp.GradScaler(device.type, SCALE, enabled=autocast == "float16")
        self.best, self.waited = math.inf, 0
        self._best: dict[str, Tensor] = {}

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The forward pass in the type that was asked for."""
        return torch.autocast(self.device.type, getattr(torch, self.kind)) if self.kind else contextlib.nullcontext()

    def clear_(self) -> None:
        for tensor in self.named.values():
            tensor.grad = None

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step_(self, rate: float, loss: float, crew: Crew | None = None, clip: float = CLIP) -> tuple[Outcome, float]:
        """A step with the gradients that are there, added up over all processes, and the whole loss. "again": it was not made,
        because float16 ended before the loss did; the next try has half the scale."""
        every = list(self.named.values())
        loss = crew.add_up_(every, loss) if crew else loss
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.scaler.unscale_(self.optimizer)
        total = torch.nn.utils.get_total_norm([tensor.grad for tensor in every if tensor.grad is not None])
        norm = float(total)
        outcome: Outcome = "done" if math.isfinite(norm) and math.isfinite(loss) else "diverged"
        if outcome == "done":
            if norm + 1e-6 > clip:  # below it, `clip_grad_norm_` would multiply every gradient by one
                torch.nn.utils.clip_grads_with_norm_(every, clip, total)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif math.isfinite(loss) and (scale := self.scaler.get_scale()) > 1:
            self.scaler.update(scale / 2)
            outcome = "again"
        self.clear_()
        return outcome, loss

    def judge_(self, loss: float) -> None:
        """Remember the weights if none had a lower loss on held-out data."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            self._best = {name: tensor.detach().clone() for name, tensor in self.named.items()}
        else:
            self.waited += 1

    def keep_best_(self) -> None:
        """Go back to the best weights that were judged; where none were, stay."""
        with torch.no_grad():
            for name, value in self._best.items():
                self.named[name].copy_(value)

    def snapshot(self, **state: Any) -> Snapshot:
        """All of it, and `state`, which JSON can hold."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.named.items():
            tensors[f"weight/{name}"] = tensor.detach().clone()
            for key, value in self.optimizer.state.get(tensor, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().clone()
        tensors |= {f"best/{name}": value.clone() for name, value in self._best.items()}
        own = {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited, "scaler": self.scaler.state_dict()}
        return Snapshot(tensors, {**own, **state})

    def restore_(self, snapshot: Snapshot) -> None:
        """Be as in the snapshot. Raises BadInput for one of other weights."""
        of: dict[str, dict[str, Tensor]] = {}
        for key, tensor in snapshot.tensors.items():
            kind, _, name = key.partition("/")
            of.setdefault(name, {})[kind] = tensor
        if of.keys() != self.named.keys():
            raise BadInput("this snapshot belongs to another model", "Allowed: the model that the run was started with")
        state = snapshot.state
        self.best, self.waited = math.inf if state["best"] is None else float(state["best"]), int(state["waited"])
        if state["scaler"]:
            self.scaler.load_state_dict(dict(state["scaler"]))
        self._best = {}
        for name, mine in self.named.items():
            kept = of[name]
            with torch.no_grad():
                mine.copy_(kept.pop("weight"))
            if (best := kept.pop("best", None)) is not None:
                self._best[name] = best.clone().to(mine.device)
            self.optimizer.state[mine] = {
                key: value.clone() if key == "step" else value.clone().to(mine.device) for key, value in kept.items()
            }


def rate_at(done: int, total: int, falling: bool) -> float:
    """The share of the learning rate after `done` of `total` steps: rising over the first part, then whole, or falling to zero in a
    straight line."""
    warm_up = max(1, round(total * WARM_UP))
    after = (total - done) / max(1, total - warm_up) if falling else 1.0
    return min(1.0, (done + 1) / warm_up, after)


@contextlib.contextmanager
def working(model: Model, device: Device, doing: str, number: int) -> Iterator[None]:
    """Training mode, and dropout that depends on `number` alone; outside, the model is one that can be used.

    Models without dropout leave the global random state untouched.
    """
    parts = list(model.module.modules())
    try:
        for part in parts:  # `train()` and `eval()` look up every child by name, which took a hundredth of a small model's step
            part.training = True
        with guard(device, doing), contextlib.ExitStack() as stack:
            if any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in parts):
                devices: Sequence[torch.device] = [] if device.is_cpu else [device.torch]
                stack.enter_context(torch.random.fork_rng(devices=devices, device_type=device.type))
                # torch.manual_seed asks every kind of device that torch knows, which took a twentieth of a small model's step
                torch.default_generator.manual_seed(number)
                if devices:
                    torch.get_device_module(device.torch).manual_seed_all(number)
            yield
    finally:
        for part in parts:
            part.training = False
