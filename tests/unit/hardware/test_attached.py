"""Projections on the attached device from a calibration, and of a profile or a record instead of a model."""

from __future__ import annotations

import pytest

import effkit as ek
from effkit.hardware.projected import attached
from effkit.hardware.projected.architecture import Architecture
from effkit.hardware.projected.configs import architecture
from effkit.measure.calibrating import cached_bytes, expected_step_seconds
from effkit.spec.calibration import Calibration, Layer
from effkit.spec.errors import BadInput
from effkit.spec.recipe import Quantize, Recipe


@pytest.fixture(scope="module")
def here(processor_time) -> Calibration:
    return ek.calibrate("cpu", formats=["float32", "int8"], seconds=0.5)


def test_a_shape_alone_gives_what_the_loaded_model_gives(here, tiny_llama):
    found = ek.project(tiny_llama.config, on=here, prompt=10, new_tokens=4)
    assert found.time_per_output_token.value == pytest.approx(1000 * expected_step_seconds(tiny_llama, here, context=12), rel=0.02)
    shape = architecture(tiny_llama.config)
    assert shape.read_bytes(12, 4.0) == cached_bytes(tiny_llama, 12)
    assert found.device == here.device
    assert found.format == "fp32"
    assert found.time_per_output_token.value == pytest.approx(sum(found.parts.values()))
    assert found.time_per_output_token.low < found.time_per_output_token.value < found.time_per_output_token.high


def test_more_work_takes_longer(planted):
    """On a machine whose speeds are known: on a measured one the cache or a layer may seem to take nothing."""
    here = planted().model_copy(
        update={"cache_seconds_per_byte": 1e-10, "layers": (Layer(weight_bytes=1, seconds=1e-5),), "step_overhead_seconds": 1e-5}
    )
    config = {
        "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8,
        "intermediate_size": 1408, "vocab_size": 4096,
    }  # fmt: skip

    def times(**asked):
        found = ek.project(config, on=here, **{"prompt": 64, "new_tokens": 8, **asked})
        return found.time_per_output_token.value, found.time_to_first_token.value

    short, long, many = times(), times(prompt=512), times(batch=64)
    assert short[0] < long[0] < times(prompt=4096)[0]
    assert short[1] < long[1] / 2
    assert short[0] < many[0] < 64 * short[0]
    deep = ek.project({**config, "num_hidden_layers": 8}, on=here, prompt=64, new_tokens=8)
    assert 1.3 * short[0] < deep.time_per_output_token.value < 2.5 * short[0]


def test_packed_formats_leave_the_head_whole(here):
    shape = architecture({"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 512,
                          "intermediate_size": 512})  # fmt: skip
    formats = {part: one.format for part, one in attached.linears(shape, here, "int8")}
    assert formats == {"attention": "int8", "mlp": "int8", "head": "float32"}


def test_what_a_calibration_cannot_say_is_refused(here, tiny_llama):
    with pytest.raises(BadInput, match="int4"):
        ek.project(tiny_llama, on=here, format="int4")
    with pytest.raises(BadInput, match="one device"):
        ek.project(tiny_llama, on=here, tensor_parallel=2)


def test_a_profile_goes_elsewhere_as_its_model_does(tiny_llama, here):
    profile = ek.profile(tiny_llama, prompt=12, new_tokens=3, batch=2, repeats=1, warmup=0)
    assert Architecture.from_dict(profile.architecture) == architecture(tiny_llama.config)
    again = type(profile).model_validate_json(profile.model_dump_json())
    asked = {"prompt": 12, "new_tokens": 3, "batch": 2}
    assert ek.project(again, on="h100-sxm") == ek.project(tiny_llama, on="h100-sxm", format="bf16", **asked)
    assert ek.project(again, on=here) == ek.project(tiny_llama, on=here, **asked)
    assert ek.project(again, on="h100-sxm", batch=7).batch == 7
    with pytest.raises(BadInput, match="does not hold its model's shape"):
        ek.project(profile.model_copy(update={"architecture": None}), on="h100-sxm")


def test_a_record_brings_the_width_of_its_weights(tiny_llama):
    recipe = Recipe(steps=(Quantize(method="rtn", bits=4, group_size=32),))
    record = ek.measure(tiny_llama, window=16, windows=2, prompt=8, new_tokens=2, repeats=1, store=False)
    four = record.model_copy(update={"recipe": recipe})
    assert ek.project(record, on="h100-sxm").format == "bf16"
    assert ek.project(four, on="h100-sxm").format == "int4_g128"
    assert ek.project(four, on="h100-sxm", format="fp8").format == "fp8"
