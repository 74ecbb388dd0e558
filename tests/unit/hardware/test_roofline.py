"""The roofline: its roof is the data sheet's, wholes are project's steps, planted machines lie where they were planted."""

from __future__ import annotations

import pytest

import effkit as ek
from effkit.hardware.projected.catalogue import accelerator
from effkit.hardware.projected.configs import architecture
from effkit.hardware.projected.projection import project
from effkit.hardware.projected.roofline import calibrated_roofline, measured_points, roofline
from effkit.measure.breakdown import breakdown
from effkit.spec.errors import BadInput

SHAPE = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}  # fmt: skip
LLAMA = architecture(SHAPE, name="llama-3.1-8b")
PARTS = {"attention", "cache", "mlp", "head", "whole"}


@pytest.mark.parametrize(("name", "batch"), [("h100-sxm", 1), ("h100-sxm", 64), ("ascend-910b2", 8)])
def test_the_roof_is_the_data_sheets_and_points_lie_under_it(name, batch):
    found, device = roofline(LLAMA, name, batch=batch), accelerator(name)
    assert (found.bandwidth, found.matrix_rate) == (device.bandwidth, device.rates["bf16"])
    assert found.ridge == device.rates["bf16"] / device.bandwidth
    for phase in ("decode", "prefill"):
        assert {p.part for p in found.points if p.phase == phase} == PARTS
    for point in found.points:
        assert point.how == "projected"
        assert 0 < point.rate < found.ceiling(point.intensity)
    whole = found.point("decode")
    projected = project(LLAMA, on=name, batch=batch)
    step = projected.time_per_output_token.value - projected.parts["prefill of others"]
    assert whole.seconds * 1000 == pytest.approx(step)
    assert whole.flops == pytest.approx(sum(LLAMA.decode_flops(batch, 1024 + 64).values()))


def test_more_in_a_batch_climbs_the_slope_and_fewer_bytes_move_right():
    one, many = roofline(LLAMA, "h100-sxm"), roofline(LLAMA, "h100-sxm", batch=64)
    assert many.point("decode", "mlp").intensity == pytest.approx(64 * one.point("decode", "mlp").intensity)
    assert one.point("decode", "mlp").intensity == pytest.approx(1)  # two operations for each two bytes
    assert many.point("decode", "cache").intensity == pytest.approx(one.point("decode", "cache").intensity)
    assert roofline(LLAMA, "h100-sxm", format="fp8").point("decode", "mlp").intensity == pytest.approx(2)
    assert many.point("prefill") == one.point("prefill")
    assert "operations a byte: bandwidth is its limit, of which " in str(many)
    assert "arithmetic is its limit" in str(many)
    assert str(one).endswith("Both limits meet at 295 operations a byte.")


def test_a_planted_machine_is_predicted_as_planted(planted):
    found = calibrated_roofline(LLAMA, planted(), batch=1, prompt=64)
    assert found.ridge == pytest.approx(5)
    for part in ("attention", "mlp", "head"):
        decode = found.point("decode", part)
        assert decode.how == "predicted"
        assert decode.intensity == pytest.approx(0.5)
        assert decode.rate == pytest.approx(found.ceiling(0.5), rel=1e-6)
    for part in ("attention", "mlp"):
        assert found.point("prefill", part).rate == pytest.approx(found.matrix_rate, rel=1e-6)
    assert str(calibrated_roofline(LLAMA, planted("npu:0").model_copy(update={"simulated": True}))).startswith(
        "On npu:0 (simulated) at batch 1"
    )
    linear = sum(found.point("decode", part).seconds for part in ("attention", "mlp", "head"))
    assert found.point("decode").seconds == pytest.approx(linear)


def test_measured_points_are_those_of_the_breakdown_on_its_own_device(tiny_llama, planted):
    times = breakdown(tiny_llama, phase="prefill", prompt=32, repeats=2)
    points = {p.part: p for p in measured_points(times)}
    modules = {part.name: part for part in times.root.walk()}
    mlp = [modules[f"model.layers.{n}.mlp"] for n in range(3)]
    assert points["mlp"].seconds == pytest.approx(sum(one.total_ms for one in mlp) / 1000)
    assert points["mlp"].flops == sum(one.flops for one in mlp)
    assert points["head"].bytes == modules["lm_head"].bytes
    assert points["whole"].seconds == pytest.approx(times.plain_ms.value / 1000)
    shape = ek.architecture(tiny_llama.config)
    here = calibrated_roofline(shape, planted(times.device), breakdowns=[times])
    assert {p.part for p in here.points if p.how == "measured"} == {"attention", "mlp", "head", "whole"}
    assert str(here).count("is measured") == 1  # prefill; decode was not measured
    assert str(here).count("is predicted") == 1
    elsewhere = calibrated_roofline(shape, planted("another"), breakdowns=[times])
    assert not [p for p in elsewhere.points if p.how == "measured"]
    named = times.model_copy(update={"device": "cuda:0 (NVIDIA H200)"})
    assert [p.how for p in roofline(LLAMA, "h200-sxm", breakdowns=[named]).points].count("measured") == 4
    assert [p.how for p in roofline(LLAMA, "h100-sxm", breakdowns=[named]).points].count("measured") == 0


def test_what_is_unknown_is_refused():
    with pytest.raises(BadInput, match="the accelerator is 'h999'"):
        roofline(LLAMA, "h999")
    with pytest.raises(BadInput, match="the memory bandwidth of ascend-910b1 is unknown"):
        roofline(LLAMA, "ascend-910b1")
    with pytest.raises(BadInput, match="the part is 'router' in decode"):
        roofline(LLAMA, "h100-sxm").point("decode", "router")
