"""Two processes that train together end where one does that works alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import effkit as ek
from effkit.hardware.attached.processes import Crew, crew
from effkit.lab.records.store import Store
from effkit.lab.runs.folder import RunFolder

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
WAY: dict[str, Any] = {"text": TEXT, "steps": 5, "window": 32, "batch": 3, "learning_rate": 1e-3, "hard": 0.5, "seed": 3}
SCRIPT = """
import os, sys
import torch
from safetensors.torch import save_file
import effkit as ek

torch.set_num_threads(1)
teacher = ek.load(sys.argv[1], device="cpu")
model = ek.distill(teacher, ek.prune(teacher, layers=2), **eval(sys.argv[3]))
save_file({n: p.detach().contiguous() for n, p in model.module.named_parameters()}, f"{sys.argv[2]}/{os.environ['RANK']}.safetensors")
"""


def test_this_process_alone_needs_no_launcher(tiny_llama, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert crew(tiny_llama.device) == Crew(0, 1)
    assert [Crew(at, 2).share([1, 2, 3]) for at in range(2)] == [[1, 3], [2]]


@pytest.fixture
def free_port():
    """A port that nobody else is given meanwhile: bound here, where who listens may take it as well."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("learning_rate", [1e-3, float("1e30")])
def test_two_processes_end_where_one_does(tiny_llama_folder, tiny_llama, tmp_path, free_port, learning_rate):
    """With a rate that diverges, both must see it and give up alike instead of waiting for each other."""
    way = {**WAY, "learning_rate": learning_rate}
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tiny_llama_folder), str(tmp_path), repr(way)]
    both = [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    told = [one.communicate(timeout=300)[1] for one in both]
    if learning_rate > 1:
        assert all("training diverged" in text for text in told), told
        return
    assert [one.returncode for one in both] == [0, 0], told
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    alone = ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **way)
    start = dict(ek.prune(tiny_llama, layers=2).module.named_parameters())
    for name, parameter in alone.module.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], parameter, atol=1e-5), (name, (first[name] - parameter).abs().max())
        assert name == "model.embed_tokens.weight" or not torch.allclose(first[name], start[name], atol=1e-4), name


def test_the_command_line_distills_in_two_processes_and_writes_once(tiny_llama_folder, tiny_llama, home, tmp_path):
    """Stopped in the middle, both go on from the first one's snapshot, and end where one process does."""
    fields: dict[str, Any] = {"steps": 600, "window": 32, "batch": 2, "learning_rate": 1e-4}
    steps = [{"step": "prune", "layers": 2}, {"step": "distill", **fields}]
    (tmp_path / "recipe.json").write_text(json.dumps({"version": 1, "steps": steps}))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "effkit.cli", "run"]
    command += [str(tmp_path / "recipe.json"), "--model", str(tiny_llama_folder), "--device", "cpu", "--window", "32", "--windows", "2"]
    command += ["--prompt", "8", "--new-tokens", "2", "--repeats", "1", "--out", str(out)]

    def start() -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start()
    while not ((out / "run" / "events.jsonl").exists() and any(e["done"] > 5 for e in RunFolder(out / "run").all_events())):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    told = first.communicate(timeout=300)[1]
    assert not (out / "record.json").exists()
    assert "effkit: stopped" in told, told
    assert "This is unexpected" not in told, told
    assert len(RunFolder(out / "run").snapshots()) == 1
    second = start()
    said, told = second.communicate(timeout=300)
    assert second.returncode == 0, told
    assert "going on after" in told, told
    assert len(said.splitlines()) == 1
    assert len(Store().records()) == 1
    alone = ek.distill(tiny_llama, ek.prune(tiny_llama, layers=2), **fields)
    made = ek.load(str(out / "model"), device="cpu")
    for name, parameter in made.module.named_parameters():
        assert torch.allclose(parameter, alone.module.get_parameter(name), atol=1e-4), name
