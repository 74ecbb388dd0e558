"""Decoding: every cache and every way gives the tokens of reading the whole text again; a rounded cache is rounded as stored."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import effkit as ek
from effkit.models.decoding import Decoder, greedy
from effkit.models.stored.kvcache import Rounded, RoundedLayer, cache_bytes, rounded_cache
from effkit.spec.errors import BadInput

PROMPT = list(range(40, 60))
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler on a CPU")


def whole(model, ids, count) -> list[int]:
    """Greedy tokens without any cache."""
    text = torch.tensor([ids])
    for _ in range(count):
        text = torch.cat([text, model.logits(text)[:, -1:].argmax(-1)], dim=1)
    return text[0, len(ids) :].tolist()


def decoded(decoder, ids, count) -> tuple[list[int], torch.Tensor]:
    tokens, logits = [], []
    with torch.inference_mode():
        logits.append(decoder.read(torch.tensor([ids])))
        for _ in range(count):
            tokens.append(int(logits[-1].argmax()))
            logits.append(decoder.step(torch.tensor([[tokens[-1]]])))
    return tokens, torch.cat(logits)


def test_a_growing_cache_gives_what_reading_again_gives(tiny_llama):
    small = ek.quantize(tiny_llama, method="rtn", bits=4, group_size=32)
    tokens, _ = decoded(Decoder(small, length=84), PROMPT, 64)
    assert tokens == whole(small, PROMPT, 64)
    assert greedy(small, PROMPT, 64)[: len(tokens)] == tokens[: tokens.index(2) + 1] if 2 in tokens else tokens


@needs_compiler
@pytest.mark.skipif(" " in torch.__file__, reason="torch.compile's C++ command cannot name a folder with a space in it")
@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling takes ten seconds, on a busy machine minutes
def test_compiled_decoding_gives_the_eager_tokens_and_logits(tiny_llama):
    small = ek.quantize(ek.prune(tiny_llama, layers=1), method="rtn", bits=4, group_size=32)
    fast = Decoder(small, length=100, compiled=True)
    assert fast.how.note == ""
    assert fast.how.compiled
    assert fast.how.cache == "static"
    assert fast.how.compile_seconds > 0
    eager = Decoder(small, length=100)
    for prompt in (PROMPT, PROMPT[:7]):  # the second text must not see the first one
        (tokens, logits), (wanted, exact) = decoded(fast, prompt, 64), decoded(eager, prompt, 64)
        assert tokens == wanted
        assert (logits - exact).abs().max() < 1e-4


def test_compiling_that_fails_goes_on_eagerly_and_says_why(tiny_llama, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    decoder = Decoder(tiny_llama, length=64, compiled=True)
    assert not decoder.how.compiled
    assert decoder.how.note == "decoded eagerly: torch.compile failed: RuntimeError: no compiler"
    assert decoded(decoder, PROMPT, 8)[0] == whole(tiny_llama, PROMPT, 8)
    profiled = ek.profile(tiny_llama, prompt=8, new_tokens=3, repeats=1, warmup=0, compiled=True)
    assert profiled.decoding.note == decoder.how.note


SPACED = """
import sys
sys.path[:] = [sys.argv[1], *(p for p in sys.path if not p.endswith("site-packages")), *sys.argv[2:]]
import effkit as ek, torch
from effkit.models.decoding import Decoder
print(torch.__file__)
print(Decoder(ek.load(sys.argv[1] + "/model"), length=64, compiled=True).how.note)
"""


@needs_compiler
def test_where_a_compiler_failed_its_own_words_are_said(tiny_llama, tmp_path):
    """For real: torch's compiler cannot link against a torch whose path has a space."""
    tiny_llama.save(tmp_path / "model")
    (tmp_path / "a space").symlink_to(Path(torch.__file__).parents[1])
    elsewhere = [place for place in sys.path if "site-packages" not in place]
    command = [sys.executable, "-S", "-c", SPACED, str(tmp_path), str(tmp_path / "a space"), *elsewhere]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    where, note = done.stdout.splitlines() or pytest.fail(done.stderr[-2000:])
    assert "a space" in where
    assert note.startswith("decoded eagerly: torch.compile failed: ")
    assert "C++ compile error: " in note
    assert f"torch lies in a folder whose path has a space ({tmp_path}/a space/torch)" in note


def test_any_number_of_compiled_decoders_live_in_one_process(tiny_llama, monkeypatch):
    """Torch compiles one function anew a few times at most, so that a sweep of many batches and lengths must not share one."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # traced and guarded, not translated
    with torch._dynamo.config.patch(recompile_limit=2):
        decoders = [Decoder(tiny_llama, length=length, batch=1 + length % 2, compiled=True) for length in (32, 33, 34, 35)]
    assert [decoder.how.note for decoder in decoders] == [""] * 4
    assert all(decoder.how.compiled for decoder in decoders)
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        assert torch.allclose(decoders[2].read(ids), Decoder(tiny_llama, length=34).read(ids), atol=1e-5)


@pytest.mark.parametrize(("bits", "width", "per_number"), [(8, 64, 8.5), (4, 64, 5.0), (8, 20, 8.8), (4, 20, 5.6), (4, 5, 4.8 + 6.4)])
def test_a_rounded_cache_holds_its_bytes_and_is_rounded_to_half_a_step(bits, width, per_number):
    x = torch.randn(2, 3, 9, width, generator=torch.Generator().manual_seed(0))
    stored = Rounded(bits)
    stored.append(x[:, :, :4])
    stored.append(x[:, :, 4:])
    assert stored.bytes * 8 == pytest.approx(per_number * x.numel())
    got = stored.tensor(torch.float32)
    spread = (x.amax(-1) - x.amin(-1)) if bits == 4 else 2 * x.abs().amax(-1)
    step = spread / (15 if bits == 4 else 254)
    assert ((got - x).abs() <= 0.5 * step.unsqueeze(-1) * 1.02 + 2e-3).all()
    again = Rounded(bits)
    again.append(got)
    assert torch.allclose(again.tensor(torch.float32), got, atol=1e-3)


def test_more_bits_keep_more_and_none_keeps_all(tiny_llama):
    ids = torch.tensor([PROMPT])
    exact = tiny_llama.logits(ids)
    errors = [(tiny_llama.logits(ids, kv_bits=bits) - exact).abs().max().item() for bits in (4, 8)]
    assert errors[0] > 5 * errors[1] > 0


def test_scoring_a_text_sees_the_cache_that_decoding_keeps(tiny_llama):
    """One pass over a text with rounded keys and values gives the logits of reading it token by token."""
    ids = torch.tensor([PROMPT])
    scored = tiny_llama.logits(ids, kv_bits=4)[0]
    decoder = Decoder(tiny_llama, length=64, kv_bits=4)
    with torch.inference_mode():
        stepped = [decoder.read(ids[:, :1]), *(decoder.step(ids[:, i : i + 1]) for i in range(1, len(PROMPT)))]
    # a last bit of a key may tip one of its sixteen steps
    assert (torch.cat(stepped) - scored).abs().max() < 0.02 * (scored.max() - scored.min())
    assert decoder.cache_bytes == cache_bytes(decoder.cache) < cache_bytes(full_cache(tiny_llama, ids)) / 4


def full_cache(model, ids):
    with torch.inference_mode():
        return model.module(input_ids=ids, use_cache=True).past_key_values


def test_quality_and_speed_count_the_rounded_cache(tiny_llama):
    text = "The pump was opened and its seal gave way. " * 40
    plain = ek.evaluate(tiny_llama, tiny_llama, text, window=32, windows=2, floor=False)
    rounded = [ek.evaluate(tiny_llama, tiny_llama, text, window=32, windows=2, floor=False, kv_bits=bits) for bits in (8, 4)]
    assert plain.kv_bits is None
    assert [q.kv_bits for q in rounded] == [8, 4]
    assert plain.kl.mean.value == 0 < rounded[0].kl.mean.value < rounded[1].kl.mean.value
    few = {"prompt": 16, "new_tokens": 4, "repeats": 1, "warmup": 0}
    sizes = {bits: ek.profile(tiny_llama, **few, kv_bits=bits).decoding for bits in (None, 8, 4)}
    assert [how.cache for how in sizes.values()] == ["dynamic", "int8", "int4"]
    heads, width, layers, tokens = 2, 16, 3, 19  # the last token is chosen, not read
    numbers = 2 * heads * width * layers * tokens
    assert [how.cache_bytes for how in sizes.values()] == [4 * numbers, numbers * (8 + 1) // 8, numbers * (4 + 2) // 8]


@pytest.mark.parametrize("given", [3, 16, True])
def test_other_bits_are_refused(tiny_llama, given):
    with pytest.raises(BadInput, match=rf"kv_bits is {given}\. Allowed: 8, 4, None\."):
        ek.evaluate(tiny_llama, on="a text " * 99, window=16, windows=1, kv_bits=given)


def test_a_classifier_keeps_no_cache(tiny_classifier):
    with pytest.raises(BadInput, match="kv_bits is 8 for a sequence classifier"):
        ek.evaluate(tiny_classifier, on=["a", "b"], window=32, kv_bits=8)
    with pytest.raises(BadInput, match="compiled or kv_bits is given for a sequence classifier"):
        ek.profile(tiny_classifier, prompt=8, compiled=True)


def test_a_sliding_window_is_refused(tiny_llama):
    from transformers import MistralConfig

    with pytest.raises(BadInput, match=r"keeps its past as DynamicSlidingWindowLayer\. Allowed: models that keep all keys and values"):
        rounded_cache(MistralConfig(num_hidden_layers=2, sliding_window=16), 8)
    assert all(isinstance(layer, RoundedLayer) for layer in rounded_cache(tiny_llama.config, 8).layers)
