"""Where every byte goes: exact sums, ties once, and the right category for the names of several architectures."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import effkit as ek
from effkit.models.ledger import CATEGORIES, ledger_of, module_bytes

SMALL = {"vocab_size": 50}


def llama(**more):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **SMALL, **more
        )
    )


def test_llama_by_hand():
    ledger = ledger_of(llama(tie_word_embeddings=False))
    attention = 2 * (16 * 16 + 2 * 8 * 16 + 16 * 16)
    assert ledger.by_category() == {
        "embeddings": 4 * 50 * 16,
        "head": 4 * 50 * 16,
        "attention": 4 * attention,
        "mlp": 4 * 2 * 3 * 16 * 40,
        "norms": 4 * 5 * 16,
    }
    assert ledger.bits_per_weight == 32
    assert ledger.by_layer() == {None: 4 * (2 * 50 * 16 + 16), 0: 4 * (768 + 1920 + 32), 1: 4 * (768 + 1920 + 32)}


def test_a_tied_head_counts_once_as_embedding():
    ledger = ledger_of(llama(tie_word_embeddings=True))
    assert "head" not in ledger.by_category()
    assert ledger.by_category()["embeddings"] == 4 * 50 * 16
    assert [e.module for e in ledger.entries if e.category == "embeddings"] == ["model.embed_tokens"]


def test_gpt2_with_its_transposed_linears():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SMALL))
    assert ledger_of(model).by_category() == {
        "embeddings": 4 * (50 * 16 + 32 * 16),
        "attention": 4 * 2 * (16 * 48 + 48 + 16 * 16 + 16),
        "mlp": 4 * 2 * (2 * 16 * 64 + 64 + 16),
        "norms": 4 * (5 * 2 * 16),
    }


def test_bert_whose_attention_and_mlp_share_names():
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=20,
            num_labels=3,
            **SMALL,
        )
    )
    assert ledger_of(model).by_category() == {
        "embeddings": 4 * (50 + 20 + 2) * 16,
        "head": 4 * (16 * 16 + 16 + 16 * 3 + 3),
        "attention": 4 * 2 * 4 * (16 * 16 + 16),
        "mlp": 4 * 2 * (16 * 32 + 32 + 32 * 16 + 16),
        "norms": 4 * 5 * 2 * 16,
    }


def test_mixture_of_experts():
    model = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
            **SMALL,
        )
    )
    ledger = ledger_of(model).by_category()
    assert ledger["mlp"] == 4 * 2 * (4 * 3 * 16 * 32 + 4 * 16), "experts and their router"
    assert ledger["attention"] == 4 * 2 * 768
    assert "other" not in ledger


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPTNeoXConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **SMALL),
        transformers.OPTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=32,
            max_position_embeddings=32,
            word_embed_proj_dim=16,
            **SMALL,
        ),
        transformers.Qwen3Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=32, **SMALL
        ),
        transformers.BloomConfig(hidden_size=16, n_layer=1, n_head=2, **SMALL),
    ],
    ids=lambda config: config.model_type,
)
def test_nothing_of_common_architectures_is_other(config):
    model = transformers.AutoModelForCausalLM.from_config(config)
    ledger = ledger_of(model)
    assert ledger.total == 4 * sum(p.numel() for p in model.parameters())
    assert set(ledger.by_category()) >= {"embeddings", "attention", "mlp", "norms"}
    assert "other" not in ledger.by_category()


def test_an_unknown_module_is_other():
    model = nn.ModuleDict({"mystery": nn.Linear(4, 4)})
    assert ledger_of(model).by_category() == {"other": 4 * 20}
    assert module_bytes(model) == 80


def test_buffers_that_are_not_stored_do_not_count():
    model = nn.Module()
    model.register_buffer("kept", torch.zeros(10))
    model.register_buffer("again", torch.zeros(10), persistent=False)
    assert ledger_of(model).total == 40


def test_quantized_models_show_their_scales(tiny_llama):
    small = ek.quantize(tiny_llama, method="rtn", bits=4, group_size=32, embedding_bits=8)
    before, after = tiny_llama.ledger(), small.ledger()
    assert after.weights == before.weights == tiny_llama.checkpoint.parameters
    assert list(after.by_category()) == [c for c in CATEGORIES if c in after.by_category()]
    attention, mlp = (after.by_category()[c] for c in ("attention", "mlp"))
    assert (attention, mlp) == (before.by_category()["attention"] // 8, before.by_category()["mlp"] // 8)
    linears = (before.by_category()["attention"] + before.by_category()["mlp"]) // 4
    # a float16 scale and a 4-bit zero a group of 32; the byte-token table in whole rows of 64 or groups of its own
    scales = sum(e.bytes for e in after.entries if e.category == "scales" and "layers" in e.module)
    assert scales == linears // 32 * 2 + sum(e.bytes for e in after.entries if e.tensor == "packed.zeros" and "layers" in e.module)
    assert after.total == small.plans[-1].bytes_after
    assert sum(after.by_category().values()) == sum(after.by_layer().values()) == after.total
    assert after.bits_per_weight == pytest.approx(8 * after.total / before.weights)
    assert {e.tensor for e in after.entries if e.module == "model.embed_tokens"} >= {"packed.integers", "packed.scales"}
    assert not [e for e in after.entries if e.module == "lm_head"], "tied: counted at the embedding"
    assert module_bytes(small.module.model.layers[0].mlp) < module_bytes(tiny_llama.module.model.layers[0].mlp) / 5
