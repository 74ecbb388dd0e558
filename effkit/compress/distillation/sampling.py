"""Text that a model writes for training: the teacher's (sequence-level distillation; Kim and Rush 2016, arXiv:1606.07947)
or the student's own (on-policy; Agarwal et al. 2023, arXiv:2306.13649)."""

from __future__ import annotations

import torch

from effkit.hardware.attached.memory import guard
from effkit.models.model import UNCHANGED, Model
from effkit.spec.errors import BadInput

from .material import Batch


def continued(writer: Model, batch: Batch, seed: int) -> Batch:
    """The second half of every window written anew by `writer`, sampled at temperature 1; only there it is scored.

    The same seed writes the same text on one device. Raises BadInput for windows of fewer than 4 tokens.
    """
    assert batch.ids is not None
    length = batch.ids.shape[1]
    if length < 4:
        raise BadInput(f"window is {length} tokens", "Allowed for written text: at least 4, half of them to begin with")
    from transformers import GenerationConfig

    prompt, device = length // 2, writer.device.torch
    config = GenerationConfig(
        do_sample=True, temperature=1.0, **UNCHANGED, max_new_tokens=length - prompt, min_new_tokens=length - prompt, pad_token_id=0,
        use_cache=True,
    )  # fmt: skip
    given = batch.ids[:, :prompt].to(device)
    # generation draws from the global random state, which is left as it was
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        training = writer.module.training
        writer.module.eval()  # a student that writes between two steps of its training writes without dropout
        try:
            with torch.no_grad(), guard(device, "writing text to train on"):
                ids = writer.module.generate(  # type: ignore[operator]
                    given, attention_mask=torch.ones_like(given), generation_config=config
                )
        finally:
            writer.module.train(training)
    scored = torch.zeros(ids.shape, dtype=torch.bool)
    scored[:, prompt - 1 : -1] = True  # a position's logits are about the token after it
    return Batch(ids.cpu(), scored=scored)
