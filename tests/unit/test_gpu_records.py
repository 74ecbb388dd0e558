"""What tests/gpu keeps of a GPU, tried on the CPU with a tiny model: records that are read back, and the last line with its goals."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import effkit as ek

SCRIPT = Path(__file__).resolve().parents[1] / "gpu" / "record_profiles.py"


@pytest.fixture
def recorded(monkeypatch, tmp_path, capsys, planted):
    """A function that runs the script with options and gives its last line; the calibration is that of a planted machine."""
    made = planted()
    formats = [each.model_copy(update={"format": name}) for name in ("bfloat16", "int8", "int4") for each in made.products]
    stored = tmp_path / "calibration.json"
    stored.write_text(made.model_copy(update={"products": tuple(formats), "dtype": "bfloat16"}).to_json())
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1] / "benchmarks"))
    spec = importlib.util.spec_from_file_location("record_profiles", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    few = ["--device", "cpu", "--shapes", "tiny", "--eager", "--prompt", "8", "--new-tokens", "4", "--repeats", "2"]

    def run(*options: str) -> dict:
        where = ["--calibration", str(stored), "--out", str(tmp_path / "profiles.json")]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *few, *where, *options])
        script.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    run.shapes = script.SHAPES
    return run


def test_profiles_are_kept_as_records_and_a_second_call_adds_to_them(recorded, tmp_path):
    first = recorded("--bits", "16", "8")
    assert [row["name"] for row in first["rows"]] == ["tiny, random weights, bfloat16, eager", "tiny, random weights, 8-bit, eager"]
    assert first["skipped"] == []
    assert first["median_ape"] > 0
    for row in first["rows"]:
        assert row["token_ms"] > 0
        assert row["predicted_ms"] > 0
        assert row["bandwidth_percent"] > 0
        assert not row["compiled"]
    second = recorded("--bits", "8", "4", "--seconds", "0")
    assert (second["rows"], second["records"]) == ([], 2)
    assert second["skipped"] == ["tiny, random weights, 8-bit, eager", "tiny, random weights, 4-bit, eager"]
    records = ek.read_records(tmp_path / "profiles.json")
    assert [record.name for record in records] == [row["name"] for row in first["rows"]]
    for record, row in zip(records, first["rows"], strict=True):
        assert record.profile.decode.value == pytest.approx(row["tokens_per_s"], abs=0.01)
        assert record.created[:4].isdigit()
        assert record.environment["packages"]["torch"]
        assert ek.project(record, on="h100-sxm").fits
    assert records[1].cost.bytes < records[0].cost.bytes


def test_the_models_that_are_recorded_are_known_by_name_and_as_large_as_is_said(recorded):
    sizes = [ek.architecture(shape).total / 1e9 for shape in recorded.shapes]
    assert min(sizes) == pytest.approx(0.5, abs=0.05)
    assert max(sizes) == pytest.approx(14, abs=1)
    assert len(sizes) >= 5
