"""What a teacher computes is kept for its other students: no second pass, and the same bits as without."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.compress.distillation.material import Batch
from effkit.compress.distillation.teachers import Teachers
from effkit.compress.pipeline import step_work
from effkit.compress.states import States
from effkit.spec.places import cache_folder
from effkit.spec.progress import finish
from effkit.spec.recipe import Distill, Quantize

TEXT = " ".join(f"The pump number {i} was checked on day {i % 7} and runs well at {i * 3 % 50} bar." for i in range(60))
DISTILL = Distill(steps=6, window=32, batch=2, learning_rate=3e-3)
TUNED = {"group_size": 32, "samples": 4, "window": 32, "tune": "scales", "tune_steps": 3}


@pytest.fixture
def asked(tiny_llama):
    """One entry for each forward pass of the teacher through its layers."""
    seen: list[int] = []
    own = tiny_llama.module.model  # copies of it have its hooks too
    watch = own.register_forward_hook(lambda module, *_: seen.append(1) if module is own else None)
    yield seen
    watch.remove()


def same(a, b) -> bool:
    ours, theirs = a.module.state_dict(), b.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def made(base, student, step, shared=True):
    return finish(step_work(base, student, step, TEXT, 0, shared=shared))


def test_another_student_of_the_teacher_asks_nothing_and_is_the_same_bit_for_bit(tiny_llama, asked):
    students = [ek.prune(tiny_llama, layers=2), ek.prune(tiny_llama, layers=1), ek.prune(tiny_llama, ffn=32)]
    alone = [made(tiny_llama, student, DISTILL, shared=False) for student in students]
    assert not (cache_folder() / "reference").exists()
    asked.clear()
    first = made(tiny_llama, students[0], DISTILL)
    assert len(asked) == DISTILL.steps + 4, "each batch and each held-out window once"
    asked.clear()
    others = [made(tiny_llama, student, DISTILL) for student in students[1:]]
    others += [made(tiny_llama, students[1], DISTILL.model_copy(update={"temperature": 2.0, "objective": "reverse-kl"}))]
    assert not asked
    assert all(same(a, b) for a, b in zip(alone, [first, *others], strict=False))
    made(tiny_llama, students[1], DISTILL.model_copy(update={"batch": 1}))
    assert len(asked) == DISTILL.steps, "other batches are computed anew: rounding may depend on what is computed together"


def test_a_student_with_fewer_tokens_reads_what_was_kept_for_one_with_all(tiny_llama, asked):
    student = ek.prune(tiny_llama, layers=2)
    ids = torch.tensor(student.tokens(TEXT)[:40]).reshape(2, 20)
    first = Teachers([tiny_llama], student, 32, shared=True).say(Batch(ids), 1.0).logits
    asked.clear()
    cut = Teachers([tiny_llama], student, 32, shared=True)
    cut.mappings = [torch.arange(3, 240)]  # its token 0 is the teacher's 3
    assert torch.equal(cut.say(Batch(ids - 3), 1.0).logits, first[..., 3:240])
    assert not asked


def test_models_rounded_to_other_bits_are_tuned_to_what_was_kept(tiny_llama, asked):
    alone = [made(tiny_llama, tiny_llama, Quantize(bits=bits, **TUNED), shared=False) for bits in (4, 3)]
    asked.clear()
    first = made(tiny_llama, tiny_llama, Quantize(bits=4, **TUNED))
    assert asked
    asked.clear()
    second = made(tiny_llama, tiny_llama, Quantize(bits=3, **TUNED))
    assert not asked
    assert same(first, alone[0])
    assert same(second, alone[1])


def test_another_teacher_other_threads_and_other_types_are_asked_anew(tiny_llama, asked):
    ids = {"input_ids": torch.arange(5, 25).reshape(2, 10)}

    def ask() -> int:
        asked.clear()
        states = States(tiny_llama, lambda inputs: tiny_llama.logits(inputs["input_ids"]), disk=True)
        assert torch.equal(states.logits(ids), tiny_llama.logits(ids["input_ids"]))
        return len(asked) - 1

    assert [ask(), ask()] == [1, 0]
    with torch.autocast("cpu", torch.bfloat16):
        assert [ask(), ask()] == [1, 0]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert [ask(), ask()] == [1, 0]
    finally:
        torch.set_num_threads(before)
    tiny_llama.module.model.layers[0].mlp.up_proj.weight.data[0, 0] += 0.5
    assert [ask(), ask()] == [1, 0]


def test_a_head_whose_output_is_scaled_is_never_kept(tiny_llama, asked):
    inner = tiny_llama.logits
    states = States(tiny_llama, lambda inputs: 2 * inner(inputs["input_ids"]), memory=True, disk=True)
    ids = {"input_ids": torch.arange(5, 25).reshape(2, 10)}
    for _ in range(2):
        assert torch.equal(states.logits(ids), 2 * inner(ids["input_ids"]))
    assert states.exact is False
    assert len(asked) == 4
    assert not states.kept
    assert not states.shelf.bytes


def test_one_teacher_fills_a_part_of_the_cache_only(tiny_llama, monkeypatch):
    one = 20 * 64 * 4
    monkeypatch.setenv("EFFKIT_CACHE_BYTES", str(4 * (3 * one + 4096)))
    states = States(tiny_llama, lambda inputs: tiny_llama.logits(inputs["input_ids"]), disk=True)
    for start in range(8):
        states.logits({"input_ids": torch.arange(start, start + 20).reshape(1, 20)})
    assert len(list(states.shelf.folder.glob("*.safetensors"))) == 3
