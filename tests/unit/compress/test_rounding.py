"""Round-to-nearest against a slow reference, its bounds, and the order of widths."""

from __future__ import annotations

import pytest
import torch

from effkit.compress.quantization.methods.rtn import rounded
from effkit.compress.quantization.rounding import relative_error, round_to_nearest


def weight(rows=6, columns=128, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def reference(group: list[float], bits: int, scale_of) -> list[float]:
    """One group, number by number, as the formula is written."""
    low, high = min(0.0, *group), max(0.0, *group)
    scale = scale_of((high - low) / (2**bits - 1))
    zero = max(0, min(2**bits - 1, round(-low / ((high - low) / (2**bits - 1)))))
    return [(max(0, min(2**bits - 1, round(w / scale) + zero)) - zero) * scale for w in group]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_asymmetric_equals_the_formula(bits):
    w = weight()
    got = rounded(w, bits, 32, False, torch.float32).dequantized()
    for row in range(len(w)):
        for start in range(0, 128, 32):
            expected = reference(w[row, start : start + 32].tolist(), bits, lambda s: float(torch.tensor(s).half()))
            assert got[row, start : start + 32].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_error_is_at_most_half_a_step_inside_the_range(symmetric):
    w = weight()
    integers, scales, zeros = round_to_nearest(w, 4, 32, symmetric, torch.float32)
    offset = 8 if zeros is None else zeros.float().unsqueeze(-1)
    back = (integers.float().reshape(6, 4, 32) - offset) * scales.unsqueeze(-1)
    # asymmetric grids move by up to half a step when the zero point is rounded; symmetric ones clip above +7
    inside = (integers > 0) & (integers < 15)
    error = (back.reshape(6, 128) - w).abs() / scales.abs().repeat_interleave(32, dim=1)
    assert float(error[inside].max()) <= 0.5 + 1e-4


def test_symmetric_keeps_the_largest_weight_exactly():
    w = weight()
    back = rounded(w, 4, 32, True, torch.float32).dequantized().reshape(-1, 32)
    flat = w.reshape(-1, 32)
    at = flat.abs().argmax(dim=1, keepdim=True)
    assert torch.allclose(back.gather(1, at), flat.gather(1, at), rtol=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
def test_more_bits_and_smaller_groups_lose_less(symmetric):
    w = weight(16, 512)
    errors = [relative_error(rounded(w, bits, 64, symmetric, torch.float32).dequantized(), w) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    groups = [relative_error(rounded(w, 4, g, symmetric, torch.float32).dequantized(), w) for g in (16, 64, 256, None)]
    assert groups == sorted(groups)


@pytest.mark.parametrize("symmetric", [False, True])
def test_zero_and_constant_groups_stay_finite(symmetric):
    w = torch.zeros(2, 64)
    w[1] = 0.5
    back = rounded(w, 4, 32, symmetric, torch.float32).dequantized()
    assert torch.equal(back[0], torch.zeros(64))
    assert torch.allclose(back[1], w[1], rtol=1e-3)


def test_scales_beyond_float16_are_stored_in_bfloat16():
    packed = rounded(weight() * 1e8, 4, 32, False, torch.float32)
    assert packed.scale_dtype == torch.bfloat16
    assert relative_error(packed.dequantized(), weight() * 1e8) < 0.2


def test_chunks_change_nothing(monkeypatch):
    w = weight(64, 128)
    whole = rounded(w, 4, 32, False, torch.float32).dequantized()
    monkeypatch.setattr("effkit.compress.quantization.methods.rtn.CHUNK", 5 * 128)
    assert torch.equal(rounded(w, 4, 32, False, torch.float32).dequantized(), whole)
