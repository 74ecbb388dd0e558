"""Two stacks side by side: the figures are those of project and price, devices are the fewest, and what is unknown says why."""

from __future__ import annotations

import pytest

from effkit.hardware.projected.catalogue import accelerator
from effkit.hardware.projected.configs import architecture
from effkit.hardware.projected.price import break_even_price, price
from effkit.hardware.projected.projection import project
from effkit.hardware.projected.serving import Setting, memory_needed
from effkit.hardware.projected.stacks import compare_stacks, fewest_devices, format_on
from effkit.spec.errors import BadInput

SHAPE = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}  # fmt: skip
LLAMA_8B = architecture(SHAPE, name="llama-3.1-8b")
LLAMA_70B = architecture({**SHAPE, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64})


def test_every_figure_is_the_librarys():
    query = {"prompt": 2048, "new_tokens": 256, "batch": 16}
    found = compare_stacks(LLAMA_8B, "h100-sxm", "ascend-910b2", format="8-bit", left_price=3.0, right_price=1.5, utilisation=0.5, **query)
    for side, name, form, paid in ((found.left, "h100-sxm", "fp8", 3.0), (found.right, "ascend-910b2", "int8", 1.5)):
        alone = project(LLAMA_8B, on=name, format=form, **query)
        assert side.projection == alone
        assert side.price == price(alone, paid, utilisation=0.5)
        assert side.format == form
        assert side.needed_bytes == alone.memory
        assert side.weight_bytes + side.cache_bytes == pytest.approx(alone.memory)
    even = found.right.break_even
    assert even == break_even_price(found.left.projection, found.right.projection, 3.0, utilisation=0.5)
    # at that price both cost the same
    again = compare_stacks(LLAMA_8B, format="8-bit", left_price=3.0, right_price=even.value, utilisation=0.5, **query)
    assert again.ratios["cost"].value == pytest.approx(1)
    assert "cannot tell which query is cheaper" in str(again)


def test_devices_are_the_fewest_that_hold_it():
    found = compare_stacks(LLAMA_70B, "h100-sxm", "ascend-910b2", batch=1)
    for side in (found.left, found.right):
        device, setting = accelerator(side.device), Setting("bf16", 1024, 128, 1, side.devices)
        assert memory_needed(LLAMA_70B, setting) <= device.memory_bytes
        assert memory_needed(LLAMA_70B, Setting("bf16", 1024, 128, 1, side.devices // 2)) > device.memory_bytes
    assert (found.left.devices, found.right.devices) == (2, 4)
    assert fewest_devices(LLAMA_8B, accelerator("h100-sxm"), Setting(batch=1)) == 1
    few = compare_stacks(LLAMA_70B, left_devices=1, batch=1).left
    assert few.fits is False
    assert "1 x h100-sxm cannot hold it" in few.why


def test_what_is_unknown_is_unavailable_and_says_why():
    found = compare_stacks(LLAMA_8B)
    assert found.right.cost.value is None
    assert found.right.why == ("no price of ascend-910b2 is known",)
    assert found.ratios["cost"].value is None
    assert "No price of ascend-910b2 is known: ascend-910b2 is the cheaper one below $" in str(found)
    bare = compare_stacks(LLAMA_8B, right="ascend-910b1")
    assert bare.right.projection is None
    assert str(bare) == "Speed cannot be compared: the memory bandwidth of ascend-910b1 is unknown. Prices cannot be compared."


def test_formats_and_verdict_follow_the_devices():
    forms = {
        name: [format_on(accelerator(name), width) for width in ("16-bit", "8-bit", "4-bit")]
        for name in ("a100-sxm-80gb", "ascend-310p", "b200")
    }
    assert forms == {"a100-sxm-80gb": ["bf16", "int8", "int4"], "ascend-310p": ["fp16", "int8", "int4"], "b200": ["bf16", "fp8", "int4"]}
    faster = compare_stacks(LLAMA_8B, "ascend-910b2", "b200")
    assert str(faster).startswith("b200 is projected ")
    assert "not distinguishable" in str(compare_stacks(LLAMA_8B, "h100-sxm", "h100-nvl"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"right": "h999"}, "the accelerator is 'h999'"),
        ({"format": "bf16"}, "format is 'bf16'. Allowed: '16-bit', '8-bit', '4-bit'"),
        ({"batch": 0}, "batch is 0"),
        ({"left_price": -1.0}, "per_hour is -1.0"),
        ({"left_devices": 0}, "the devices of h100-sxm are 0"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(BadInput, match=said.replace(".", r"\.")):
        compare_stacks(LLAMA_8B, **given)
