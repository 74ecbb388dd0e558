"""Counts from a config against a real model: num_parameters of transformers, and torch's FlopCounterMode over one forward.

Both exactly. Set apart: the rotary table, a product of positions and frequencies that the counter counts and no cost
model should; and the counter counts the whole square of pairs in attention, of which a causal model needs half.
"""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from effkit.hardware.projected.architecture import Core
from effkit.hardware.projected.configs import architecture
from effkit.spec.errors import BadInput

GATED = {
    "vocab_size": 311, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PLAIN = {key: value for key, value in GATED.items() if key not in ("num_key_value_heads", "intermediate_size")}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 6,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
    "n_group": 2, "topk_group": 1,
}  # fmt: skip
SHARED_EXPERT = {key: LATENT[key] for key in ("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size")}
LINEAR = {
    "head_dim": 8, "layer_types": ["linear_attention", "linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
OPERATIONS_EXACT = [
    ("llama", {**GATED, "tie_word_embeddings": True}),
    ("qwen2", GATED),
    ("qwen3", {**GATED, "head_dim": 16}),
    ("mistral", {**GATED, "sliding_window": None}),
    ("gpt2", {"vocab_size": 311, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 128}),
    ("gpt_neox", {**PLAIN, "intermediate_size": 112}),
    ("phi", {**GATED, "num_key_value_heads": 6}),
    ("gemma", {**GATED, "head_dim": 16}),
    ("gemma3_text", {**GATED, "head_dim": 16, "sliding_window": 1024}),
    ("opt", {**PLAIN, "ffn_dim": 112, "word_embed_proj_dim": 48}),
    ("mixtral", {**GATED, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}),
    ("qwen3_moe", {**GATED, "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}),
    ("deepseek_v3", {**GATED, **LATENT}),
    ("bert", {**PLAIN, "intermediate_size": 112, "type_vocab_size": 2}),
]
PARAMETERS_EXACT = [
    *OPERATIONS_EXACT,
    ("gpt_oss", {**GATED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    ("minimax_m2", {**GATED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ("qwen3_5_text", {**GATED, **LINEAR}),
    ("gemma2", {**GATED, "head_dim": 16, "sliding_window": 16}),
    ("phi3", GATED),
    ("glm4_moe", {**GATED, **SHARED_EXPERT, "num_key_value_heads": 2, "head_dim": 8, "attention_bias": True, "use_qk_norm": True}),
    ("glm4_moe_lite", {**GATED, **LATENT}),
    ("llama4_text", {**GATED, "head_dim": 8, "num_local_experts": 4, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 80}),
    ("deepseek_v32", {**GATED, **LATENT, "index_topk": 16, "index_n_heads": 2, "index_head_dim": 8}),
    ("glm_moe_dsa", {**GATED, **LATENT, "index_topk": 16, "index_n_heads": 2, "index_head_dim": 8}),
]


def built(family: str, settings: dict):
    config = transformers.AutoConfig.for_model(family, **settings)
    config.architectures = ["BertForMaskedLM"] if family == "bert" else None
    maker = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    return config, maker.from_config(config, attn_implementation="eager", experts_implementation="eager").eval()


def counted(model, tokens: int, batch: int = 2) -> int:
    """What FlopCounterMode counts in one forward, less the rotary table (see above)."""
    ids = torch.randint(3, 250, (batch, tokens), generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    rotary = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.split(".")[-1] == "rotary_emb"}
    return counter.get_total_flops() - sum(rotary.values())


@pytest.mark.parametrize(("family", "settings"), PARAMETERS_EXACT, ids=[family for family, _ in PARAMETERS_EXACT])
def test_parameters_are_those_of_the_model(family, settings):
    config, model = built(family, settings)
    assert architecture(config).total == model.num_parameters()
    assert architecture(config).known


@pytest.mark.parametrize(("family", "settings"), OPERATIONS_EXACT, ids=[family for family, _ in OPERATIONS_EXACT])
@pytest.mark.parametrize("tokens", [7, 32])
def test_operations_are_those_that_torch_counts(family, settings, tokens):
    config, model = built(family, settings)
    found = architecture(config).prefill_flops(tokens, batch=2, causal=False, logits="all")
    assert sum(found.values()) == counted(model, tokens)


def test_a_classifier_multiplies_its_pooled_token_once(tiny_classifier_folder):
    config = transformers.AutoConfig.from_pretrained(tiny_classifier_folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_classifier_folder, attn_implementation="eager").eval()
    shape = architecture(tiny_classifier_folder)
    assert shape.total == model.num_parameters() == architecture(config).total
    assert sum(shape.prefill_flops(16, batch=2, causal=False, logits="last").values()) == counted(model, 16)


def test_a_step_of_decoding_adds_up_to_a_prefill():
    """Reading tokens one by one costs, in all, what reading them at once costs: causal pairs are counted once."""
    config, _ = built("llama", GATED)
    shape = architecture(config)
    once = shape.prefill_flops(20, logits="all")
    steps = [shape.decode_flops(1, context) for context in range(20)]
    for part, value in once.items():
        assert sum(step[part] for step in steps) == pytest.approx(value, rel=1e-12), part
    half = shape.prefill_flops(10, logits="all")["core"] + shape.prefill_flops(10, context=10, logits="all")["core"]
    assert half == once["core"]


def test_a_window_bounds_pairs_and_cache():
    wide, narrow = Core("full", 2, 8, 8, cached=32), Core("window", 2, 8, 8, cached=32, window=4)
    pairs = sum(min(i + 1, 4) for i in range(11))
    assert narrow.flops(11, 0, causal=True) == 2 * 2 * 16 * pairs
    assert narrow.flops(5, 6, causal=True) == 2 * 2 * 16 * sum(min(i + 1, 4) for i in range(6, 11))
    assert narrow.flops(3, 0, causal=True) == wide.flops(3, 0, causal=True)
    assert (narrow.read(100), wide.read(100)) == (128, 3200)


def test_bytes_count_scales_and_leave_small_parts_whole(tmp_path):
    shape = architecture(built("llama", {**GATED, "hidden_size": 192, "intermediate_size": 256})[0])
    parts = shape.parameters()
    quantized = parts["attention"] + parts["mlp"]
    whole = sum(parts.values()) - quantized
    assert shape.weight_bytes("bf16") == 2 * shape.total
    assert shape.weight_bytes("int4_g32") == whole * 2 + quantized / 2 + quantized / 32 * 2
    assert shape.weight_bytes("nvfp4") == whole * 2 + quantized / 2 + quantized / 16
    order = ["mxfp4", "int4_g32", "fp8", "bf16", "fp32"]
    assert [shape.weight_bytes(name) for name in order] == sorted(shape.weight_bytes(name) for name in order)
    with pytest.raises(BadInput, match="format is 'fp3'"):
        shape.weight_bytes("fp3")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 8}))
    with pytest.raises(BadInput, match="without a number of layers"):
        architecture(tmp_path)


def test_experts_that_tokens_touch_grow_from_the_chosen_to_all():
    shape = architecture(built("mixtral", {**GATED, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None})[0])
    assert shape.touched(1) == pytest.approx(2 / 8)
    assert shape.touched(2) == pytest.approx(1 - (6 / 8) ** 2)
    assert 0.999 < shape.touched(100) <= 1
    assert shape.active < shape.total
    assert (shape.active_experts, shape.experts) == (2, 8)


def test_a_latent_cache_is_far_smaller_than_heads():
    shape = architecture(built("deepseek_v3", {**GATED, **LATENT})[0])
    assert shape.kv_bytes_per_token(2) == 3 * (16 + 4) * 2
    assert shape.kv_bytes(10) == 10 * shape.kv_bytes_per_token()
