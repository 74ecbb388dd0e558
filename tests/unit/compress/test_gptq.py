"""GPTQ against a direct computation of its paper, and what it must do where second moments are singular."""

from __future__ import annotations

import pytest
import torch

from effkit.compress.quantization.factoring import DAMPING
from effkit.compress.quantization.methods.gptq import gptq
from effkit.compress.quantization.rounding import Rounded, fit, round_to_nearest
from effkit.spec.progress import finish

BITS, GROUP = 3, 16


def problem(rows: int = 24, columns: int = 160, tokens: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and correlated inputs of unequal size, as a layer sees them."""
    draw = torch.Generator().manual_seed(3)
    mix = torch.randn(columns, columns, generator=draw) * torch.linspace(0.2, 2.0, columns)[torch.randperm(columns, generator=draw)]
    return torch.randn(rows, columns, generator=draw), torch.randn(tokens, columns, generator=draw) @ mix / 8


def values(rounded: Rounded) -> torch.Tensor:
    integers, scales, zeros = rounded
    offset = 2.0 ** (BITS - 1) if zeros is None else zeros.float().unsqueeze(-1)
    grouped = integers.float().reshape(*scales.shape, -1)
    return ((grouped - offset) * scales.float().unsqueeze(-1)).reshape(integers.shape)


def output_error(rounded: Rounded, weight: torch.Tensor, x: torch.Tensor) -> float:
    return float((x @ (values(rounded) - weight).t()).square().mean())


def direct(weight: torch.Tensor, hessian: torch.Tensor, symmetric: bool) -> torch.Tensor:
    """Optimal brain surgeon as the paper states it: the inverse of H over what is left is computed anew after every input."""
    w, h = weight.double().clone(), hessian.double().clone()
    scales, zeros = fit(weight, BITS, GROUP, symmetric, torch.float16, hessian.diagonal())
    scales = scales.double().repeat_interleave(GROUP, dim=1)
    offset = torch.full_like(scales, 2.0 ** (BITS - 1)) if zeros is None else zeros.double().repeat_interleave(GROUP, dim=1)
    h.diagonal().add_(DAMPING * float(hessian.diagonal().mean()))
    left = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()
    chosen = torch.zeros_like(w)
    while left:
        inverse = torch.linalg.inv(h[left][:, left])
        j = left[0]
        chosen[:, j] = (torch.round(w[:, j] / scales[:, j]) + offset[:, j]).clamp(0, 2**BITS - 1)
        lost = w[:, j] - (chosen[:, j] - offset[:, j]) * scales[:, j]
        w[:, left] -= (lost / inverse[0, 0]).unsqueeze(1) * inverse[0].unsqueeze(0)
        left = left[1:]
    return chosen


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_is_the_papers_algorithm_and_beats_rounding_to_nearest(symmetric):
    weight, x = problem()
    hessian = x.t() @ x
    ours = finish(gptq(weight, hessian, BITS, GROUP, symmetric, torch.float16))
    expected = direct(weight, hessian, symmetric)
    assert float((ours.integers.double() == expected).double().mean()) > 0.99  # a tie may fall the other way
    naive = Rounded(expected.to(torch.uint8), ours.scales, ours.zeros)
    assert output_error(ours, weight, x) == pytest.approx(output_error(naive, weight, x), rel=0.01)
    assert output_error(ours, weight, x) < 0.6 * output_error(round_to_nearest(weight, BITS, GROUP, symmetric, torch.float16), weight, x)


def test_groups_and_their_scales_do_not_follow_the_order_of_activations():
    weight, x = problem()
    hessian = x.t() @ x
    ours = finish(gptq(weight, hessian, BITS, GROUP, False, torch.float16))
    scales, zeros = fit(weight, BITS, GROUP, False, torch.float16, hessian.diagonal())
    assert torch.equal(ours.scales, scales)
    assert ours.zeros is not None
    assert zeros is not None
    assert torch.equal(ours.zeros, zeros)
    # the input that is rounded first moves no further than the grid itself: it has nothing to make good
    first = int(hessian.diagonal().argmax())
    step = scales.float()[:, first // GROUP]
    nearest = (torch.round(weight[:, first] / step) + zeros.float()[:, first // GROUP]).clamp(0, 2**BITS - 1)
    assert torch.equal(ours.integers[:, first].float(), nearest)


def test_nothing_given_is_changed():
    weight, x = problem(4, 32, 50)
    hessian = x.t() @ x
    before = weight.clone(), hessian.clone()
    finish(gptq(weight, hessian, BITS, GROUP, False, torch.float16))
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_singular_second_moments_are_raised_until_they_have_a_factor():
    weight, x = problem(8, 64, 400)
    x[:, 5] = 0  # an input that is never anything else
    x[:, 9] = x[:, 8]  # two that are always alike
    few = x[:6]  # fewer tokens than inputs
    for seen in (x, few):
        ours = finish(gptq(weight, seen.t() @ seen, BITS, GROUP, False, torch.float16))
        assert output_error(ours, weight, seen) < output_error(round_to_nearest(weight, BITS, GROUP, False, torch.float16), weight, seen)
