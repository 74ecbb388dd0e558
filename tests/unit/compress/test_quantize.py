"""The verb quantize: what is planned is what is stored, the base survives, and mistakes are named."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import effkit as ek
from effkit.compress.quantization.registry import methods
from effkit.models.model import wrap
from effkit.models.stored.bnb import BnbLinear4bit, bitsandbytes
from effkit.models.stored.packed import PackedEmbedding, PackedLinear
from effkit.spec.errors import BadInput
from effkit.spec.progress import Snapshot

IDS = torch.arange(40).reshape(2, 20) + 3
WAYS = [
    {"bits": 8}, {"bits": 4, "group_size": 32}, {"bits": 3, "group_size": 16}, {"bits": 4, "symmetric": True},
    {"method": "hqq", "bits": 3, "group_size": 32},
    {"bits": 5, "group_size": None, "embedding_bits": None}, {"method": "nf4"}, {"method": "fp4", "group_size": 32}, {"method": "int8"},
]  # fmt: skip


def kl(p, q):
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_predicted_bytes_are_the_stored_bytes_and_the_base_survives(tiny_llama, way):
    before = {name: t.clone() for name, t in tiny_llama.module.state_dict().items()}
    logits = tiny_llama.logits(IDS)
    small = ek.quantize(tiny_llama, **way)
    assert small.plans[-1].bytes_before == tiny_llama.stored_bytes
    assert small.plans[-1].bytes_after == small.stored_bytes < tiny_llama.stored_bytes
    assert small.recipe.steps[0].method == way.get("method", "rtn")
    assert torch.equal(tiny_llama.logits(IDS), logits)
    for name, tensor in tiny_llama.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert 0 < kl(logits, small.logits(IDS)) < 0.2


def test_more_bits_keep_more(stories15m):
    base = ek.load(str(stories15m), device="cpu")
    ids = torch.tensor([base.tokens("Once upon a time there was a little girl who had a red ball. She liked to play in the park.")])
    logits = base.logits(ids)
    losses = [kl(logits, ek.quantize(base, bits=b, embedding_bits=8).logits(ids)) for b in (8, 6, 4, 3, 2)]
    assert losses == sorted(losses)
    assert losses[0] < 0.01 < losses[2] < losses[4]


def test_every_module_stands_in_the_plan_once_with_its_reason(tiny_llama):
    plan = ek.plan(tiny_llama, ek.Quantize(bits=4, skip=("layers.1.",)))
    names = [m.module for m in plan.modules]
    assert len(names) == len(set(names)) == len({e.module for e in tiny_llama.ledger().entries})
    kept = {m.module: m.reason for m in plan.modules if m.action == "keep"}
    assert kept["model.layers.1.mlp.up_proj"] == "named in skip"
    assert kept["model.norm"] == "a vector: nothing to gain"
    assert all(kept.values())
    assert "left alone" in str(plan)


def test_a_single_name_to_skip_is_one_name(tiny_llama):
    small = ek.quantize(tiny_llama, bits=8, skip="down_proj")
    assert small.recipe.steps[0].skip == ("down_proj",)
    assert {m.module.rpartition(".")[2] for m in small.plans[-1].modules if m.reason == "named in skip"} == {"down_proj"}
    assert ek.Quantize(skip="down_proj") == ek.Quantize(skip=("down_proj",))


def test_a_tied_head_shares_the_packed_embedding(tiny_llama):
    small = ek.quantize(tiny_llama, bits=4)
    table, head = small.module.get_input_embeddings(), small.module.get_output_embeddings()
    assert isinstance(table, PackedEmbedding)
    assert isinstance(head, PackedLinear)
    assert table.packed is head.packed
    assert sum(
        e.bytes for e in small.ledger().entries if "embed_tokens" in e.module or "lm_head" in e.module
    ) == table.packed.predicted_bytes(259, 64, 8, 64, False)


def test_gpt2_with_transposed_linears():
    config = GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=300, n_positions=64)
    torch.manual_seed(0)
    base = wrap(GPT2LMHeadModel(config), None, "random GPT-2")
    small = ek.quantize(base, bits=8)
    assert small.plans[-1].bytes_after == small.stored_bytes
    assert isinstance(small.module.get_submodule("transformer.h.0.attn.c_attn"), PackedLinear)
    assert kl(base.logits(IDS), small.logits(IDS)) < 1e-3


def test_a_classifier_keeps_its_answer_layer(tiny_classifier):
    small = ek.quantize(tiny_classifier, bits=8)
    reasons = {m.module: m.reason for m in small.plans[-1].modules}
    assert reasons["classifier"].startswith("the layer that gives the answer")
    assert small.plans[-1].bytes_after == small.stored_bytes
    assert torch.allclose(small.logits(IDS), tiny_classifier.logits(IDS), atol=0.05)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_wrong_matrix_path_is_avoided(kind):
    """288 columns in blocks of 64: the library's own CPU matrix path loses three times what the format does."""
    w = torch.randn(288, 288, generator=torch.Generator().manual_seed(0))
    packed, state = bitsandbytes().functional.quantize_4bit(w, blocksize=64, quant_type=kind)
    theirs = bitsandbytes().functional.dequantize_4bit(packed, state)
    ours = BnbLinear4bit(288, 288, kind, 64, torch.float32)
    ours.store_(w)
    error = float((ours.dequantized() - w).norm() / w.norm())
    assert error < 0.13
    assert float((theirs - w).norm() / w.norm()) > 2 * error or torch.equal(theirs, ours.dequantized())
    x = torch.randn(3, 288, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ours(x), x @ ours.dequantized().t(), atol=1e-4)


def test_a_kernel_that_returns_wrong_values_is_caught(tiny_llama, monkeypatch):
    real = bitsandbytes().functional.dequantize_4bit
    monkeypatch.setattr(bitsandbytes().functional, "dequantize_4bit", lambda *a, **k: real(*a, **k).roll(1))
    with pytest.raises(ek.EffkitError, match=r"bitsandbytes returned wrong values for a .* weight in nf4: relative error"):
        ek.quantize(tiny_llama, method="nf4")


def test_the_plan_says_how_odd_rows_are_treated(stories15m):
    plan = ek.plan(ek.load(str(stories15m), device="cpu"), ek.Quantize(method="nf4"))
    assert any("no multiple of the block of 64" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"method": "rtm"}, r"method is 'rtm'. Allowed: .*'rtn'.* Did you mean 'rtn'\?"),
        ({"bits": 9}, r"bits is 9. Allowed: 2, 3, 4, 5, 6, 7, 8\."),
        ({"bits": 1}, r"bits is 1. Allowed"),
        ({"method": "nf4", "bits": 8}, r"bits for nf4 is 8. Allowed: 4. Leave bits out, or choose method 'rtn' for 8 bits"),
        ({"group_size": 48}, r"group_size is 48, which does not divide a row of (64|160) weights. Allowed: a divisor of"),
        ({"group_size": 1}, r"group_size is 1. Allowed: a whole number of at least 2"),
        ({"method": "nf4", "group_size": 48}, r"group_size for nf4 is 48. Allowed: 32, 64"),
        ({"method": "int8", "group_size": 64}, r"group_size for int8 is 64. Allowed: None \(whole rows\) or 'auto'"),
        ({"method": "hqq", "symmetric": True}, r"symmetric is True for hqq. Allowed: False"),
        ({"method": "smooth", "symmetric": True}, r"symmetric is True for smooth. Allowed: False"),
        ({"method": "smooth", "bits": 4}, r"bits for smooth is 4. Allowed: 8"),
        ({"method": "smooth", "group_size": 32}, r"group_size for smooth is 32. Allowed: None \(whole rows\) or 'auto'"),
        ({"method": "nf4", "symmetric": True}, r"symmetric is True for nf4. Allowed: False"),
        ({"embedding_bits": 16}, r"embedding_bits is 16. Allowed"),
        ({"skip": ("no_such",)}, r"skip names 'no_such', which no module's name holds. Allowed"),
        ({"skip": ("",)}, r"skip names '', which stands in every name. Allowed: a module's name or a part of it"),
        ({"skip": "lm_head"}, r"skip names 'lm_head', which is not stored by itself. Allowed: 'model.embed_tokens', whose weight the head"),
        ({"module_bits": {"lm_head": 8}}, r"module_bits names 'lm_head'. Allowed: 'model.embed_tokens', whose weight the head shares"),
        ({"skip": ("proj", "embed")}, r"there is nothing to quantize in .*named in skip"),
    ],
    ids=str,
)
def test_mistakes_are_named(tiny_llama, way, message):
    with pytest.raises(BadInput, match=message):
        ek.quantize(tiny_llama, **way)


def test_quantizing_twice_says_that_nothing_is_left(tiny_llama):
    with pytest.raises(BadInput, match=r"there is nothing to quantize in .*already stored in few bits"):
        ek.quantize(ek.quantize(tiny_llama), bits=3)


def test_weights_that_are_not_finite_are_refused(tiny_llama):
    bad = tiny_llama.clone()
    bad.module.get_submodule("model.layers.1.mlp.up_proj").weight[3, 3] = float("nan")
    for way in ({}, {"method": "gptq"}, {"method": "nf4"}, {"rotate": True}):
        with pytest.raises(BadInput, match=r"the weight of model.layers.1.mlp.up_proj holds values that are not finite"):
            ek.quantize(bad, **way)


@pytest.mark.parametrize("method", ["gptq", "search", "awq", "learned", "smooth"])
def test_hidden_states_that_are_not_finite_are_refused(tiny_llama, method):
    """As in float16, where large activations end."""
    bad = tiny_llama.clone()
    bad.module.get_submodule("model.layers.1.input_layernorm").weight[3] = float("inf")
    with pytest.raises(BadInput, match=r"what model.layers.1\S* \w+ of the calibration text is not finite. .* float32"):
        ek.quantize(bad, method, samples=2, window=32)


def test_it_goes_on_from_a_snapshot(tiny_llama):
    whole = ek.quantize(tiny_llama, bits=3, group_size=32)
    work = ek.quantize.work(tiny_llama, bits=3, group_size=32)
    for _ in range(6):
        event = next(work)
    kept = event.snapshot()
    work.close()
    kept = Snapshot({k: t.clone() for k, t in kept.tensors.items()}, kept.state)
    again = ek.quantize.work(tiny_llama, bits=3, group_size=32, resume=kept)
    assert next(again).done == 5
    events = []
    try:
        while True:
            events.append(next(again))
    except StopIteration as end:
        resumed = end.value
    assert len(events) == len(whole.plans[-1].acting()) - 5
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor)


def test_progress_names_every_module_with_its_error(tiny_llama):
    events = list(ek.quantize.work(tiny_llama, bits=4))
    planned = [m.module for m in ek.plan(tiny_llama, ek.Quantize(bits=4)).acting()]
    assert [e.details["module"] for e in events[1:]] == planned
    assert all(0 < e.metrics["error"] < 0.2 for e in events[1:])
    assert events[-1].done == events[-1].total == len(planned)


def test_the_registry_is_the_one_door():
    assert {"rtn", "nf4", "fp4", "int8"} <= set(methods())
    for name, method in methods().items():
        assert method.name == name
        assert method.why_not(ek.device("cpu")) is None
