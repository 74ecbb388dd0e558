"""Classifiers with a new head: the body is the base's, the head is the seed's, and the encoder averages its tokens."""

from __future__ import annotations

import json

import pytest
import torch

import effkit as ek
from effkit.models.classifying import classifier
from effkit.spec.errors import BadInput, Unavailable
from tests.conftest import byte_tokenizer

CLASSES = ["pump", "belt", "relay"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A folder with a bare BERT, as a hub keeps encoders."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "encoder"
    folder.mkdir()
    byte_tokenizer(folder)
    config = BertConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(3)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def averaging_folder(encoder_folder, tmp_path):
    """The same with the note that sentence-transformers leaves."""
    import shutil

    folder = tmp_path / "averaging"
    shutil.copytree(encoder_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


def made(base, seed=0, **given):
    return classifier(base, CLASSES, seed=seed, device="cpu", **given)


def test_the_body_is_the_bases_and_the_head_the_seeds(encoder_folder):
    from safetensors.torch import load_file

    model, again, other = made(encoder_folder), made(encoder_folder), made(encoder_folder, seed=1)
    stored = load_file(encoder_folder / "model.safetensors")
    body = model.module.bert.state_dict()
    assert all(torch.equal(body[name], tensor) for name, tensor in stored.items())
    assert type(model.module).__name__ == "BertForSequenceClassification"
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model.checkpoint.hash == again.checkpoint.hash != other.checkpoint.hash
    assert not torch.equal(model.module.classifier.weight, other.module.classifier.weight)
    assert torch.equal(model.module.bert.pooler.dense.weight, other.module.bert.pooler.dense.weight)
    assert any("head of 3 classes is new (seed 0)" in note for note in model.checkpoint.notes)
    assert model.reload_hint is None


def test_the_global_random_state_is_left_alone(encoder_folder):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    made(encoder_folder)
    assert torch.equal(torch.rand(3), expected)


def test_an_averaging_encoder_averages(averaging_folder):
    model = made(averaging_folder)
    assert not hasattr(model.module.bert, "pooler") or model.module.bert.pooler is None
    ids, mask = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]]), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = model.logits(ids, mask)
    with torch.inference_mode():
        hidden = model.module.bert(torch.tensor([[5, 6, 7]])).last_hidden_state
        torch.testing.assert_close(found[:1], model.module.classifier(hidden.mean(dim=1)), atol=1e-5, rtol=0)
        labels = torch.tensor([0, 2])
        model.module.set_attn_implementation("eager")
        loss = model.module(ids, attention_mask=mask, labels=labels, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(loss.loss, torch.nn.functional.cross_entropy(found, labels))
    assert (len(loss.hidden_states), len(loss.attentions)) == (3, 2)
    torch.testing.assert_close(model.module(ids, attention_mask=mask, return_dict=False)[0], found)


def test_it_is_saved_and_loaded_to_the_bit(averaging_folder, tmp_path):
    from transformers import AutoConfig

    model = made(averaging_folder)
    again = ek.load(model.save(tmp_path / "saved"), device="cpu")
    ids = [model.tokens("pump 7")]
    assert torch.equal(model.logits(ids), again.logits(ids))
    assert again.config.id2label == dict(enumerate(CLASSES))
    stored = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert stored["model_type"] == "effkit-mean-bert", "a program that would read the first token refuses it"
    assert AutoConfig.from_pretrained(tmp_path / "saved").num_labels == 3
    assert made(tmp_path / "saved", seed=4).module.bert.embeddings.word_embeddings.weight.equal(
        model.module.bert.embeddings.word_embeddings.weight
    )


def test_a_causal_model_becomes_a_classifier(tiny_llama, tiny_llama_folder):
    by_model, by_folder = made(tiny_llama), made(tiny_llama_folder)
    assert type(by_model.module).__name__ == "LlamaForSequenceClassification"
    assert by_model.checkpoint.hash == by_folder.checkpoint.hash
    assert torch.equal(by_model.module.model.embed_tokens.weight, tiny_llama.module.model.embed_tokens.weight)
    assert by_model.module.model.embed_tokens.weight is not tiny_llama.module.model.embed_tokens.weight
    assert by_model.config.pad_token_id == 0
    assert tiny_llama.task == "causal-lm"


def test_a_classifier_gets_another_head(encoder_folder):
    first = made(encoder_folder)
    second = classifier(first, ["yes", "no"], device="cpu")
    assert second.config.num_labels == 2
    assert sum("head of" in note for note in second.checkpoint.notes) == 1
    assert torch.equal(second.module.bert.encoder.layer[0].output.dense.weight, first.module.bert.encoder.layer[0].output.dense.weight)


@pytest.mark.parametrize("classes", [["one"], ["a", "a"], []])
def test_classes_must_be_two_names(encoder_folder, classes):
    with pytest.raises(BadInput, match=r"^classes is \[.*\]\. Allowed: at least two different names\. "):
        classifier(encoder_folder, classes)


def test_a_quantized_model_is_refused(tiny_llama):
    small = ek.quantize(tiny_llama, bits=8)
    with pytest.raises(BadInput, match=r"is quantized \(.*\)\. Allowed: a model whose weights can be trained\."):
        made(small)


def test_a_body_with_holes_is_refused(encoder_folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "holes"
    shutil.copytree(encoder_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks the weights bert\.encoder\.layer\.1\.output\.dense\.weight\. Allowed: all tensors of"):
        made(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(BadInput, match=r"has the model type 'vit'\. transformers .* has no sequence classifier of that family"):
        made(folder)


def test_the_built_in_encoder():
    try:
        bare = ek.load("minilm-l6", device="cpu")
    except Unavailable as error:
        pytest.skip(str(error))
    model = classifier(classes=CLASSES, device="cpu")
    assert model.checkpoint.parameters == 22566146 + 385
    assert bare.checkpoint.parameters == 22566146
    ids = [model.tokens("Typhoid fever")]
    assert torch.equal(bare.logits(ids), torch.zeros(1, 2)), "no head of random numbers pretends to know"
    assert model.logits(ids).abs().max() > 0
    with torch.inference_mode():
        a, b, c = (
            model.module.bert(torch.tensor([model.tokens(t)])).last_hidden_state.mean(1)
            for t in ("Typhoid fever", "Paratyphoid infection", "Fracture of the left femur")
        )
    near, far = torch.cosine_similarity(a, b), torch.cosine_similarity(a, c)
    assert near > far + 0.2, "the weights are those of sentence embeddings"
