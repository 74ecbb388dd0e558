"""Idle OpenMP threads are ended before a worker takes over, by `release_idle_threads` and by every run."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")

# In a process of its own: the threads of other tests would be counted too.
SCRIPT = """
import os, sys, time
import torch
from effkit.hardware.attached.threads import release_idle_threads
import effkit as ek
from tests.unit.lab.toys import count

def threads():
    return len(os.listdir("/proc/self/task"))

def compute():
    torch.set_num_threads(4)
    return torch.randn(512, 512) @ torch.randn(512, 512) + torch.randn(1_000_000).exp().sum()

compute()
with_pool = threads()
HOW
print(with_pool - threads())
"""
PATIENCE = """
until = time.monotonic() + 30  # a thread that has done its work may need a moment to end
while with_pool - threads() != ENDED and time.monotonic() < until: time.sleep(0.02)"""


@pytest.mark.parametrize(
    ("how", "ended"),
    [("pass", 0), ("release_idle_threads()", 3), ("ek.start(count, to=2, folder=sys.argv[1]).saved.wait()", 3)],
)
def test_the_pool_of_the_calling_thread_ends(how, ended, tmp_path):
    script = SCRIPT.replace("HOW", how + PATIENCE.replace("ENDED", str(ended)) if ended else how)
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, check=True)
    assert int(out.stdout) == ended


def test_a_pool_is_made_anew_and_computes_the_same():
    again = "torch.manual_seed(0); a = compute(); release_idle_threads(); torch.manual_seed(0); assert (compute() == a).all()"
    script = SCRIPT.replace("HOW", again + PATIENCE.replace("ENDED", "0"))
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(out.stdout) == 0
