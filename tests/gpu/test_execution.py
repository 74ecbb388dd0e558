"""Packed linears on a real CUDA GPU: PyTorch's tiled 4-bit kernel is chosen by its rules and multiplies by the stored weights."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.models.decoding import Decoder
from effkit.models.execution.engines import DEQUANTIZE
from effkit.models.stored.packed import PackedLinear, PackedWeight


def layer(bits: int, group: int, symmetric: bool, dtype: torch.dtype) -> PackedLinear:
    make = torch.Generator().manual_seed(0)
    packed = PackedWeight(64, 256, bits, group, symmetric, dtype)
    zeros = None if symmetric else torch.randint(0, 2**bits, (64, 256 // group), dtype=torch.uint8, generator=make)
    integers = torch.randint(0, 2**bits, (64, 256), dtype=torch.uint8, generator=make)
    packed.store_(0, integers, torch.rand(64, 256 // group, generator=make) * 0.01 + 0.001, zeros)
    return PackedLinear(packed, torch.randn(64, generator=make).to(dtype)).to("cuda")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_the_tiled_kernel_multiplies_by_the_stored_weights(group, symmetric):
    linear = layer(4, group, symmetric, torch.bfloat16)
    assert linear.choice(torch.bfloat16).name == "int4pack-cuda"
    for rows in (1, 5):
        x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(1)).to("cuda", torch.bfloat16)
        with torch.inference_mode():
            y = linear(x)
            linear.engine = DEQUANTIZE
            wanted = linear(x)
            linear.engine = None
        assert (y - wanted).abs().max() <= 3e-2 * wanted.abs().max()


def test_other_work_is_dequantized_with_a_reason():
    assert "it takes 4 bits, not 3" in layer(3, 32, False, torch.bfloat16).choice(torch.bfloat16).why
    assert "it computes in bfloat16, not float32" in layer(4, 32, False, torch.float32).choice(torch.float32).why


def test_compiled_decoding_gives_the_eager_tokens(tiny_llama_folder):
    model = ek.load(str(tiny_llama_folder), device="cuda", dtype="float32")
    prompt = torch.arange(40, 60, device="cuda")[None]
    tokens = {}
    for compiled in (False, True):
        decoder = Decoder(model, length=96, compiled=compiled)
        assert decoder.how.note == ""
        with torch.inference_mode():
            token = decoder.read(prompt).argmax(-1, keepdim=True)
            made = [int(token)]
            for _ in range(63):
                token = decoder.step(token).argmax(-1, keepdim=True)
                made.append(int(token))
        tokens[compiled] = made
    assert tokens[True] == tokens[False]
