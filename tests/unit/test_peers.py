"""The comparison with peers: who is compared at which size, and that a failure stands in the table."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

import effkit as ek

HERE = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("peers_compare", HERE / "compare.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def result(bits, kl, **more):
    return {"bits_per_weight": bits, "kl": kl, "how": f"{bits} bits", "seconds": 1.0, "setting": {}, **more}


def test_a_size_is_won_by_the_least_kl_that_fits(compare):
    found = {
        "one": {"results": [result(4.5, 0.05), result(4.625, 0.04), result(3.5, 0.3), result(5.0, 0.01)]},
        "two": {"results": [result(4.5, 0.03), {"setting": {"bits": 3}, "error": "no kernel"}]},
        "three": {"error": "cannot be installed: no wheel"},
    }
    assert {name: r["kl"] for name, r in compare.best(found, 4.63).items()} == {"two": 0.03, "one": 0.04}
    assert list(compare.best(found, 4.63)) == ["two", "one"]
    assert {name: r["kl"] for name, r in compare.best(found, 3.63).items()} == {"one": 0.3}
    assert compare.best(found, 2.63) == {}
    text = compare.table(found)
    assert "three failed: cannot be installed: no wheel" in text
    assert "two failed: {'bits': 3}: no kernel" in text


def test_every_peer_has_a_worker(compare):
    assert {"bitsandbytes", "hqq", "torchao", "optimum-quanto", "auto-round", "gptqmodel", "llmcompressor"} == set(compare.PEERS)
    for peer in compare.PEERS.values():
        assert (HERE / f"{peer.worker}_worker.py").exists()


def test_only_settings_without_a_result_are_measured_again(compare):
    peer = compare.Peer((), "hqq", ({"bits": 4}, {"bits": 3}, {"bits": 2}))
    kept = {"results": [{"setting": {"bits": 2}, "kl": 1.0}, {"setting": {"bits": 4}, "error": "no kernel"}]}
    assert compare.unmeasured(kept, peer) == ({"bits": 3},)
    assert compare.unmeasured({"results": [*kept["results"], {"setting": {"bits": 3}}]}, peer) == ()
    assert compare.unmeasured(None, peer) is None
    assert compare.unmeasured({"error": "cannot be installed: no wheel"}, peer) is None
    assert compare.unmeasured(kept, None) == ()  # not a peer: its settings are not in the table


def test_the_texts_without_options_are_those_of_the_committed_figures(compare, tmp_path):
    committed = json.loads((HERE.parents[2] / "data" / "measured" / "peers-stories15m.json").read_text(encoding="utf-8"))
    try:
        files = compare.halves(tmp_path)
    except SystemExit:
        pytest.skip("the sample of TinyStories is not beside this checkout")
    found = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert found == [committed["calibration_sha256"], committed["test_sha256"]]


def test_the_committed_figures_hold_every_program_and_setting(compare):
    """A setting that was added or changed without measuring it again is found here."""
    committed = json.loads((HERE.parents[2] / "data" / "measured" / "peers-stories15m.json").read_text(encoding="utf-8"))
    programs = committed["programs"]
    assert committed["not_run"] == []
    assert set(programs) == {*compare.PEERS, "llama.cpp", "effkit", "effkit, its benchmark"}
    for name, peer in compare.PEERS.items():
        measured = [result["setting"] for result in programs[name]["results"]]
        assert [setting for setting in peer.settings if setting not in measured] == [], name
    for size in compare.SIZES:
        assert {name: r["kl"] for name, r in committed["best"][str(size)].items()} == {
            name: r["kl"] for name, r in compare.best(programs, size).items()
        }


def test_every_worker_reads_each_setting_that_it_is_given(compare):
    """A word that a worker does not know would be a setting in the table only."""
    for name, peer in compare.PEERS.items():
        tree = ast.parse((HERE / f"{peer.worker}_worker.py").read_text(encoding="utf-8"))
        known = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert {word for setting in peer.settings for word in setting} <= known, name


def test_blocks_of_a_gguf_come_back_in_our_order(compare, stories15m, tmp_path):
    base = ek.load(stories15m, device="cpu")
    ek.export(ek.quantize(base, bits=8, group_size=32, symmetric=True, embedding_bits=None), tmp_path / "out.gguf", "gguf")
    weights, bits, types = compare.read_blocks(base, tmp_path / "out.gguf")
    assert (bits, types, len(weights)) == (8.5, "Q8_0", 42)
    name = "model.layers.2.self_attn.q_proj.weight"
    exact = base.module.get_parameter(name)
    assert (weights[name] - exact).norm() / exact.norm() < 0.01


def test_a_made_environment_is_taken_as_it_is(compare, tmp_path):
    environments = compare.environments
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "made-for.json").write_text(environments.wish(["one", "two"]))
    python = environments.environment("made", ["one", "two"], folder=tmp_path)
    assert python == tmp_path / "bin" / "python"
    assert environments.versions(python, ["pytest", "no-such-package"]).keys() <= {"pytest"}


def test_what_cannot_be_installed_is_told_in_pips_words(compare):
    with pytest.raises(compare.environments.CannotInstall, match=r"pip install --no-index no-such-package: .*no-such-package"):
        compare.environments.pip(Path(sys.executable), ["--no-index", "no-such-package"])
