"""Trials on several processes or machines: Dask's scheduler hands them out, workers make and measure them.

    ek.explore(base, space, cluster=True)                    # workers on this machine, traffic encrypted, a dashboard
    ek.explore(base, space, cluster="tls://10.0.0.5:8786")   # or a `distributed.Client` with its own certificates

A job and its answer are JSON; a worker loads the base once, by its name or from the search's folder (which must then be on a
disk that all share), and keeps its own bench between trials. A worker that dies costs only the trial that it was at: the
scheduler hands it to another. Workers that announce the resource GPU or NPU get the trials of a base on such a device, one
each a unit; a worker named by a number n uses the n-th of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import threading
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effkit.hardware.attached.device import devices
from effkit.spec.errors import BadInput, Unavailable
from effkit.spec.exploration import Stage
from effkit.spec.progress import finish
from effkit.spec.record import Record

from ..runs.arguments import decode, encode
from .bench import Bench, Found, Job, Measuring

RESOURCES = {"cuda": "GPU", "npu": "NPU"}  # what a worker announces for a device of this type
LOOK_SECONDS = 0.2
PATIENCE = 60.0  # seconds until a cluster has a worker


class Cluster:
    """Runs jobs on a Dask cluster. given: True, a number of workers on this machine, an address, or a Client."""

    def __init__(self, given: Any, bench: Bench) -> None:
        self.distributed = _distributed()
        self.kind = RESOURCES.get(bench.base.device.type)
        self.cluster: Any = None
        self.threads: int | None = None  # of a worker; None: as many as it takes by itself
        self.client, self.ours = self._connected(given, bench)
        self.call = _call(bench, self.threads)
        self.jobs: dict[Any, Job] = {}
        self.at: dict[int, str] = {}  # by trial: the address of the worker that made it
        self.lost: set[str] = set()
        self.known: set[str] = set()
        try:
            self.client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            self.close()
            raise Unavailable(
                "the cluster has no workers", f"None came within {PATIENCE:.0f} s", "Start workers, or leave cluster out"
            ) from error

    def _connected(self, given: Any, bench: Bench) -> tuple[Any, bool]:
        if isinstance(given, self.distributed.Client):
            return given, False
        if isinstance(given, str):
            try:
                return self.distributed.Client(given, timeout=10, set_as_default=False), True
            except (OSError, ValueError) as error:
                todo = "Give the scheduler's address; for tls:// a distributed.Client that has the certificates"
                raise BadInput(
                    f"no cluster answers at {given!r} ({error})", "Allowed: an address such as tcp://10.0.0.5:8786", todo
                ) from None
        if hasattr(given, "scheduler_address"):
            return self.distributed.Client(given, set_as_default=False), True
        if given is not True and (not isinstance(given, int) or given < 1):
            raise BadInput(
                f"cluster is {given!r}", "Allowed: True, a number of workers, an address, a distributed.Client or one of its clusters"
            )
        self.cluster = self._local(None if given is True else given, bench)
        return self.distributed.Client(self.cluster, set_as_default=False), True

    def _local(self, workers: int | None, bench: Bench) -> Any:
        """Workers on this machine that speak TLS with certificates made for this session, on the loopback address alone."""
        from distributed.security import Security

        count = workers or (_attached(bench.base.device.type) if self.kind else max(2, (os.cpu_count() or 2) // 2))
        self.threads = None if self.kind else max(1, (os.cpu_count() or 1) // count)
        return self.distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            protocol="tls://",
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # weights are no data of Dask's: it could not spill them, only kill the worker
            resources={self.kind: 1} if self.kind else None,
            silence_logs=50,
        )

    # what the search asks for

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; "" where it has none."""
        return self.client.dashboard_link or ""

    def capacity(self) -> int:
        """Trials at once: a worker has one, or as many as it has devices."""
        workers = self._workers()
        able = [w["resources"].get(self.kind, 0) for w in workers.values()] if self._by_resource(workers) else [1] * len(workers)
        return int(sum(able))

    def submit(self, job: Job) -> None:
        workers = self._workers()
        self.known |= set(workers)
        resources = {self.kind: 1} if self._by_resource(workers) else None
        data = {"number": job.number, "draft": job.draft, "id": job.id, "name": job.name, "windows": job.windows, "speed": job.speed}
        key = f"effkit-trial-{job.number}-{job.windows}-{time.time_ns()}"
        # on the worker that holds the model already, where this job goes on with a trial
        before = self.at.get(job.number)
        near = {"workers": [before], "allow_other_workers": True} if before in workers else {}
        future = self.client.submit(work, self.call, json.dumps(data), key=key, pure=False, resources=resources, **near)
        self.jobs[future] = job

    def wait(self) -> Generator[str, None, list[Found]]:
        while True:
            ended = [future for future in self.jobs if future.done()]
            if ended:
                return [self._found(future) for future in ended]
            now = set(self._workers())
            self.lost |= self.known - now
            self.known |= now
            said = [f"{len(self.jobs)} trials on {len(now)} workers: {', '.join(job.name for job in self.jobs.values())}"]
            if self.lost:
                said.append(f"{len(self.lost)} workers were lost, what they were at is tried again")
            if self.dashboard:
                said.append(f"dashboard {self.dashboard}")
            yield "; ".join(said)
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # a cluster that is gone has nothing to cancel
            self.client.cancel(list(self.jobs), force=True)
        if self.ours:
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                self.client.close()
        if self.cluster is not None:
            self.cluster.close()

    def _found(self, future: Any) -> Found:
        job = self.jobs.pop(future)
        if future.status == "finished":
            told = json.loads(future.result())
            self.at[job.number] = told.pop("address")
            return _read(told)
        error = future.exception() if future.status == "error" else None
        if type(error).__name__ == "KilledWorker":
            reason = "every worker that was given this trial died; most likely memory ran out"
        else:
            reason = f"{type(error).__name__}: {error}" if error else f"the scheduler says {future.status!r}"
        return Found(job.number, job.windows, reason=reason)

    def _workers(self) -> dict[str, Any]:
        return self.client.scheduler_info(n_workers=-1)["workers"]

    def _by_resource(self, workers: dict[str, Any]) -> bool:
        return self.kind is not None and any(w["resources"].get(self.kind) for w in workers.values())


# what runs on a worker

_turn = threading.Lock()  # a worker with several threads still makes one trial at a time


def work(call: str, job: str) -> str:
    """Make and measure one job; JSON in and out."""
    from distributed import get_worker

    worker = get_worker()
    with _turn:
        import torch

        if threads := json.loads(call)["threads"]:
            torch.set_num_threads(threads)
        found = finish(_bench(call, str(worker.name)).found(Job(**json.loads(job))))
    told = {"number": found.number, "windows": found.windows, "reason": found.reason, "worker": str(worker.name), "address": worker.address}
    told["record"] = found.record.model_dump(mode="json") if found.record else None
    return json.dumps({**told, "stages": [stage.model_dump() for stage in found.stages]})


@functools.lru_cache(maxsize=1)
def _bench(call: str, worker: str) -> Bench:
    """The bench of one search, kept from trial to trial. A worker with a number for a name has the device of that number."""
    told = json.loads(call)
    base, inputs, made = told["base"], Path(told["inputs"]), Path(told["made"])
    kind = base["device"].split(":")[0]
    if kind in RESOURCES and worker.isdecimal():
        base = {**base, "device": f"{kind}:{int(worker) % max(1, _attached(kind))}"}
    on, text = decode(told["on"], inputs), decode(told["text"], inputs)
    return Bench(decode(base, inputs), on, text, Measuring(**told["how"]), made if made.parent.is_dir() else None)


def _call(bench: Bench, threads: int | None) -> str:
    """What a worker needs to open the bench of this search."""
    assert bench.folder is not None
    inputs = bench.folder.parent / "inputs"
    inputs.mkdir(exist_ok=True)
    told = {"on": encode(bench.on, "on", None), "text": encode(bench.text, "text", None), "how": asdict(bench.how), "threads": threads}
    told |= {"base": encode(bench.base, "base", lambda name: inputs / name), "inputs": str(inputs), "made": str(bench.folder)}
    return json.dumps(told)


def _read(told: dict[str, Any]) -> Found:
    record = Record.model_validate(told.pop("record")) if told["record"] else told.pop("record")
    stages = tuple(Stage.model_validate(stage) for stage in told.pop("stages"))
    return Found(**told, record=record, stages=stages)


def _attached(kind: str) -> int:
    """How many devices of a type there are here."""
    return sum(device.type == kind for device in devices())


def _distributed() -> Any:
    for name in ("distributed", "bokeh", "cryptography"):
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"cluster is given and the package {name!r} is not installed",
                "Allowed: without a cluster, or with what it needs",
                "pip install 'effkit[cluster]'",
            )
    import distributed

    return distributed
