"""Quantization-aware distillation measures and trains the very student that will be stored."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.losses import forward_kl
from effkit.compress.distillation.material import windows_for
from effkit.compress.distillation.rounded import RoundedForward

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
FOUR = ek.Quantize(method="rtn", bits=4, group_size=16)


@pytest.mark.parametrize("train", ["blocks", "all"])
def test_its_held_out_loss_is_that_of_the_quantized_student(tiny_llama, train):
    pruned = ek.prune(tiny_llama, layers=2)
    way = {"text": TEXT, "steps": 6, "window": 32, "batch": 2, "learning_rate": 3e-3, "train": train}
    run = ek.start(ek.distill, tiny_llama, pruned, quantize=FOUR, **way)
    stored = ek.quantize(run.wait(), method="rtn", bits=4, group_size=16)
    held = windows_for(pruned, TEXT, 32).held_out
    said = [forward_kl(stored.logits(window[None]), tiny_llama.logits(window[None])) for window in held]
    curve = run.curve("held_out")
    assert [step for step, _ in curve] == list(range(7))
    assert curve[-1][1] == pytest.approx(float(torch.stack(said).mean()), rel=1e-4)
    assert curve[-1][1] < curve[0][1]


def test_only_what_is_trained_is_rounded_again(tiny_llama):
    student = ek.prune(tiny_llama, layers=2)
    blocks = {name: p.requires_grad_("layers" in name) for name, p in student.module.named_parameters()}
    forward = RoundedForward(student, FOUR)
    first = forward.weights()
    with torch.no_grad():
        for parameter in blocks.values():
            parameter.mul_(1.5)
    second = forward.weights()
    assert {name: torch.equal(first[name], second[name]) for name in first} == {name: "layers" not in name for name in first}
