"""What cannot be loaded, and what the reader is told: what was given, what is allowed, what to do."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import effkit as ek
from effkit.spec.errors import BadInput, Unavailable


@pytest.fixture
def folder(tmp_path, tiny_llama_folder):
    """A sound folder, to be spoiled."""
    shutil.copytree(tiny_llama_folder, tmp_path / "model")
    return tmp_path / "model"


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(what, match, error=BadInput, **how):
    with pytest.raises(error, match=match) as caught:
        ek.load(what, device="cpu", **how)
    assert not isinstance(caught.value, RuntimeError) or error is Unavailable
    return caught.value


class Bomb:
    """A pickle that leaves a trace if anybody opens it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_misspelt_built_in_name():
    refused(
        "smollm2 135m",
        r"^the model is 'smollm2 135m'\. Allowed: 'smollm2-135m', 'minilm-l6'\. Or give a folder, a \.gguf file, or a Hugging Face id",
    )


def test_unknown_name_offline_says_where_was_looked():
    error = refused("smolm2-135m", "not on this machine", Unavailable)
    places = ("built in (smollm2-135m, minilm-l6)", "no such folder", "not in the cache")
    for looked in (*places, "HF_HUB_OFFLINE", "works offline afterwards"):
        assert looked in str(error)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "~nobody/x", "model.gguf", "a/b/c", "weights.bin"])
def test_path_that_does_not_exist(name):
    refused(name, r"^there is no model at .*Allowed: an existing folder or \.gguf file")


def test_empty_name():
    refused("", "the model is ''")


def test_revision_of_a_folder(folder):
    refused(folder, "^revision is 'main' for .*Only models of a hub have revisions", revision="main")


def test_unknown_dtype(folder):
    refused(folder, "^dtype is 'float8'. Allowed on cpu: 'auto', 'float32', 'bfloat16', 'float16'", dtype="float8")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl"])
def test_pickle_only_folder_is_refused_and_never_opened(name, folder, tmp_path):
    trace = tmp_path / "opened"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    refused(folder, f"^{name} in .* is a pickle, which can run any code when opened. Allowed: safetensors and GGUF. .*convert it")
    assert not trace.exists()


def test_pickle_file_is_refused_and_never_opened(tmp_path):
    trace = tmp_path / "opened"
    file = tmp_path / "model.bin"
    file.write_bytes(pickle.dumps(Bomb(trace)))
    refused(file, "is a pickle")
    assert not trace.exists()


@pytest.mark.parametrize("how", ["pickle", "zip"])
def test_pickle_named_safetensors(how, folder, tmp_path):
    trace = tmp_path / "opened"
    if how == "pickle":
        (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(trace)) + b"\0" * 100)
    else:
        torch.save({"a": torch.ones(3)}, folder / "model.safetensors")
    refused(folder, r"model\.safetensors in .* is a pickle")
    assert not trace.exists()


def test_other_file(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", r"is a file\. Allowed: a \.gguf file, or a folder")


@pytest.mark.parametrize("keep", [0.5, 0.999, 0.001, 0])
def test_safetensors_cut_short(keep, folder):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    refused(folder, r"^model\.safetensors in .* is damaged .*whole safetensors file\. Download or save it again")


def test_folder_without_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()
    refused(folder, r"has no tokenizer\. A model's folder must hold tokenizer\.json.*tokenizer\.save_pretrained\(folder\)")


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"half": ')
    refused(folder, "the tokenizer of .* cannot be read .*Save the tokenizer again")


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    refused(folder, r"holds no config\.json")


def test_broken_config(folder):
    (folder / "config.json").write_text("{")
    refused(folder, r"config\.json of .* cannot be read")


def test_adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    refused(folder, "is an adapter. Allowed: a whole model. Merge the adapter")


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no safetensors file")


def test_remote_code_is_refused_and_never_run(folder, tmp_path):
    trace = tmp_path / "opened"
    change(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (folder / "code.py").write_text(f"open({str(trace)!r}, 'w')\n")
    refused(folder, r"needs code of its own \(auto_map in config.json names 'code.Config'\)\. effkit never runs code from a checkpoint")
    assert not trace.exists()


def test_auto_map_of_a_known_architecture_is_ignored(folder, tmp_path):
    trace = tmp_path / "opened"
    change(folder / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (folder / "code.py").write_text(f"open({str(trace)!r}, 'w')\n")
    assert type(ek.load(folder, device="cpu").module).__module__.startswith("transformers.")
    assert not trace.exists()


def test_remote_code_of_a_tokenizer(folder, tmp_path):
    trace = tmp_path / "opened"
    change(folder / "tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": [None, "code.Mine"]})
    (folder / "code.py").write_text(f"open({str(trace)!r}, 'w')\n")
    refused(folder, "the tokenizer of .* needs code of its own. effkit never runs code")
    assert not trace.exists()


def test_unknown_model_type(folder):
    change(folder / "config.json", model_type="llama99")
    refused(folder, "has the model type 'llama99'. transformers .* does not know it. Update transformers")


@pytest.mark.parametrize("name", ["LlamaModel", "BertForMaskedLM", "T5ForConditionalGeneration"])
def test_architecture_that_is_neither(name, folder):
    change(folder / "config.json", architectures=[name])
    refused(folder, f"the architecture of .* is '{name}'. Allowed: causal language models .* and sequence classifiers")


def test_no_architecture(folder):
    change(folder / "config.json", architectures=None)
    refused(folder, "the architecture of .* is None")


def test_already_quantized(folder):
    change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, r"already quantized \(gptq\).*Load the original checkpoint")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(value, folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"holds NaN or infinity in model\.layers\.1\.mlp\.up_proj\.weight\. Weights must be finite numbers")


def test_missing_weights_are_never_filled_with_random_ones(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight")


def test_base_encoder_as_classifier_lacks_its_head(tmp_path, tiny_classifier_folder):
    shutil.copytree(tiny_classifier_folder, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "classifier" not in k}, file, metadata={"format": "pt"})
    refused(tmp_path / "model", "lacks the weights classifier.bias, classifier.weight")


def test_weights_of_another_shape(folder):
    change(folder / "config.json", intermediate_size=128)
    refused(folder, "do not fit its config.json")


def test_integer_weights(folder):
    tensors = {name: tensor.to(torch.int8) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "stored as torch.int8. Allowed: float32, bfloat16, float16")


def test_several_safetensors_without_index(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    refused(folder, "holds a.safetensors, b.safetensors. Allowed: model.safetensors, or")


def test_index_cannot_point_outside_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    names = load_file(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "../outside.safetensors")}))
    refused(folder, r"lacks outside\.safetensors")
