"""GGUF files as people have them: read right, and refused where they are cut, foreign or of another version."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import pre_tokenizers

import effkit as ek
from effkit.models.default import read_llama
from effkit.models.files.folder import quiet
from effkit.models.files.gguf import read_gguf, shed_quantizer_
from effkit.models.files.header import read_header
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<unk>", "<s>", "</s>", *ALPHABET, "he", "ll", "hell"]
MERGES = ["h e", "l l", "he ll"]
HEADS, KEY_VALUE_HEADS = 4, 2


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tiny Llama with random weights, written by the gguf library: Q8_0 linears, grouped queries, byte-level tokens."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    hidden, mlp, layers = 64, 96, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * 259])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    random = np.random.default_rng(5)

    def linear(name, rows, columns):
        data = random.standard_normal((rows, columns), dtype=np.float32) * 0.1
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)

    writer.add_tensor("token_embd.weight", random.standard_normal((len(TOKENS), hidden), dtype=np.float32))
    for i in range(layers):
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{part}.weight", np.ones(hidden, dtype=np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{i}.{part}.weight", hidden // 2 if part in ("attn_k", "attn_v") else hidden, hidden)
        linear(f"blk.{i}.ffn_gate.weight", mlp, hidden)
        linear(f"blk.{i}.ffn_up.weight", mlp, hidden)
        linear(f"blk.{i}.ffn_down.weight", hidden, mlp)
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_loads_saves_and_loads(file, tmp_path):
    model = ek.load(file, device="cpu")
    assert (model.checkpoint.architecture, model.checkpoint.licence) == ("LlamaForCausalLM", "mit")
    assert model.checkpoint.parameters == len(TOKENS) * 64 + 2 * (3 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64
    ids = torch.tensor([[1, 260, 261, 40]])
    logits = model.logits(ids)
    assert torch.isfinite(logits).all()
    model.save(tmp_path / "saved")
    assert torch.equal(ek.load(tmp_path / "saved", device="cpu").logits(ids), logits)
    half = ek.load(file, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.checkpoint.hash == model.checkpoint.hash


def test_the_built_in_models_reader_agrees_with_transformers(file):
    ours, tokenizer = finish(read_llama(file))
    theirs, other, _ = finish(read_gguf(file))
    mine, its = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == its.keys()
    assert [name for name in mine if not torch.equal(mine[name], its[name])] == []
    for name, value in theirs.config.to_dict().items():
        if name not in ("_name_or_path", "_model_name_or_path", "unk_token_id"):
            assert ours.config.to_dict()[name] == value, name
    text = "hello shell, <s>ünï</s>\n\tllama"
    assert tokenizer(text)["input_ids"] == other(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.special_tokens_map == other.special_tokens_map
    assert not hasattr(theirs.config, "quantization_config")


def test_a_model_that_transformers_still_calls_quantized_becomes_an_ordinary_one(file, tmp_path):
    with quiet():
        module = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    shed_quantizer_(module)
    assert not hasattr(module.config, "quantization_config")
    assert not getattr(module, "is_quantized", False)
    assert module.half().dtype == torch.float16
    with quiet():
        module.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_a_folder_with_one_gguf_file(file):
    assert ek.load(file.parent, device="cpu").checkpoint.architecture == "LlamaForCausalLM"


def test_a_folder_with_two_gguf_files(file, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match=r"holds 2 GGUF files\. Allowed: one of 'a\.gguf', 'b\.gguf'\. Give the path"):
        ek.load(tmp_path, device="cpu")


def test_our_reader_finds_what_the_gguf_library_finds(file):
    ours, theirs = read_header(file), gguf.GGUFReader(file)
    assert [(t.name, t.start, t.size) for t in ours.tensors] == [(t.name, int(t.data_offset), int(t.n_bytes)) for t in theirs.tensors]
    assert [t.shape for t in ours.tensors] == [tuple(reversed(t.shape.tolist())) for t in theirs.tensors]
    for name in ("llama.block_count", "general.license", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
        assert ours.fields[name] == theirs.fields[name].contents()
    for info, tensor in zip(ours.tensors, theirs.tensors, strict=True):
        kind = gguf.GGMLQuantizationType(info.kind)
        assert np.array_equal(gguf.dequantize(ours.raw(info), kind), gguf.dequantize(tensor.data, tensor.tensor_type))


@pytest.mark.parametrize("keep", [0.0003, 0.002, 0.01, 0.1, 0.5, 0.99, "all but one byte"])
def test_a_file_cut_anywhere_is_noticed_before_it_is_used(keep, file, tmp_path):
    data = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[:-1] if isinstance(keep, str) else data[: int(len(data) * keep)])
    with pytest.raises(BadInput, match=r"^cut\.gguf is damaged or cut short \(.*\)\. Allowed: a whole GGUF file\. Download it again\.$"):
        ek.load(cut, device="cpu")


def test_every_cut_of_the_head_is_noticed(file, tmp_path):
    data = file.read_bytes()
    head = read_header(file).tensors[0].start
    cut = tmp_path / "cut.gguf"
    for length in range(8, head, max(1, head // 150)):
        cut.write_bytes(data[:length])
        with pytest.raises(BadInput, match="damaged or cut short"):
            read_header(cut)


def test_other_files_named_gguf(tmp_path):
    for name, content, match in (
        ("text.gguf", b"hello world", r"^text\.gguf begins with b'hell'\. Allowed: a GGUF file, which begins with b'GGUF'"),
        ("empty.gguf", b"", r"^empty\.gguf begins with b''"),
        ("old.gguf", b"GGUF" + struct.pack("<I", 1) + b"\0" * 100, r"^the GGUF version of old\.gguf is 1\. Allowed: \(2, 3\)\. Convert"),
        ("big-endian.gguf", b"GGUF" + struct.pack(">I", 3) + b"\0" * 100, r"^the GGUF version of big-endian\.gguf is 50331648"),
        ("bomb.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), r"^bomb\.gguf is damaged or cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=match):
            ek.load(tmp_path / name, device="cpu")


def test_an_architecture_that_nobody_converts(file, tmp_path):
    data = file.read_bytes().replace(b"llama", b"alien")
    (tmp_path / "alien.gguf").write_bytes(data)
    with pytest.raises(BadInput, match=r"^alien\.gguf cannot be read \(architecture 'alien': .*Load the original checkpoint instead"):
        ek.load(tmp_path / "alien.gguf", device="cpu")
