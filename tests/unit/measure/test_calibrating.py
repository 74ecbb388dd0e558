"""A calibration is real figures of this device, turns sizes into seconds, and travels as JSON."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import effkit as ek
from effkit.hardware.projected.attached import first_token
from effkit.hardware.projected.configs import architecture
from effkit.hardware.projected.serving import Setting
from effkit.measure.calibrating import _number_seconds, _small_llama, cached_bytes, calibrate, expected_step_seconds, linears_of
from effkit.spec.calibration import Calibration, Copy, Layer, Linear, Product, along
from effkit.spec.errors import BadInput


@pytest.fixture(scope="module")
def here(processor_time) -> Calibration:
    return calibrate("cpu", formats=["float32", "int8"], seconds=1.5)


def synthetic(rate: float = 1e10, launch: float = 1e-5, **more) -> Calibration:
    """A device on which a product takes launch + bytes / rate a row, whatever its shape."""
    products = [
        Product(
            format="float32", engine="dense", rows=rows, inputs=i, outputs=o, bytes=4 * i * o, working_set=size,
            seconds=rows * (launch + 4 * i * o / rate),
        )
        for i, o in itertools.product((256, 1024, 4096), repeat=2)
        for rows, size in ((1, 1 << 24), (1, 1 << 27), (8, 1 << 27))
    ]  # fmt: skip
    return Calibration(
        device="cpu (synthetic)", device_type="cpu", date="2026-11-25", timing="wall clock", dtype="float32",
        copies=(Copy(bytes=1 << 20, rate=9e10), Copy(bytes=1 << 27, rate=2e10)), products=tuple(products), launch_seconds=launch,
        layers=(Layer(weight_bytes=1 << 20, seconds=1e-4), Layer(weight_bytes=1 << 24, seconds=4e-4)),
        step_overhead_seconds=5e-4, cache_seconds_per_byte=1e-9, **more,
    )  # fmt: skip


def test_measured_shapes_come_back_and_others_lie_between():
    made = synthetic(launch=0)
    for product in made.products:
        assert made.product_seconds("float32", product.inputs, product.outputs, product.rows, product.working_set) == pytest.approx(
            product.seconds
        )
    for i, o in ((512, 512), (300, 4000), (2048, 8192), (1024, 100_000)):
        assert made.product_seconds("float32", i, o) == pytest.approx(4 * i * o / 1e10)
    assert made.product_seconds("float32", 512, 512, rows=3) == pytest.approx(3 * 4 * 512 * 512 / 1e10)
    assert made.product_seconds("float32", 512, 512, rows=80) == pytest.approx(80 * 4 * 512 * 512 / 1e10)


def test_a_step_is_its_products_its_layers_and_its_cache():
    made = synthetic(launch=0)
    linears = [Linear(format="float32", inputs=1024, outputs=1024, bytes=1 << 22, count=8)]
    around = 2 * made.layer_seconds(1 << 24) + 5e-4
    assert around == pytest.approx(2 * 4e-4 + 5e-4)
    assert made.step_seconds(linears, 2, cache_bytes=1e6) == pytest.approx(8 * (1 << 22) / 1e10 + 1e-3 + around)
    queued = synthetic(launch=0, overlaps=True)
    assert queued.step_seconds(linears, 2) == pytest.approx(8 * (1 << 22) / 1e10)
    assert queued.step_seconds([], 2) == pytest.approx(2 * queued.layer_seconds(0) + 5e-4)


def test_each_further_row_costs_what_lies_between_the_products():
    plain, made = synthetic(launch=0), synthetic(launch=0, number_seconds=1e-9)
    linears = [Linear(format="float32", inputs=1024, outputs=512, bytes=1 << 21, count=8)]
    assert made.step_seconds(linears, 2) == plain.step_seconds(linears, 2)  # one row: `layers` has it
    assert made.step_seconds(linears, 2, batch=5) - plain.step_seconds(linears, 2, batch=5) == pytest.approx(4 * 8 * 1536e-9)
    shape = architecture({"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512,
                          "intermediate_size": 512})  # fmt: skip
    setting = Setting("fp32", prompt=65, new_tokens=4)
    between = first_token(shape, made, setting) - first_token(shape, plain, setting)
    assert between == pytest.approx(64 * 3 * (4 * 2 * 256 + 3 * (256 + 512)) * 1e-9)  # not of the head, which sees the last row alone


def test_what_further_rows_take_is_measured_with_the_products_gone(here):
    for _ in range(3):  # a difference of spans, which a host that changes its speed meanwhile can make nothing of
        if here.number_seconds > 1e-11:
            break
        here = calibrate("cpu", formats=["float32"], seconds=1.5)
    assert 1e-11 < here.number_seconds < 1e-6
    models = [_small_llama(ek.device("cpu"), torch.float32, depth, 64) for depth in (2, 4)]
    assert _number_seconds(models, rate=1e3) == 0.0  # pairs of tokens at such a rate would take longer than all of it
    assert not [part for model in models for part in model.module.modules() if isinstance(part, nn.Linear)]


def test_layers_with_more_weights_take_longer():
    made = synthetic()
    assert made.layer_seconds(1) == 1e-4
    assert made.layer_seconds(1 << 22) == pytest.approx(2e-4)
    assert made.layer_seconds(1e12) == 4e-4
    assert (made.copy_rate, made.formats) == (2e10, ("float32",))


def test_interpolation_at_and_beyond_the_ends():
    value = {1: 10.0, 100: 1000.0}.__getitem__
    assert along([1, 100], 10, value) == pytest.approx(100)
    assert along([1, 100], 0.5, value) == 10
    assert along([1, 100], 200, value) == 2000
    assert along([1, 100], 200, value, beyond=0.0) == 1000
    assert along([100], 3, value) == 1000


def test_an_unknown_format_is_refused():
    with pytest.raises(BadInput, match=r"format is 'int8'\. Allowed: 'float32'\. Calibrate with this format, or take one of these"):
        synthetic().product_seconds("int8", 256, 256)


def test_what_was_measured_here_is_plausible(here):
    assert here.device == repr(ek.device("cpu"))
    assert (here.simulated, here.dtype, here.overlaps) == (False, "float32", False)
    assert here.formats == ("float32", "int8")
    assert here.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert 1e9 < here.copy_rate < 1e12
    assert here.matrix_rate("float32") > 5e9
    for product in here.products:
        assert product.seconds > 0
    one = [p for p in here.products if p.format == "float32" and p.rows == 1]
    large = {(p.inputs, p.outputs): p.seconds for p in one if p.working_set == 1 << 27}
    assert large[4096, 4096] > 4 * large[1024, 1024] > 16 * large[256, 256] / 4
    eight = {(p.inputs, p.outputs): p.seconds for p in here.products if p.format == "int8" and p.rows == 1 and p.working_set == 1 << 27}
    assert eight[4096, 4096] < large[4096, 4096]
    assert 1e-6 < here.layer_seconds(1 << 22) < 0.1
    assert {p.engine for p in here.products if p.format == "int8"} <= {"native-cpu", "dequantize"}


def test_json_round_trip(here):
    assert Calibration.from_json(here.to_json()) == here
    with pytest.raises(BadInput, match=r"this text is no calibration\. Allowed: what Calibration\.to_json wrote\."):
        Calibration.from_json('{"device": 3}')


def test_the_caller_keeps_the_random_state():
    state = torch.get_rng_state()
    calibrate("cpu", formats=["float32"], seconds=0.01)
    assert torch.equal(torch.get_rng_state(), state)


def test_linears_and_cache_are_the_models(tiny_llama):
    found = linears_of(tiny_llama)
    assert sum(each.count for each in found) == 3 * 7 + 1
    assert sum(each.inputs * each.outputs * each.count for each in found) == 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) + 64 * 259
    packed = ek.quantize(tiny_llama, bits=8, group_size=32)
    assert {each.format for each in linears_of(packed)} == {"int8"}
    assert cached_bytes(tiny_llama, 100, 2) == 2 * 2 * 3 * 100 * 2 * 16 * 4
    assert expected_step_seconds(tiny_llama, synthetic(), context=10) > 3e-4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"formats": ["float8"]}, r"format is 'float8'\. Allowed: 'float32', 'bfloat16', 'float16', 'int8', 'int4'"),
        ({"seconds": 0}, r"seconds is 0\. Allowed: a number above 0\. 15 gives steady figures\."),
        ({"dtype": "int8"}, r"dtype is 'int8'\. Allowed on cpu: "),
    ],
)
def test_it_refuses(given, message):
    with pytest.raises(BadInput, match=message):
        calibrate("cpu", **given)
