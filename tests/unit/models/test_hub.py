"""Loading from a hub: a real client process against a real server process on loopback, then again without the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import effkit as ek
from effkit.models.files.hub import wanted_files
from effkit.spec.errors import BadInput

# loads each [name, revision] and says what came of it
CLIENT = """
import json, sys
import effkit as ek
for name, revision in json.loads(sys.argv[1]):
    try:
        model = ek.load(name, device="cpu", revision=revision)
        point = model.checkpoint
        said = {"hash": point.hash, "revision": point.revision, "licence": point.licence, "source": point.source,
                "notes": point.notes, "hint": model.reload_hint, "first": model.logits([[5, 9, 200]])[0, 0, :3].tolist()}
    except ek.EffkitError as error:
        said = {"error": type(error).__name__, "text": str(error)}
    print("SAID", json.dumps(said))
"""


def ask(what, home: Path, **settings) -> list[dict]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", **settings}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(what)], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line.removeprefix("SAID ")) for line in done.stdout.splitlines() if line.startswith("SAID ")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory, tiny_llama_folder):
    """What a client says: online, then with HF_HUB_OFFLINE, then with the server gone; and what the server was asked for."""
    place = tmp_path_factory.mktemp("hub")
    tiny, pickled = place / "repos" / "org" / "tiny", place / "repos" / "org" / "pickled"
    shutil.copytree(tiny_llama_folder, tiny)
    (tiny / "README.md").write_text("---\nlicense: mit\n---\n# Tiny")
    (tiny / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (tiny / "modeling_tiny.py").write_text("raise SystemExit('executed')")
    (tiny / "consolidated.safetensors").write_bytes(b"a second copy of the weights")
    shutil.copytree(tiny, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    log = place / "log"
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("hub_server.py")), str(place / "repos"), str(log)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        asked = [
            ("org/tiny", None), ("org/tiny", "v1"), ("org/tiny", "nope"), ("org/unknown", None), ("smolm2-135m", None),
            ("org/gated", None), ("org/broken", None), ("org/pickled", None),
        ]  # fmt: skip
        online = ask(asked, place / "cache", HF_ENDPOINT=endpoint)
        requests = log.read_text().splitlines()
        offline = ask(
            [("org/tiny", None), ("org/tiny", "v1"), ("org/unknown", None)], place / "cache", HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1"
        )
        silent = log.read_text().splitlines() == requests
    finally:
        server.terminate()
        server.wait(timeout=120)
    gone = ask([("org/tiny", None), ("org/unknown", None)], place / "cache", HF_ENDPOINT=endpoint)
    return {"online": online, "requests": requests, "offline": offline, "silent": silent, "gone": gone, "endpoint": endpoint}


def test_a_hub_model_is_the_folder_it_was_made_of(answers, tiny_llama_folder):
    local = ek.load(tiny_llama_folder, device="cpu")
    said = answers["online"][0]
    assert said["hash"] == local.checkpoint.hash
    assert torch.equal(torch.tensor(said["first"]), local.logits([[5, 9, 200]])[0, 0, :3])
    assert (said["source"], said["revision"], said["licence"], said["notes"]) == ("org/tiny", "a" * 40, "mit", [])
    assert said["hint"] == {"source": "org/tiny", "revision": "a" * 40, "dtype": "float32"}


def test_a_revision_is_resolved_to_its_commit(answers):
    assert answers["online"][1]["revision"] == "b" * 40


def test_only_what_is_read_is_fetched(answers):
    files = {line.rsplit("/", 1)[1] for line in answers["requests"] if "/resolve/" in line}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert not [name for name in files if name.endswith((".bin", ".py")) or name.startswith("consolidated")]


@pytest.mark.parametrize(
    ("number", "kind", "parts"),
    [
        (2, "BadInput", ["org/tiny has no revision 'nope'", "a branch, tag or commit"]),
        (3, "BadInput", ["there is no model 'org/unknown': it is not built in, there is no such folder, and http", "does not know it"]),
        (4, "BadInput", ["there is no model 'smolm2-135m'", "Did you mean 'smollm2-135m'?"]),
        (5, "Unavailable", ["org/gated is gated", "Accept them there and set HF_TOKEN"]),
        (6, "Unavailable", ["org/broken could not be fetched", "answered 500", "Try again later"]),
        (7, "BadInput", ["org/pickled holds only pickles (pytorch_model.bin), which can run any code", "Allowed: safetensors and GGUF"]),
    ],
)
def test_what_a_hub_refuses_is_told(number, kind, parts, answers):
    said = answers["online"][number]
    assert said.get("error") == kind, said
    for part in parts:
        assert part in said["text"]


def test_offline_it_comes_from_the_cache_and_nobody_is_asked(answers):
    tiny, tagged, unknown = answers["offline"]
    assert answers["silent"]
    assert tiny == answers["online"][0]
    assert tagged == answers["online"][1]
    assert unknown["error"] == "Unavailable"
    assert "HF_HUB_OFFLINE is set" in unknown["text"]


def test_with_the_server_gone_the_cached_copy_is_used_and_said_so(answers):
    tiny, unknown = answers["gone"]
    assert tiny["hash"] == answers["online"][0]["hash"]
    assert tiny["notes"] == ["The hub could not be reached: this is the copy in the cache."]
    assert unknown["error"] == "Unavailable"
    assert f"{answers['endpoint']} could not be reached" in unknown["text"]


def test_which_files_are_wanted():
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files = [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        *shards,
        "consolidated.safetensors",
        "pytorch_model.bin",
        "x.py",
    ]
    assert wanted_files(files, "a/b") == ["config.json", "model.safetensors.index.json", "tokenizer.json", *shards]
    assert wanted_files(["effkit.json", "model.safetensors"], "a/b") == ["effkit.json", "model.safetensors"], "one that effkit saved"
    assert wanted_files(["README.md", "q4.gguf"], "a/b") == ["q4.gguf"]
    with pytest.raises(BadInput, match=r"a/b holds 2 GGUF files \(q4\.gguf, q8\.gguf"):
        wanted_files(["q4.gguf", "q8.gguf"], "a/b")
    with pytest.raises(BadInput, match="a/b holds no weights"):
        wanted_files(["README.md"], "a/b")
