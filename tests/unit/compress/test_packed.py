"""Packing is exact for every width and shape, and its bytes are known beforehand."""

from __future__ import annotations

import pytest
import torch

from effkit.models.stored.packed import PackedWeight, pack, plane_bytes, unpack
from effkit.spec.recipe import BITS


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [1, 7, 8, 64, 100, 577])
def test_unpack_inverts_pack(bits, count):
    values = torch.randint(0, 2**bits, (5, count), generator=torch.Generator().manual_seed(bits), dtype=torch.uint8)
    packed = pack(values, bits)
    assert packed.shape == (5, plane_bytes(count, bits))
    assert torch.equal(unpack(packed, bits, count), values)


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_really_saved(bits):
    assert plane_bytes(1024, bits) * 8 == 1024 * bits


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, 64), (3, 32), (8, None), (5, 96), (2, 16)])
def test_predicted_bytes_equal_stored_bytes(bits, group, symmetric):
    packed = PackedWeight(7, 192, bits, group, symmetric, torch.float32)
    stored = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
    assert stored == PackedWeight.predicted_bytes(7, 192, bits, group, symmetric)


def test_rows_are_dequantized_alone():
    packed = PackedWeight(6, 32, 3, 16, False, torch.float32)
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(0, 8, (6, 32), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(0, 8, (6, 2), generator=generator, dtype=torch.uint8)
    scales = torch.rand(6, 2, generator=generator).half()
    packed.store_(0, integers, scales, zeros)
    expected = (integers.float().reshape(6, 2, 16) - zeros.float().unsqueeze(-1)) * scales.float().unsqueeze(-1)
    assert torch.equal(packed.dequantized(), expected.reshape(6, 32))
    assert torch.equal(packed.dequantized(torch.tensor([4, 1])), expected.reshape(6, 32)[[4, 1]])


def test_another_compute_type_leaves_the_stored_bits_alone():
    packed = PackedWeight(4, 32, 4, 16, False, torch.float32)
    packed.store_(0, torch.ones(4, 32, dtype=torch.uint8), torch.full((4, 2), 0.1).half(), torch.zeros(4, 2, dtype=torch.uint8))
    before = {name: t.clone() for name, t in packed.state_dict().items()}
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float16):
        packed.to(dtype)
        assert packed.dequantized().dtype == dtype
    for name, tensor in packed.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_real_zero_points_are_stored_counted_and_found_again():
    packed = PackedWeight(6, 32, 3, 16, False, torch.float32, zero_dtype=torch.float16)
    stored = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
    assert stored == PackedWeight.predicted_bytes(6, 32, 3, 16, False, real_zeros=True)
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(0, 8, (6, 32), generator=generator, dtype=torch.uint8)
    zeros, scales = (7 * torch.rand(6, 2, generator=generator)).half(), torch.rand(6, 2, generator=generator).half()
    packed.store_(0, integers, scales, zeros)
    expected = (integers.float().reshape(6, 2, 16) - zeros.float().unsqueeze(-1)) * scales.float().unsqueeze(-1)
    assert torch.equal(packed.dequantized(), expected.reshape(6, 32))
    assert torch.equal(packed.dequantized(slice(2, 4)), expected.reshape(6, 32)[2:4])
    again = PackedWeight.from_spec(packed.spec())
    again.load_state_dict(packed.state_dict(), assign=True)
    assert torch.equal(again.dequantized(), packed.dequantized())
    assert again.to(torch.bfloat16).zeros.dtype == torch.float16
    assert torch.equal(again.zeros, zeros)


def test_models_saved_before_there_were_real_zero_points_still_load():
    spec = PackedWeight(4, 32, 4, 16, False, torch.float32).spec()
    assert "zero_dtype" not in spec
    assert PackedWeight.from_spec(spec).zero_dtype is None
