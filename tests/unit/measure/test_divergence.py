"""NLL, agreement and KL against torch's own functions in float64, directly and through the compact code."""

from __future__ import annotations

import math

import pytest
import torch

import effkit.measure  # noqa: F401
from effkit.measure import coding
from effkit.measure.coding import Coded, encode
from effkit.measure.divergence import score


def kl64(base: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    p, q = (torch.log_softmax(x.double(), -1) for x in (base, logits))
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


def logits_like(vocabulary: int, noise: float, n: int = 48, peak: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    base = torch.randn(n, vocabulary, generator=make) * peak
    return base, base + noise * torch.randn(n, vocabulary, generator=make)


@pytest.mark.parametrize("vocabulary", [2, 259, 49152])
@pytest.mark.parametrize("noise", [0.01, 0.3, 3.0])
def test_kl_is_torchs_own(vocabulary, noise):
    base, logits = logits_like(vocabulary, noise)
    assert (score(logits, base=base).kl - kl64(base, logits)).abs().max() < 1e-6


@pytest.mark.parametrize("vocabulary", [259, 49152])
def test_kl_through_the_code(vocabulary):
    """Mean error below 5e-6 nats for a KL from 0.00005 to 1, and below 1% of the KL where it is tiny."""
    for noise in (0.01, 0.1, 1.5):
        base, logits = logits_like(vocabulary, noise, n=128)
        exact, coded = kl64(base, logits), score(logits, base=encode(base)).kl
        assert (coded - exact).abs().max() < 1e-4
        assert abs(coded.mean() - exact.mean()) < 5e-6
        assert abs(coded.mean() - exact.mean()) < 0.01 * exact.mean()


@pytest.mark.parametrize("peak", [0.0, 0.1, 10.0, 40.0])
def test_code_of_flat_and_of_peaked_distributions(peak):
    base, logits = logits_like(1000, 0.2, peak=peak)
    assert abs(score(logits, base=encode(base)).kl.mean() - kl64(base, logits).mean()) < 1e-5


def test_code_takes_two_bytes_and_keeps_the_top():
    base, _ = logits_like(259, 0.1)
    coded = encode(base)
    assert coded.codes.element_size() == 2
    assert coded.codes.shape == base.shape
    back = coded.decode(slice(0, len(base)))
    assert torch.equal(back.argmax(-1), base.argmax(-1))
    assert (back - (base - base.amax(-1, keepdim=True))).abs().max() < 1e-3


def test_a_model_against_itself():
    base, _ = logits_like(49152, 0.1)
    assert score(base, base=base).kl.max() == 0.0
    assert score(base, base=encode(base)).kl.mean() < 1e-7


def test_known_value():
    base, logits = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    assert score(logits, base=base).kl.item() == pytest.approx(0.1308, abs=5e-5)


def test_nll_and_top_are_torchs_own():
    _, logits = logits_like(49152, 0.1)
    targets = torch.arange(len(logits)) * 7
    got = score(logits, targets)
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    assert (got.nll - expected).abs().max() < 1e-6
    assert torch.equal(got.top, logits.argmax(-1))
    assert got.kl is None


def test_slices_do_not_show(monkeypatch):
    """However the rows are sliced, the numbers are the same bit for bit."""
    base, logits = logits_like(259, 0.1)
    targets = torch.arange(len(logits))
    whole = score(logits, targets, encode(base))
    monkeypatch.setitem(coding.SLICE, "cpu", 259 * 5)
    sliced = score(logits, targets, encode(base))
    assert all(torch.equal(getattr(whole, name), getattr(sliced, name)) for name in ("top", "nll", "kl"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_widened_first(dtype):
    base, logits = logits_like(259, 0.3)
    assert (score(logits.to(dtype), base=base).kl - kl64(base, logits.to(dtype).float())).abs().max() < 1e-6


def test_arguments_are_left_alone():
    base, logits = logits_like(259, 0.3)
    kept = base.clone(), logits.clone()
    coded = encode(base)
    codes = coded.codes.clone()
    score(logits, torch.zeros(len(base), dtype=torch.long), base)
    score(logits, base=coded)
    assert torch.equal(base, kept[0])
    assert torch.equal(logits, kept[1])
    assert torch.equal(coded.codes, codes)


def test_impossible_tokens():
    """A base that rules tokens out (-inf) is fine; a model that rules out what the base allows is infinitely far."""
    base, logits = logits_like(50, 0.3)
    base[:, 3] = -math.inf
    for reference in (base, encode(base)):
        got = score(logits, base=reference)
        assert got.finite
        assert torch.allclose(got.kl, kl64(base.clamp_min(-100), logits), atol=1e-5)
    logits[0, 4] = -math.inf
    assert not score(logits, base=base).finite


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_seen(poison):
    base, logits = logits_like(50, 0.3)
    logits[5, 7] = poison
    targets = torch.zeros(len(base), dtype=torch.long)
    assert not score(logits, targets).finite
    assert not score(logits, base=base).finite
    assert not score(logits).finite
    assert score(base, targets).finite


def test_decode_of_a_slice():
    base, _ = logits_like(50, 0.3)
    coded = encode(base)
    assert isinstance(coded, Coded)
    assert torch.equal(coded.decode(slice(10, 20)), coded.decode(slice(0, len(base)))[10:20])
