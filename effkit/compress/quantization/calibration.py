"""Calibration text as windows of tokens: the user's, the offline default, or what the model itself writes.

Text that a model writes follows its own distribution, so nothing has to be found, licensed or kept secret (the idea of
LLM-QAT; Liu et al. 2023, arXiv:2305.17888). It begins with a random token, and the first tokens are drawn at temperature 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effkit.models.decoding import Decoder
from effkit.models.model import Model
from effkit.models.texts.datasets import read_text, windows
from effkit.spec.errors import BadInput
from effkit.spec.progress import Progress, Work

GENERATED = "generated"
CLASSIFIED_AT_ONCE = 16
HELD_OUT = 8  # windows that decide whether tuning helped


def calibration(model: Model, text: Any, samples: int | None, window: int, batch: int = 8, seed: int = 0) -> Work[list[dict[str, Tensor]]]:
    """Batches of inputs for `model`: windows of `window` tokens, or whole texts for a classifier, spread evenly over the text.

    text: as for `read_text`, or "generated" (causal language models). samples: how many; None: all that fit.
    Raises BadInput where the text does not fill a single window.
    """
    window = min(window, model.window)
    if model.task == "causal-lm":
        if text == GENERATED:
            ids = yield from _generated(model, samples or 64, window, seed)
        else:
            ids = windows(read_text(text, part="train"), model, window, samples)
        return [{"input_ids": part.to(model.device.torch)} for part in ids.split(batch)]
    if text == GENERATED:
        check_writes(model)
    given = read_text(text, part="train")
    texts = list(given.documents) if len(given.documents) > 1 else [line for line in given.text.splitlines() if line.strip()]
    if samples is not None and len(texts) > samples:
        texts = [texts[i] for i in torch.linspace(0, len(texts) - 1, samples).round().int().tolist()]
    # texts of about one length share a batch; a tokenizer without padding reads them one by one
    texts.sort(key=len)
    size = CLASSIFIED_AT_ONCE if model.tokenizer.pad_token_id is not None else 1
    batches = []
    for start in range(0, len(texts), size):
        coded = model.tokenizer(texts[start : start + size], padding=size > 1, truncation=True, max_length=window, return_tensors="pt")
        batches.append({name: coded[name].to(model.device.torch) for name in ("input_ids", "attention_mask")})
    return batches


def check_writes(model: Model) -> None:
    """BadInput for a model that cannot write its own calibration text."""
    if model.task != "causal-lm":
        raise BadInput("calibration is 'generated'", "A classifier writes no text", "Give texts of the kind that it will read")


def _generated(model: Model, samples: int, window: int, seed: int) -> Work[Tensor]:
    """Windows [samples, window] sampled token by token, all at once; the same seed gives the same text on one device."""
    draw = torch.Generator().manual_seed(seed)
    special, known = set(model.tokenizer.all_special_ids), model.checkpoint.vocabulary or len(model.tokenizer)
    ordinary = [i for i in range(min(len(model.tokenizer), known)) if i not in special]
    written = torch.tensor(ordinary)[torch.randint(len(ordinary), (samples, 1), generator=draw)]
    decoder = Decoder(model, length=window, batch=samples)
    for length in range(1, window):
        with torch.no_grad():
            whole = length == 1 or not decoder.caches
            logits = decoder.read(written.to(model.device.torch)) if whole else decoder.step(written[:, -1:].to(model.device.torch))
        written = torch.cat([written, torch.multinomial(torch.softmax(logits.float().cpu(), dim=-1), 1, generator=draw)], dim=1)
        yield Progress("quantize", length, window, "tokens", "the model writes calibration text")
    return written


def split(batches: list[dict[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Windows [window] to train on, and those held out: every tenth, at least one, at most HELD_OUT."""
    ids = [row for batch in batches for row in batch["input_ids"]]
    if len(ids) < 2:
        raise BadInput(
            f"the calibration text fills {len(ids)} window",
            "Tuning needs at least 2: one to train on, one held out",
            "Give more text, a shorter window, or more samples",
        )
    count = min(HELD_OUT, max(1, len(ids) // 10))
    held = set(torch.linspace(0, len(ids) - 1, count + 2)[1:-1].round().long().tolist()) or {len(ids) - 1}
    return [x for i, x in enumerate(ids) if i not in held], [ids[i] for i in sorted(held)]
