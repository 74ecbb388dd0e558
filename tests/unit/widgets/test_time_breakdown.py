"""TimeBreakdown: the tree it shows is the one that was measured; repeated layers add up; what is no breakdown is refused."""

from __future__ import annotations

import pytest

import effkit as ek
from effkit.measure.breakdown import breakdown
from effkit.spec.errors import BadInput
from effkit_widgets import TimeBreakdown

from .test_kit import needs_node, run


@pytest.fixture(scope="module")
def found(tiny_llama_folder):
    return breakdown(ek.load(str(tiny_llama_folder), device="cpu"), phase="prefill", prompt=16, repeats=2)


def flat(part):
    yield part
    for child in part["parts"]:
        yield from flat(child)


def test_the_tree_is_the_measured_one(found):
    card = TimeBreakdown(found, name="<i>tiny</i>")
    (told,) = card.config["passes"]
    shown = list(flat(told["root"]))
    for one, part in zip(shown, found.root.walk(), strict=True):
        assert (one["name"], one["kind"], one["category"]) == (part.name, part.kind, part.category)
        assert (one["own"], one["total"], one["flops"], one["bytes"]) == (part.own_ms, part.total_ms, part.flops, part.bytes)
    assert told["plain"] == [found.plain_ms.value, found.plain_ms.low, found.plain_ms.high]
    assert told["by_category"] == found.by_category()
    assert told["overhead"][0] == found.overhead.value
    assert repr(card).startswith("TimeBreakdown(Breakdown(prefill: ")


def test_a_simulated_device_is_said_to_be_one(found):
    card = TimeBreakdown(found.model_copy(update={"simulated": True, "device": "npu:0"}))
    assert card.config["passes"][0]["simulated"] is True
    assert "simulated" in repr(card)


@needs_node
def test_summed_layers_add_up(found):
    root = TimeBreakdown(found).config["passes"][0]["root"]
    summed = run("summedParts([given])[0]", "time_breakdown", given=root)
    names = [part["name"] for part in flat(summed)]
    assert len(names) == len(set(names))
    assert "model.layers.*.mlp" in names
    assert not any("layers.0" in name for name in names)
    for name in ("mlp", "self_attn.q_proj"):
        one = next(part for part in flat(summed) if part["name"] == f"model.layers.*.{name}")
        each = [part for part in flat(root) if part["name"] in {f"model.layers.{n}.{name}" for n in range(3)}]
        assert len(each) == 3
        for key in ("own", "total", "calls", "flops", "bytes"):
            assert one[key] == pytest.approx(sum(part[key] for part in each))
    assert sum(part["own"] for part in flat(summed)) == pytest.approx(found.root.total_ms)
    assert run("[perSecond(2e9, 1, 'FLOP/s'), perSecond(null, 1, 'B/s'), perSecond(5, 0, 'B/s')]", "time_breakdown") == [
        "2 TFLOP/s",
        None,
        None,
    ]


def test_what_is_no_breakdown_is_refused():
    with pytest.raises(BadInput, match=r"the breakdown is missing\. Allowed: one Breakdown or more"):
        TimeBreakdown()
    with pytest.raises(BadInput, match="the breakdown is int"):
        TimeBreakdown(3)
    with pytest.raises(BadInput, match="option of TimeBreakdown is 'title'"):
        TimeBreakdown(title="x")
