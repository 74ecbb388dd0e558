"""The catalogue: every figure has a source and a unit that can be, and what nobody published is missing, not zero."""

from __future__ import annotations

import tomllib

import pytest

import effkit as ek
from effkit.hardware.projected.catalogue import FORMATS, Accelerator, read_catalogue
from effkit.spec.errors import BadInput
from effkit.spec.places import shipped_file

SOURCES = """
[sources.sheet]
title = "A data sheet"
address = "https://example.org/sheet"
date = "2026-01-02"
confidence = "datasheet"
"""
DEVICE = """
[devices.card]
title = "A card"
stack = "cuda"
aliases = ["the-card"]
memory = { value = 80, unit = "GB", source = "sheet" }
bandwidth = { value = 3.35, unit = "TB/s", source = "sheet" }
rates.bf16 = { value = 989, unit = "TFLOP/s", source = "sheet" }
rates.fp8 = { value = 1979, unit = "TFLOP/s", source = "sheet" }
sparse_rates.bf16 = { value = 1979, unit = "TFLOP/s", source = "sheet" }
"""


def read(tmp_path, device: str = DEVICE, sources: str = SOURCES) -> tuple[Accelerator, ...]:
    path = tmp_path / "hardware.toml"
    path.write_text(sources + device, encoding="utf-8")
    return read_catalogue(path)


def test_the_catalogue_names_every_device_that_the_projection_promises():
    wanted = (
        "h100-sxm h100-pcie h100-nvl h200 h20 l20 b200 b300 gb200 gb300 a100-sxm-40gb a100-sxm-80gb a100-pcie-40gb a100-pcie-80gb "
        "a30 l4 l40s rtx-4090 910b1 910b2 910b3 910b4 910c 910c-die 310p atlas-350 950pr 950dt"
    )
    assert len({ek.accelerator(name).name for name in wanted.split()}) == 28
    assert {one.stack for one in ek.accelerators()} == {"cuda", "ascend"}
    assert {one.stack for one in ek.accelerators("ascend")} == {"ascend"}


def test_names_are_found_however_they_are_written_also_as_drivers_report_them():
    for given, name in {
        "h100_sxm": "h100-sxm",
        "NVIDIA H100 80GB HBM3": "h100-sxm",
        "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
        "NVIDIA GeForce RTX 4090": "rtx-4090",
        "b200_sxm": "b200",
        "Ascend910B2": "ascend-910b2",
        "910b4": "ascend-910b4",
        "H200-SXM-141GB": "h200-sxm",
        "A100 80GB SXM": "a100-sxm-80gb",
        "gb200_sxm": "gb200",
        "NVIDIA H200 141GB HBM3e": "h200-sxm",
        "HGX B200": "b200",
        "DGX-H100": "h100-sxm",
    }.items():
        assert ek.accelerator(given).name == name
    assert ek.accelerator(ek.accelerator("l4")) is ek.accelerator("l4")
    with pytest.raises(BadInput, match="the accelerator is 'h100 sxm 40gb'"):
        ek.accelerator("h100 sxm 40gb")  # there is none of that size
    with pytest.raises(BadInput, match=r"the accelerator is 'h100-smx'.*Did you mean 'h100-sxm'"):
        ek.accelerator("h100-smx")


@pytest.mark.parametrize("device", ek.accelerators(), ids=lambda device: device.name)
def test_every_figure_has_its_source_and_date(device):
    said = tomllib.loads(shipped_file("hardware.toml").read_text(encoding="utf-8"))["devices"][device.name]
    assert set(device.rates) == set(said["rates"])
    for field in ("memory", "bandwidth", "link", "watts"):
        assert (field in device.facts) == (field in said)
    for attribute in ("memory_bytes", "bandwidth", "link_bandwidth", "watts"):
        value = getattr(device, attribute)
        assert value is None or value == device.fact(attribute).value > 0
    for facts in device.facts.values():
        for fact in facts:
            assert fact.source
            assert fact.address.startswith("https://")
            assert len(fact.date) == 10
    assert set(device.rates) | set(device.sparse_rates) <= set(FORMATS)


def test_what_the_two_stacks_count_differently_is_kept_apart():
    b2, die, package = (ek.accelerator(name) for name in ("910b2", "910c-die", "910c"))
    assert b2.rates["fp16"] > b2.rates["bf16"]  # the marketed rate counts the vector units
    assert b2.bandwidth == 1.6 * 2**40
    assert (die.part, package.part, die.dies) == ("die", "package", 2)
    assert package.rates["int8"] == 2 * die.rates["int8"]
    assert "bf16" not in ek.accelerator("310p").rates
    assert ek.accelerator("950dt").announced
    assert not ek.accelerator("h100").announced
    assert ek.accelerator("gb300").fact("memory").confidence == "measured"
    h100 = ek.accelerator("h100")
    assert h100.sparse_rates["fp8"] == pytest.approx(2 * h100.rates["fp8"], rel=1e-3)
    assert ek.accelerator("910b1").bandwidth is None


def test_a_small_catalogue_is_read_in_si_units(tmp_path):
    (card,) = read(tmp_path)
    assert (card.memory_bytes, card.bandwidth, card.rates["bf16"], card.watts) == (80e9, 3.35e12, 989e12, None)
    assert str(card.fact("memory")) == "80 GB (datasheet, A data sheet, 2026-01-02)"
    assert {row["figure"] for row in card.rows()} == set(card.facts)
    with pytest.raises(BadInput, match="the figure of A card is 'watts'"):
        card.fact("watts")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'memory = { value = 80, unit = "GB", source = "sheet" }',
            'memory = { value = 80, unit = "GB" }',
            "the source of memory of 'card'",
        ),
        ('unit = "GB", source = "sheet"', 'unit = "GB", source = "sheat"', "Allowed: 'sheet'"),
        ("memory = {", "memroy = {", "a field of the device 'card' is 'memroy'"),
        ("rates.fp8 =", "rates.fp9 =", "a field of rates of 'card' is 'fp9'"),
        ('unit = "GB"', 'unit = "TB/s"', "the unit of memory"),
        ('unit = "GB"', 'unit = "TB"', "memory of 'card' is 80 TB"),
        ("value = 3.35", "value = 3350", "bandwidth of 'card' is 3350 TB/s"),
        ("value = 3.35", "value = 0.09", "would do 1.1e"),
        ("value = 80,", "value = 0,", "memory of 'card' is 0 GB"),
        ("value = 80,", 'value = "80",', "memory of 'card' is '80' GB"),
        ("rates.bf16 = { value = 989", "rates.bf16 = { value = 1979", "the sparse bf16 rate of 'card' is 1 times dense"),
        ("sparse_rates.bf16 = { value = 1979", "sparse_rates.bf16 = { value = 3958", "the sparse bf16 rate of 'card' is 4 times"),
        ("rates.fp8 = { value = 1979", "rates.fp8 = { value = 98", "fp8 of 'card' is 0.099 times bf16"),
        ('bf16 = { value = 989, unit = "TFLOP/s"', 'bf16 = { value = 989, unit = "TOP/s"', "the unit of rates.bf16"),
        ('source = "sheet" }', 'source = "sheet", guessed = true }', "a field of memory of 'card' is 'guessed'"),
        ('stack = "cuda"', 'stack = "rocm"', "stack"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path, old, new, message):
    assert old in DEVICE
    with pytest.raises(ValueError, match=message):
        read(tmp_path, DEVICE.replace(old, new, 1))


def test_two_sources_that_differ_by_a_unit_are_refused_unless_a_note_says_why(tmp_path):
    one = 'memory = { value = 80, unit = "GB", source = "sheet" }'
    both = 'memory = [{ value = 80, unit = "GB", source = "sheet" }, { value = 40, unit = "GB", source = "sheet"NOTE }]'
    with pytest.raises(BadInput, match="80 GB by one source and 40 GB by another"):
        read(tmp_path, DEVICE.replace(one, both.replace("NOTE", "")))
    (card,) = read(tmp_path, DEVICE.replace(one, both.replace("NOTE", ', note = "one die"')))
    assert card.memory_bytes == 80e9
    assert [row["used"] for row in card.rows()][:2] == [True, False]


@pytest.mark.parametrize("field", ["title", "address", "date", "confidence"])
def test_a_source_says_all_of_itself(tmp_path, field):
    lines = [line for line in SOURCES.splitlines() if not line.startswith(field)]
    with pytest.raises(BadInput, match=f"the source 'sheet' has no {field}"):
        read(tmp_path, sources="\n".join(lines))


def test_a_date_is_a_date_and_a_name_is_of_one_device(tmp_path):
    with pytest.raises(BadInput, match="the date of the source 'sheet' is 'May 2026'"):
        read(tmp_path, sources=SOURCES.replace("2026-01-02", "May 2026"))
    with pytest.raises(BadInput, match="'the-card' names"):
        read(tmp_path, DEVICE + DEVICE.replace("devices.card", "devices.other"))
