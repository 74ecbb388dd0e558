"""The published rows: each has a source, a known device and one figure that the device's peaks allow."""

from __future__ import annotations

import datetime
import math

import pytest

from effkit.hardware.projected.catalogue import accelerator
from effkit.hardware.projected.published import published, read_published
from effkit.spec.errors import BadInput
from effkit.spec.places import shipped_file

BITS = {"bf16": 16, "fp16": 16, "int8": 8, "int4_g32": 4.5, "int4_g128": 4.125}


def test_there_are_enough_rows_of_both_stacks_and_each_has_its_source():
    rows = published()
    assert len(rows) >= 40
    assert len(published(stack="ascend")) >= 8
    assert len({row.source for row in rows}) >= 8
    for row in rows:
        assert row.address.startswith("https://")
        datetime.date.fromisoformat(row.date)
        assert row.config["num_hidden_layers"] > 0
    launch = [row for row in rows if row.use == "launch"]
    assert {row.stack for row in launch} == {"ascend"}
    assert len(launch) < len(published(stack="ascend")) / 3  # most of them are scored
    assert {row.stack for row in rows if row.graph} == {"ascend"}
    assert {row.graph for row in launch} == {False, True}
    assert sum(not row.use for row in rows) >= 40
    assert {row.device for row in published("4090")} == {"rtx-4090"}


@pytest.mark.parametrize("row", [row for row in published() if row.model != "deepseek-r1"], ids=lambda r: f"{r.device}-{r.model}-{r.value}")
def test_no_row_reads_its_weights_faster_than_the_memory_of_its_devices_allows(row):
    """Dense models read every matrix of their layers once a token: a slip of units or of the model would show here."""
    c, device = row.config, accelerator(row.device)
    width = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    attention = 2 * c["hidden_size"] * width * (c["num_attention_heads"] + c["num_key_value_heads"])
    experts = c.get("num_experts_per_tok", 1)
    feed = 3 * c["hidden_size"] * (c.get("moe_intermediate_size") or c["intermediate_size"]) * experts
    parameters = c["num_hidden_layers"] * (attention + feed)
    read = parameters * BITS[row.format] / 8 / (device.bandwidth * row.tensor_parallel)
    if row.metric == "ttft_ms" or row.metric == "prefill_rate":
        seconds = row.value / 1000 if row.metric == "ttft_ms" else row.prompt / row.value
        peak = device.rates.get("bf16", device.rates.get("fp16"))
        assert seconds > max(read, 2 * parameters * row.prompt / (peak * row.tensor_parallel)) * 0.999
        assert seconds < 100 * max(read, 2 * parameters * row.prompt / (peak * row.tensor_parallel))
        return
    step = row.value / 1000 if row.metric == "tpot_ms" else row.batch / row.value
    assert step > read * 0.999
    assert step < (100 if row.stack == "ascend" else 25) * read * math.sqrt(row.batch)


def test_a_row_that_cannot_be_is_refused(tmp_path):
    text = shipped_file("published.toml").read_text(encoding="utf-8")
    for old, new, message in (
        ('source = "gpt-fast"', 'source = "gptfast"', "the source is 'gptfast'"),
        ('model = "llama-2-7b", format', 'model = "llama-7b", format', "the model is 'llama-7b'"),
        ("output_rate = 104.9", "rate = 104.9", "has the figures"),
        ("output_rate = 104.9", "output_rate = 104.9, tpot_ms = 9.5", "has the figures"),
        ("output_rate = 104.9", "output_rate = 0", "value"),
        ("output_rate = 104.9", "output_rate = 104.9, guess = 1", "guess"),
        ('device = "a100-sxm-80gb"', 'device = "a1000"', "the accelerator is 'a1000'"),
    ):
        assert old in text
        path = tmp_path / "published.toml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(BadInput, match=message):
            read_published(path)
