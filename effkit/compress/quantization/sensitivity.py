"""How much each module's rounding would change the model's output, from one backward pass over calibration text.

Near the base, KL(base || changed) is half a quadratic form in the change, whose matrix is the Fisher information. With
labels y drawn from the model's own predictions, and x_t and g_t the input of a linear layer and the gradient of the loss
-log p(y) at its output for token t, a change D of its weight adds

    KL  ~  1/2 * mean over tokens t of (g_t' D x_t)^2                (nats a token)

taken as if tokens and modules were independent. D is what rounding to each width really does; the widths above 4 bits
are scaled from 4 by the ratio of their squared errors (Fisher: Martens 2014, arXiv:1412.1193; its use for choosing bits:
HAWQ, Dong et al. 2019, arXiv:1905.03696).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from effkit.hardware.attached.memory import guard
from effkit.measure.checks import whole
from effkit.models.ledger import layer_of
from effkit.models.model import Model
from effkit.models.stored.packed import PackedWeight
from effkit.spec.allocation import Allocation, Choice, Sensitive, Sensitivity
from effkit.spec.errors import BadInput, bytes_text, choice
from effkit.spec.plan import ModulePlan
from effkit.spec.progress import Progress, Work, long_work
from effkit.spec.recipe import BITS, KEPT, Quantize, step_of

from .calibration import calibration as calibrated
from .planning import as_matrix, embedding_name, head_name, plan_quantize, scale_of, tied_head
from .rounding import searched_values

MEASURED = (2, 3, 4)  # widths whose change is passed through the layer; others and other forms follow from their squared errors
SAMPLE = 256  # rows of a weight on which these errors are compared
TRIES = 5  # ranges for each group
ROWS = 1 << 22  # weights rounded at once
GROUPS = (32, 48, 64, 96, 128)
TOKENS = 64  # of every window whose inputs and slopes are kept


@long_work
def sensitivity(
    model: Model,
    text: Any = None,
    bits: int | tuple[int, ...] = (2, 3, 4, 5, 6, 8),
    group_size: int | Literal["auto"] | None = "auto",
    symmetric: bool = False,
    samples: int = 8,
    window: int = 256,
    vocabulary: bool = True,
    seed: int = 0,
) -> Work[Sensitivity]:
    """What every width in `bits` would cost each module of `model` in bytes and KL; `.allocate(bytes)` then chooses.

    text: calibration text, None for the offline default, "generated"; `samples` windows of `window` tokens are read
    vocabulary: the token embedding and the head are to be quantized too
    A module whose output the text never asked for (an expert that no token chose) has one choice: to stay as it is.

    Raises BadInput (a classifier: its answers are no next tokens; unknown bits). The KL of tied embedding and head are added.
    """
    work = _formats(model, text, _widths(bits), [(group_size, symmetric)], samples, window, vocabulary, seed)
    return (yield from work)[0]


@long_work
def best_format(
    model: Model,
    text: Any = None,
    bytes: int | None = None,
    bits_per_weight: float | None = None,
    bits: int | tuple[int, ...] = (2, 3, 4, 5, 6, 8),
    samples: int = 8,
    window: int = 256,
    seed: int = 0,
) -> Work[tuple[Sensitivity, Allocation]]:
    """The group size and form (with or without zero points) that promise the least KL for a budget, and the bits of every module.

    bytes: of the whole model, embedding and head quantized too; or bits_per_weight: of the linear layers alone, scales and
    zero points counted. Groups of 32, 48, 64, 96 and 128 are tried where they divide every row. Small groups fit the weights
    better, large ones leave more bytes for the weights themselves. Raises BadInput where the budget is too small or not given.
    """
    if (bytes is None) == (bits_per_weight is None):
        raise BadInput("bytes and bits_per_weight are both given, or neither is", "Allowed: exactly one of them")
    widths = {as_matrix(m).shape[1] for m in model.module.modules() if isinstance(m, nn.Linear | Conv1D)}
    groups = [g for g in GROUPS if all(width % g == 0 for width in widths)] or ["auto"]
    forms = [(group, symmetric) for group in groups for symmetric in (True, False)]
    found = yield from _formats(model, text, _widths(bits), forms, samples, window, bytes is not None, seed)
    best: tuple[Sensitivity, Allocation] | None = None
    for one in found:
        weights = sum(m.weights for m in one.modules)
        budget = bytes if bytes is not None else one.fixed_bytes + int(float(bits_per_weight or 0) * weights / 8)
        if budget < one.smallest:
            continue
        allocation = one.allocate(budget)
        if best is None or allocation.kl < best[1].kl:
            best = one, allocation
    if best is None:
        asked = bytes_text(bytes) if bytes is not None else f"{bits_per_weight} bits a weight"
        least = min(found, key=lambda one: one.smallest)
        raise BadInput(f"a budget of {asked} is too small", least.told_smallest, "Give more, or allow fewer bits")
    return best


def _widths(bits: int | Sequence[int]) -> tuple[int, ...]:
    """By rising bits, each once."""
    given = (bits,) if isinstance(bits, int) else tuple(bits)
    wrong = [b for b in given if b not in BITS]
    if wrong or not given:
        raise choice("bits", wrong[0] if wrong else given, BITS)
    return tuple(sorted(set(given)))


def _formats(
    model: Model, text: Any, bits: tuple[int, ...], forms: list[tuple[Any, bool]], samples: int, window: int, vocabulary: bool, seed: int
) -> Work[list[Sensitivity]]:
    """A Sensitivity for every (group size, symmetric), from the same passes over the text."""
    if model.task != "causal-lm":
        raise BadInput(f"{model.checkpoint.source} is a classifier", "Allowed: a causal language model", "Quantize with one width for all")
    whole("samples", samples, 1)
    whole("window", window, 2)
    tables = 8 if vocabulary else None
    steps = [
        step_of(Quantize, method="rtn", bits=min(bits), group_size=group, symmetric=symmetric, embedding_bits=tables)
        for group, symmetric in forms
    ]
    plans = [{p.module: p for p in plan_quantize(model, step).acting()} for step in steps]
    batches = yield from calibrated(model, text, samples, window, batch=1, seed=seed)
    reader = _Reader(model, plans[0])
    draw = torch.Generator().manual_seed(seed)
    chosen: list[list[Sensitive]] = [[] for _ in forms]
    with guard(model.device, "measuring sensitivity"):
        for number, batch in enumerate(batches):
            yield Progress("sensitivity", number, len(batches), "windows", "one backward pass a window")
            reader.read(batch, draw)
        for number, name in enumerate(plans[0]):
            yield Progress("sensitivity", number, len(plans[0]), "modules", name)
            for i, (_, symmetric) in enumerate(forms):
                chosen[i].append(reader.sensitive(plans[i][name], bits, symmetric))
                if i + 1 < len(forms):
                    yield Progress("sensitivity", number, len(plans[0]), "modules", name)
            reader.forget_(name)
    yield Progress("sensitivity", len(plans[0]), len(plans[0]), "modules", "done")
    name = "default" if text is None else text if isinstance(text, str) and len(text) < 200 else "given text"
    fixed = model.stored_bytes - sum(p.bytes_before for p in plans[0].values())
    return [
        Sensitivity(
            source=model.checkpoint.source, text=name, group_size=group, symmetric=symmetric, modules=tuple(modules), fixed_bytes=fixed
        )
        for (group, symmetric), modules in zip(forms, chosen, strict=True)
    ]


class _Reader:
    """Inputs and gradients of every module, and what they say about a change of its weight."""

    def __init__(self, model: Model, planned: dict[str, ModulePlan]) -> None:
        self.model = model
        self.inputs: dict[str, list[Tensor]] = {}
        self.slopes: dict[str, list[Tensor]] = {}
        self.measured: dict[str, dict[int, tuple[float, float]]] = {}  # width: KL and squared error of some rows
        self.table, self.head = embedding_name(model), head_name(model)
        self.uses = {name: [name] for name in planned}
        if self.table in planned and tied_head(model):
            self.uses[self.table] = [self.table, str(self.head)]  # one weight, read in two places

    def read(self, batch: dict[str, Tensor], draw: torch.Generator) -> None:
        """One pass forwards and one backwards, with labels drawn from the model's own predictions."""
        module = self.model.module
        length = batch["input_ids"].shape[1]
        kept = torch.linspace(0, length - 1, min(TOKENS, length)).round().long().to(batch["input_ids"].device)
        wanted = {use for uses in self.uses.values() for use in uses}
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Callable:
            def hook(part: nn.Module, args: tuple, out: Tensor) -> Tensor:
                # the embedding's output starts the graph: no weight needs a gradient
                out = out if out.requires_grad else out.detach().requires_grad_()
                x = args[0].flatten(0, -2) if args[0].is_floating_point() else args[0].flatten()  # a batch is one window
                self.inputs.setdefault(name, []).append(x.detach()[kept])
                outputs[name] = out
                return out

            return hook

        names = wanted | {self.table}
        hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in sorted(names)]
        try:
            with torch.enable_grad():
                logits = module(**batch, use_cache=False).logits.float().flatten(0, 1)
                with torch.no_grad():
                    drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=draw).to(logits.device).squeeze(1)
                loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
                order = sorted(outputs)
                slopes = torch.autograd.grad(loss, [outputs[name] for name in order], allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        for name, slope in zip(order, slopes, strict=True):
            if name in wanted and slope is not None:
                self.slopes.setdefault(name, []).append(slope.detach().flatten(0, -2)[kept])
            elif name not in wanted:
                self.inputs.pop(name, None)

    def forget_(self, name: str) -> None:
        for use in self.uses[name]:
            self.inputs.pop(use, None)
            self.slopes.pop(use, None)

    def sensitive(self, planned: ModulePlan, bits: tuple[int, ...], symmetric: bool) -> Sensitive:
        """One module's choices in one form."""
        name = planned.module
        module = self.model.module.get_submodule(name)
        weight = as_matrix(module)
        rows, columns = weight.shape
        group = planned.group_size or columns
        symmetric = symmetric and name not in (self.table, self.head)
        seen = any(use in self.slopes for use in self.uses[name])  # of what the text never reached, nothing is known
        kl = self._kl(name, weight, bits, group, symmetric) if seen else {}
        bias = getattr(module, "bias", None)
        beside = 0 if bias is None else bias.numel() * bias.element_size()
        choices = [Choice(bits=b, bytes=PackedWeight.predicted_bytes(rows, columns, b, group, symmetric) + beside, kl=kl[b]) for b in kl]
        choices.append(Choice(bits=KEPT, bytes=planned.bytes_before, kl=0.0))
        return Sensitive(module=name, kind=planned.kind, layer=layer_of(name), weights=rows * columns, choices=tuple(choices))

    @torch.no_grad()
    def _kl(self, name: str, weight: Tensor, bits: tuple[int, ...], group: int, symmetric: bool) -> dict[int, float]:
        """KL of every width: passed through the layer once for a module, for other widths and forms by their squared errors."""
        wide = tuple(b for b in MEASURED if b in bits) or (min(bits),)
        sample = weight[torch.linspace(0, len(weight) - 1, min(SAMPLE, len(weight)), device=weight.device).round().long()].float()
        errors = {b: float((searched_values(sample, b, group, symmetric, tries=TRIES) - sample).square().sum()) for b in bits}
        if name not in self.measured:
            along = self._along(name, weight, wide, group, symmetric)
            self.measured[name] = {b: (along[b], max(errors[b], 1e-30)) for b in wide}
        known = self.measured[name]
        return {b: known[at][0] * errors[b] / known[at][1] for b in bits for at in (min(b, max(known)),)}

    def _along(self, name: str, weight: Tensor, bits: tuple[int, ...], group: int, symmetric: bool) -> dict[int, float]:
        """The estimate itself, for some widths."""
        uses = [(torch.cat(self.inputs[use]), torch.cat(self.slopes[use]).float()) for use in self.uses[name] if use in self.slopes]
        by = scale_of(self.model.module.get_submodule(self.table))
        uses = [(x, slope if x.is_floating_point() else slope * by) for x, slope in uses]
        along = {b: [torch.zeros(len(slope), device=weight.device) for _, slope in uses] for b in bits}
        rows = max(1, ROWS // weight.shape[1])
        for start in range(0, len(weight), rows):
            part = slice(start, min(start + rows, len(weight)))
            exact = weight[part].float()
            for b in bits:
                change = searched_values(exact, b, group, symmetric, tries=TRIES) - exact
                for total, (x, slope) in zip(along[b], uses, strict=True):
                    total += _along(change, x, slope, part)
        return {b: sum(0.5 * float(t.square().mean()) for t in totals) for b, totals in along.items()}


def _along(change: Tensor, x: Tensor, slope: Tensor, part: slice) -> Tensor:
    """g_t' D x_t for every token, of the rows `part` of the weight."""
    if x.is_floating_point():
        return (nn.functional.linear(x.float(), change) * slope[:, part]).sum(-1)
    inside = (x >= part.start) & (x < part.stop)  # a lookup reads one row
    found = torch.zeros(len(x), device=x.device)
    found[inside] = (change[x[inside] - part.start] * slope[inside]).sum(-1)
    return found
