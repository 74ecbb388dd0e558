"""Hash, finiteness and grids of weights."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from torch import nn

from effkit.models.checks import finite, owners, weights_hash
from effkit.models.stored.grid import grid_bits, grid_note


def on_grid(bits: int, rows=64, columns=128) -> torch.Tensor:
    """Random weights rounded to `bits` bits in groups of 32, each with its scale and offset."""
    groups = torch.randn(rows, columns // 32, 32, generator=torch.Generator().manual_seed(bits))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    return (((groups - low) / scale).round() * scale + low).reshape(rows, columns)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounded_weights_are_recognised(bits):
    assert grid_bits(on_grid(bits)) == bits
    assert grid_bits(on_grid(bits).bfloat16()) == bits


@pytest.mark.parametrize("bits", [5, 6, 8])
def test_finer_grids_are_no_matter(bits):
    assert grid_bits(on_grid(bits)) is None


def test_ordinary_weights_are_not_taken_for_rounded_ones():
    ordinary = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    for weight in (ordinary, ordinary.bfloat16(), ordinary.half(), ordinary * 1e-6):
        assert grid_bits(weight) is None
    assert grid_bits(torch.zeros(64, 128)) is None, "zeros say nothing"
    assert grid_bits(torch.ones(4, 16)) is None, "too small to tell"
    assert grid_bits(torch.randn(64)) is None


def test_a_model_gets_a_note_if_most_of_its_linears_were_rounded():
    layers = nn.Sequential(*(nn.Linear(128, 64, bias=False) for _ in range(3)))
    assert grid_note(layers) is None
    with torch.no_grad():
        for layer in list(layers)[:2]:
            layer.weight.copy_(on_grid(3))  # type: ignore[operator]
    note = grid_note(layers)
    assert note is not None
    assert "3-bit rounding on that grid will look lossless" in note


def test_finite():
    assert finite(torch.full((100,), 3e38)), "a sum that overflows is looked at again"
    assert finite(torch.full((100,), 65000.0, dtype=torch.float16))
    assert not finite(torch.tensor([1.0, float("nan")]))
    assert not finite(torch.tensor([float("inf"), float("-inf")]))
    assert finite(torch.zeros(0))


def test_owners_are_the_first_names_of_shared_storage():
    shared, alone = torch.ones(4), torch.ones(4)
    assert owners({"a": shared, "b": alone, "c": shared, "d": shared[1:]}) == {"a": "a", "b": "b", "c": "a", "d": "d"}
    empty = torch.zeros(0)
    assert owners({"a": empty, "b": torch.zeros(0)}) == {"a": "a", "b": "b"}


def test_the_hash_depends_on_names_dtypes_shapes_and_bytes():
    def model(name="w", shape=(2, 3), dtype=torch.float32, value=1.0):
        module = nn.Module()
        module.register_buffer(name, torch.full(shape, value).to(dtype))
        return weights_hash(module)

    same_bytes = nn.Module()
    same_bytes.register_buffer("w", torch.full((2, 3), 1.0).view(torch.int32))
    hashes = {model(), model(name="v"), model(shape=(3, 2)), model(dtype=torch.bfloat16), model(value=2.0), weights_hash(same_bytes)}
    assert len(hashes) == 6
    assert model() == hashlib.sha256(b"w\0float32\0(2, 3)\0" + struct.pack("<6f", *[1.0] * 6)).hexdigest()


def test_the_hash_does_not_depend_on_order_or_on_ties():
    a, b = torch.ones(3), torch.zeros(2)

    def model(**buffers):
        module = nn.Module()
        for name, tensor in buffers.items():
            module.register_buffer(name, tensor)
        return weights_hash(module)

    assert model(a=a, b=b) == model(b=b, a=a)
    assert model(a=a, b=b, c=a) == model(a=a, b=b), "a tied tensor counts once"
    assert model(a=a, b=b, c=a.clone()) != model(a=a, b=b)
