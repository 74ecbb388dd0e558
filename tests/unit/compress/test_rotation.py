"""Rotations that leave the logits as they are, spread outliers, and are refused where they cannot be folded."""

from __future__ import annotations

import pytest
import torch
import transformers

import effkit as ek
from effkit.compress.quantization.rotation import orthogonal, rotated
from effkit.models.model import Model, wrap
from effkit.spec.errors import BadInput

TEXT = "the wheel turns and the belt moves the wheel again while the pump runs dry " * 60


@pytest.fixture
def untied(tiny_llama) -> Model:
    """A decoder with a head of its own, biases, unequal norms, and some weights that are far larger than the others."""
    config = transformers.Qwen2Config(
        vocab_size=tiny_llama.checkpoint.vocabulary, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if name.endswith("bias"):
                tensor.normal_()
            elif "norm" in name:
                tensor.uniform_(0.5, 2.0)
            else:
                tensor *= torch.randn_like(tensor).mul(1.2).exp()
    return wrap(module, tiny_llama.tokenizer, "untied")


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.module(input_ids=torch.arange(40).unsqueeze(0)).logits


@pytest.mark.parametrize("n", [8, 48, 64, 9, 576])
def test_it_is_orthogonal_and_spreads_each_input(n):
    q = orthogonal(n, 3, torch.device("cpu"))
    assert torch.allclose(q @ q.t(), torch.eye(n), atol=1e-5)
    assert not torch.equal(q, orthogonal(n, 4, torch.device("cpu")))
    two = n & -n
    assert float(q.abs().max()) <= two**-0.5 + 1e-6


def test_hidden_states_and_values_turn_and_the_logits_stay(untied):
    before = untied.module.state_dict()["model.layers.0.self_attn.v_proj.weight"].clone()
    new, said = rotated(untied)
    assert said == "rotated before rounding: hidden states and values"
    assert torch.allclose(logits(new), logits(untied), atol=2e-4 * float(logits(untied).std()))
    assert torch.equal(untied.module.state_dict()["model.layers.0.self_attn.v_proj.weight"], before)
    for name, tensor in new.module.named_parameters():
        if "layernorm" in name or name == "model.norm.weight":
            assert torch.equal(tensor, torch.ones_like(tensor))
    outlier = untied.module.lm_head.weight.abs().amax() / untied.module.lm_head.weight.std()
    spread = new.module.lm_head.weight.abs().amax() / new.module.lm_head.weight.std()
    assert float(spread) < 0.8 * float(outlier)


def test_a_head_that_shares_its_table_keeps_the_hidden_states(stories15m):
    base = ek.load(stories15m, device="cpu")
    new, said = rotated(base)
    assert said == "rotated before rounding: values; its head shares the embedding's table, so hidden states are not"
    assert new.module.lm_head.weight is new.module.model.embed_tokens.weight
    assert torch.equal(new.module.lm_head.weight, base.module.lm_head.weight)
    assert torch.allclose(logits(new), logits(base), atol=1e-3)


def test_outliers_hurt_less_and_the_bytes_are_the_same(untied):
    plain, turned = (ek.quantize(untied, "rtn", 3, group_size=None, rotate=turn, embedding_bits=None) for turn in (False, True))
    assert turned.stored_bytes == plain.stored_bytes
    kls = [ek.evaluate(m, untied, TEXT, window=64, windows=4, floor=False).kl.mean.value for m in (plain, turned)]
    assert kls[1] < 0.6 * kls[0], kls
    assert "rotated before rounding: hidden states and values" in turned.plans[-1].notes
    assert turned.recipe.steps[-1].rotate


def test_a_rotated_model_is_tuned_towards_its_own_weights(untied):
    rounded, tuned = (
        ek.quantize(untied, "rtn", 2, rotate=True, embedding_bits=None, calibration=TEXT, window=64, tune=tune, tune_steps=20)
        for tune in (None, "weights")
    )
    kls = [ek.evaluate(m, untied, TEXT, window=64, windows=4, floor=False).kl.mean.value for m in (rounded, tuned)]
    assert kls[1] < kls[0]


def test_what_cannot_be_rotated_is_refused(tiny_classifier, tiny_llama):
    with pytest.raises(BadInput, match="rotate is asked for BertForSequenceClassification"):
        rotated(tiny_classifier)
    with pytest.raises(BadInput, match="rotate is asked for a model that holds weights in few bits"):
        rotated(ek.quantize(tiny_llama, group_size=32))
    config = transformers.GPT2Config(vocab_size=tiny_llama.checkpoint.vocabulary, n_embd=32, n_layer=1, n_head=2)
    with pytest.raises(BadInput, match="rotate is asked for GPT2LMHeadModel, whose layers are not known"):
        rotated(wrap(transformers.GPT2LMHeadModel(config), tiny_llama.tokenizer, "gpt2"))


def test_logits_that_would_change_are_found(untied):
    class Shifted(torch.nn.Module):  # a norm that takes the mean off does not turn along
        def __init__(self, norm):
            super().__init__()
            self.weight = norm.weight

        def forward(self, x):
            return torch.nn.functional.layer_norm(x, (x.shape[-1],), self.weight)

    layer = untied.module.model.layers[1]
    layer.input_layernorm = Shifted(layer.input_layernorm)
    with pytest.raises(BadInput, match="would change its logits"):
        rotated(untied)
