"""What several tests of measuring share."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

WORDS = [
    "the",
    "kettle",
    "sings",
    "and",
    "somebody",
    "counts",
    "spoons",
    "again",
    "while",
    "rain",
    "falls",
    "on",
    "glass",
    "and",
    "nobody",
    "minds",
    "windows",
    "fog",
    "slowly",
    "then",
    "a",
    "door",
    "opens",
    "and",
    "the",
    "cat",
    "leaves",
]


@pytest.fixture
def text() -> str:
    """About 4,400 characters that do not repeat: as many tokens of the tiny models."""
    return " ".join(random.Random(5).choices(WORDS, k=800))


@pytest.fixture
def noisy():
    """A copy of a model with noise on its matrices, `share` of each one's own spread."""
    import torch

    def make(model, share: float):
        copy = model.clone()
        source = torch.Generator().manual_seed(3)
        for parameter in copy.module.parameters():
            if parameter.dim() == 2:
                parameter.data += share * parameter.data.std() * torch.randn(parameter.shape, generator=source)
        return copy

    return make


@pytest.fixture
def calls():
    """Count forward passes: `log = calls(model)`, then `log` holds the shape of each pass's token ids."""

    def watch(model) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        model.module.register_forward_pre_hook(lambda _, __, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True)
        return seen

    return watch


@pytest.fixture
def clockwork(monkeypatch):
    """A wall clock that only forward passes move: `clockwork(model, seconds)` with seconds(number of the pass, its tokens)."""
    now = [0.0]
    monkeypatch.setattr("effkit.hardware.attached.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def wind(model, seconds) -> None:
        passes = [0]

        def tick(module, args, given) -> None:
            now[0] += seconds(passes[0], given["input_ids"].shape[1])
            passes[0] += 1

        model.module.register_forward_pre_hook(tick, with_kwargs=True)

    return wind
