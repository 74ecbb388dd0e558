"""Depth: influence is what its formula says, the layer that does nothing goes first, and the choice is always the same."""

from __future__ import annotations

import itertools

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.pruning import planning
from effkit.compress.distillation.pruning.calibration import calibration, domain_text
from effkit.compress.distillation.pruning.depth import block_influence
from effkit.compress.pipeline import compress
from effkit.spec.errors import BadInput

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))


def without_effect(model, layer):
    """A copy in which a layer adds nothing to the residual stream."""
    new = model.clone()
    part = new.module.model.layers[layer]
    part.self_attn.o_proj.weight.data.zero_()
    part.mlp.down_proj.weight.data.zero_()
    return new


def test_influence_is_one_minus_the_cosine_of_hidden_states(tiny_llama):
    texts = calibration(tiny_llama, domain_text(ek.Prune(layers=2), TEXT))
    hidden = tiny_llama.module(input_ids=texts[0], output_hidden_states=True).hidden_states[:3]  # the last of all is after the norm
    expected = [float((1 - torch.cosine_similarity(a, b, dim=-1)).mean()) for a, b in itertools.pairwise(hidden)]
    assert block_influence(tiny_llama, texts)[:2] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_without_effect_goes_first_and_nothing_changes(tiny_llama, layer):
    model = without_effect(tiny_llama, layer)
    student = ek.prune(model, 2, by="importance", text=TEXT)
    kept = [i for i in range(3) if i != layer]
    assert student.plans[-1].notes[0].startswith(f"layers kept: {kept[0]}, {kept[1]};")
    assert torch.allclose(student.logits([[5, 6, 7]]), model.logits([[5, 6, 7]]), atol=1e-6)
    assert torch.equal(ek.prune(model, kept).logits([[5, 6, 7]]), student.logits([[5, 6, 7]]))


def test_an_encoders_layers_are_measured_too_and_always_the_same(tiny_classifier):
    texts = [f"pump {i} leaks oil" for i in range(9)]
    a, b = (ek.prune(tiny_classifier, 1, by="importance", text=texts) for _ in range(2))
    assert a.plans == b.plans
    assert "measured on given texts: 0: " in a.plans[-1].notes[0]
    assert torch.equal(a.logits([[5, 6, 7]]), b.logits([[5, 6, 7]]))


def test_random_layers_follow_the_seed(tiny_llama):
    kept = {ek.prune(tiny_llama, 1, by="random", seed=seed).plans[-1].notes[0][:14] for seed in range(12)}
    assert len(kept) == 3
    assert ek.prune(tiny_llama, 1, by="random", seed=4).plans == ek.prune(tiny_llama, 1, by="random", seed=4).plans


def test_a_plan_measures_what_the_step_measures(tiny_llama, tmp_path):
    (tmp_path / "domain.txt").write_text(TEXT)
    step = ek.Prune(layers=2, by="importance", text=str(tmp_path / "domain.txt"))
    planned = ek.plan(tiny_llama, step)
    student = ek.prune(tiny_llama, 2, by="importance", text=str(tmp_path / "domain.txt"))
    assert planned == student.plans[-1]
    assert student.recipe.steps == (step,)
    assert (planned.bytes_before, planned.bytes_after) == (tiny_llama.stored_bytes, student.stored_bytes)


def test_a_recipe_measures_once_and_makes_what_the_step_makes(tiny_llama, monkeypatch):
    read: list[int] = []
    measured = planning.influential_layers
    monkeypatch.setattr(planning, "influential_layers", lambda *given: read.append(1) or measured(*given))
    step = ek.Prune(layers=2, by="importance")
    by_recipe = compress(tiny_llama, ek.Recipe(steps=(step, ek.Quantize(bits=4, group_size=32))), text=TEXT)
    assert read == [1]
    assert by_recipe.plans[0] == ek.plan(tiny_llama, step, TEXT)


def test_the_plan_tells_parameters_and_flops(tiny_llama):
    plan = ek.plan(tiny_llama, ek.Prune(layers=2))
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 160  # q, k, v, o and the three of the MLP
    flops = [2 * (n * layer + 259 * 64) + 4 * 128 * n * 64 for n in (3, 2)]
    assert f"FLOPs per token: {flops[0]:.3g} -> {flops[1]:.3g} ({flops[1] / flops[0]:.1%})" in plan.notes[-1]
    count = [n * (layer + 2 * 64) + 259 * 64 + 64 for n in (3, 2)]
    assert plan.notes[-2].startswith(f"parameters: {count[0]:,} -> {count[1]:,}")


def test_a_quantized_model_loses_layers_and_nothing_else(tiny_llama):
    small = ek.quantize(tiny_llama, bits=4)
    student = ek.prune(small, [0, 2])
    assert student.plans[-1].bytes_after == student.stored_bytes
    assert torch.equal(student.logits([[5, 6, 7]]), ek.quantize(ek.prune(tiny_llama, [0, 2]), bits=4).logits([[5, 6, 7]]))
    with pytest.raises(BadInput, match=r"stored in few bits. Allowed on quantized weights: layers. Prune first, quantize afterwards"):
        ek.prune(small, vocabulary="used", text=TEXT)


def test_random_state_is_left_alone(tiny_llama):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    ek.prune(tiny_llama, 2, by="importance", text=TEXT)
    ek.student(tiny_llama, 1, 32)
    assert torch.equal(torch.random.get_rng_state(), before)
