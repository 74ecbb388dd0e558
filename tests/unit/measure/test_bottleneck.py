"""What bounds a pass: on figures whose verdict is known, and on real small models that are made to be bound by one thing."""

from __future__ import annotations

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import effkit as ek
from effkit.measure.bottleneck import _fallbacks, figures_of
from effkit.measure.calibrating import calibrate, linears_of
from effkit.models.model import wrap
from effkit.spec.bottleneck import Bottleneck, Figures, verdict
from effkit.spec.errors import BadInput

KNOWN = {"weights_ms": 1.0, "arithmetic_ms": 1.0, "cache_ms": 1.0, "around_ms": 1.0}


@pytest.mark.parametrize(
    ("large", "name"),
    [("weights_ms", "weight bytes"), ("arithmetic_ms", "arithmetic"), ("cache_ms", "KV bytes"), ("around_ms", "launch overhead")],
)
def test_the_largest_cause_is_the_verdict(large, name):
    found = verdict(Figures(measured_ms=10, **{**KNOWN, large: 6.0}))
    assert found.verdict == found.causes[0].name == name
    assert found.share(name) == pytest.approx(0.6)
    assert found.share("unexplained") == pytest.approx(0.1)
    assert sum(cause.share for cause in found.causes) == pytest.approx(1)
    assert Bottleneck.model_validate_json(found.model_dump_json()) == found


def test_what_nothing_explains_is_said():
    found = verdict(Figures(measured_ms=100, **KNOWN))
    assert found.verdict == "unexplained"
    assert "ek.breakdown(model) shows which" in found.advice


def test_operators_on_the_cpu_take_what_nothing_else_explains():
    found = verdict(Figures(measured_ms=100, **KNOWN, fallback=("nonzero", "unique")))
    assert found.verdict == "fallback to CPU"
    assert found.share("fallback to CPU") == pytest.approx(0.96)
    assert found.advice.startswith("The device lacks nonzero, unique and computes it on the CPU")
    assert verdict(Figures(measured_ms=10, weights_ms=9, fallback=("unique",))).verdict == "weight bytes"


def test_where_work_is_queued_only_what_the_host_is_late_counts():
    hidden = verdict(Figures(measured_ms=10, weights_ms=9, around_ms=8, overlaps=True))
    assert hidden.share("launch overhead") == 0
    late = verdict(Figures(measured_ms=30, weights_ms=9, around_ms=30, overlaps=True))
    assert late.verdict == "launch overhead"
    assert late.share("launch overhead") == pytest.approx(0.7)


def test_fractions_of_the_devices_rates():
    found = verdict(Figures(measured_ms=10, weights_ms=9, weight_bytes=8e7, cache_bytes=2e7, flops=4e9, copy_rate=2e10, matrix_rate=1e12))
    assert found.copy_fraction == pytest.approx(0.5)
    assert found.matrix_fraction == pytest.approx(0.4)
    assert verdict(Figures(measured_ms=10)).copy_fraction is None


def test_advice_fits_the_case():
    many = Figures(measured_ms=10, around_ms=9, can_compile=True)
    assert "compile it (compiled=True)" in verdict(many).advice
    assert "compile" not in verdict(many.model_copy(update={"compiled": True})).advice
    assert "prune the vocabulary" in verdict(Figures(measured_ms=10, weights_ms=9, head_share=0.8)).advice
    assert "larger batch" in verdict(Figures(measured_ms=10, weights_ms=9)).advice
    assert "larger batch" not in verdict(Figures(measured_ms=10, weights_ms=9, batch=8)).advice
    assert "(simulated)" in repr(verdict(Figures(measured_ms=10, device="npu:0", simulated=True)))


@pytest.fixture(scope="module")
def calibration(processor_time):
    return calibrate("cpu", formats=["float32"], seconds=1.5)


def made(layers: int, width: int, vocabulary: int = 512, mlp: int = 1, window: int = 4096):
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=width // 64, max_position_embeddings=window, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(256)}, unk_token="w0"))
    return wrap(LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=words), "made", hash="made")


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("weight bytes", {"layers": 1, "width": 512, "vocabulary": 65536}, {"prompt": 16}),
        ("KV bytes", {"layers": 2, "width": 512}, {"prompt": 3000, "repeats": 2}),
        ("arithmetic", {"layers": 2, "width": 1024, "mlp": 4}, {"prompt": 4, "batch": 96}),
        ("launch overhead", {"layers": 24, "width": 64}, {"prompt": 16}),
    ],
)
def test_real_models_get_the_verdict_they_were_made_for(calibration, name, shape, options):
    model = made(**shape)
    for _ in range(3):
        found = ek.bottleneck(model, calibration, new_tokens=6, **options)
        if found.verdict == name:
            break
        # some hosts change their speed by half from one moment to the next: what was calibrated before is then another machine
        calibration = calibrate("cpu", formats=["float32"], seconds=1.5)
    assert found.verdict == name, repr(found)
    assert found.share(name) > 0.3
    assert found.figures.weight_bytes == sum(each.bytes * each.count for each in linears_of(model))
    if name == "weight bytes":
        assert "prune the vocabulary" in found.advice
        assert 0.05 < found.copy_fraction < 1.2


def test_figures_are_computed_and_nothing_runs(calibration, tiny_llama, calls):
    profile = ek.profile(tiny_llama, prompt=32, new_tokens=4, batch=3, repeats=2, warmup=0)
    seen = calls(tiny_llama)
    found = figures_of(tiny_llama, profile, calibration)
    assert seen == []
    assert found.cache_bytes == 2 * 3 * 3 * 34 * 2 * 16 * 4
    assert found.flops == 2 * 3 * (3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) + 64 * 259)
    assert found.head_share == pytest.approx(64 * 259 / (3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) + 64 * 259))
    assert found.can_compile
    prefill = figures_of(tiny_llama, profile, calibration, "prefill")
    assert prefill.flops == found.flops * 32
    assert prefill.cache_bytes == 0


def test_fallbacks_are_read_from_warnings_and_others_pass_on():
    said = "CAUTION: The operator 'aten::nonzero' is not currently supported on the NPU backend and will fall back to run on the CPU."
    found: list[str] = []

    def speak() -> None:
        with _fallbacks() as missing:
            warnings.warn(said, UserWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
        found.extend(missing)

    with pytest.warns(UserWarning, match="something else") as heard:
        speak()
    assert found == ["nonzero"]
    assert len(heard) == 1


def test_it_refuses(calibration, tiny_llama, tiny_classifier):
    with pytest.raises(BadInput, match=r"phase is 'both'\. Allowed: 'decode', 'prefill'"):
        ek.bottleneck(tiny_llama, calibration, phase="both")
    with pytest.raises(BadInput, match=r"Decoding needs a causal-lm model and at least 2 new tokens\. Choose phase='prefill'"):
        ek.bottleneck(tiny_classifier, calibration)
    other = calibration.model_copy(update={"device": "cuda:0 (NVIDIA H100)"})
    with pytest.raises(BadInput, match=r"the calibration is of cuda:0 \(NVIDIA H100\) and the model on cpu"):
        ek.bottleneck(tiny_llama, other)
    assert ek.bottleneck(tiny_classifier, calibration, phase="prefill", repeats=2).figures.phase == "prefill"
