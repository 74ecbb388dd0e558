"""What each method is, beside what all of them owe (see test_calibrated): references and orderings on single matrices."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.quantization.methods.hqq import half_quadratic
from effkit.compress.quantization.methods.search import searched
from effkit.compress.quantization.rounding import Rounded, round_to_nearest
from effkit.spec.progress import finish

GROUP = 32


def weight(rows: int = 16, columns: int = 96) -> torch.Tensor:
    """Normal weights with a few that are far off."""
    draw = torch.Generator().manual_seed(5)
    w = torch.randn(rows, columns, generator=draw) * 0.1
    w[torch.rand(rows, columns, generator=draw) < 0.02] *= 6
    return w


def values(rounded: Rounded, bits: int) -> torch.Tensor:
    integers, scales, zeros = rounded
    offset = 2.0 ** (bits - 1) if zeros is None else zeros.float().unsqueeze(-1)
    return ((integers.float().reshape(*scales.shape, -1) - offset) * scales.float().unsqueeze(-1)).reshape(integers.shape)


def test_searched_scales_lose_less_of_what_matters():
    w = weight()
    importance = torch.rand(96, generator=torch.Generator().manual_seed(1)) ** 4
    for bits in (2, 3, 4):
        for symmetric in (False, True):
            plain = values(round_to_nearest(w, bits, GROUP, symmetric, torch.float16), bits)
            ours = values(finish(searched(w, importance, bits, GROUP, symmetric, torch.float16)), bits)
            blind = values(finish(searched(w, None, bits, GROUP, symmetric, torch.float16)), bits)

            def lost(x, by=importance):
                return ((x - w).square() * by).reshape(16, -1, GROUP).sum(-1)

            assert bool((lost(ours) <= lost(plain) + 1e-7).all())  # in every group
            assert float(lost(ours).sum()) < 0.9 * float(lost(plain).sum())
            assert float(lost(ours).sum()) < float(lost(blind).sum())
            assert float(lost(blind, 1.0).sum()) < float(lost(ours, 1.0).sum())


def test_a_large_matrix_is_searched_in_parts_with_the_same_result(monkeypatch):
    w = weight(50)
    whole = finish(searched(w, None, 3, GROUP, False, torch.float16))
    monkeypatch.setattr("effkit.compress.quantization.methods.search.CHUNK", 960)
    work = searched(w, None, 3, GROUP, False, torch.float16)
    assert sum(1 for _ in work) == 5
    parts = finish(searched(w, None, 3, GROUP, False, torch.float16))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def reference_hqq(w: torch.Tensor, bits: int) -> torch.Tensor:
    """One group after the other, as the authors state it: the inverse scale, and the last zero point that made it better."""
    out = torch.empty_like(w)
    for row in range(w.shape[0]):
        for start in range(0, w.shape[1], GROUP):
            x = w[row, start : start + GROUP]
            low, high = x.min().clamp(max=0), x.max().clamp(min=0)
            scale = ((high - low) / (2**bits - 1)).half().float()
            zero, beta, best = torch.round(-low / ((high - low) / (2**bits - 1))), 10.0, float("inf")
            for _ in range(20):
                q = torch.clamp(torch.round(x / scale + zero), 0, 2**bits - 1)
                r = scale * (q - zero)
                error = float((x - r).abs().pow(0.7).sum())
                if error < best:
                    best, kept = error, r
                e = x - r
                e = torch.sign(e) * torch.relu(e.abs() - (1 / beta) * e.abs().clamp(min=1e-30).pow(0.7 - 1))
                zero = torch.mean(q - (x - e) / scale).half().float()
                beta *= 1.01
            out[row, start : start + GROUP] = kept
    return out


def test_hqq_is_the_authors_algorithm_and_beats_rounding_to_nearest_in_its_own_norm():
    w = weight()
    for bits in (3, 4):
        ours = values(half_quadratic(w, bits, GROUP, torch.float16), bits)
        expected = reference_hqq(w, bits)
        assert float(((ours - expected).abs() < 1e-6).float().mean()) > 0.97  # a group may stop a little earlier
        plain = values(round_to_nearest(w, bits, GROUP, False, torch.float16), bits)

        def lost(x):
            return (x - w).abs().pow(0.7).reshape(16, -1, GROUP).sum(-1)

        assert float(lost(ours).sum()) < 0.97 * float(lost(plain).sum())
        assert float(lost(ours).sum()) <= 1.002 * float(lost(expected).sum())


def test_hqq_on_weights_that_are_all_zero():
    zeros = torch.zeros(4, 64)
    assert torch.equal(values(half_quadratic(zeros, 4, GROUP, torch.float16), 4), zeros)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hqq_decodes_as_it_reads(tiny_llama, dtype):
    """A kernel that took real zero points for packed ones would change what a few rows give."""
    small = ek.quantize(tiny_llama.to(dtype=dtype), "hqq", bits=4, group_size=32)
    part = small.module.get_submodule("model.layers.0.mlp.up_proj")
    assert part.packed.zeros.dtype == torch.float16
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).to(small.dtype)
    with torch.no_grad():
        assert torch.allclose(part(x), x @ part.weight.t(), atol=0.02 if dtype == "bfloat16" else 1e-5)


def test_exports_write_real_zero_points_as_dense_weights_and_say_so(tiny_llama, tmp_path):
    small = ek.quantize(tiny_llama, "hqq", bits=4, group_size=32)
    exported = ek.export(small, tmp_path / "out", format="compressed-tensors")
    assert "PackedLinear with real zero points has no form in compressed-tensors" in " ".join(exported.notes)


@pytest.mark.parametrize("symmetric", [True, False])
def test_learned_rounding_works_with_and_without_zero_points(tiny_llama, symmetric):
    text = "The pump began to leak on Monday, so the engineer closed the valve and replaced the seal. " * 4
    given = {"bits": 3, "group_size": 32, "symmetric": symmetric, "embedding_bits": None}
    small = ek.quantize(tiny_llama, "learned", **given, calibration=text, samples=4, window=32, learn_steps=3)
    assert small.stored_bytes == ek.quantize(tiny_llama, "rtn", **given).stored_bytes
    assert bool(torch.isfinite(small.logits([[5, 6, 7]])).all())
