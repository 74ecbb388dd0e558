"""What a Model promises: copies share nothing, ties hold, windows and prompts are checked, and its card says what it is."""

from __future__ import annotations

import copy
import re

import pytest
import torch

import effkit as ek
from effkit.models.execution.table import Executed, Execution
from effkit.models.texts.labelled import LabelledSet
from effkit.spec.errors import BadInput

IDS = torch.tensor([[5, 9, 200, 31, 77, 4, 120, 58]])


def test_a_clone_is_equal_and_shares_nothing(tiny_llama):
    before = tiny_llama.logits(IDS)
    twin = tiny_llama.clone()
    assert torch.equal(twin.logits(IDS), before)
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.zero_()
    assert torch.equal(tiny_llama.logits(IDS), before)
    assert twin.module.lm_head.weight is twin.module.model.embed_tokens.weight
    assert twin.module.config is not tiny_llama.module.config


def test_a_clone_leaves_random_states_alone(tiny_llama):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    tiny_llama.clone()
    assert torch.equal(torch.rand(2), expected)


def test_what_will_be_replaced_is_not_copied(tiny_llama):
    twin = tiny_llama.clone(without=["model.layers.0.mlp", "model.layers.1.self_attn.q_proj"])
    meta = {name for name, p in twin.module.named_parameters() if p.device.type == "meta"}
    assert meta == {f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")} | {
        "model.layers.1.self_attn.q_proj.weight"
    }
    assert not any(p.device.type == "meta" for p in tiny_llama.module.parameters())


def test_a_tied_weight_is_left_out_only_with_all_its_holders(tiny_llama):
    one = tiny_llama.clone(without=["lm_head"]).module
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert one.lm_head.weight.device.type == "cpu"
    both = tiny_llama.clone(without=["lm_head", "model.embed_tokens"]).module
    assert both.lm_head.weight is both.model.embed_tokens.weight
    assert both.lm_head.weight.device.type == "meta"


def test_without_an_unknown_module(tiny_llama):
    with pytest.raises(BadInput, match=r"there is no module 'model.layer.0'. Allowed: the names of this model's modules"):
        tiny_llama.clone(without=["model.layer.0"])


def test_a_clone_of_a_quantized_model(tiny_llama):
    small = ek.quantize(tiny_llama, bits=4, group_size=32)
    twin = small.clone()
    assert torch.equal(twin.logits(IDS), small.logits(IDS))
    assert twin.module.lm_head.packed is twin.module.model.embed_tokens.packed
    assert twin.module.lm_head.packed.integers.data_ptr() != small.module.lm_head.packed.integers.data_ptr()


def test_to_gives_a_new_model(tiny_llama):
    half = tiny_llama.to(dtype="bfloat16")
    assert (half.dtype, tiny_llama.dtype) == (torch.bfloat16, torch.float32)
    assert half.config.dtype == torch.bfloat16
    assert half.module.lm_head.weight is half.module.model.embed_tokens.weight
    assert half.checkpoint == tiny_llama.checkpoint
    assert half.reload_hint is None, "a cast copy is not what load gives"
    assert tiny_llama.to("cpu").reload_hint == tiny_llama.reload_hint
    same = tiny_llama.to("cpu", "float32")
    assert torch.equal(same.logits(IDS), tiny_llama.logits(IDS))
    assert same.module.lm_head.weight.data_ptr() != tiny_llama.module.lm_head.weight.data_ptr()


@pytest.mark.parametrize("dtype", ["int8", "float64", torch.int32, "nonsense"])
def test_to_a_dtype_that_nothing_computes_in(dtype, tiny_llama):
    with pytest.raises(BadInput, match=r"^dtype is .*Allowed on cpu: 'auto', 'float32', 'bfloat16', 'float16'"):
        tiny_llama.to(dtype=dtype)


def test_there_and_back_on_an_accelerator(tiny_llama):
    device = ek.device("auto")
    if device.type == "cpu":
        pytest.skip("no accelerator here")
    small = ek.quantize(tiny_llama, bits=4, group_size=32)
    there = small.to(device)
    assert there.device == device
    assert torch.equal(there.to("cpu").logits(IDS), small.logits(IDS))


def test_logits_shapes(tiny_llama, tiny_classifier):
    assert tiny_llama.logits(IDS).shape == (1, 8, 259)
    assert tiny_llama.logits([[1, 2], [3, 4]]).shape == (2, 2, 259)
    assert tiny_classifier.logits(IDS, torch.ones_like(IDS)).shape == (1, 3)


def test_padding_is_masked(tiny_classifier):
    padded = torch.cat([IDS, torch.zeros(1, 3, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(IDS), torch.zeros(1, 3, dtype=torch.long)], 1)
    assert torch.allclose(tiny_classifier.logits(padded, mask), tiny_classifier.logits(IDS, torch.ones_like(IDS)), atol=1e-5)


def test_logits_of_what_does_not_fit(tiny_llama):
    with pytest.raises(BadInput, match=r"shape of the token ids is \(3,\)"):
        tiny_llama.logits(torch.tensor([1, 2, 3]))
    with pytest.raises(BadInput, match=r"shape of the token ids is \(1, 0\)"):
        tiny_llama.logits([[]])
    with pytest.raises(BadInput, match=r"the text has 257 tokens. This model reads at most 256 at once"):
        tiny_llama.logits(torch.ones(1, 257, dtype=torch.long))


def test_windows_of_models(tiny_llama, tiny_classifier):
    assert (tiny_llama.window, tiny_classifier.window) == (256, 128)


def test_generation_takes_the_likeliest_token_each_time(tiny_llama):
    ids = tiny_llama.tokens("Once upon")
    for _ in range(6):
        ids.append(int(tiny_llama.logits([ids])[0, -1].argmax()))
    made = tiny_llama.generate("Once upon", new_tokens=6)
    assert tiny_llama.text(ids[len(tiny_llama.tokens("Once upon")) :]).startswith(made)
    assert made


def test_generation_of_what_cannot_be(tiny_llama, tiny_classifier):
    with pytest.raises(BadInput, match=r"is a sequence classifier. generate works for causal language models"):
        tiny_classifier.generate("x")
    with pytest.raises(BadInput, match=r"the prompt has 5 tokens and new_tokens is 252. This model reads at most 256 in all"):
        tiny_llama.generate("hello", new_tokens=252)
    with pytest.raises(BadInput, match=r"new_tokens is 0"):
        tiny_llama.generate("hello", new_tokens=0)


def test_tokens_and_text_round_trip(tiny_llama):
    text = "Größe: 3 µm\n\ttab"
    assert tiny_llama.text(tiny_llama.tokens(text)) == text


def test_repr_is_one_line_without_addresses(tiny_llama, tiny_llama_folder):
    line = repr(tiny_llama)
    assert line == f"Model({str(tiny_llama_folder)!r}, LlamaForCausalLM, 146k weights, 584 kB, base, float32 on cpu)"
    assert "0x" not in repr(ek.quantize(tiny_llama, bits=4, group_size=32))


def test_the_card_escapes_what_came_from_outside(tiny_llama):
    nasty = tiny_llama.checkpoint.model_copy(update={"source": "<script>alert(1)</script>", "licence": '"><img src=x>', "notes": ("<b>",)})
    model = copy.copy(tiny_llama)
    model.checkpoint = nasty
    html = model._repr_html_()
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    for word in ("LlamaForCausalLM", "146k weights in 3 layers", "584 kB, 32 bits per weight", "float32 on cpu", "&lt;b&gt;"):
        assert word in html


def test_tables_show_what_would_turn_a_line_around(tiny_llama):
    evil = "\u202egnp.exe\u2066 \x1b[31mred\x1b[0m\u200f"
    model = copy.copy(tiny_llama)
    model.checkpoint = tiny_llama.checkpoint.model_copy(update={"source": evil, "licence": evil, "revision": evil, "notes": (evil,)})
    labelled = LabelledSet(evil, (evil,), (0,), (evil,), ("g",), source=evil, licence=evil, note=evil)
    engines = Execution((Executed(evil, evil, evil),))
    for shown in (model, labelled, engines):
        html = shown._repr_html_()
        assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", html), shown
        assert "[U+202E]gnp.exe[U+2066] red[U+200F]" in html


def test_the_card_takes_its_colours_from_the_host(tiny_llama):
    html = tiny_llama._repr_html_()
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", html) == ["#8888"], "one fallback colour, for the border"
    assert set(re.findall(r"(?:;|\")(?:color|background|border):(var\(--jp-[a-z0-9-]+|none|1px solid var)", html)) >= {
        "var(--jp-ui-font-color1"
    }
    assert "http" not in html
