"""Devices by name, and the sentences for those that are not here."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

import effkit as ek
from effkit.hardware.attached.device import Device, available_memory, device, timing_of, total_memory
from effkit.spec.errors import BadInput, Unavailable

ACCELERATOR = torch.accelerator.current_accelerator(check_available=True)
needs_no_accelerator = pytest.mark.skipif(ACCELERATOR is not None, reason="what is said where no accelerator is attached")


def test_the_cpu_is_always_there_and_last():
    cpu = ek.devices()[-1]
    assert (cpu.type, cpu.index, str(cpu), cpu.timing, cpu.simulated) == ("cpu", None, "cpu", "wall clock", False)
    assert re.fullmatch(r"cpu \(.+\)", repr(cpu))
    assert cpu.torch == torch.device("cpu")
    assert cpu.memory == total_memory() >= available_memory() > 0
    assert {device("cpu"), device("cpu:0"), device(torch.device("cpu")), device(" CPU "), device(cpu)} == {cpu}
    cpu.synchronize()
    cpu.empty_cache()


def test_auto_is_the_accelerator_or_the_cpu():
    assert ek.device() == ek.device("auto")
    assert ek.device("auto").type == (ACCELERATOR.type if ACCELERATOR else "cpu")


def test_a_device_is_a_value_that_json_can_hold():
    cpu = device("cpu")
    with pytest.raises(AttributeError):
        cpu.name = "another"  # type: ignore[misc]
    back = json.loads(json.dumps(cpu.as_json()))
    assert Device(**{**back, "dtypes": tuple(back["dtypes"])}) == cpu


@pytest.mark.parametrize("name", ["cpu", "float32", "bfloat16", "float16"])
def test_the_dtypes_it_names_are_computed_in(name):
    cpu = device("cpu")
    if name in cpu.dtypes:
        a = torch.full((4, 4), 2.0, dtype=getattr(torch, name))
        assert float((a @ a)[0, 0]) == 16.0


@needs_no_accelerator
@pytest.mark.parametrize(
    ("want", "text"),
    [
        (
            "gpu",
            "device is 'gpu'. Allowed: 'auto', 'cpu', 'cuda', 'npu', 'xpu', 'mps'. 'auto' takes the accelerator that is attached, else",
        ),
        ("", "device is ''. Allowed: 'auto', 'cpu',"),
        ("cuda:x", "device is 'cuda:x'. Allowed: 'auto', 'cpu', or an accelerator such as 'cuda:0' or 'npu:0'."),
        ("cuda:", "device is 'cuda:'. Allowed: 'auto',"),
        ("cuda:-1", "device is 'cuda:-1'. Allowed: 'auto',"),
        (3, "device is 3. Allowed: 'auto', 'cpu', or an accelerator such as 'cuda:0' or 'npu:0', a torch.device or an effkit device."),
        (None, "device is None. Allowed:"),
    ],
)
def test_what_is_no_device_is_bad_input(want, text):
    with pytest.raises(BadInput, match=re.escape(text)):
        device(want)


@needs_no_accelerator
@pytest.mark.parametrize(
    ("want", "text"),
    [
        ("cuda", r"device 'cuda' is not usable here\. this torch \(.+\) was built without CUDA; install a CUDA build .+ Attached: cpu \("),
        ("cuda:1", r"device 'cuda:1' is not usable here\."),
        ("npu:0", r"device 'npu:0' is not usable here\. torch_npu is not installed; it comes .+ Attached: cpu \("),
        ("xpu", r"device 'xpu' is not usable here\. this torch \(.+\) finds no device of type xpu\. Attached: cpu \("),
        (torch.device("cuda"), r"device 'cuda' is not usable here\."),
        ("meta", r"device 'meta' holds no numbers, so nothing can be computed or timed on it\. Allowed: 'auto', 'cpu'"),
    ],
)
def test_a_device_that_is_not_here_is_unavailable(want, text):
    with pytest.raises(Unavailable, match=text):
        device(want)


TOASTER = """
import types, effkit.hardware, torch
from effkit.hardware.attached.clock import Clock
from effkit.hardware.attached.device import Device, timing_of
from effkit.spec.errors import Unavailable
torch.utils.rename_privateuse1_backend("toaster")
torch._register_device_module("toaster", types.ModuleType("torch.toaster"))
toaster = Device("toaster", 0, "a toaster", None, ("float32",), timing_of("toaster"))
assert toaster.timing == "unavailable"
try:
    Clock(toaster)
except Unavailable as error:
    print(error)
"""


def test_a_device_that_cannot_be_timed_raises():
    done = subprocess.run([sys.executable, "-c", TOASTER], capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout == (
        "toaster:0 (a toaster) cannot be timed. It offers neither events nor a way to wait for it, "
        "and a time taken without waiting would be wrong. Choose another device.\n"
    )


def test_timing_of_a_kind_that_torch_does_not_know():
    assert timing_of("abacus") == "unavailable"
