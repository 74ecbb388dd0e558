"""The command line: what it writes, what it says, how it ends. In processes of their own where a signal or the end is tested."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import effkit as ek
from effkit.cli import main, tensor_bytes
from effkit.spec.record import Record
from effkit.spec.sharing import shareable

QUICK = ["--device", "cpu", "--window", "64", "--windows", "3", "--prompt", "16", "--new-tokens", "4", "--repeats", "2"]
RTN = {"version": 1, "steps": [{"step": "quantize", "method": "rtn", "bits": 4, "group_size": 32}]}
STUDENT = {
    "version": 1,
    "steps": [
        {"step": "prune", "layers": 2},
        {"step": "distill", "steps": 300, "window": 16, "batch": 1},
        {"step": "quantize", "group_size": 32},
    ],
}


def effkit(*words: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options}
    command = [sys.executable, "-m", "effkit.cli", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*words: object, **options) -> tuple[int, str, str]:
    child = effkit(*words, **options)
    out, err = child.communicate(timeout=280)
    return child.returncode, out, err


@pytest.fixture
def here(capfd):
    """`effkit` in this process, which spares the start of another one."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


def recipe(folder: Path, content: object) -> Path:
    path = folder / "recipe-given.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def until(condition, child: subprocess.Popen, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_run_writes_a_model_a_record_and_one_line_of_json(here, tmp_path, tiny_llama_folder):
    out = tmp_path / "out"
    code, said, told = run("run", recipe(tmp_path, RTN), "--out", out, "--model", tiny_llama_folder, *QUICK)
    assert code == 0, told
    assert names(out) == ["model", "recipe.json", "record.json"]
    last = json.loads(said.splitlines()[-1])
    record = Record.from_json((out / "record.json").read_text())
    tensors = load_file(out / "model" / "model.safetensors")
    assert last["bytes"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert last["bytes"] == last["predicted_bytes"] == record.cost.bytes
    assert last["perplexity"] == record.quality.perplexity.value
    assert last["base_perplexity"] == record.quality.base_perplexity.value
    assert last["kl_interval"][0] <= last["kl"] <= last["kl_interval"][1]
    assert last["kl"] > 0
    assert last["decode_tokens_per_s"] == record.profile.decode.value
    assert (last["record"], last["folder"]) == (record.id, str(out))
    assert record.name == "rtn 4-bit g32"
    assert list(ek.Store()) == [record]

    base = ek.load(str(tiny_llama_folder), device="cpu")
    made, saved = ek.quantize(base, bits=4, group_size=32), ek.load(str(out / "model"), device="cpu")
    ids = torch.arange(3, 40)[None]
    assert torch.equal(made.logits(ids), saved.logits(ids))
    assert ek.Recipe.from_file(out / "recipe.json") == saved.recipe == record.recipe
    assert re.search(r"quantize: \d+ of \d+ modules", told)
    assert "Traceback" not in told

    code, said, told = here("run", recipe(tmp_path, RTN), "--out", out, "--model", tiny_llama_folder, *QUICK)
    assert (code, said) == (2, "")
    assert "holds a finished result. Allowed: a new or empty folder, or one in which the same recipe was interrupted" in told
    assert Record.from_json((out / "record.json").read_text()) == record
    (out / "notes.txt").write_text("mine")
    words = ("run", recipe(tmp_path, {"version": 1, "steps": []}), "--out", out, "--model", tiny_llama_folder, "--overwrite", "--no-store")
    code, said, told = here(*words, *QUICK)
    assert code == 0, told
    last = json.loads(said.splitlines()[-1])
    assert (last["name"], last["kl"], last["predicted_bytes"]) == ("base", 0.0, None)
    assert last["bytes"] == last["base_bytes"] == tensor_bytes(out / "model" / "model.safetensors")
    assert names(out) == ["model", "notes.txt", "recipe.json", "record.json"]
    assert len(ek.Store()) == 1


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("{", [], "recipe-given.json is not JSON"),
        ({"version": 1, "steps": [{"step": "quantise"}]}, [], "steps.0.step is 'quantise'. Allowed: 'quantize', 'prune', 'student'"),
        ({"version": 1, "steps": [{"step": "quantize", "bits": 9}]}, [], "bits is 9. Allowed: 2, 3, 4, 5, 6, 7, 8"),
        ({"version": 1, "steps": [{"step": "quantize", "group_size": 48}]}, [], "group_size is 48"),
        ({"version": 1, "steps": [{"step": "quantize", "method": "rtm"}]}, [], "method is 'rtm'"),
        (RTN, ["--model", "no-such-model-anywhere"], "no-such-model-anywhere"),
        (RTN, ["--device", "tpu"], "tpu"),
        (RTN, ["--text", "missing.txt"], "missing.txt"),
        (RTN, ["--window", "4000"], "4000"),
    ],
)
def test_a_mistake_is_one_clear_message_and_leaves_nothing(here, tmp_path, tiny_llama_folder, content, words, message):
    out = tmp_path / "out"
    code, said, told = here("run", recipe(tmp_path, content), "--out", out, "--model", tiny_llama_folder, *QUICK, *words)
    assert (code, said) == (2, ""), told
    last = told.strip().splitlines()[-1]
    assert last.startswith("effkit: ")
    assert message in told
    assert "Traceback" not in told
    assert not out.exists()


def test_folders_that_cannot_be_used(here, tmp_path, tiny_llama_folder):
    given = recipe(tmp_path, RTN)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thing").write_text("x")
    for out, message in ((full, "is not empty"), (given, "is a file"), (given / "sub", "Cannot write"), ("/proc/effkit-out", "")):
        code, said, told = here("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK)
        assert (code, said) == (2, ""), told
        assert told.strip().splitlines()[-1].startswith("effkit: ")
        assert message in told
        assert "Traceback" not in told
    assert names(full) == ["thing"]


def began(out: Path) -> bool:
    path = out / "run" / "events.jsonl"
    return path.exists() and '"distill"' in path.read_text()


def test_killed_and_run_again_it_goes_on_to_the_same_model(tmp_path, tiny_llama_folder):
    given = recipe(tmp_path, STUDENT)
    plain, out = tmp_path / "plain", tmp_path / "out"
    code, said, told = run("run", given, "--out", plain, "--model", tiny_llama_folder, *QUICK)
    assert code == 0, told

    child = effkit("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK)
    until(lambda: began(out), child)
    child.send_signal(signal.SIGTERM)
    stopped, told = child.communicate(timeout=280)
    assert (child.returncode, stopped) == (143, ""), told
    assert "stopped. Nothing half-written is left; the same command goes on from what is there." in told
    assert names(out) == ["recipe.json", "run"]
    assert not [p for p in out.rglob("*") if p.suffix in (".part", ".old")]

    code, _, told = run("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK, "--dtype", "bfloat16")
    assert code == 2
    assert "another recipe, model or device was interrupted" in told

    child = effkit("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK)
    until(lambda: began(out), child)
    child.kill()
    child.communicate(timeout=280)
    assert names(out) == ["recipe.json", "run"]

    code, again, told = run("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK)
    assert code == 0, told
    assert re.search(r"going on after \d+ of 300 steps of distill", told)
    assert names(out) == ["model", "recipe.json", "record.json"]
    mine, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (out, plain))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    first, second = (json.loads(text.splitlines()[-1]) for text in (said, again))
    assert [first[key] for key in ("perplexity", "kl", "bytes")] == [second[key] for key in ("perplexity", "kl", "bytes")]


def test_ctrl_c_while_measuring_keeps_the_model(tmp_path, tiny_llama_folder):
    given, out = recipe(tmp_path, RTN), tmp_path / "out"
    child = effkit("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK, "--repeats", "100000")
    until(lambda: (out / "model" / "effkit.json").exists(), child)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    said, told = child.communicate(timeout=280)
    assert (child.returncode, said) == (130, ""), told
    assert "Traceback" not in told
    assert names(out) == ["model", "recipe.json", "run"]
    assert len(ek.Store()) == 0
    code, said, told = run("run", given, "--out", out, "--model", tiny_llama_folder, *QUICK)
    assert code == 0, told
    assert "quantize: " not in told
    assert json.loads(said.splitlines()[-1])["bytes"] == json.loads(said.splitlines()[-1])["predicted_bytes"]
    assert names(out) == ["model", "recipe.json", "record.json"]


def test_text_from_a_file_is_what_is_measured(here, tmp_path, tiny_llama_folder):
    text = tmp_path / "mine.txt"
    text.write_text("Pumps and valves. " * 100)
    code, _, told = here(
        "run", recipe(tmp_path, RTN), "--out", tmp_path / "out", "--model", tiny_llama_folder, *QUICK, "--text", text, "--name", "mine"
    )
    assert code == 0, told
    record = Record.from_json((tmp_path / "out" / "record.json").read_text())
    assert record.name == "mine"
    assert "mine.txt" in record.quality.text_source


@pytest.fixture
def specialist(tmp_path, tiny_encoder_folder, reports):
    """(the folder of a fine-tuned teacher, a pool, the README's recipe for a student of that teacher, with few steps)."""
    from effkit.models.texts.labelled import split

    parts = split(reports)
    base = ek.classifier(tiny_encoder_folder, reports.classes, device="cpu")
    teacher = ek.finetune(base, parts.train, epochs=6, learning_rate=2e-3, batch=8).save(tmp_path / "teacher")
    pool = tmp_path / "pool.txt"
    pool.write_text("\n".join(parts.train.texts))
    (tmp_path / "test.txt").write_text("\n".join(parts.test.texts))
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    steps = json.loads(re.search(r'```json\n(\{"steps": .*?)```', readme, re.DOTALL)[1])["steps"]
    assert [step["step"] for step in steps] == ["student", "distill", "quantize"]
    steps[0] |= {"vocabulary": 200, "hidden_size": 32, "ffn": 64, "window": 16, "text": str(pool)}
    steps[1] |= {"steps": 250, "batch": 16, "augment": 600, "text": str(pool)}
    steps[2] |= {"group_size": 32}
    return teacher, tmp_path / "test.txt", recipe(tmp_path, {"steps": steps})


def test_the_readmes_specialist(here, tmp_path, specialist):
    """A student that reads less than its teacher is profiled on what both can read, and a text is cut to what a model reads."""
    teacher, text, given = specialist
    out = tmp_path / "out"
    code, said, told = here("run", given, "--out", out, "--model", teacher, "--device", "cpu", "--text", text, "--repeats", "2")
    assert code == 0, told
    assert "note: prompt is 16 tokens, for base and model read at most 16 at once" in told
    last = json.loads(said.splitlines()[-1])
    record = Record.from_json((out / "record.json").read_text())
    assert last["agreement"] > 0.8
    assert last["perplexity"] is None
    assert (record.profile.prompt, record.quality.windows) == (16, len(text.read_text().splitlines()))
    student = ek.load(str(out / "model"), device="cpu")
    assert student.window == 16
    assert student.config.id2label == ek.load(str(teacher), device="cpu").config.id2label


def test_a_prompt_that_the_student_cannot_read_is_refused_before_it_is_trained(here, tmp_path, specialist):
    teacher, text, given = specialist
    words = ("run", given, "--out", tmp_path / "out", "--model", teacher, "--device", "cpu", "--text", text)
    code, said, told = here(*words, "--prompt", "32")
    assert (code, said) == (2, "")
    assert told.splitlines()[-1] == "effkit: prompt is 32 tokens. This model reads at most 16 at once. Choose a shorter prompt."
    assert "distill" not in told
    assert not (tmp_path / "out").exists()


def test_the_doctor_speaks(here):
    code, said, told = here("doctor")
    assert code in (0, 1), told
    assert re.fullmatch(r"\d+ things work, \d+ do not", said.strip().splitlines()[-1])


def test_help_needs_no_torch():
    code = """
import sys, effkit.cli
try:
    effkit.cli.main(["run", "--help"])
except SystemExit:
    assert "torch" not in sys.modules
    print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.strip().endswith("ok"), done


def test_a_model_is_exported(here, tiny_llama, tmp_path):
    ek.quantize(tiny_llama, bits=4, group_size=32).save(tmp_path / "saved")
    code, said, told = here("export", tmp_path / "saved", tmp_path / "out")
    line = json.loads(said)
    assert (code, line["format"], line["exact"]) == (0, "compressed-tensors", True)
    assert line["bytes"] == tensor_bytes(tmp_path / "out" / "model.safetensors")
    assert "note: model.embed_tokens: embeddings and heads are not packed" in told
    code, said, told = here("export", tmp_path / "saved", tmp_path / "out.gguf", "--format", "gguf", "--strict")
    assert (code, said) == (2, "")
    assert told.splitlines()[-1].startswith("effkit: strict is True and 1 of 29 tensors cannot be kept")
    assert not (tmp_path / "out.gguf").exists()


def test_replay_runs_a_record_again_from_every_form_of_it(here, tmp_path, tiny_llama_folder):
    out, text = tmp_path / "out", tmp_path / "text.txt"
    text.write_text("The machine measures what it keeps and what it costs. " * 60)
    code, _, told = run_here(here, tmp_path, out, tiny_llama_folder, text)
    assert code == 0, told
    record = Record.from_json((out / "record.json").read_text())
    assert ek.read_records(out / "model") == (shareable(record),)
    ek.write_records(record, tmp_path / "crate.zip")
    shared = ("--model", tiny_llama_folder, "--text", text)
    for form, more in (
        (out, ()),
        (out / "record.json", ()),
        (out / "model" / "model.safetensors", shared),
        (tmp_path / "crate.zip", shared),
    ):
        code, said, told = here("replay", form, "--no-speed", *more)
        assert code == 0, told
        last = json.loads(said.splitlines()[-1])
        assert (last["ok"], last["same_weights"], last["record"], last["changes"]) == (True, True, record.id, [])
        assert {figure: v["verdict"] for figure, v in last["figures"].items()} == dict.fromkeys(
            ("retained", "agreement", "kl", "perplexity", "bytes"), "same"
        )
        assert re.search(r"^Perplexity +\d.* same$", told, re.M)

    text.write_text("Nothing in this sentence was in the other one, and so its figures differ. " * 60)
    code, said, told = here("replay", out, "--no-speed")
    last = json.loads(said.splitlines()[-1])
    assert (code, last["ok"]) == (1, False)
    assert last["figures"]["perplexity"]["verdict"] == "different"
    assert last["figures"]["perplexity"]["causes"] == ["data"]
    assert "different" in told
    assert "data: the text was" in told
    code, said, told = here("replay", tmp_path / "nothing.json")
    assert (code, said) == (2, "")
    assert "there is no file" in told


def run_here(here, folder: Path, out: Path, model: Path, text: Path) -> tuple[int, str, str]:
    return here("run", recipe(folder, RTN), "--out", out, "--model", model, "--text", text, "--no-store", *QUICK)


def test_the_cache_is_told_and_cleared(here, home):
    file = home / "cache" / "reference" / "key" / "window-0.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"1234")
    (home / "records.sqlite").write_bytes(b"1")
    code, said, _ = here("cache")
    assert (code, json.loads(said)) == (0, {"folder": str(home / "cache"), "bytes": {"reference": 4}, "cleared": False})
    assert here("cache", "--clear")[0] == 0
    assert names(home) == ["records.sqlite"]
    assert json.loads(here("cache", "--clear")[1])["bytes"] == {}


SPACE = {"steps": [{"step": "quantize", "method": ["rtn", "nf4"], "bits": [3, 4, 8], "group_size": [32]}]}
EXPLORE = ["--device", "cpu", "--window", "64", "--windows", "3"]


def test_explore_tries_a_space_and_goes_on_when_asked_again(here, tmp_path, tiny_llama_folder):
    out = tmp_path / "out"
    words = ["explore", recipe(tmp_path, SPACE), "--out", out, "--model", tiny_llama_folder, *EXPLORE, "--sampler", "grid"]
    code, said, told = here(*words, "--trials", "2")
    assert code == 0, told
    last = json.loads(said.splitlines()[-1])
    assert (last["trials"], last["done"], last["ended"]) == (2, 2, "all 2 trials were made")
    assert {point["name"] for point in last["front"]} <= {"rtn 3-bit g32", "rtn 4-bit g32"}
    assert "*  0      rtn 3-bit g32" in told
    assert re.search("explore: [012] of 2 trials", told), told

    code, said, told = here(*words)
    last = json.loads(said.splitlines()[-1])
    assert (code, last["trials"], last["done"], last["failed"]) == (0, 6, 4, 2)
    assert "failed: step 1: bits for nf4 is 3. Allowed: 4." in told
    found = ek.Exploration.from_json((out / "exploration.json").read_text())
    assert len(found.trials) == 6
    assert {r.id for r in ek.Store()} == {r.id for r in found.records}

    code, said, told = here(*words, "--objective", "kl", "bytes")
    assert (code, said) == (2, "")
    assert "lies an exploration with another objectives" in told
    code, said, told = here(*words, "--price", "1")
    assert (code, said) == (2, "")
    assert "the price is 1 $ without a price per hour" in told
    code, said, told = here("explore", recipe(tmp_path, {"steps": [{"step": "quantize", "bits": [3, 9]}]}), "--out", tmp_path / "x")
    assert (code, said) == (2, "")
    assert "bits is 9. Allowed: 2, 3, 4, 5, 6, 7, 8." in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_explore_that_is_stopped_goes_on(here, tmp_path, tiny_llama_folder, number):
    out = tmp_path / "out"
    space = {"steps": [{"step": "quantize", "bits": [2, 3, 4, 5, 6, 7, 8], "group_size": [16, 32, 64], "embedding_bits": [4, 8]}]}
    words = ["explore", recipe(tmp_path, space), "--out", out, "--model", tiny_llama_folder, *EXPLORE, "--sampler", "grid"]
    child = effkit(*words, "--trials", "42")
    until(lambda: len(list(out.glob("trials/*.json"))) > 1, child)
    child.send_signal(number)
    said, told = child.communicate(timeout=280)
    assert (child.returncode, said) == (128 + number, ""), told
    assert "the same command goes on from what is there" in told
    before = {place.name: place.read_bytes() for place in out.glob("trials/*.json")}
    assert 2 <= len(before) < 42
    code, said, told = here(*words, "--trials", str(len(before) + 1))
    assert code == 0, told
    assert {name: (out / "trials" / name).read_bytes() for name in before} == before
    assert json.loads(said.splitlines()[-1])["trials"] == len(before) + 1
