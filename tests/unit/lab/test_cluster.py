"""The same search on a Dask cluster: a worker that dies costs nothing but time."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput
from effkit.spec.exploration import Exploration

TEXT = "The machine measures what it keeps and what it costs. " * 60
HOW = {"on": TEXT, "text": TEXT, "window": 64, "windows": 3, "sampler": "grid"}
SPACE = {
    "recipes": [
        {"steps": [{"step": "quantize", "method": ["gptq", "rtn"], "bits": [3, 4], "group_size": 32, "samples": 8, "window": 64}]},
        {"steps": [{"step": "prune", "layers": 2}, {"step": "distill", "steps": 3, "batch": 2, "window": 32}]},
        {"steps": [{"step": "quantize", "group_size": 48}]},
    ]
}


def values(found: Exploration) -> list:
    return [(t.number, t.label, t.state, t.reason, t.values, t.record and t.record.fingerprint.weights) for t in found.trials]


def test_a_killed_worker_costs_its_trial_which_is_tried_again(tiny_llama, tmp_path, children):
    spawned = lambda: {child.pid for child in children("spawn_main")}  # noqa: E731  (as Dask's workers are)
    killed, said, links, earlier = [], set(), set(), spawned()
    work = ek.explore.work(tiny_llama, SPACE, cluster=2, study=tmp_path, **HOW)
    found = None
    while found is None:
        try:
            event = next(work)
        except StopIteration as end:
            found = end.value
            break
        said.add(event.message)
        links.add(event.details.get("dashboard"))
        if event.done >= 1 and event.details["running"] and not killed:
            workers = sorted(spawned() - earlier)
            assert len(workers) >= 2
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])
    assert killed
    told = " ".join(said)
    assert "workers were lost, what they were at is tried again" in told
    assert "dashboard http://127.0.0.1:" in told
    assert any(link and link.startswith("http://127.0.0.1:") for link in links), "what the card links to"
    assert {t.worker for t in found.trials} <= {"0", "1"}
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # a worker's: sums shared out otherwise may end in other digits
    try:
        here = ek.explore(tiny_llama, SPACE, study=tmp_path / "here", **HOW)
    finally:
        torch.set_num_threads(before)
    assert values(found) == values(here)
    assert [t.number for t in found.front()] == [t.number for t in here.front()]
    assert "group_size is 48" in found.trials[5].reason
    assert len(ek.Store()) == 2 * (1 + 5)


def test_a_client_is_used_and_left_open_and_only_workers_with_the_device_are_used(tiny_llama, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from effkit.lab.searching import cluster

    monkeypatch.setattr(cluster, "RESOURCES", {"cpu": "NPU"})  # as if the base were on one
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, resources={"NPU": 1}, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        options = {name: value for name, value in local.new_spec["options"].items() if name != "resources"}
        local.new_spec = {**local.new_spec, "options": options}
        local.scale(2)
        client.wait_for_workers(2)
        found = ek.explore(tiny_llama, SPACE, trials=3, cluster=client, study=tmp_path, **HOW)
        assert [(t.state, t.worker) for t in found.trials] == [("done", "0")] * 3
        assert client.status == "running"


QUIET = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": 50}


def test_what_is_no_cluster_is_refused(tiny_llama, monkeypatch):
    with pytest.raises(BadInput, match="cluster is 0"):
        ek.explore(tiny_llama, SPACE, cluster=0, **HOW)
    with pytest.raises(BadInput, match="no cluster answers at 'nowhere'"):
        ek.explore(tiny_llama, SPACE, cluster="nowhere", **HOW)
    assert len(ek.Store()) == 0, "the base was measured first, which takes minutes elsewhere"
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "bokeh" else found(name, *more))
    with pytest.raises(BadInput, match=r"the package 'bokeh' is not installed\. .* pip install 'effkit\[cluster\]'"):
        ek.explore(tiny_llama, SPACE, cluster=True, **HOW)
