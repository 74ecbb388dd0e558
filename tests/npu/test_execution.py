"""Packed linears on the simulated Ascend machine: the vendor's kernel is chosen or refused by its rules, with a reason.

The simulated driver has no such kernel, so what it would compute is not tested here, and never was on real hardware.
"""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.models.execution import kernels
from effkit.models.execution.engines import Work, choose, engines
from effkit.models.execution.kernels import QuantBatchMatmulNpu

NPU = torch.device("npu:0")


@pytest.mark.parametrize(
    ("bits", "group", "dtype", "reason"),
    [
        (4, 64, torch.float32, "it computes in float16 or bfloat16, not float32"),
        (3, 64, torch.float16, "it takes 4 or 8 bits, not 3"),
        (4, 48, torch.float16, "it takes whole rows or groups in multiples of 32, not 48"),
        (4, 64, torch.bfloat16, "the simulated Ascend has no such kernel"),
        (8, 192, torch.float16, "the simulated Ascend has no such kernel"),
    ],
)
def test_the_vendors_kernel_is_refused_with_a_reason(bits, group, dtype, reason):
    work = Work(NPU, dtype, 64, 192, bits, group, False)
    assert engines()["quant-batchmatmul-npu"].why_not(work) == reason
    assert choose(work).engine is None
    assert choose(work).why == f"quant-batchmatmul-npu: {reason}"


def test_on_a_device_that_is_not_simulated_it_is_chosen(monkeypatch):
    """What speaks against it on this machine is only that the machine is simulated."""
    real = kernels.find_device

    def not_simulated(where):
        from dataclasses import replace

        return replace(real(where), simulated=False)

    monkeypatch.setattr(kernels, "find_device", not_simulated)
    assert QuantBatchMatmulNpu().why_not(Work(NPU, torch.float16, 64, 192, 4, 64, False)) is None


def test_a_quantized_model_says_what_it_runs_on(tiny_llama_folder):
    small = ek.quantize(ek.load(str(tiny_llama_folder), device="npu:0", dtype="float16"), method="rtn", bits=4, group_size=32)
    table = small.execution()
    assert table.engines == {"dequantize": 22}
    assert "the simulated Ascend has no such kernel" in repr(table)
    assert table.extra_bytes == 0


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_keys_and_values_are_those_of_the_cpu(tiny_llama_folder, tiny_llama, bits):
    base = ek.load(str(tiny_llama_folder), device="npu:0", dtype="float32")
    ids = torch.tensor([list(range(40, 60))])
    here, there = base.logits(ids, kv_bits=bits).cpu(), tiny_llama.logits(ids, kv_bits=bits)
    assert (here - there).abs().max() < 1e-3
    few = {"prompt": 16, "new_tokens": 3, "repeats": 1, "warmup": 0}
    profiled = ek.profile(base, **few, kv_bits=bits).decoding
    assert profiled.cache == f"int{bits}"
    assert profiled.cache_bytes == ek.profile(tiny_llama, **few, kv_bits=bits).decoding.cache_bytes


def test_compiled_decoding_is_refused_with_a_reason(tiny_llama_folder):
    base = ek.load(str(tiny_llama_folder), device="npu:0", dtype="float32")
    how = ek.profile(base, prompt=8, new_tokens=3, repeats=1, warmup=0, compiled=True).decoding
    assert not how.compiled
    assert how.note == "decoded eagerly: torch.compile is not used on npu"
