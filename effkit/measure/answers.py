"""A classifier's answers to many texts, in batches of texts of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effkit.hardware.attached.memory import guard
from effkit.models.model import Model
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work

from .checks import evaluating, whole
from .coder import Coder, in_batches

CHUNK = 2048  # texts tokenized at once


def answers(model: Model, texts: Sequence[str], window: int = 128, batch: int = 64, autocast: str | None = None) -> Work[Tensor]:
    """Logits [texts, classes] in float32 on the CPU. Texts are cut to `window` tokens, padded and masked: the batch changes the
    speed, and the result by no more than rounding (1e-5).

    Raises BadInput for what is no classifier or no text, and for logits that are not finite.
    """
    if model.task != "sequence-classification":
        raise BadInput(
            f"{model.checkpoint.source} is a {model.task} model",
            "Allowed: a sequence classifier",
            "Give it a head: effkit.models.classifying",
        )
    whole("batch", batch, 1)
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise BadInput(f"the texts hold {wrong!r}, a {type(wrong).__name__}", "Allowed: strings")
    coder, coded = Coder(model, window), []
    for first in range(0, len(texts), CHUNK):
        coded += coder.many(texts[first : first + CHUNK])
        yield Progress("answer", 0, len(texts), "texts", "reading the texts")
    out = torch.zeros(len(texts), int(model.config.num_labels))
    device, done, kind = model.device.torch, 0, getattr(torch, autocast or "bfloat16")
    alone = model.config.pad_token_id is None  # a causal model without a padding token reads one text at a time
    for rows in in_batches(coded, 1 if alone else batch):
        ids, mask = (t.to(device) for t in coder.batch([coded[i] for i in rows]))
        with (
            torch.inference_mode(), evaluating(model.module), guard(model.device, "answering"),
            torch.autocast(device.type, kind, enabled=autocast is not None),
        ):  # fmt: skip
            logits = model.module(input_ids=ids, attention_mask=mask).logits.float().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise BadInput(f"the logits of {model.checkpoint.source} are not finite", "Allowed: finite logits", "Train it again")
        out[rows] = logits
        done += len(rows)
        yield Progress("answer", done, len(texts), "texts")
    return out
