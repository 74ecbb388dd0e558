"""A saved model comes back bit for bit, compressed or not, or is not there at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import effkit as ek
from effkit.models.ledger import ledger_of
from effkit.spec.errors import BadInput, CannotWrite

IDS = torch.tensor([[5, 9, 200, 31, 77, 4, 120, 58]])
QUANTIZED = {
    "rtn 4-bit": {"method": "rtn", "bits": 4, "group_size": 32},
    "rtn 3-bit symmetric rows": {"method": "rtn", "bits": 3, "group_size": None, "symmetric": True},
    "rtn, embedding left alone": {"method": "rtn", "bits": 8, "group_size": 32, "embedding_bits": None},
    "nf4": {"method": "nf4"},
    "int8": {"method": "int8", "bits": 8, "group_size": None},
}


def there_and_back(model, folder):
    model.save(folder)
    return ek.load(folder, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_classifier"])
def test_a_base_comes_back_bit_for_bit(kind, dtype, request, tmp_path):
    model = request.getfixturevalue(kind).to(dtype=dtype)
    again = there_and_back(model, tmp_path / "saved")
    assert torch.equal(again.logits(IDS), model.logits(IDS))
    assert again.dtype == model.dtype
    assert again.checkpoint == model.checkpoint
    assert again.tokens("Hello, ünïcode") == model.tokens("Hello, ünïcode")
    assert ledger_of(again.module) == ledger_of(model.module)


@pytest.mark.parametrize("how", QUANTIZED.values(), ids=QUANTIZED.keys())
def test_a_quantized_model_comes_back_bit_for_bit(how, tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, **how)
    again = there_and_back(model, tmp_path / "saved")
    assert torch.equal(again.logits(IDS), model.logits(IDS))
    assert (again.checkpoint, again.recipe, again.plans) == (model.checkpoint, model.recipe, model.plans)
    assert again.ledger() == model.ledger()
    assert again.stored_bytes == model.stored_bytes == model.plans[-1].bytes_after
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        stored = sum(t.numel() * t.element_size() for t in map(file.get_tensor, file.keys()))
    assert stored == model.stored_bytes, "the file holds what the ledger counts, tied tensors once"


def test_a_pruned_model_comes_back_bit_for_bit(tiny_llama, tmp_path):
    model = ek.quantize(ek.prune(tiny_llama, layers=2), method="rtn", bits=4, group_size=32)
    again = there_and_back(model, tmp_path / "saved")
    assert torch.equal(again.logits(IDS), model.logits(IDS))
    assert len(again.module.model.layers) == 2
    assert len(again.plans) == 2


def test_twice_saved_is_the_same(tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=4, group_size=32)
    again = there_and_back(there_and_back(model, tmp_path / "one"), tmp_path / "two")
    assert torch.equal(again.logits(IDS), model.logits(IDS))
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()


def test_tied_packed_weights_are_one_after_loading(tiny_llama, tmp_path):
    again = there_and_back(ek.quantize(tiny_llama, bits=4, group_size=32, embedding_bits=8), tmp_path / "saved")
    head, table = again.module.lm_head, again.module.model.embed_tokens
    assert head.packed is table.packed
    moved = again.to(dtype="bfloat16").module
    assert moved.lm_head.packed is moved.model.embed_tokens.packed


def test_a_saved_quantized_model_computes_in_another_dtype(tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=8, group_size=32)
    model.save(tmp_path / "saved")
    for dtype in ("bfloat16", "float16", "float32"):
        other = ek.load(tmp_path / "saved", device="cpu", dtype=dtype)
        logits = other.logits(IDS)
        assert str(logits.dtype) == f"torch.{dtype}"
        assert (logits.float() - model.logits(IDS)).abs().max() < 0.2
        back = other.to(dtype="float32").logits(IDS)
        assert back.dtype == torch.float32


def test_transformers_alone_reads_a_saved_base(tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from effkit.models.files.folder import quiet

    tiny_llama.save(tmp_path / "saved")
    with quiet():
        module = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert torch.equal(module(IDS).logits, tiny_llama.logits(IDS))
    assert tokenizer("hi")["input_ids"] == tiny_llama.tokens("hi")


def test_no_pickle_and_no_path_of_this_machine_in_a_saved_folder(tiny_llama, tmp_path):
    model = ek.quantize(tiny_llama, bits=4, group_size=32)
    model.save(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert names <= {
        "model.safetensors", "config.json", "generation_config.json", "effkit.json", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "chat_template.jinja",
    }  # fmt: skip
    assert "_name_or_path" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_saving_over_an_older_save_replaces_it(tiny_llama, tmp_path):
    tiny_llama.save(tmp_path / "saved")
    (tmp_path / "saved" / "stray.txt").write_text("old")
    small = ek.quantize(tiny_llama, bits=4, group_size=32)
    small.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "stray.txt").exists()
    assert ek.load(tmp_path / "saved", device="cpu").recipe == small.recipe
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_saving_never_replaces_what_effkit_did_not_write(tiny_llama, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BadInput, match=r"exists and was not written by effkit.*Choose another name"):
        tiny_llama.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"was not written by effkit"):
        tiny_llama.save(tmp_path / "file")


FULL = """
import effkit as ek, resource, signal, sys, pathlib
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = ek.load({source!r}, device="cpu")
{limit}
try:
    model.save({target!r})
except ek.EffkitError as error:
    print(type(error).__name__, error)
"""


def in_a_process(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_file_size_limit_leaves_nothing_half_written(tiny_llama_folder, tmp_path):
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))"
    said = in_a_process(FULL.format(source=str(tiny_llama_folder), target=str(tmp_path / "saved"), limit=limit))
    assert said.startswith(f"CannotWrite Cannot write {tmp_path / 'saved'}")
    assert "choose another folder" in said.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system with 64 MB: enough for the room that is asked for, and then filled up from outside."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_too_small_is_refused_before_anything_is_written(tiny_llama, small_disk):
    (small_disk / "other").write_bytes(b"\1" * 40_000_000)
    with pytest.raises(CannotWrite, match=r"it needs 32\.\d MB and 2\d\.\d MB are free\. Free some space or choose another folder"):
        tiny_llama.save(small_disk / "saved")
    assert [p.name for p in small_disk.iterdir()] == ["other"]


def test_a_disk_that_fills_up_while_saving_leaves_nothing(tiny_llama, small_disk, monkeypatch):
    from effkit.models.files import saving

    monkeypatch.setattr(saving, "TOKENIZER_ROOM", -10_000_000)  # as if the space had vanished after it was looked for
    tiny_llama.save(small_disk / "saved")
    before = tiny_llama.logits(IDS)
    (small_disk / "other").write_bytes(b"\1" * (shutil.disk_usage(small_disk).free - 200_000))
    with pytest.raises(CannotWrite, match=r"the disk is full"):
        tiny_llama.save(small_disk / "saved")
    assert sorted(p.name for p in small_disk.iterdir()) == ["other", "saved"]
    assert torch.equal(ek.load(small_disk / "saved", device="cpu").logits(IDS), before), "the older save is whole"


def test_a_read_only_folder(tiny_llama, tmp_path):
    place = tmp_path / "closed"
    place.mkdir()
    if os.geteuid() != 0:
        place.chmod(0o555)
        with pytest.raises(CannotWrite, match=r"permission denied"):
            tiny_llama.save(place / "saved")
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], check=False, capture_output=True).returncode:
        pytest.skip("root may write anywhere here, and mounting is not allowed")
    try:
        with pytest.raises(CannotWrite, match=r"read-only. Choose another folder"):
            tiny_llama.save(place / "saved")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_path_through_a_file(tiny_llama, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises((CannotWrite, BadInput), match=r"Cannot write|not written by effkit"):
        tiny_llama.save(tmp_path / "file" / "saved")


def spoiled(model, folder: Path, name: str, change):
    model.save(folder)
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(BadInput) as caught:
        ek.load(folder, device="cpu")
    return str(caught.value)


def test_damaged_saves_are_told(tiny_llama, tmp_path):
    small = ek.quantize(tiny_llama, bits=4, group_size=32)
    assert "version of this saved model is 99" in spoiled(small, tmp_path / "a", "effkit.json", lambda d: d.update(version=99))
    assert "lacks modules" in spoiled(small, tmp_path / "b", "effkit.json", lambda d: d.pop("modules"))
    unknown = spoiled(small, tmp_path / "c", "effkit.json", lambda d: next(iter(d["modules"].values())).update(kind="magic"))
    assert "the storage kind of a saved module is 'magic'" in unknown
    assert "effkit.json" in spoiled(
        small, tmp_path / "d", "effkit.json", lambda d: d["recipe"].update(steps=[{"step": "quantize", "bits": 99}])
    )
    shape = spoiled(small, tmp_path / "e", "effkit.json", lambda d: d["modules"].pop("model.layers.0.mlp.up_proj"))
    assert "model.safetensors of" in shape
    assert "Save the model again" in shape
    small.save(tmp_path / "f")
    file = tmp_path / "f" / "model.safetensors"
    tensors = load_file(file)
    scales = next(name for name in tensors if name.endswith("scales"))
    tensors[scales][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(BadInput, match=f"holds NaN or infinity in {scales}"):
        ek.load(tmp_path / "f", device="cpu")


def test_a_load_hint_gives_the_saved_model_again(tiny_llama, tmp_path):
    tiny_llama.save(tmp_path / "saved")
    again = ek.load(tmp_path / "saved", device="cpu")
    hint = again.reload_hint
    assert hint is not None
    third = ek.load(hint["source"], device="cpu", dtype=hint["dtype"], revision=hint["revision"])
    assert torch.equal(third.logits(IDS), again.logits(IDS))
