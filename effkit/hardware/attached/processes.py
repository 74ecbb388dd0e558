"""Several processes that train together, one device each, as `accelerate launch` or `torchrun` starts them.

The gradient of a batch is a sum over its rows, so each process works on a share of them and the sums are added up (data
parallelism; Li et al. 2020, arXiv:2006.15704). All processes hold the same weights before and after every step.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from .device import Device

T = TypeVar("T")


@dataclass(frozen=True)
class Crew:
    """This process and how many there are. A single one needs no library."""

    rank: int = 0
    size: int = 1

    def share(self, parts: Sequence[T]) -> list[T]:
        """What this process works on: every size-th part, beginning with its own number."""
        return list(parts[self.rank :: self.size])

    def add_up_(self, parameters: Sequence[Tensor], value: float) -> float:
        """Replace each gradient by the sum over all processes, a missing one counting as zero; the sum of `value` too."""
        if self.size == 1:
            return value
        import torch
        from accelerate.utils import reduce

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        whole = torch.cat([*(g.flatten().float() for g in gradients), gradients[0].new_tensor([value], dtype=torch.float32)])
        added: Tensor = reduce(whole, reduction="sum")  # type: ignore[assignment]
        for parameter, part in zip(parameters, added[:-1].split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        return float(added[-1])

    def meet(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def crew(device: Device) -> Crew:
    """The processes that were started together: told by the environment that their launcher sets; else this one alone."""
    return _joined(device.is_cpu) if launched() else Crew()


def launched() -> bool:
    """Whether this process is one of several that a launcher started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def helps() -> bool:
    """Whether this process only works along: of several that were launched together the first one writes what they make."""
    return launched() and int(os.environ.get("RANK", "0")) > 0


@cache
def _joined(cpu: bool) -> Crew:
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    atexit.register(state.destroy_process_group)  # which PyTorch asks for
    return Crew(state.process_index, state.num_processes)
