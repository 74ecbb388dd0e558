"""Tuning by KL to the base: it helps or is taken back, touches what it says it does, and goes on in its middle."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.quantization.tunable import packed_again_, tunable_
from effkit.compress.quantization.tuning import Tuning
from effkit.compress.stages import Stages
from effkit.models.stored.packed import PackedLinear, unpack
from effkit.spec.progress import Snapshot

TEXT = " ".join(f"The pump was opened {n} times before its seal gave way and the crew wrote down why." for n in range(60))
FEW = {"bits": 2, "group_size": 32, "calibration": TEXT, "window": 64, "tune_steps": 10}


def packed(model: ek.Model) -> dict[str, PackedLinear]:
    return {name: m for name, m in model.module.named_modules() if isinstance(m, PackedLinear)}


def same(a: ek.Model, b: ek.Model) -> bool:
    ours, theirs = a.module.state_dict(), b.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def kl(base: ek.Model, model: ek.Model) -> float:
    ids = torch.tensor([base.tokens(TEXT)[64 * i : 64 * i + 64] for i in range(0, 60, 7)])
    p, q = base.logits(ids).double().log_softmax(-1), model.logits(ids).double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("tune", ["scales", "weights"])
def test_it_brings_the_model_nearer_to_its_base(tiny_llama, tmp_path, monkeypatch, tune):
    monkeypatch.setattr("effkit.compress.quantization.tuning.GRID_RATE", 0.1)  # ten steps must suffice to flip some
    before = {name: t.clone() for name, t in tiny_llama.module.state_dict().items()}
    plain = ek.quantize(tiny_llama, bits=2, group_size=32)
    tuned = ek.quantize(tiny_llama, tune=tune, **FEW)
    assert kl(tiny_llama, tuned) < 0.97 * kl(tiny_llama, plain)
    assert "tuning 10 steps: KL on held-out calibration text" in tuned.plans[-1].notes[-1]
    assert tuned.stored_bytes == plain.stored_bytes == tuned.plans[-1].bytes_after
    for name, tensor in tiny_llama.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    pairs = list(zip(packed(plain).values(), packed(tuned).values(), strict=True))
    integers = [torch.equal(a.packed.integers, b.packed.integers) for a, b in pairs]
    scales = [torch.equal(a.packed.scales, b.packed.scales) for a, b in pairs]
    assert not all(scales)
    assert all(integers) == (tune == "scales")
    for a, b in pairs:
        assert torch.equal(a.packed.zeros, b.packed.zeros)
    norms = [name for name in before if "norm" in name]
    changed = [not torch.equal(tuned.module.state_dict()[name], before[name]) for name in norms]
    assert all(changed)
    ids = torch.tensor([tiny_llama.tokens(TEXT)[:50]])
    assert torch.equal(ek.load(str(tuned.save(tmp_path / "tuned")), device="cpu").logits(ids), tuned.logits(ids))
    assert tuned.module.get_output_embeddings().packed is tuned.module.get_input_embeddings().packed
    assert not any(p.requires_grad for p in tuned.module.parameters())


@pytest.mark.parametrize(("method", "tune"), [("rtn", "weights"), ("gptq", "scales"), ("learned", "scales")])
def test_going_on_in_the_middle_of_tuning_gives_the_same_bits(tiny_llama, method, tune):
    given = {**FEW, "samples": 6}
    whole = ek.quantize(tiny_llama, method, tune=tune, **given)
    work = ek.quantize.work(tiny_llama, method, tune=tune, **given)
    for event in work:
        if event.details.get("phase") == "tuning" and event.message == "tuning: step 4 of 10":
            kept = event.snapshot()
            break
    work.close()
    kept = Snapshot({k: t.clone() for k, t in kept.tensors.items()}, kept.state)
    again = ek.quantize.work(tiny_llama, method, tune=tune, resume=kept, **given)
    steps = []
    try:
        while True:
            event = next(again)
            steps += [event.message] if "loss" in event.metrics else []
    except StopIteration as end:
        resumed = end.value
    assert steps == [f"tuning: step {n} of 10" for n in range(5, 11)]
    assert same(resumed, whole)


@pytest.mark.parametrize("tune", ["scales", "weights"])
def test_learned_rounding_is_a_place_to_start_from(tiny_llama, tune):
    """Its integers may lie farther than half a step from the weight; scales leave them alone, and both start where it ended."""
    few = {**FEW, "learn_steps": 20, "samples": 8}
    plain = ek.quantize(tiny_llama, "learned", **{**few, "tune": None})
    tuned = ek.quantize(tiny_llama, "learned", tune=tune, **few)
    assert kl(tiny_llama, tuned) < 0.97 * kl(tiny_llama, plain)
    pairs = list(zip(packed(plain).values(), packed(tuned).values(), strict=True))
    assert not all(torch.equal(a.packed.scales, b.packed.scales) for a, b in pairs)
    if tune == "scales":
        assert all(torch.equal(a.packed.integers, b.packed.integers) for a, b in pairs)


def test_it_is_taken_back_where_it_does_not_help(tiny_llama, monkeypatch):
    plain = ek.quantize(tiny_llama, bits=2, group_size=32)
    monkeypatch.setattr("effkit.compress.quantization.tuning.RATE", 1e3)  # every step throws the scales about
    tuned = ek.quantize(tiny_llama, tune="scales", **FEW)
    assert same(tuned, plain)
    assert tuned.plans[-1].notes[-1].startswith("tuning did not help on held-out text (KL ")
    assert tuned.plans[-1].notes[-1].endswith("so it was taken back")


@pytest.mark.parametrize("learned", [False, True])
def test_the_trainable_form_computes_what_the_packed_one_does(tiny_llama, learned):
    model = ek.quantize(tiny_llama, bits=3, group_size=32)
    ids = torch.tensor([tiny_llama.tokens(TEXT)[:40]])
    expected = model.logits(ids)
    originals = {n: m for n, m in model.module.named_modules(remove_duplicate=False) if hasattr(m, "packed")}
    exact = {name: tiny_llama.module.get_submodule(name).weight for name in originals} if learned else {}
    grids = tunable_(model.module, exact, torch.float32)
    assert torch.allclose(model.logits(ids), expected, atol=1e-5)
    before = {name: m.packed.integers.clone() for name, m in originals.items()}
    for grid in grids.values():
        grid.store_()
    packed_again_(model.module, originals)
    assert torch.equal(model.logits(ids), expected)
    assert all(torch.equal(m.packed.integers, before[name]) for name, m in originals.items())


def test_slopes_are_those_of_the_weight_that_it_stands_for(tiny_llama):
    """Against autograd through the dequantized weight; where an integer lies inside the grid its slope passes straight through."""
    model = ek.quantize(tiny_llama, bits=3, group_size=32)
    name = "model.layers.0.mlp.up_proj"
    part = model.module.get_submodule(name)
    grid = tunable_(model.module, {name: tiny_llama.module.get_submodule(name).weight}, torch.float32)[name]
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.randn(7, 160, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((model.module.get_submodule(name)(x) * target).sum(), [x, grid.change, grid.integers])
    q = unpack(part.packed.integers, 3, 64).float().requires_grad_()
    change = torch.zeros_like(grid.step).requires_grad_()
    weight = (q.reshape(160, 2, 32) - part.packed.zero_points().float().unsqueeze(-1)) * (grid.step * (1 + change)).unsqueeze(-1)
    expected = torch.autograd.grad(((x @ weight.reshape(160, 64).t()) * target).sum(), [x, change, q])
    for a, b in zip(ours[:2], expected[:2], strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    inside = (grid.integers > 0) & (grid.integers < 7)
    assert torch.allclose(ours[2][inside], expected[2][inside], atol=1e-5)


def test_the_teacher_says_the_same_with_what_it_keeps(tiny_llama):
    model = ek.quantize(tiny_llama, bits=4, group_size=32)
    windows = [torch.tensor(tiny_llama.tokens(TEXT)[i : i + 32]) for i in (0, 40)]
    tuning = Tuning(tiny_llama, model, windows[:1], windows[1:], 3, False, 0)
    near = 1e-6 if tuning.teacher.dtype == torch.float32 else 0.02
    first = tuning.teacher.logits(windows[0])
    for window in windows:
        assert torch.allclose(tuning.teacher.logits(window).float(), tiny_llama.logits(window[None])[0], rtol=near, atol=near)
    assert torch.equal(tuning.teacher.logits(windows[0]), first)
    assert tuning.teacher.states.exact
    assert len(tuning.teacher.states.kept) == 2


@pytest.mark.parametrize("tune", ["scales", "weights"])
def test_a_large_models_steps_are_made_in_pieces_and_give_the_same_bits(tiny_llama, monkeypatch, tune):
    """Between two pieces Cancel answers: once the base was asked, after the forward pass, and after each layer on the way back."""
    monkeypatch.setattr("effkit.compress.quantization.tuning.GRID_RATE", 0.1)
    monkeypatch.setattr("effkit.compress.quantization.tuning.PIECE", 1.0)
    with monkeypatch.context() as uncut:
        uncut.setattr("effkit.compress.quantization.tuning.Stages", lambda layers, every: Stages(layers, len(layers)))
        whole = ek.quantize(tiny_llama, tune=tune, **FEW)
    work, seen = ek.quantize.work(tiny_llama, tune=tune, **FEW), []
    try:
        while True:
            event = next(work)
            seen.append(event.message)
            assert torch.is_grad_enabled()
    except StopIteration as end:
        pieces = end.value
    assert same(pieces, whole)
    windows = 4
    assert seen.count("tuning: step 3 of 10") == windows * (2 + len(tiny_llama.module.model.layers)) + 1
