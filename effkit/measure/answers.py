"""A classifier's answers to many texts, in batches of texts of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effkit.hardware.memory import guard
from effkit.models.model import Model
from effkit.spec.progress import Progress, Work

from .coder import Coder, in_batches


def answers(model: Model, texts: Sequence[str], window: int = 128, batch: int = 64, autocast: str | None = None) -> Work[Tensor]:
    """Logits [texts, classes] in float32 on the CPU. Texts are cut to `window` tokens."""
    coder = Coder(model, window)
    coded = [coder(text) for text in texts]
    out = torch.zeros(len(texts), int(model.config.num_labels))
    device, done, kind = model.device.torch, 0, getattr(torch, autocast or "bfloat16")
    for rows in in_batches(coded, batch):
        ids, mask = (t.to(device) for t in coder.batch([coded[i] for i in rows]))
        with torch.inference_mode(), guard(model.device, "answering"), torch.autocast(device.type, kind, enabled=autocast is not None):
            out[rows] = model.module(input_ids=ids, attention_mask=mask).logits.float().cpu()
        done += len(rows)
        yield Progress("answer", done, len(texts), "texts")
    return out
