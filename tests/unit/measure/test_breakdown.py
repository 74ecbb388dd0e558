"""The time of a pass by module: it adds up, it finds a slow module, and its arithmetic and bytes are those that are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import effkit as ek
from effkit.measure.breakdown import breakdown
from effkit.spec.breakdown import Breakdown
from effkit.spec.errors import BadInput


def parts(found: Breakdown) -> dict:
    return {part.name: part for part in found.root.walk()}


@pytest.fixture
def ticking(tiny_llama, monkeypatch):
    """A clock that takes a microsecond to be read and that modules without modules move by a millisecond; `ticking(module, ms)`: by
    so much more."""
    now = [0.0]

    def read() -> float:
        now[0] += 1e-6
        return now[0]

    def spend(module, ms: float) -> None:
        def tick(*_) -> None:
            now[0] += ms / 1000

        module.register_forward_hook(tick, prepend=True)

    monkeypatch.setattr("effkit.hardware.attached.clock.time", SimpleNamespace(perf_counter=read))
    for module in tiny_llama.module.modules():
        if not list(module.children()):
            spend(module, 1.0)
    return spend


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_parts_sum_to_the_whole(tiny_llama, ticking, phase):
    found = breakdown(tiny_llama, phase=phase, prompt=64, repeats=8)
    for part in found.root.walk():
        assert part.total_ms == pytest.approx(part.own_ms + sum(c.total_ms for c in part.children))
        assert part.own_ms >= -1e-9
    assert sum(part.own_ms for part in found.root.walk()) == pytest.approx(found.root.total_ms)
    assert sum(found.by_category().values()) == pytest.approx(found.root.total_ms)
    assert found.overhead.value > 0
    assert found.root.total_ms / (1 + found.overhead.value) == pytest.approx(found.plain_ms.value)
    names = {name for name, _ in tiny_llama.module.named_modules()}
    assert set(parts(found)) <= names
    assert {"", "model", "model.layers.0.self_attn.q_proj", "lm_head"} <= set(parts(found))
    assert Breakdown.model_validate_json(found.model_dump_json()) == found


def test_time_is_found_where_it_is_spent(tiny_llama, ticking):
    """A pause of 20 ms in one module is in that module's own time, and in the total of those around it."""
    ticking(tiny_llama.module.get_submodule("model.layers.1.mlp.act_fn"), 20.0)
    found = parts(breakdown(tiny_llama, prompt=16, repeats=4))
    assert found["model.layers.1.mlp.act_fn"].own_ms == pytest.approx(21, abs=0.1)  # and its own millisecond
    assert found["model.layers.1.mlp"].total_ms == pytest.approx(24, abs=0.1)
    assert found["model.layers.1.mlp"].own_ms == pytest.approx(0, abs=0.1)
    assert found["model.layers.0.mlp"].total_ms == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("bits", [None, 4])
def test_arithmetic_is_that_of_torch_and_compression_does_not_change_it(tiny_llama, bits):
    model = tiny_llama if bits is None else ek.quantize(tiny_llama, bits=bits, group_size=32)
    found = breakdown(model, phase="prefill", prompt=48, batch=2, repeats=1)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        tiny_llama.module(input_ids=torch.ones(2, 48, dtype=torch.long), logits_to_keep=1)
    assert found.root.flops == counter.get_total_flops()
    mlp = parts(found)["model.layers.0.mlp"]
    assert mlp.flops == 2 * 96 * 3 * 64 * 160


def test_bytes_are_weights_and_cache(tiny_llama):
    batch, prompt, repeats = 2, 32, 2
    found = parts(breakdown(tiny_llama, prompt=prompt, batch=batch, repeats=repeats))
    attention = found["model.layers.2.self_attn"]
    seen = prompt + 2 * (repeats + 3) + 1
    cache = 2 * batch * seen * 2 * 16 * 4  # keys and values, 2 heads of 16 channels, float32
    weights = 4 * (2 * 64 * 64 + 2 * 64 * 32)
    assert attention.bytes == cache + weights
    assert found["model.embed_tokens"].bytes == batch * 64 * 4
    assert found["lm_head"].bytes == 259 * 64 * 4
    packed = ek.quantize(tiny_llama, bits=4, group_size=32)
    name = "model.layers.0.mlp.up_proj"
    small = parts(breakdown(packed, prompt=8, repeats=1))[name].bytes
    assert small == sum(e.bytes for e in packed.ledger().entries if e.module == name)


def test_categories_and_kinds(tiny_llama):
    found = breakdown(tiny_llama, prompt=16, repeats=2)
    assert {"attention", "mlp", "norms", "head", "embeddings"} <= set(found.by_category())
    kinds = found.by_kind()
    assert {"Linear", "LlamaAttention", "LlamaRMSNorm"} <= set(kinds)
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    assert found.root.calls == 1
    assert "decode" in repr(found)


def test_a_classifier_only_reads(tiny_classifier):
    found = breakdown(tiny_classifier, phase="prefill", prompt=32, repeats=2)
    assert found.root.total_ms > 0
    with pytest.raises(BadInput, match=r"phase is 'decode'\. A sequence classifier only reads"):
        breakdown(tiny_classifier)


def test_hooks_are_gone_and_the_model_is_as_it_was(tiny_llama):
    tiny_llama.module.train()
    work = breakdown.work(tiny_llama, prompt=8, repeats=3)
    for _ in range(4):
        next(work)
    work.close()
    assert all(not m._forward_hooks and not m._forward_pre_hooks and m.training for m in tiny_llama.module.modules())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phase": "both"}, r"phase is 'both'\. Allowed: 'decode', 'prefill'"),
        ({"prompt": 250}, r"prompt is 250 tokens and repeats is 10, 277 tokens in all\. This model reads at most 256"),
        ({"repeats": 0}, r"repeats is 0\. Allowed: a whole number of at least 1"),
    ],
)
def test_it_refuses(tiny_llama, given, message):
    with pytest.raises(BadInput, match=message):
        breakdown(tiny_llama, **given)
