"""Students from scratch: the shape asked for, the same for the same seed, and an embedding that keeps what a projection can."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.spec.errors import BadInput
from tests.unit.compress.test_prune_vocabulary import REPORTS, STORY, wordpiece


def test_a_tiny_encoder(tmp_path):
    teacher = wordpiece()
    student = ek.student(teacher, layers=1, hidden_size=32, vocabulary="used", embeddings="project", text=REPORTS)
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size) == (1, 32, 2, 64)
    assert (config.num_labels, student.task) == (teacher.config.num_labels, teacher.task)
    assert student.logits([student.tokens(REPORTS[0])]).shape == (1, 3)
    plan = student.plans[-1]
    assert plan == ek.plan(teacher, student.recipe.steps[-1], REPORTS)
    assert (plan.bytes_before, plan.bytes_after) == (teacher.stored_bytes, student.stored_bytes)
    tables = {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")}
    assert {m.module for m in plan.acting("project")} == tables
    loaded = ek.load(student.save(tmp_path / "student"))
    assert torch.equal(loaded.logits([loaded.tokens(REPORTS[0])]), student.logits([student.tokens(REPORTS[0])]))
    assert loaded.recipe.label() == "new student of 1 layer, hidden 32, used tokens"
    assert loaded.recipe.kind() == "pruned"


def test_the_projection_keeps_the_tables_geometry():
    """Inner products between centred token embeddings: PCA keeps more of them than any other projection of that width."""
    teacher = wordpiece()
    table = teacher.module.get_input_embeddings().weight
    full = (table - table.mean(0)) @ (table - table.mean(0)).T

    def error(made: torch.Tensor) -> float:
        gram = made @ made.T
        scale = (gram * full).sum() / gram.pow(2).sum()
        return float((scale * gram - full).norm() / full.norm())

    student = ek.student(teacher, 1, 48, heads=4, embeddings="project")
    chance = torch.linalg.qr(torch.randn(64, 48, generator=torch.Generator().manual_seed(0)))[0]
    assert error(student.module.get_input_embeddings().weight) < 0.9 * error((table - table.mean(0)) @ chance)
    same = ek.student(teacher, 1, embeddings="project")
    assert torch.equal(same.module.get_input_embeddings().weight, table)


def test_a_decoder_keeps_its_tie_and_generates(stories15m, tmp_path):
    teacher = ek.load(str(stories15m), device="cpu")
    student = ek.student(teacher, 2, 96, vocabulary="used", embeddings="project", text=STORY)
    assert (student.config.num_attention_heads, student.config.head_dim) == (2, 48)
    assert student.module.get_output_embeddings().weight is student.module.get_input_embeddings().weight
    loaded = ek.load(student.save(tmp_path / "student"))
    assert loaded.generate("Once", 5) == student.generate("Once", 5)
    assert student.plans[-1].bytes_after == student.stored_bytes
    trained = ek.distill(student, ek.prune(student, 1), text=STORY * 4, steps=2, window=16)
    assert trained.task == "causal-lm"


def test_the_seed_decides(tiny_llama):
    a, b, c = (ek.student(tiny_llama, 1, 32, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.logits([[5, 6]]), b.logits([[5, 6]]))
    assert not torch.equal(a.logits([[5, 6]]), c.logits([[5, 6]]))
    from effkit.compress.pipeline import compress

    by_recipe = compress(tiny_llama, ek.Recipe(steps=(ek.Student(layers=1, hidden_size=32),), seed=1))
    assert torch.equal(by_recipe.logits([[5, 6]]), c.logits([[5, 6]]))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 4}, "layers is 4. Allowed: 1 to 3"),
        ({"hidden_size": 64, "heads": 5}, "hidden_size is 64 and heads is 5. Allowed: heads that divide hidden_size"),
        ({"hidden_size": 33}, "hidden_size is 33 and heads is 1. Allowed: heads that divide hidden_size and give each an even number"),
        ({"hidden_size": 0}, "hidden_size is 0. Allowed"),
        ({"embeddings": "copy"}, "embeddings is 'copy'. Allowed"),
    ],
)
def test_wrong_shapes_are_named(tiny_llama, shape, message):
    with pytest.raises(BadInput, match=message):
        ek.student(tiny_llama, **shape)
