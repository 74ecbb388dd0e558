"""A step of the weights in training: gradients are clipped as PyTorch does it, and only while one is made its parts are in training."""

from __future__ import annotations

import pytest
import torch

from effkit.compress.weights import Weights, working
from effkit.hardware.attached.device import device


@pytest.mark.parametrize("size", [0.01, 1.0 / 3, 0.999999, 1.0, 1.000001, 7.0])
def test_gradients_are_clipped_as_pytorch_does_it(size):
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 5), (4,))]
    slopes = [torch.full_like(tensor, size / 19**0.5) for tensor in start]  # together their norm is `size`
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in start] for _ in range(2))
    weights = Weights({"a": ours[0], "b": ours[1]}, device("cpu"))
    adam = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.0, fused=True)
    for _ in range(3):
        for tensors in (ours, theirs):
            for tensor, slope in zip(tensors, slopes, strict=True):
                tensor.grad = slope.clone()
        assert weights.step_(0.1, 1.0) == ("done", 1.0)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adam.step()
        assert all(tensor.grad is None for tensor in ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(weights.optimizer.state[mine]["exp_avg"], adam.state[other]["exp_avg"])


def test_every_part_trains_inside_and_none_afterwards(tiny_classifier):
    parts, seen = list(tiny_classifier.module.modules()), []

    def stopped():
        with working(tiny_classifier, tiny_classifier.device, "testing", 3):
            seen.extend(part.training for part in parts)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    assert all(seen)
    assert len(seen) == len(parts)
    assert not any(part.training for part in parts)
