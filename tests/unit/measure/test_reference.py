"""The kept outputs of the base: used again, known by what they are of, and never a reason to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import effkit as ek
from effkit.measure import reference
from effkit.measure.reference import Shelf, fingerprint
from effkit.spec.errors import BadInput
from effkit.spec.places import cache_folder

FEW = {"window": 64, "windows": 4, "floor": False}


def kept() -> list:
    return sorted((cache_folder() / "reference").glob("*/*"))


def test_second_model_does_not_run_the_base(tiny_llama, noisy, calls, text):
    first, second = noisy(tiny_llama, 0.1), noisy(tiny_llama, 0.2)
    seen = calls(tiny_llama)
    ek.evaluate(first, tiny_llama, on=text, **FEW)
    assert seen == [(1, 64)] * 4
    ek.evaluate(second, tiny_llama, on=text, **FEW)
    assert len(seen) == 4
    ek.evaluate(tiny_llama, tiny_llama, on=text, **FEW)
    assert len(seen) == 4


def test_floor_is_kept_too(tiny_llama, noisy, text, monkeypatch):
    from effkit.models.model import Model

    first = ek.evaluate(noisy(tiny_llama, 0.1), tiny_llama, on=text, window=64, windows=4)
    monkeypatch.setattr(Model, "to", None)  # rounding the base once more would now fail
    second = ek.evaluate(noisy(tiny_llama, 0.1), tiny_llama, on=text, window=64, windows=4)
    assert first.floor == second.floor is not None


@pytest.mark.parametrize("change", ["text", "window", "windows", "weights", "one weight", "config", "dtype"])
def test_anything_else_is_computed(tiny_llama, noisy, calls, text, change):
    model = noisy(tiny_llama, 0.1)
    ek.evaluate(model, tiny_llama, on=text, **FEW)
    base, given = tiny_llama.clone(), {"on": text, **FEW}
    if change == "text":
        given["on"] = text[1:]
    elif change in ("window", "windows"):
        given[change] = FEW[change] - 1
    elif change == "weights":
        base = noisy(base, 0.1)
    elif change == "one weight":
        base.module.get_submodule("model.layers.1.mlp.up_proj").weight.data[3, 4] += 1e-6
    elif change == "config":
        base.module.config.rms_norm_eps *= 2
    elif change == "dtype":
        base = base.to(dtype="bfloat16")
    seen = calls(base)
    ek.evaluate(model, base, **given)
    assert len(seen) == given["windows"]


def test_same_weights_loaded_again_are_known(tiny_llama, tiny_llama_folder, noisy, calls, text):
    model = noisy(tiny_llama, 0.1)
    ek.evaluate(model, tiny_llama, on=text, **FEW)
    again = ek.load(str(tiny_llama_folder), device="cpu")
    seen = calls(again)
    ek.evaluate(model, again, on=text, **FEW)
    assert seen == []


def test_fingerprint_sees_exchanged_rows(tiny_llama):
    before = fingerprint(tiny_llama.module)
    assert fingerprint(tiny_llama.clone().module) == before
    changed = tiny_llama.clone()
    weight = changed.module.get_submodule("model.layers.0.mlp.up_proj").weight
    weight.data = weight.data[torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))]
    assert fingerprint(changed.module) != before


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "nonsense", "other tensors", "folder"])
def test_damaged_files_are_computed_again(tiny_llama, noisy, calls, text, damage):
    model = noisy(tiny_llama, 0.1)
    first = ek.evaluate(model, tiny_llama, on=text, **FEW)
    path = next(p for p in kept() if p.name.startswith("window-2"))
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "nonsense":
        path.write_bytes(os.urandom(1000))
    elif damage == "other tensors":
        Shelf(path.parent.name).save("window-2", {"codes": torch.zeros(3)})
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    seen = calls(tiny_llama)
    second = ek.evaluate(model, tiny_llama, on=text, **FEW)
    assert len(seen) == 1
    assert second.kl == first.kl
    if damage != "folder":
        assert path.read_bytes() == data


def test_least_recently_used_goes_first(tmp_path):
    tensors = {"x": torch.zeros(100_000, dtype=torch.uint8)}
    for i, key in enumerate("abc"):
        assert Shelf(key, limit=350_000, folder=tmp_path).save("window-0", tensors)
        os.utime(tmp_path / "reference" / key, (1000 + i, 1000 + i))
    assert Shelf("a", limit=350_000, folder=tmp_path).load("window-0") is not None
    assert Shelf("d", limit=350_000, folder=tmp_path).save("window-0", tensors)
    assert {p.name for p in (tmp_path / "reference").iterdir()} == {"a", "c", "d"}


def test_the_limit_holds_within_one_evaluation(tiny_llama, noisy, calls, text, monkeypatch):
    model = noisy(tiny_llama, 0.1)
    whole = ek.evaluate(model, tiny_llama, on=text, **FEW)
    size = kept()[0].stat().st_size
    limit = 2 * size + 6000
    monkeypatch.setenv("EFFKIT_CACHE_BYTES", str(limit))
    events = list(ek.evaluate.work(model, tiny_llama, on=text + " more", **FEW))
    assert len(kept()) == 2
    assert sum(p.stat().st_size for p in kept()) <= limit
    assert "the cache is limited to 7" in events[-1].message
    seen = calls(tiny_llama)
    assert ek.evaluate(model, tiny_llama, on=text + " more", **FEW).kl.mean.value == pytest.approx(whole.kl.mean.value, rel=0.5)
    assert len(seen) == 2


def test_off_and_nonsense(tiny_llama, noisy, text, monkeypatch):
    monkeypatch.setenv("EFFKIT_CACHE_BYTES", "0")
    ek.evaluate(noisy(tiny_llama, 0.1), tiny_llama, on=text, **FEW)
    assert kept() == []
    monkeypatch.setenv("EFFKIT_CACHE_BYTES", "plenty")
    with pytest.raises(BadInput, match="the environment variable EFFKIT_CACHE_BYTES is 'plenty'"):
        ek.evaluate(tiny_llama, tiny_llama, on=text, **FEW)


def test_nowhere_to_write(tiny_llama, noisy, text, home):
    """A file where the cache folder should be: the result is the same, and the message says what is missing."""
    model = noisy(tiny_llama, 0.1)
    whole = ek.evaluate(model, tiny_llama, on=text, **FEW)
    cache_folder().rename(home / "elsewhere")
    cache_folder().write_text("in the way")
    messages = [event.message for event in ek.evaluate.work(model, tiny_llama, on=text, **FEW)]
    assert ek.evaluate(model, tiny_llama, on=text, **FEW).kl == whole.kl
    assert "the base's outputs are not kept for the next time" in messages[-1]
    assert cache_folder().read_text() == "in the way"


def in_a_process(code: str, *arguments: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


EVALUATE = """
import json, sys
import effkit as ek
base = ek.load(sys.argv[1], device="cpu")
model = ek.quantize(base, bits=4, group_size=32)
{before}
events, work = [], ek.evaluate.work(model, base, on=sys.argv[2], window=64, windows=8, floor=False)
try:
    while True:
        events.append(next(work).message)
except StopIteration as end:
    print(json.dumps([end.value.kl.mean.value, events[-1]]))
"""


def test_full_disk(tiny_llama_folder, text):
    """No file may grow beyond 10 kB: writes fail in the middle, as on a full disk. Nothing half-written stays."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))"
    process = in_a_process(EVALUATE.format(before=limit), str(tiny_llama_folder), text)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    kl, message = json.loads(out)
    assert kl > 0
    assert "the base's outputs are not kept for the next time" in message
    assert "cannot be written" in message
    assert kept() == []


def test_almost_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "SPARE", 1 << 60)
    shelf = Shelf("key", folder=tmp_path)
    assert not shelf.save("window-0", {"x": torch.zeros(10)})
    assert "almost full" in shelf.trouble


def test_two_processes_at_once(tiny_llama_folder, text):
    processes = [in_a_process(EVALUATE.format(before=""), str(tiny_llama_folder), text) for _ in range(2)]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
        found.append(json.loads(out))
    assert found[0] == found[1]
    assert [p.name for p in kept()] == [f"window-{i}.safetensors" for i in range(8)]


def test_many_writers_and_readers_of_one_file(tmp_path):
    """Whoever writes what, a reader sees one whole version or none."""
    stop, seen, end = threading.Event(), [], time.monotonic() + 60

    def write(value: int) -> int:
        count = 0
        while not stop.is_set():
            assert Shelf("key", folder=tmp_path).save("window-0", {"x": torch.full((2000,), value)})
            count += 1
        return count

    def read() -> None:
        while time.monotonic() < end and not (len(seen) >= 100 and [1] in seen and [2] in seen):
            got = Shelf("key", folder=tmp_path).load("window-0")
            if got is not None:
                seen.append(got["x"].unique().tolist())

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, value) for value in (1, 2)]
        try:
            read()
        finally:
            stop.set()
        assert all(writer.result() for writer in writers)
    assert {tuple(values) for values in seen} == {(1,), (2,)}
    assert [p.name for p in (tmp_path / "reference" / "key").iterdir()] == ["window-0.safetensors"]
