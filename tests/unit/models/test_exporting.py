"""What other programs read is what effkit computes with: exported models come back through transformers and gguf's own reader."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from importlib import metadata

import gguf
import numpy as np
import pytest
import torch

import effkit as ek
from effkit.models.exporters.blocks import block_type, blocks
from effkit.models.exporters.compressed_tensors import words
from effkit.models.exporters.gguf import frequency_factors
from effkit.models.exporters.parts import numbers
from effkit.models.files.exporting import check_path, exporter
from effkit.models.files.folder import quiet
from effkit.models.stored.packed import PackedLinear, PackedWeight
from effkit.spec.errors import BadInput

IDS = torch.tensor([[5, 9, 200, 31, 77, 4, 120, 58]])
TEXT = "hell: Once upon a time, 123 dolls:\n\n  naïve!"


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Formats are compared bit for bit, so our models multiply with the dequantized matrix, as the readers do."""
    monkeypatch.setattr(PackedLinear, "engine", "dequantize")


@pytest.fixture
def tiny_llama(tiny_llama):
    """The tiny Llama with two merges in its tokenizer (in the place of two bytes that no text has): readers ask for some."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    instead = {"þ": "he", "ÿ": "ll"}
    vocabulary = {instead.get(token, token): i for token, i in tiny_llama.tokenizer.get_vocab().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e"), ("l", "l")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return replace(tiny_llama, tokenizer=fast)


def mixed(model: ek.Model, symmetric: bool = False) -> ek.Model:
    """4 bits, and 8 for down_proj."""
    part = ek.quantize(model, bits=4, group_size=32, symmetric=symmetric, skip=("down_proj",), embedding_bits=6)
    return ek.quantize(part, bits=8, group_size=32, symmetric=True)


def read_by_transformers(folder, dtype=torch.float32):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


# ---- compressed-tensors


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 32), (4, 32), (4, None), (5, 16), (6, 32), (7, 32), (8, 32), (8, None)])
def test_transformers_reads_the_same_weights_and_logits(bits, group, symmetric, tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=bits, group_size=group, symmetric=symmetric)
    done = ek.export(model, tmp_path / "out")
    assert done.exact
    theirs = read_by_transformers(tmp_path / "out")
    assert torch.equal(theirs(IDS).logits, model.logits(IDS))
    for name, module in model.module.named_modules():
        if hasattr(module, "storage_spec"):
            assert torch.equal(theirs.get_submodule(name).weight, module.weight), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_transformers_reads_the_same_in_half_precision(dtype, tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=4, group_size=32).to(dtype=dtype)
    ek.export(model, tmp_path / "out")
    assert torch.equal(read_by_transformers(tmp_path / "out", model.dtype)(IDS).logits, model.logits(IDS))


@pytest.mark.parametrize("symmetric", [True, False])
def test_transformers_reads_mixed_bits(symmetric, tiny_llama, tmp_path):
    pytest.importorskip("compressed_tensors")
    model = mixed(tiny_llama, symmetric)
    done = ek.export(model, tmp_path / "out")
    later = tuple(int(n) for n in metadata.version("compressed-tensors").split(".")[:2]) > (0, 17)
    if symmetric or not later:  # what the note below is about
        assert torch.equal(read_by_transformers(tmp_path / "out")(IDS).logits, model.logits(IDS))
    groups = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert {(g["weights"]["num_bits"], len(g["targets"])) for g in groups.values()} == {(4, 18), (8, 3)}
    assert any("up to 0.17" in note for note in done.notes) is not symmetric


@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_those_of_compressed_tensors(bits):
    packing = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = torch.randint(0, 2**bits, (7, 45), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    signed = (values.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(words(values, bits), packing.pack_to_int32(signed, bits))
    columns = words(values.t().contiguous(), bits).t()
    assert torch.equal(columns, packing.pack_to_int32(signed, bits, packed_dim=0))


def test_words_put_the_first_value_lowest():
    assert words(torch.arange(1, 10, dtype=torch.uint8)[None], 4).tolist() == [[0x87654321 - (1 << 32), 9]]
    assert words(torch.tensor([[1, 2, 3, 4, 5]], dtype=torch.uint8), 8).tolist() == [[0x04030201, 5]]


def test_what_is_stored_in_full_is_said_with_its_cost(tiny_llama, tmp_path):
    done = ek.export(ek.quantize(tiny_llama, method="nf4", group_size=64), tmp_path / "out")
    table = next(t for t in done.tensors if t.module == "model.embed_tokens")
    assert (table.kind, table.bytes, table.dense, table.exact) == ("float32", 259 * 64 * 4, True, True)
    assert any(
        note.startswith("model.embed_tokens: embeddings and heads are not packed") and "more than in effkit" in note for note in done.notes
    )
    assert any("BnbLinear4bit has no form in compressed-tensors" in note for note in done.notes)
    with quiet():
        from transformers import AutoModelForCausalLM

        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    weight = theirs.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.float32


def test_a_base_is_an_ordinary_folder(tiny_llama, tmp_path):
    done = ek.export(tiny_llama, tmp_path / "out", strict=True)
    assert done.notes == ()
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    again = ek.load(tmp_path / "out", device="cpu")
    assert torch.equal(again.logits(IDS), tiny_llama.logits(IDS))


def test_a_classifier_is_exported_too(tiny_classifier, tmp_path):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForSequenceClassification

    model = ek.quantize(tiny_classifier, bits=4, group_size=32)
    ek.export(model, tmp_path / "out")
    with quiet():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(theirs(IDS).logits, model.logits(IDS))


# ---- GGUF


def packed(bits: int, symmetric: bool, group: int = 32, seed: int = 0) -> PackedWeight:
    """Random integers in 6 rows of 192, with scales of either sign."""
    draw = torch.Generator().manual_seed(seed)
    weight = PackedWeight(6, 192, bits, group, symmetric, torch.float32)
    scales = torch.randn(6, 192 // group, generator=draw).half()
    zeros = None if symmetric else torch.randint(0, 2**bits, (6, 192 // group), dtype=torch.uint8, generator=draw)
    weight.store_(0, torch.randint(0, 2**bits, (6, 192), dtype=torch.uint8, generator=draw), scales, zeros)
    return weight


@pytest.mark.parametrize("group", [32, 64, 192])
@pytest.mark.parametrize(
    ("bits", "symmetric", "kind", "strict"),
    [
        (2, True, "Q4_0", "Q4_0"), (2, False, "Q4_0", "Q4_0"), (3, True, "Q4_0", "Q4_0"), (3, False, "Q4_0", "Q4_0"),
        (4, True, "Q4_0", "Q4_0"), (4, False, "Q4_1", "Q5_0"), (5, True, "Q5_0", "Q5_0"), (5, False, "Q5_1", "Q8_0"),
        (6, True, "Q8_0", "Q8_0"), (6, False, "Q8_0", "Q8_0"), (7, False, "Q8_0", "Q8_0"), (8, True, "Q8_0", "Q8_0"),
        (8, False, "Q8_0", "Q8_0"),
    ],
)  # fmt: skip
def test_blocks_hold_the_numbers(bits, symmetric, kind, strict, group):
    weight = packed(bits, symmetric, group)
    assert torch.equal(numbers(weight), weight.dequantized())
    rows = torch.tensor([5, 0, 1, 4, 2, 3])
    for wanted, expected in ((False, kind), (True, strict)):
        name, exact = block_type(weight, wanted)
        assert name == expected
        data = gguf.dequantize(blocks(weight, name, rows), gguf.GGMLQuantizationType[name])
        ours = numbers(weight, rows).numpy()
        if exact:
            assert np.array_equal(data, ours)
        else:
            assert not np.array_equal(data, ours)
            scale = np.abs(weight.scales[rows].float().numpy()).repeat(group, axis=1)
            # a minimum loses at most 2^-11 of (2^bits - 1) steps; rounding 8 bits anew at most half of its step, twice ours
            assert np.all(np.abs(data - ours) <= scale * (1.01 * 255 / 127 / 2 if bits == 8 else 2**bits * 2**-11))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_gguf_file_comes_back(bits, symmetric, tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=bits, group_size=32, symmetric=symmetric, embedding_bits=6)
    done = ek.export(model, tmp_path / "out.gguf", "gguf")
    again = ek.load(tmp_path / "out.gguf", device="cpu")
    ours, theirs = model.logits(IDS), again.logits(IDS)
    assert done.exact is (symmetric or bits not in (4, 5, 8))
    assert torch.equal(ours, theirs) if done.exact else (ours - theirs).std() < 0.02 * ours.std()
    assert again.tokens(TEXT) == model.tokens(TEXT)
    assert again.text(again.tokens(TEXT)) == TEXT


def test_a_mixed_model_comes_back_through_gguf(tiny_llama, tmp_path):
    model = mixed(tiny_llama, symmetric=True)
    done = ek.export(model, tmp_path / "out.gguf", "gguf", strict=True)
    assert done.exact
    assert {t.kind for t in done.tensors} == {"F32", "Q4_0", "Q8_0"}
    assert torch.equal(ek.load(tmp_path / "out.gguf", device="cpu").logits(IDS), model.logits(IDS))


def test_a_file_holds_the_planned_tensors(tiny_llama, tmp_path):
    done = ek.export(ek.quantize(tiny_llama, bits=4, group_size=32), tmp_path / "out.gguf", "gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert {t.name: (t.tensor_type.name, t.n_bytes) for t in reader.tensors} == {t.name: (t.kind, t.bytes) for t in done.tensors}
    assert done.bytes == sum(t.bytes for t in done.tensors)
    assert len({t.module for t in done.tensors}) == len(done.tensors)  # the tied head stands there once


def test_groups_that_are_no_blocks_are_stored_in_full_and_said(tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=4, group_size=16)
    done = ek.export(model, tmp_path / "out.gguf", "gguf")
    assert {t.kind for t in done.tensors if t.name.endswith("attn_q.weight")} == {"F16"}
    assert any("groups of 16 in rows of 64 are no whole blocks of 32, so its weights are stored as F16" in note for note in done.notes)
    again = ek.load(tmp_path / "out.gguf", device="cpu").logits(IDS)
    assert (again - model.logits(IDS)).abs().max() < 0.06 * again.std()


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "F16"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_a_base_as_gguf(dtype, kind, tiny_llama, tmp_path):
    model = tiny_llama.to(dtype=dtype)
    done = ek.export(model, tmp_path / "out.gguf", "gguf")
    assert {t.kind for t in done.tensors} == {"F32", kind}
    assert done.exact is (dtype != "float32")
    again = ek.load(tmp_path / "out.gguf", device="cpu")
    wide = model.to(dtype="float32").logits(IDS)
    assert (again.logits(IDS) - wide).abs().max() <= (0 if done.exact else 0.01 * wide.std())


def test_rows_of_q_and_k_are_reordered(tiny_llama, tmp_path):
    """Against the plain formula: pairs (i, i + d/2) of a head become neighbours."""
    ek.export(tiny_llama, tmp_path / "out.gguf", "gguf", strict=True)
    stored = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    k = tiny_llama.module.model.layers[1].self_attn.k_proj.weight.numpy()  # 2 heads of 16
    assert np.array_equal(stored["blk.1.attn_k.weight"][[0, 1, 2, 16, 17]], k[[0, 8, 1, 16, 24]])
    v = tiny_llama.module.model.layers[1].self_attn.v_proj.weight.numpy()
    assert np.array_equal(stored["blk.1.attn_v.weight"], v)


def test_llama3_positions_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    of = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, head_dim=128, max_position_embeddings=131072, rope_parameters=of)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    factors = frequency_factors(config)
    assert factors is not None
    plain = 500000.0 ** -(torch.arange(64, dtype=torch.float64) / 64)
    assert torch.allclose(plain / torch.from_numpy(factors).double(), wanted.double(), rtol=1e-5)
    assert (factors.min(), factors.max()) == (1.0, 8.0)


@pytest.mark.slow
def test_a_sentencepiece_like_tokenizer_comes_back(stories15m, tmp_path):
    base = ek.load(stories15m, device="cpu")
    done = ek.export(ek.quantize(base, bits=4, group_size=32, symmetric=True, embedding_bits=6), tmp_path / "out.gguf", "gguf")
    assert done.exact
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    tokens, scores = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.scores"].contents()
    best = sorted(range(len(tokens)), key=lambda i: -scores[i])[:3]
    assert [tokens[i] for i in best] == ["▁t", "er", "in"]  # the first merges
    again = ek.load(tmp_path / "out.gguf", device="cpu")
    assert again.tokens(TEXT) == base.tokens(TEXT)


def test_what_llama_cpp_would_read_wrongly_is_refused(tiny_llama, tiny_classifier, tmp_path):
    from tokenizers import pre_tokenizers

    with pytest.raises(BadInput, match=r"is BertForSequenceClassification. Allowed for gguf: LlamaForCausalLM, MistralForCausalLM"):
        ek.export(tiny_classifier, tmp_path / "out.gguf", "gguf")
    tiny_llama.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(BadInput, match=r"cuts text by WhitespaceSplit, in a way that llama.cpp has no known name for"):
        ek.export(tiny_llama, tmp_path / "out.gguf", "gguf")
    assert list(tmp_path.iterdir()) == []


# ---- the door


def test_strict_refuses_what_would_change(tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=4, group_size=32)
    with pytest.raises(BadInput, match=r"strict is True and 1 of 29 tensors cannot be kept as they are in compressed-tensors"):
        ek.export(model, tmp_path / "out", strict=True)
    with pytest.raises(BadInput, match=r"strict is True and 1 of 29 tensors cannot be kept as they are in gguf: .* rounded again to Q8_0"):
        ek.export(model, tmp_path / "out.gguf", "gguf", strict=True)
    assert list(tmp_path.iterdir()) == []
    exact = ek.export(ek.quantize(tiny_llama, bits=4, group_size=32, embedding_bits=6), tmp_path / "out.gguf", "gguf", strict=True)
    assert exact.exact
    assert {t.kind for t in exact.tensors} == {"F32", "Q5_0", "Q8_0"}


def test_effkits_own_format_is_what_save_writes(tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=4, group_size=32)
    done = ek.export(model, tmp_path / "one", "effkit")
    model.save(tmp_path / "two")
    assert done.bytes == done.own_bytes == model.stored_bytes
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()
    assert torch.equal(ek.load(tmp_path / "one", device="cpu").logits(IDS), model.logits(IDS))


@pytest.mark.parametrize(("format", "name"), [("compressed-tensors", "out"), ("effkit", "out"), ("gguf", "out.gguf")])
def test_only_effkits_own_exports_are_replaced(format, name, tiny_llama, tmp_path):
    path = tmp_path / name
    ek.export(tiny_llama, path, format)
    before = tiny_llama.logits(IDS)
    ek.export(ek.quantize(tiny_llama, bits=4, group_size=32), path, format)  # its own: replaced
    assert torch.equal(tiny_llama.logits(IDS), before)
    foreign = tmp_path / f"foreign{path.suffix}"
    if path.suffix:
        foreign.write_bytes(b"GGUFsomething else")
    else:
        foreign.mkdir()
        (foreign / "config.json").write_text("{}")
    with pytest.raises(BadInput, match=rf"exists and was not exported by effkit. Allowed: .* or one that effkit exported as {format}"):
        ek.export(tiny_llama, foreign, format)
    assert (foreign if path.suffix else foreign / "config.json").read_bytes() in (b"GGUFsomething else", b"{}")


@pytest.mark.parametrize(("format", "name"), [("compressed-tensors", "out"), ("gguf", "out.gguf")])
def test_a_cancelled_export_leaves_nothing(format, name, tiny_llama, tmp_path):
    work = ek.export.work(ek.quantize(tiny_llama, bits=4, group_size=32), tmp_path / name, format)
    for event in work:
        if event.done == 5:
            break
    assert len(list(tmp_path.iterdir())) == 1  # the temporary one
    work.close()
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_through_every_tensor(tiny_llama, tmp_path):
    work = ek.export.work(tiny_llama, tmp_path / "out.gguf", "gguf")
    events = list(work)
    assert [e.done for e in events] == [0, *range(1, 30), 29]
    assert {e.total for e in events[1:]} == {29}


def test_a_wrong_name_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"format is 'ggufs'. Allowed: 'compressed-tensors', 'effkit', 'gguf'. Did you mean 'gguf'?"):
        exporter("ggufs")
    with pytest.raises(BadInput, match=r"Allowed: a name that ends in .gguf"):
        check_path(tmp_path / "out", exporter("gguf"))


def test_the_repr_is_one_line(tiny_llama, tmp_path):
    done = ek.export(tiny_llama, tmp_path / "out")
    assert repr(done).startswith("Exported('out', compressed-tensors, ")
    assert "\n" not in repr(done)
