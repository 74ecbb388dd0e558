"""What a teacher said is kept: exact where it was summed up, close in between, asked for once in all runs, and cleared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.kept import SLOWNESS, bundled_at, summary
from effkit.compress.distillation.material import Batch
from effkit.compress.distillation.teachers import Teachers, bundled
from effkit.spec.places import cache_folder

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
WAY: dict[str, Any] = {"text": TEXT, "steps": 8, "window": 32, "batch": 2, "learning_rate": 3e-3, "top_k": 20}


@pytest.fixture
def asked(tiny_llama):
    """One entry for each forward pass of the teacher."""
    seen: list[int] = []
    watch = tiny_llama.module.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    watch.remove()


def weights(model):
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("temperature", [8.0, 2.0, 1.0, 0.8, 0.5])
def test_it_is_exact_at_the_temperatures_that_were_summed_up(temperature):
    logits = 4 * torch.randn(40, 500, generator=torch.Generator().manual_seed(1))
    kept = summary(logits, 9, SLOWNESS)
    exact = bundled(logits, kept["tokens"].long(), temperature)
    assert torch.allclose(bundled_at(kept, temperature, SLOWNESS), exact, atol=1e-5)
    p = torch.softmax(logits / temperature, -1)
    rest = torch.softmax(exact / temperature, -1)[:, -1]
    assert torch.allclose(rest, 1 - p.gather(-1, kept["tokens"].long()).sum(-1), atol=1e-6)


def test_between_two_of_them_it_is_close(stories15m):
    """The logarithm of the rest's mass, at 40 temperatures, on what a trained model says."""
    model = ek.load(str(stories15m), device="cpu")
    ids = model.tokenizer("Once upon a time there was a little pump that ran well. One day it lost its oil.", return_tensors="pt")
    logits = model.logits(ids["input_ids"])[0]
    kept = summary(logits, 8, SLOWNESS)
    for temperature in torch.linspace(0.5, 8, 40).tolist():
        exact = bundled(logits, kept["tokens"].long(), temperature)
        assert ((bundled_at(kept, temperature, SLOWNESS) - exact) / temperature).abs().max() < 0.006, temperature


def test_a_window_is_asked_for_once_whatever_its_neighbours_and_the_temperature(tiny_llama, asked):
    student = ek.prune(tiny_llama, layers=1)
    batch = Batch(torch.arange(5, 45).reshape(2, 20))
    first = Teachers([tiny_llama], student, 32, top_k=5).say(batch, 2.0)
    assert len(asked) == 2
    again = Teachers([tiny_llama], student, 32, top_k=5)
    assert torch.equal(again.say(batch.parts(1)[1], 2.0).logits, first.logits[1:])
    again.say(batch, 1.3)
    assert len(asked) == 2
    far = again.say(batch, 20.0)  # too far for what is kept
    assert len(asked) == 4
    exact = torch.softmax(tiny_llama.logits(batch.ids) / 20, -1)
    assert torch.allclose(torch.softmax(far.logits / 20, -1)[..., -1], 1 - exact.gather(-1, far.tokens).sum(-1), atol=1e-6)


def test_several_teachers_are_kept_at_one_temperature(tiny_llama, asked):
    student = ek.prune(tiny_llama, layers=1)
    both = Teachers([tiny_llama, ek.prune(tiny_llama, layers=2)], student, 32, top_k=5)
    batch = Batch(torch.arange(5, 45).reshape(2, 20))
    first = both.say(batch, 2.0)
    again = both.say(batch, 2.0)
    assert len(asked) == 2
    assert torch.equal(first.logits, again.logits)
    both.say(batch, 1.0)
    assert len(asked) == 4
    average = torch.stack([torch.softmax(m.logits(batch.ids) / 2, -1) for m in both.models]).mean(0)
    assert torch.allclose(torch.softmax(first.logits / 2, -1)[..., :-1], average.gather(-1, first.tokens), atol=1e-6)


def test_the_second_run_asks_nothing_and_ends_with_the_same_weights(tiny_llama, asked):
    student = ek.prune(tiny_llama, layers=2)
    first = ek.distill(tiny_llama, student, **WAY)
    assert asked
    asked.clear()
    second = ek.distill(tiny_llama, student, **WAY)
    assert not asked
    assert same(weights(first), weights(second))
    ek.distill(tiny_llama, student, **{**WAY, "temperature": 3.0, "steps": 6})
    assert not asked
    tiny_llama.module.model.layers[0].mlp.up_proj.weight.data[0, 0] += 0.5  # another teacher
    third = ek.distill(tiny_llama, student, **WAY)
    assert asked
    assert not same(weights(first), weights(third))


def test_classifiers_too(tiny_classifier):
    texts = [f"pump {i} leaks at {i * 7 % 30} bar" for i in range(20)]
    student = ek.prune(tiny_classifier, layers=1)
    seen: list[int] = []
    tiny_classifier.module.register_forward_hook(lambda *_: seen.append(1))
    runs = [ek.distill(tiny_classifier, student, texts, steps=6, batch=4, window=32, top_k=2) for _ in range(2)]
    assert len(seen) == 20
    assert same(*map(weights, runs))


def test_a_cache_that_cannot_be_written_serves_one_run_and_says_so(tiny_llama, asked, monkeypatch):
    student = ek.prune(tiny_llama, layers=2)
    first = ek.distill(tiny_llama, student, **WAY)
    size = sum(path.stat().st_size for path in cache_folder().rglob("*.safetensors"))
    monkeypatch.setenv("EFFKIT_HOME", str(cache_folder() / "elsewhere"))
    monkeypatch.setenv("EFFKIT_CACHE_BYTES", str(size // 2))
    asked.clear()
    second = ek.distill(tiny_llama, student, **{**WAY, "text": TEXT[:900], "steps": 40})
    assert len(asked) == 900 // 32  # each window once
    assert any("the cache is limited to" in note for note in second.plans[-1].notes)
    monkeypatch.setenv("EFFKIT_CACHE_BYTES", "0")
    third = ek.distill(tiny_llama, student, **WAY)
    assert same(weights(first), weights(third))
    assert not first.plans[-1].notes
