"""Every engine multiplies by the weights that are stored, is chosen by rules that can be read, and stores nothing."""

from __future__ import annotations

import copy

import pytest
import torch

import effkit as ek
from effkit.models.execution import native
from effkit.models.execution.engines import DEQUANTIZE, Work, choose, engines
from effkit.models.ledger import ledger_of
from effkit.models.stored.packed import PackedLinear, PackedWeight
from effkit.spec.errors import Unavailable

CPU = torch.device("cpu")
# (rows, columns, group): multiples of what kernels like, and such as no kernel likes
SHAPES = [(48, 96, 32), (64, 288, 96), (64, 256, 128), (32, 64, None), (33, 100, None), (17, 72, 8), (5, 20, 5)]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}


def layer(rows, columns, bits, group, symmetric, dtype, scale_dtype=torch.float16, zero_dtype=None, seed=0) -> PackedLinear:
    make = torch.Generator().manual_seed(seed)
    groups = columns // (group or columns)
    packed = PackedWeight(rows, columns, bits, group, symmetric, dtype, scale_dtype, zero_dtype=zero_dtype)
    zeros = None if symmetric else torch.randint(0, 2**bits, (rows, groups), dtype=torch.uint8, generator=make)
    if zero_dtype is not None and zeros is not None:
        zeros = zeros.float() + torch.rand(rows, groups, generator=make)
    packed.store_(
        0,
        torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8, generator=make),
        torch.rand(rows, groups, generator=make) * 0.01 + 0.001,
        zeros,
    )
    return PackedLinear(packed, torch.randn(rows, generator=make).to(dtype))


def exact(linear: PackedLinear, x: torch.Tensor) -> torch.Tensor:
    """The product in float64, by the weights that are stored."""
    wide = copy.deepcopy(linear.packed).to(torch.float64)
    assert linear.bias is not None
    return torch.nn.functional.linear(x.double(), wide.dequantized(), linear.bias.double())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("zeros", [None, torch.uint8, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_what_is_chosen_multiplies_by_the_stored_weights(bits, zeros, dtype):
    for rows, columns, group in SHAPES:
        scales, real = torch.bfloat16 if bits == 3 else torch.float16, None if zeros == torch.uint8 else zeros
        linear = layer(rows, columns, bits, group, zeros is None, dtype, scales, real)
        for shape in ((1, 1), (2, 3)):
            x = torch.randn(*shape, columns, generator=torch.Generator().manual_seed(1)).to(dtype)
            with torch.inference_mode():
                y = linear(x)
            wanted = exact(linear, x)
            assert y.shape == wanted.shape
            assert y.dtype == dtype
            assert (y - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max(), (rows, columns, group, linear.choice(dtype).name)


def test_each_engine_of_this_machine_is_reached_and_agrees_with_dequantizing():
    reached = set()
    for bits, group, symmetric, dtype in [(4, 32, False, torch.bfloat16), (8, None, True, torch.bfloat16), (3, 32, False, torch.float32)]:
        linear = layer(64, 128, bits, group, symmetric, dtype)
        x = torch.randn(2, 128, generator=torch.Generator().manual_seed(2)).to(dtype)
        with torch.inference_mode():
            y = linear(x)
            linear.engine = DEQUANTIZE
            wanted = linear(x)
        reached.add(choose(Work.of(linear.packed, dtype)).name)
        assert not torch.equal(y, wanted)  # another way of summing
        assert (y - wanted).abs().max() <= (2 * TOLERANCE[dtype]) * wanted.abs().max()
    assert reached == {"int4pack-cpu", "int8pack-cpu", "native-cpu"}


@pytest.mark.parametrize(
    ("name", "work", "reason"),
    [
        ("int4pack-cpu", Work(CPU, torch.float32, 64, 64, 4, 32, False), "it computes in bfloat16, not float32"),
        ("int4pack-cpu", Work(CPU, torch.bfloat16, 64, 64, 3, 32, False), "it takes 4 bits, not 3"),
        ("int4pack-cpu", Work(CPU, torch.bfloat16, 64, 96, 4, 96, False), "it takes groups of 32, 64, 128 or 256, not 96"),
        ("int4pack-cpu", Work(CPU, torch.bfloat16, 40, 64, 4, 32, False), "it takes multiples of 16 output features, not 40"),
        ("int8pack-cpu", Work(CPU, torch.bfloat16, 64, 72, 8, 72, True), "it takes multiples of 32 input features, not 72"),
        ("int8pack-cpu", Work(CPU, torch.bfloat16, 64, 64, 8, 64, False), "it takes no zero points"),
        ("int8pack-cpu", Work(CPU, torch.bfloat16, 64, 64, 8, 32, True), "it takes one scale a row, not groups of 32"),
        ("int4pack-cuda", Work(CPU, torch.bfloat16, 64, 64, 4, 32, False), "it runs on cuda, and this is cpu"),
        ("quant-batchmatmul-npu", Work(CPU, torch.bfloat16, 64, 64, 4, 32, False), "it runs on npu, and this is cpu"),
    ],
)
def test_a_refusal_says_why(name, work, reason):
    assert engines()[name].why_not(work) == reason


@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 32, False), (8, None, True), (5, 64, True)])
def test_extra_bytes_are_those_of_what_was_derived_and_nothing_more_is_stored(bits, group, symmetric):
    linear = layer(64, 128, bits, group, symmetric, torch.bfloat16)
    before, names = ledger_of(linear).total, set(linear.state_dict())
    with torch.inference_mode():
        linear(torch.ones(1, 128, dtype=torch.bfloat16))
    choice = linear.choice(torch.bfloat16)
    derived = linear.prepare(torch.bfloat16).tensors
    assert choice.engine is not None
    assert choice.engine.extra_bytes(Work.of(linear.packed, torch.bfloat16)) == sum(t.numel() * t.element_size() for t in derived)
    assert ledger_of(linear).total == before
    assert set(linear.state_dict()) == names
    assert not copy.deepcopy(linear)._prepared  # a copy derives its own
    linear.to(torch.bfloat16)
    assert not linear._prepared


def test_what_was_derived_follows_what_is_stored():
    linear, x = layer(64, 128, 4, 32, False, torch.bfloat16), torch.ones(1, 128, dtype=torch.bfloat16)
    linear.bias = None
    with torch.no_grad():
        first = linear(x)
        linear.packed.scales *= 2  # as scale tuning does
        assert torch.equal(linear(x), 2 * first)


def test_many_rows_and_gradients_take_the_dequantized_matrix():
    linear = layer(64, 128, 4, 32, False, torch.float32)
    x = torch.randn(2, 128, generator=torch.Generator().manual_seed(3))
    x.requires_grad_()
    linear(x).sum().backward()
    weight = linear.packed.dequantized()
    assert torch.allclose(x.grad, weight.sum(0).expand(2, -1), atol=1e-5)
    many = torch.randn(40, 128, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        assert torch.equal(linear(many), torch.nn.functional.linear(many, weight, linear.bias))


def test_the_native_kernel_can_be_switched_off(monkeypatch, tiny_llama):
    packed = ek.quantize(tiny_llama, method="rtn", bits=3, group_size=32)
    ids = torch.tensor([[5, 6, 7, 8]])
    fast = packed.logits(ids)
    assert packed.execution().engines == {"native-cpu": 22}
    choose.cache_clear()
    monkeypatch.setenv("EFFKIT_NATIVE", "0")
    try:
        table = packed.execution()
        assert table.engines == {DEQUANTIZE: 22}
        assert "native-cpu: effkit's own kernel is switched off (EFFKIT_NATIVE=0)" in repr(table)
        slow = packed.clone().logits(ids)
    finally:
        choose.cache_clear()
    assert 0 < (fast - slow).abs().max() < 1e-4


def test_without_a_compiler_a_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"there is no C\+\+ compiler\. g\+\+ and clang\+\+ were looked for\. Install one"):
        native.build(tmp_path)


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    broken = tmp_path / "broken.cpp"
    broken.write_text("int main( { return 0; }\n")
    monkeypatch.setattr(native, "SOURCE", broken)
    with pytest.raises(Unavailable, match=r"failed.*error"):
        native.build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["broken.cpp"]


def test_a_kernel_that_multiplies_wrongly_is_not_used(monkeypatch, tmp_path):
    broken = tmp_path / "broken.cpp"
    broken.write_text(native.SOURCE.read_text().replace("word = (word >> (part * width)) & mask;", "word = word & mask;"))
    monkeypatch.setattr(native, "SOURCE", broken)
    native._loaded.cache_clear()
    try:
        assert native.why_not() == "effkit's own kernel, as compiled here, multiplies wrongly (4 bits)"
    finally:
        native._loaded.cache_clear()


def test_the_execution_of_a_dense_model(tiny_llama):
    table = tiny_llama.execution()
    assert table.engines == {"dense": 22}
    assert table.extra_bytes == 0
    assert "<table>" in table._repr_html_()
