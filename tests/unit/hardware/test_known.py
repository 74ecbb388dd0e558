"""Models known by name: their parameters are those that were published, and a release's name leads to its shape."""

from __future__ import annotations

import pytest

import effkit as ek
from effkit.hardware.projected import known
from effkit.hardware.projected.known import known_config, known_models, plain_name
from effkit.spec.errors import BadInput

# Billions of parameters, all and active, as the models' cards and reports give them (rounded as there).
PUBLISHED = {
    "llama-2-7b": (6.74, None), "llama-3.1-8b": (8.03, None), "llama-3.1-70b": (70.6, None), "llama-3.1-405b": (406, None),
    "llama-3.2-1b": (1.24, None), "llama-3.2-3b": (3.21, None), "mistral-7b": (7.25, None), "mistral-large": (123, None),
    "mixtral-8x7b": (46.7, 12.9), "mixtral-8x22b": (141, 39), "gemma-2-9b": (9.24, None), "gemma-2-27b": (27.2, None),
    "gemma-3-1b": (1.0, None),
    "phi-3-mini": (3.82, None), "phi-4": (14.7, None), "phi-4-mini": (3.84, None), "qwen2.5-0.5b": (0.49, None), "qwen2.5-7b": (7.61, None),
    "qwen2.5-14b": (14.7, None), "qwen2.5-32b": (32.5, None), "qwen2.5-72b": (72.7, None), "qwen3-0.6b": (0.6, None),
    "qwen3-4b": (4.0, None), "qwen3-8b": (8.2, None), "qwen3-14b": (14.8, None), "qwen3-32b": (32.8, None), "qwen3-30b-a3b": (30.5, 3.3),
    "qwen3-235b-a22b": (235, 22), "qwen3-next-80b-a3b": (80, None), "qwen3.5-397b-a17b": (397, 17), "deepseek-v3": (671, 37),
    "gpt-oss-20b": (20.9, None), "gpt-oss-120b": (116.8, None), "kimi-k2": (1026, 32.6), "glm-4.7": (353, 32), "glm-4.5-air": (106, 12),
    "glm-5": (744, 40), "minimax-m2.5": (229, 10), "llama-4-maverick-17b-128e": (400, 17), "llama-4-scout-17b-16e": (109, 17),
    "deepseek-coder-33b": (33.3, None), "tinyllama-1.1b": (1.1, None),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_are_those_that_were_published(name):
    total, active = PUBLISHED[name]
    shape = ek.architecture(name)
    assert shape.known
    assert shape.total / 1e9 == pytest.approx(total, rel=0.015)
    if active:
        assert shape.active / 1e9 == pytest.approx(active, rel=0.13)  # cards round, and count the embedding or not
    else:
        assert shape.moe == (name.startswith(("gpt-oss", "qwen3-next")))


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w4a16", "llama-3.1-70b"),
        ("LLAMA3.1_8B", "llama-3.1-8b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b"),
        ("nvidia/DeepSeek-R1-0528-NVFP4", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek-v3"),
        ("nvidia/DeepSeek-R1-0528-FP4-v2", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b"),
        ("QWEN3_235B", "qwen3-235b-a22b"),
        ("gptoss-120b", "gpt-oss-120b"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "deepseek-v3.2"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
        ("MOE_Mixtral8x7B", "mixtral-8x7b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("microsoft/Phi-3-mini-128k-instruct", "phi-3-mini"),
        ("/models/Qwen2.5-7B-Instruct-GPTQ-Int4/", "qwen2.5-7b"),
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"),
    ],
)
def test_a_release_is_known_by_its_shape(release, name):
    assert plain_name(release) == name
    assert known_config(release) == known_config(name) is not None


def test_every_entry_has_its_source_under_a_name_that_finds_it():
    for name, fields in known_models().items():
        assert plain_name(name) == name
        assert fields["source"]
        assert "source" not in known_config(name)
    assert set(known.SAME_SHAPE.values()) <= set(known_models())


def test_an_unknown_model_is_answered_with_the_nearest_and_a_known_one_projects():
    with pytest.raises(BadInput, match=r"the model is 'qwen3-9b'.*Did you mean 'qwen3-"):
        ek.architecture("qwen3-9b")
    with pytest.raises(BadInput, match=r"no config at '\./qwen3-8b'"):
        ek.architecture("./qwen3-8b")  # a path is a path
    assert known_config("someone/Unknown-7B") is None
    found = ek.project("Qwen/Qwen3-8B-FP8", on="h200", format="fp8")
    assert found == ek.project(ek.architecture("qwen3-8b"), on="h200", format="fp8")
    windowed, whole = ek.architecture("gemma-3-27b"), ek.architecture("qwen3-32b")
    assert windowed.kv_bytes_per_token() * 62 / 10 == pytest.approx(whole.kv_bytes_per_token() * 62 / 64 * 2, rel=0.01)
