"""`classifier`: any model that `load` knows, or an encoder without a head, as a classifier of given classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from effkit.hardware.attached.device import Device
from effkit.hardware.attached.device import device as find_device
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work, long_work

from .default import BUILT_IN
from .encoder import NEW_HEAD, NO_HEAD, built_in_encoder, headed, read_encoder
from .files.hub import download
from .loading import Raw, load, locate, settle
from .model import Model
from .stored.storage import is_replaced

ENCODER = "minilm-l6"


@long_work
def classifier(
    base: str | Path | Model = ENCODER,
    classes: Sequence[str] = ("0", "1"),
    *,
    seed: int = 0,
    device: str | torch.device | Device = "auto",
) -> Work[Model]:
    """A sequence classifier with the body of `base` and a new head for `classes`, in float32.

    base: "minilm-l6" (built in), another built-in name, a folder or hub id of an encoder or causal language model, or a
          loaded Model. The order of `classes` is the order of the logits.
    seed: of the head's weights, normal with the model's own initializer_range.

    Raises BadInput (fewer than two classes, one twice, a family without classifiers), Unavailable.
    `classifier(classes=["no", "yes"]).checkpoint.parameters` is 22566146.
    """
    names = tuple(map(str, classes))
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"classes is {list(names)!r}", "Allowed: at least two different names", "Take the classes of the labelled set")
    target = find_device(device)
    facts: dict[str, Any] = {}
    if isinstance(base, Model):
        source, raw = base.checkpoint.source, _of_model(base, names, seed)
    else:
        kind, place = locate(base)
        source = str(place)
        yield Progress("load", 0, 2, "steps", f"looking at {source}")
        if kind == "built-in" and source == ENCODER:
            raw = Raw(*(yield from built_in_encoder(source, BUILT_IN[source], names, seed)))
        elif kind == "built-in" or Path(source).suffix == ".gguf":
            raw = _of_model((yield from load.work(base, device="cpu", dtype="float32")), names, seed)
        else:
            folder = Path(source)
            if kind == "hub":
                folder, facts = yield from download(source, None)
            raw = Raw(*(yield from read_encoder(folder, source, names, seed)))
    model = yield from settle(raw, source, facts, target, torch.float32)
    return replace(model, origin=None)


def _of_model(model: Model, classes: tuple[str, ...], seed: int) -> Raw:
    """The classifier around a copy of a model's body."""
    if any(is_replaced(module) for module in model.module.modules()):
        raise BadInput(
            f"{model.checkpoint.source} is quantized ({model.recipe.label()})", "Allowed: a model whose weights can be trained",
            "Make the classifier first and quantize it last",
        )  # fmt: skip
    state = {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in model.module.state_dict().items()}
    head = tuple(f"{name}." for name, _ in model.module.named_children() if name != model.module.base_model_prefix)
    body = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    tokenizer = copy.deepcopy(model.tokenizer)
    module = headed(model.config.to_dict(), body, tokenizer, model.checkpoint.source, classes, seed)
    point = model.checkpoint
    stale = (NO_HEAD, NEW_HEAD.partition("{")[0])
    notes = [note for note in point.notes if not note.startswith(stale)]
    notes += [f"Its body is {model.recipe.label()}."] if model.recipe.steps else []
    notes.append(NEW_HEAD.format(count=len(classes), seed=seed))
    return Raw(module, tokenizer, {"revision": point.revision, "licence": point.licence, "notes": tuple(notes)})
