"""Loading what people have: folders of several architectures and dtypes, in one file or in shards, with their licence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import effkit as ek
from effkit.models.files.folder import quiet
from effkit.models.model import wrap

IDS = torch.tensor([[5, 9, 200, 31, 77, 4, 120, 58]])


def configs() -> dict:
    small = {"vocab_size": 259, "initializer_range": 0.08}
    return {
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **small)),
        "neox": (
            transformers.GPTNeoXForCausalLM,
            transformers.GPTNeoXConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **small),
        ),
        "mixtral": (
            transformers.MixtralForCausalLM,
            transformers.MixtralConfig(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                num_local_experts=4, num_experts_per_tok=2, **small,
            ),
        ),
        "roberta": (
            transformers.RobertaForSequenceClassification,
            transformers.RobertaConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=66,
                num_labels=4, **small,
            ),
        ),
    }  # fmt: skip


def saved(name: str, folder, tokenizer_from, dtype=torch.float32, **how):
    cls, config = configs()[name]
    torch.manual_seed(3)
    module = cls(config).to(dtype).eval()
    with quiet():
        module.save_pretrained(folder, **how)
    for file in tokenizer_from.glob("token*"):
        shutil.copy(file, folder)
    return module


@pytest.mark.parametrize("name", ["gpt2", "neox", "mixtral", "roberta"])
def test_every_architecture_gives_the_logits_of_transformers(name, tmp_path, tiny_llama_folder):
    module = saved(name, tmp_path, tiny_llama_folder)
    model = ek.load(tmp_path, device="cpu")
    assert torch.equal(model.logits(IDS), module(IDS).logits)
    assert model.task == ("sequence-classification" if name == "roberta" else "causal-lm")
    assert model.checkpoint.parameters == sum(p.numel() for p in module.parameters())
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())


def test_shards_and_one_file_are_the_same_model(tmp_path, tiny_llama_folder):
    saved("gpt2", tmp_path / "one", tiny_llama_folder)
    saved("gpt2", tmp_path / "many", tiny_llama_folder, max_shard_size="50KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    one, many = (ek.load(tmp_path / name, device="cpu") for name in ("one", "many"))
    assert torch.equal(one.logits(IDS), many.logits(IDS))
    assert one.checkpoint.hash == many.checkpoint.hash


def test_a_missing_shard_is_named(tmp_path, tiny_llama_folder):
    saved("gpt2", tmp_path, tiny_llama_folder, max_shard_size="50KB")
    (tmp_path / "model-00002-of-00003.safetensors").unlink(missing_ok=True)
    lost = next(f for f in json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values() if "00002" in f)
    (tmp_path / lost).unlink(missing_ok=True)
    with pytest.raises(ek.EffkitError, match=f"lacks {lost}.*Download the model again"):
        ek.load(tmp_path, device="cpu")


def test_dtypes_of_a_bfloat16_checkpoint(tmp_path, tiny_llama_folder):
    module = saved("gpt2", tmp_path, tiny_llama_folder, dtype=torch.bfloat16)
    auto = ek.load(tmp_path, device="cpu")
    assert auto.dtype == torch.float32, "auto is float32 on the CPU"
    assert torch.equal(auto.logits(IDS), module.float()(IDS).logits)
    asked = ek.load(tmp_path, device="cpu", dtype="bfloat16")
    assert asked.dtype == torch.bfloat16
    assert asked.stored_bytes * 2 == auto.stored_bytes
    assert asked.checkpoint.hash == auto.checkpoint.hash, "the hash is of the stored weights, whatever they are cast to"
    assert auto.reload_hint == {"source": str(tmp_path), "revision": None, "dtype": "float32"}


def test_rotary_frequencies_keep_float32(tiny_llama_folder):
    model = ek.load(tiny_llama_folder, device="cpu", dtype=torch.bfloat16)
    assert model.module.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.to(dtype="float16").module.model.rotary_emb.inv_freq.dtype == torch.float32


def test_tied_weights_are_one_tensor(tiny_llama):
    module = tiny_llama.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert tiny_llama.stored_bytes == 4 * tiny_llama.checkpoint.parameters


def test_safetensors_win_over_a_pickle_beside_them(tmp_path, tiny_llama_folder):
    saved("gpt2", tmp_path, tiny_llama_folder)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04not to be opened")
    assert ek.load(tmp_path, device="cpu").checkpoint.architecture == "GPT2LMHeadModel"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# hello", "mit"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("# no head", None),
        ("---\nlicense: [broken\n---\n", None),
        (None, None),
    ],
)
def test_licence_comes_from_the_model_card(card, licence, tmp_path, tiny_llama_folder):
    saved("gpt2", tmp_path, tiny_llama_folder)
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert ek.load(tmp_path, device="cpu").checkpoint.licence == licence


def test_loading_leaves_random_states_alone(tiny_llama_folder, tmp_path):
    ek.load(tiny_llama_folder, device="cpu").save(tmp_path / "saved")
    torch.manual_seed(1)
    expected = torch.rand(3)
    for folder in (tiny_llama_folder, tmp_path / "saved"):
        torch.manual_seed(1)
        ek.load(folder, device="cpu")
        assert torch.equal(torch.rand(3), expected)


def test_loading_reports_every_tensor_and_ends_complete(tiny_llama_folder):
    events, ends = [], []

    def watched():
        ends.append((yield from ek.load.work(tiny_llama_folder, device="cpu")))

    events += watched()
    assert {e.task for e in events} == {"load"}
    tensors = [e.details["tensor"] for e in events if "tensor" in e.details]
    assert sorted(tensors) == sorted(load_file(tiny_llama_folder / "model.safetensors"))
    assert all(0 <= e.done <= e.total for e in events)
    assert events[-1].message == "loaded"
    assert ends[0].task == "causal-lm"


def test_loading_prints_nothing(tiny_llama_folder, capfd):
    ek.load(tiny_llama_folder, device="cpu")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_the_hash_sees_every_change_and_nothing_else(tmp_path, tiny_llama_folder):
    first = ek.load(tiny_llama_folder, device="cpu").checkpoint.hash
    shutil.copytree(tiny_llama_folder, tmp_path / "copy")
    assert ek.load(tmp_path / "copy", device="cpu").checkpoint.hash == first
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    name = sorted(tensors)[3]
    tensors[name].view(torch.int32).view(-1)[-1] ^= 1
    save_file(tensors, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    assert ek.load(tmp_path / "copy", device="cpu").checkpoint.hash != first


def test_a_model_in_memory_can_be_wrapped(tiny_llama):
    again = wrap(tiny_llama.module, tiny_llama.tokenizer, "mine", licence="mit")
    assert again.checkpoint.hash == tiny_llama.checkpoint.hash
    assert (again.checkpoint.source, again.checkpoint.licence, again.task) == ("mine", "mit", "causal-lm")
    assert again.reload_hint is None, "what is only in memory cannot be loaded again"


def test_on_an_accelerator_auto_keeps_the_checkpoints_own_dtype(tmp_path, tiny_llama_folder):
    if ek.device("auto").type == "cpu":
        pytest.skip("no accelerator here")
    saved("gpt2", tmp_path, tiny_llama_folder, dtype=torch.bfloat16)
    model = ek.load(tmp_path)
    assert model.device == ek.device("auto")
    assert model.dtype == torch.bfloat16
