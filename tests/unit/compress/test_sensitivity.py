"""Sensitivities: what one backward pass says must be what quantizing really does, module by module and in all."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput

TEXT = " ".join(f"The pump was opened {n} times before its seal gave way and the crew wrote down why." for n in range(60))


def kl(base: ek.Model, model: ek.Model) -> float:
    ids = torch.tensor([base.tokens(TEXT)[64 * i : 64 * i + 64] for i in range(20)])
    p, q = base.logits(ids).double().log_softmax(-1), model.logits(ids).double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture
def found(tiny_llama):
    return ek.sensitivity(tiny_llama, TEXT, group_size=32, samples=20, window=64)


def test_bytes_are_those_that_quantizing_stores(tiny_llama, found):
    assert {m.module for m in found.modules} == {p.module for p in ek.plan(tiny_llama, ek.Quantize(bits=4, group_size=32)).acting()}
    for budget in (0.25, 0.5, 0.9):
        allowed = int(found.smallest + budget * (found.largest - found.smallest))
        chosen = found.allocate(allowed)
        small = ek.quantize(tiny_llama, group_size=32, module_bits=chosen.bits)
        assert small.stored_bytes == chosen.bytes <= allowed
    assert found.largest == tiny_llama.stored_bytes


def test_more_bits_cost_less_kl_in_every_module(found):
    for module in found.modules:
        kls = [c.kl for c in sorted(module.choices, key=lambda c: c.bits)]
        assert kls == sorted(kls, reverse=True)
        assert kls[-1] == 0


def test_what_it_predicts_for_a_module_is_what_rounding_it_does(tiny_llama, found):
    """Each layer's down projection alone, at 3 bits. Behind the last nothing mixes tokens, so there only sampling is between."""
    for layer, near in ((2, 0.25), (1, 0.35), (0, 0.7)):
        name = f"model.layers.{layer}.mlp.down_proj"
        keep = {m.module: 16 for m in found.modules if m.module != name}
        given = {"calibration": TEXT, "samples": 4, "window": 64, "group_size": 32}
        small = ek.quantize(tiny_llama, "search", embedding_bits=None, module_bits={**keep, name: 3}, **given)
        predicted = next(m for m in found.modules if m.module == name).choice(3).kl
        assert predicted == pytest.approx(kl(tiny_llama, small), rel=near)


def test_it_follows_the_seed_and_leaves_the_model_alone(tiny_llama):
    before = {name: t.clone() for name, t in tiny_llama.module.state_dict().items()}
    first = ek.sensitivity(tiny_llama, TEXT, samples=2, window=32, seed=1)
    assert first == ek.sensitivity(tiny_llama, TEXT, samples=2, window=32, seed=1)
    assert first != ek.sensitivity(tiny_llama, TEXT, samples=2, window=32, seed=2)
    for name, tensor in tiny_llama.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(p.requires_grad for p in tiny_llama.module.parameters())


def test_what_the_text_never_reached_is_not_called_harmless(tiny_llama):
    """An expert that no token chose: what rounding it costs is unknown, which is never zero."""
    layer = tiny_llama.module.model.layers[1]
    layer.mlp.idle = torch.nn.Linear(64, 64).requires_grad_(False)
    found = ek.sensitivity(tiny_llama, TEXT, samples=2, window=32)
    idle = next(m for m in found.modules if m.module == "model.layers.1.mlp.idle")
    assert [c.bits for c in idle.choices] == [16]
    chosen = found.allocate(found.smallest)
    assert chosen.bits["model.layers.1.mlp.idle"] == 16
    assert ek.quantize(tiny_llama, module_bits=chosen.bits).stored_bytes == chosen.bytes


def test_mistakes_are_named(tiny_llama, tiny_classifier, found):
    with pytest.raises(BadInput, match=r"is a classifier\. Allowed: a causal language model"):
        ek.sensitivity(tiny_classifier)
    with pytest.raises(BadInput, match=r"bits is 9\. Allowed"):
        ek.sensitivity(tiny_llama, TEXT, bits=(4, 9))
    for bits, said in (((), r"bits is \(\)\. Allowed: 2, 3"), ("4", r"bits is '4'\. Allowed: 2, 3")):
        with pytest.raises(BadInput, match=said):
            ek.sensitivity(tiny_llama, TEXT, bits=bits)
    with pytest.raises(BadInput, match=r"samples is 0\. Allowed"):
        ek.sensitivity(tiny_llama, TEXT, samples=0)
    with pytest.raises(BadInput, match=r"is too small\. The fewest bits take .*B, .*B of them for what is never quantized"):
        found.allocate(found.smallest - 1)
    with pytest.raises(BadInput, match=r"is too small\. With the bits set by hand at least"):
        found.allocate(found.smallest, {found.modules[0].module: 8})
    with pytest.raises(BadInput, match=r"is too small\. The fewest bits take .*B, .*B of them for what is never quantized"):
        ek.best_format(tiny_llama, TEXT, bytes=1000, samples=1, window=32)
    assert {c.bits for m in ek.sensitivity(tiny_llama, TEXT, bits=4, samples=1, window=32).modules for c in m.choices} == {4, 16}
