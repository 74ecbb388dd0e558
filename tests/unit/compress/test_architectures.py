"""The whole way from a budget to a tuned model, for architectures that lay their layers out differently."""

from __future__ import annotations

import pytest
import torch
import transformers

import effkit as ek
from effkit.models.model import Model
from effkit.spec.record import Checkpoint

SMALL = {"vocab_size": 259, "max_position_embeddings": 256}
LLAMA = {**SMALL, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = {
    # weights stored transposed, queries, keys and values in one
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=259, n_embd=96, n_layer=2, n_head=4, n_positions=256)),
    # its feed-forward half reads tokens without their windows
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(**SMALL, hidden_size=96, ffn_dim=192, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=96)
    ),
    # biases, grouped heads, a head of its own
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA, num_key_value_heads=2, tie_word_embeddings=False)),
    # a recurrent layer, which reads the weight and the bias of one of its linears by itself
    "mamba": lambda: transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=259, hidden_size=96, num_hidden_layers=2, state_size=8, time_step_rank=32)
    ),
    "llama in bfloat16": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)).bfloat16(),
}
GEMMA = {**LLAMA, "num_key_value_heads": 2, "head_dim": 24, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
# classes of their own where others have nn.Linear and nn.Embedding
OWN = {
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**GEMMA)),
    "xglm": lambda: transformers.XGLMForCausalLM(
        transformers.XGLMConfig(**SMALL, d_model=96, ffn_dim=192, num_layers=2, attention_heads=4, scale_embedding=True)
    ),
    "falcon": lambda: transformers.FalconForCausalLM(
        transformers.FalconConfig(vocab_size=259, hidden_size=96, num_hidden_layers=2, num_attention_heads=4)
    ),
    "phimoe": lambda: transformers.PhimoeForCausalLM(transformers.PhimoeConfig(**LLAMA, num_key_value_heads=2, num_local_experts=4)),
}
TEXT = "The pump began to leak on Monday, so the engineer closed the valve and replaced the seal. " * 12


def made(kind: str, tokenizer) -> Model:
    torch.manual_seed(0)
    module = {**KINDS, **OWN}[kind]().eval().requires_grad_(False)
    return Model(module, tokenizer, Checkpoint(source=kind, hash="0" * 64, architecture=type(module).__name__, layers=2, vocabulary=259))


@pytest.mark.parametrize("kind", OWN)
def test_classes_of_their_own_still_do_what_they_did(kind, tiny_llama):
    """Gemma scales what it looks up, a router chooses experts: 8 bits change little, whatever the class of a module does."""
    base = made(kind, tiny_llama.tokenizer)
    ids = torch.tensor([base.tokens(TEXT)[:100]])
    exact = base.logits(ids)
    small = ek.quantize(base, bits=8)
    assert float((small.logits(ids) - exact).std() / exact.std()) < 0.05
    assert small.stored_bytes == small.plans[-1].bytes_after
    inside = {p.module for p in small.plans[-1].acting() if ".self_att" in p.module}
    assert len(inside) == len([n for n, m in base.module.named_modules() if isinstance(m, torch.nn.Linear) and ".self_att" in n]) > 0
    assert not any("router" in p.module or p.module.endswith(".gate") for p in small.plans[-1].acting())


def test_a_scaled_table_is_saved_and_tuned_with_its_scale(tiny_llama, tmp_path):
    base = made("gemma3", tiny_llama.tokenizer)
    ids = torch.tensor([base.tokens(TEXT)[:100]])
    given = {"bits": 8, "tune": "scales", "tune_steps": 1, "calibration": TEXT, "window": 64}
    begun = next(event for event in ek.quantize.work(base, **given) if event.message == "tuning begins")
    assert begun.metrics["held_out"] < 0.02, "the table was tuned without its scale"
    small = ek.quantize(base, **given)
    assert float((small.logits(ids) - base.logits(ids)).std() / base.logits(ids).std()) < 0.05
    again = ek.load(str(small.save(tmp_path / "small")), device="cpu")
    assert torch.equal(again.logits(ids), small.logits(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_budget_to_a_tuned_model(kind, tiny_llama):
    base = made(kind, tiny_llama.tokenizer)
    before = {name: t.clone() for name, t in base.module.state_dict().items()}
    sensitivity, allocation = ek.best_format(base, TEXT, bytes=int(0.35 * base.stored_bytes), samples=2, window=64)
    assert all(choice.kl > 0 for m in sensitivity.modules for choice in m.choices[:-1]), "a module that no rounding could harm"
    small = ek.quantize(
        base,
        "gptq",
        group_size=sensitivity.group_size,
        symmetric=sensitivity.symmetric,
        module_bits=allocation.bits,
        calibration=TEXT,
        samples=4,
        window=64,
        tune="weights",
        tune_steps=2,
    )
    assert small.stored_bytes == allocation.bytes <= 0.35 * base.stored_bytes
    assert "tuning" in small.plans[-1].notes[-1]
    if "->" in small.plans[-1].notes[-1] and base.dtype == torch.float32:  # whatever an architecture calls its norms, they are trained
        now = small.module.state_dict()
        norms = [f"{name}.weight" for name, m in base.module.named_modules() if "Norm" in type(m).__name__]
        assert len(norms) >= 3
        assert not any(torch.equal(now[name], before[name]) for name in norms)
    kept = ek.evaluate(small, base, on=TEXT, window=64, windows=2, floor=False)
    crude = ek.evaluate(ek.quantize(base, "rtn", 2, embedding_bits=2), base, on=TEXT, window=64, windows=2, floor=False)
    assert kept.kl.mean.value < crude.kl.mean.value
    assert all(torch.equal(t, before[name]) for name, t in base.module.state_dict().items()), "the base was changed"


def test_a_linear_outside_the_layers_is_rounded_to_nearest_and_the_plan_says_so(tiny_llama):
    """OPT may project its embeddings: no calibration text is followed there."""
    sizes = {"hidden_size": 96, "ffn_dim": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 64}
    torch.manual_seed(0)
    module = transformers.OPTForCausalLM(transformers.OPTConfig(**SMALL, **sizes)).eval().requires_grad_(False)
    base = Model(module, tiny_llama.tokenizer, Checkpoint(source="opt", hash="0" * 64, architecture="OPT", layers=2, vocabulary=259))
    plan = ek.plan(base, ek.Quantize(method="gptq", bits=3))
    assert {p.module.rpartition(".")[2]: p.method for p in plan.acting() if ".layers." not in p.module} == {
        "embed_tokens": "rtn",
        "project_in": "rtn",
        "project_out": "rtn",
    }
    assert any("project_out and 1 more: outside the layers, so rounded to nearest" in note for note in plan.notes)
    assert not any("outside" in note for note in ek.plan(base, ek.Quantize(method="rtn", bits=3)).notes)
    small = ek.quantize(base, "gptq", bits=3, calibration=TEXT, samples=2, window=32)
    assert small.stored_bytes == plan.bytes_after
    nearest = ek.quantize(base, "rtn", bits=3)
    name = "model.decoder.project_in"
    assert torch.equal(small.module.get_submodule(name).weight, nearest.module.get_submodule(name).weight)
