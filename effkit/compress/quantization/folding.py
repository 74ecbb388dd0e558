"""Per-channel factors that are folded into the weights before a linear layer: the layer computes the same, its weights change.

y = W x = (W diag(s)) (x / s): the columns of W are multiplied by s, and what makes x (a norm's weight, or the rows of the
linear before it) is divided by s. Who may take the division is not looked up by architecture: a norm whose output the
linears read, the up projection before the down projection, the values before the attention's output are candidates, and
one is used only where powers of two, which lose nothing, leave the layer's output as it was. So grouped heads, norms that
store their weight less one and tensors that are read elsewhere too fall out by themselves.

Factors are kept by name: "module/columns" (of its inputs) and "module/rows" (of its outputs, or of a norm's weight).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from effkit.models.stored.storage import is_replaced

from .planning import as_matrix
from .streaming import Stream, same_memory

BEFORE = {"down_proj": "up_proj", "o_proj": "v_proj"}  # linears between which only products by channel may lie


@dataclass(frozen=True)
class Pair:
    """`readers` are linears that read what `source`, a norm or a linear, makes. Names inside the layer."""

    source: str
    readers: tuple[str, ...]


def pairs(stream: Stream, index: int) -> list[Pair]:
    """The pairs of a layer between which factors can move, in the order in which they run."""
    layer = stream.layers[index]
    prefix = f"{stream.name}.{index}."
    linears = [name for name in stream.inside(layer) if not is_replaced(layer.get_submodule(name))]
    made: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}

    def note(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, out: object) -> None:
            if isinstance(out, Tensor):
                made[name] = out
            if args:
                read[name] = args[0]

        return hook

    norms = [n for n, m in layer.named_modules() if _is_norm(m)]
    hooks = [layer.get_submodule(name).register_forward_hook(note(name)) for name in (*norms, *linears)]
    try:
        stream.run(layer, index, 0)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for group in stream.groups(index, {prefix + name for name in linears}):
        if group[0] not in read:
            continue
        source = next((n for n in norms if n in made and same_memory(made[n], read[group[0]])), None)
        if source is None and len(group) == 1:
            path, _, leaf = group[0].rpartition(".")
            before = f"{path}.{BEFORE[leaf]}" if leaf in BEFORE else None
            source = before if before in linears else None
        if source is not None and _holds(stream, index, pair := Pair(source, tuple(group))):
            found.append(pair)
    return found


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 1 and not list(module.children())


def _holds(stream: Stream, index: int, pair: Pair) -> bool:
    layer = copy.deepcopy(stream.layers[index])
    width = as_matrix(layer.get_submodule(pair.readers[0])).shape[1]
    if len(as_matrix(layer.get_submodule(pair.source))) != width:
        return False  # grouped heads: one value channel serves several inputs
    before = stream.run(layer, index, 0)
    s = 2.0 ** ((torch.arange(width, device=before.device) * 7) % 3 - 1)
    fold_layer_(layer, factors(pair, s))
    after = stream.run(layer, index, 0)
    return bool((after - before).abs().amax() <= 1e-4 * before.abs().amax())


def factors(pair: Pair, s: Tensor) -> dict[str, Tensor]:
    """The factors by name with which a pair's readers have their columns multiplied by s [columns]."""
    return {f"{pair.source}/rows": 1 / s} | {f"{name}/columns": s for name in pair.readers}


def fold_layer_(module: nn.Module, folds: Mapping[str, Tensor], prefix: str = "", done: Collection[str] = ()) -> None:
    """Fold into the modules whose names, behind `prefix`, the factors bear; those that are `done` have theirs already."""
    names = {key.rpartition("/")[0] for key in folds if key.startswith(prefix)}
    for name in sorted(names):
        if name in done:
            continue
        part, rows = module.get_submodule(name.removeprefix(prefix)), folds.get(f"{name}/rows")
        with torch.no_grad():
            weight: Tensor = part.weight  # type: ignore[assignment]
            if weight.dim() == 1 and rows is not None:
                weight.copy_(weight.float() * rows.to(weight.device))
            elif weight.dim() == 2:
                exact = folded(as_matrix(part), name, folds)
                weight.copy_(exact.t() if isinstance(part, Conv1D) else exact)
            bias = getattr(part, "bias", None)
            if rows is not None and bias is not None:
                bias.copy_(bias.float() * rows.to(bias.device))


def folded(weight: Tensor, name: str, folds: Mapping[str, Tensor]) -> Tensor:
    """The weight [rows, columns] of the module `name` with its factors; itself where it has none."""
    rows, columns = folds.get(f"{name}/rows"), folds.get(f"{name}/columns")
    if rows is None and columns is None:
        return weight
    exact = weight.float()
    if columns is not None:
        exact = exact * columns.to(weight.device)
    if rows is not None:
        exact = exact * rows.to(weight.device).unsqueeze(1)
    return exact.to(weight.dtype)
