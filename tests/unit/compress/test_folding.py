"""Factors that move from inputs into weights: only where the layer stays what it was; and the methods that choose them."""

from __future__ import annotations

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

import effkit as ek
from effkit.compress.quantization.calibration import calibration
from effkit.compress.quantization.folding import Pair, factors, fold_layer_, folded, pairs
from effkit.compress.quantization.methods.awq import best_factors
from effkit.compress.quantization.methods.smooth import SmoothQuant
from effkit.compress.quantization.planning import as_matrix
from effkit.compress.quantization.streaming import Stream
from effkit.models.model import wrap
from effkit.models.stored.int8 import STRETCH, Int8Linear, product, rounded_rows
from effkit.models.stored.packed import PackedLinear
from effkit.spec.progress import finish

TEXT = " ".join(f"The pump was opened {n} times before its seal gave way and the crew wrote down why." for n in range(60))
FEW = {"calibration": TEXT, "samples": 6, "window": 64}


def streamed(model: ek.Model) -> Stream:
    ids = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": ids}] if model.tokenizer is None else finish(calibration(model, TEXT, 4, 32))
    stream = Stream(model, batches)
    list(stream.begin())
    return stream


def kl(base: ek.Model, model: ek.Model) -> float:
    ids = torch.tensor([base.tokens(TEXT)[64 * i : 64 * i + 64] for i in range(6)])
    p, q = base.logits(ids).double().log_softmax(-1), model.logits(ids).double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


NORMS = [
    Pair("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Pair("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
]
UP, VALUES = Pair("mlp.up_proj", ("mlp.down_proj",)), Pair("self_attn.v_proj", ("self_attn.o_proj",))


def test_factors_move_only_where_the_layer_stays_what_it_was(tiny_llama, stories15m):
    """Four query heads read two value heads in the tiny model; in stories15m every head has values of its own."""
    assert pairs(streamed(tiny_llama), 1) == [NORMS[0], NORMS[1], UP]
    assert pairs(streamed(ek.load(str(stories15m), device="cpu")), 2) == [NORMS[0], VALUES, NORMS[1], UP]


def test_norms_that_store_their_weight_less_one_are_left_alone():
    torch.manual_seed(0)
    config = GemmaConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=4, head_dim=16, vocab_size=300
    )
    model = GemmaForCausalLM(config)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data.normal_(0, 0.3)
    found = pairs(streamed(wrap(model, None, "random Gemma")), 0)
    assert found == [VALUES, UP]


def test_gpt2_has_norms_with_biases_and_transposed_linears():
    torch.manual_seed(0)
    base = wrap(GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=300, n_positions=64)), None, "random GPT-2")
    assert pairs(streamed(base), 0) == [Pair("ln_1", ("attn.c_attn",)), Pair("ln_2", ("mlp.c_fc",))]


def test_any_factors_leave_the_logits_as_they_were(tiny_llama):
    stream = streamed(tiny_llama)
    draw = torch.Generator().manual_seed(1)
    folds = {}
    for index in range(3):
        for pair in pairs(stream, index):
            width = as_matrix(stream.layers[index].get_submodule(pair.readers[0])).shape[1]
            s = torch.exp(torch.randn(width, generator=draw))
            folds |= {f"model.layers.{index}.{key}": t for key, t in factors(pair, s).items()}
    other = tiny_llama.clone()
    fold_layer_(other.module, folds)
    ids = torch.tensor([tiny_llama.tokens(TEXT)[:60]])
    assert torch.allclose(other.logits(ids), tiny_llama.logits(ids), atol=1e-4)
    names = [n for n, _ in other.module.named_parameters() if "norm" in n or "proj" in n]
    changed = {n for n in names if not torch.equal(other.module.get_parameter(n), tiny_llama.module.get_parameter(n))}
    assert changed == {n for n in names if "o_proj" not in n and n != "model.norm.weight"}


def test_awq_chooses_factors_that_lose_less_and_stores_weights_that_bear_them(tiny_llama):
    stream = streamed(tiny_llama)
    layer = stream.working_copy(0, {})
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():  # a few inputs far larger than the others
        layer.input_layernorm.weight[torch.randperm(64, generator=draw)[:4]] *= 20
    pair, formats = NORMS[0], {name: (3, 32) for name in NORMS[0].readers}
    seen = finish(stream.see(layer, 0, list(pair.readers)))
    s = finish(best_factors(layer, pair, formats, seen, False))
    assert s is not None
    assert float(torch.corrcoef(torch.stack([s.log(), seen.mean_square.log()]))[0, 1]) > 0.99
    # 'awq' hands on the factors, and what it stores is the weight with them
    for event in ek.quantize.work(tiny_llama, "awq", bits=4, group_size=32, **FEW):
        kept = event.snapshot()
    folds = {k.removeprefix("fold/"): t for k, t in kept.tensors.items() if k.startswith("fold/")}
    assert folds
    small = ek.quantize(tiny_llama, "awq", bits=4, group_size=32, **FEW)
    for name, part in small.module.named_modules():
        if isinstance(part, PackedLinear) and "layers" in name:
            exact = folded(tiny_llama.module.get_submodule(name).weight, name, folds)
            assert float((part.weight - exact).norm() / exact.norm()) < 0.12
    assert any("factors of inputs are folded into" in note for note in small.plans[-1].notes)
    assert not torch.equal(
        small.module.get_submodule("model.layers.0.input_layernorm").weight,
        tiny_llama.module.get_submodule("model.layers.0.input_layernorm").weight,
    )


def test_weights_can_be_tuned_behind_folded_factors(tiny_llama):
    given = {"bits": 2, "group_size": 32, "calibration": TEXT, "samples": 6, "window": 64}
    small = ek.quantize(tiny_llama, "awq", **given)
    tuned = ek.quantize(tiny_llama, "awq", tune="weights", tune_steps=6, **given)
    assert kl(tiny_llama, tuned) < kl(tiny_llama, small)


def outliers(model: ek.Model) -> ek.Model:
    """The same function with six inputs of every block forty times as large, and the weights that read them as much smaller."""
    other = model.clone()
    stream = streamed(model)
    for index in range(3):
        for pair in NORMS:
            s = torch.ones(64)
            s[torch.randperm(64, generator=torch.Generator().manual_seed(index))[:6]] = 1 / 40
            fold_layer_(other.module, {f"{stream.name}.{index}.{k}": t for k, t in factors(pair, s).items()})
    return other


def test_smoothing_evens_out_large_inputs(tiny_llama, monkeypatch, tmp_path):
    base = outliers(tiny_llama)
    smooth = ek.quantize(base, "smooth", **FEW)
    assert smooth.plans[-1].bytes_after == smooth.stored_bytes
    assert kl(base, smooth) < 2e-3
    monkeypatch.delattr(SmoothQuant, "folds")
    rough = ek.quantize(base, "smooth", **FEW)
    assert kl(base, smooth) < 0.3 * kl(base, rough)


@pytest.mark.parametrize("inner", [5, 64, STRETCH + 9])
def test_products_of_integers_are_exact_with_and_without_the_kernel(monkeypatch, inner):
    draw = torch.Generator().manual_seed(3)
    a, b = (torch.randint(-127, 128, (n, inner), generator=draw).to(torch.int8) for n in (4, 6))
    a[0], b[0] = 127, 127  # the largest sum there can be
    exact = (a.long() @ b.long().t()).to(torch.int32)
    assert torch.equal(product(a, b), exact)
    monkeypatch.setattr("effkit.models.stored.int8.has_int_mm", lambda *shape: False)
    assert torch.equal(product(a, b), exact)


def test_int8_linears_lose_at_most_half_a_step_of_each_side():
    draw = torch.Generator().manual_seed(4)
    w, x, bias = torch.randn(32, 64, generator=draw), torch.randn(2, 5, 64, generator=draw), torch.randn(32, generator=draw)
    module = Int8Linear(32, 64, torch.float32, bias)
    module.store_(w)
    q, scales = rounded_rows(x.reshape(-1, 64))
    expected = (q.float() * scales.unsqueeze(1)) @ module.dequantized().t() + bias
    assert torch.allclose(module(x).reshape(-1, 32), expected, atol=1e-4)
    assert float((module.dequantized() - w).abs().amax()) <= float(module.scales.max()) / 2 + 1e-6
    assert float((module(x) - (x @ w.t() + bias)).norm() / (x @ w.t()).norm()) < 0.02
    assert sum(t.numel() * t.element_size() for n, t in module.state_dict().items() if n != "bias") == Int8Linear.predicted_bytes(32, 64)
    half = module.to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert half.scales.dtype == torch.float32
    grad = torch.autograd.grad(module(y := x.bfloat16().requires_grad_()).float().sum(), y)[0]
    assert torch.allclose(grad[0, 0].float(), module.dequantized().float().sum(0), rtol=0.05, atol=0.05)
