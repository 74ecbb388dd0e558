"""profile: what is timed, what is fed to the model, what is unavailable, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effkit as ek
from effkit.measure.latency import ordinary_tokens, random_prompt
from effkit.spec.errors import BadInput, OutOfMemory

FEW = {"prompt": 16, "new_tokens": 4, "repeats": 3, "warmup": 1}


def test_cache_is_used(tiny_llama, calls):
    """One pass over the prompt, then single tokens: with a cache nothing is read twice."""
    seen = calls(tiny_llama)
    ek.profile(tiny_llama, **FEW, batch=2)
    assert seen == [(2, 16), (2, 1), (2, 1), (2, 1)] * 4


def test_tokens_are_those_of_greedy_generation(tiny_llama):
    """The cached steps choose what a pass over the whole text would choose."""
    fed = []
    tiny_llama.module.register_forward_pre_hook(lambda _, __, given: fed.append(given["input_ids"].clone()), with_kwargs=True)
    ek.profile(tiny_llama, prompt=20, new_tokens=6, repeats=1, warmup=0)
    ids = fed[0]
    for token in fed[1:6]:
        assert torch.equal(tiny_llama.logits(ids)[:, -1:].argmax(-1), token)
        ids = torch.cat([ids, token], dim=1)


def test_every_repeat_has_a_prompt_of_its_own(tiny_llama):
    def prompts():
        seen = []
        hook = tiny_llama.module.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].clone()), with_kwargs=True)
        ek.profile(tiny_llama, prompt=16, new_tokens=1, repeats=3, warmup=1)
        hook.remove()
        return torch.cat(seen)

    state = torch.get_rng_state()
    first = prompts()
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(row) for row in first.tolist()}) == 4
    assert torch.equal(first, prompts())


def test_prompts_hold_no_special_tokens(tiny_llama):
    vocabulary = ordinary_tokens(tiny_llama)
    assert vocabulary.tolist() == list(range(3, 259))
    assert random_prompt(vocabulary, 3, 500, seed=1).min() >= 3


def test_first_token_is_never_in_the_time_per_output_token(tiny_llama, clockwork):
    clockwork(tiny_llama, lambda _, tokens: 0.060 if tokens > 1 else 0.015)
    got = ek.profile(tiny_llama, prompt=16, new_tokens=5, repeats=2, warmup=1, batch=3)
    assert got.time_to_first_token.value == pytest.approx(60)
    assert got.time_per_output_token.value == pytest.approx(15)
    assert got.prefill.value == pytest.approx(3 * 16 / 0.060)
    assert got.decode.value == pytest.approx(3 / 0.015)
    assert list(got.first_token_percentiles.values()) == pytest.approx([60] * 3)
    assert list(got.output_token_percentiles.values()) == pytest.approx([15] * 3)


def test_warm_up_is_thrown_away(tiny_llama, clockwork):
    clockwork(tiny_llama, lambda number, _: 9.0 if number < 5 else 0.02)
    got = ek.profile(tiny_llama, prompt=16, new_tokens=5, repeats=2, warmup=1)
    assert got.time_to_first_token.high == pytest.approx(20)
    assert got.output_token_percentiles["p99"] == pytest.approx(20)


def test_percentiles_and_intervals(tiny_llama, clockwork):
    """Steps of 1 to 40 ms in four repeats of ten tokens, of which nine are output tokens after the first."""
    clockwork(tiny_llama, lambda number, _: (number + 1) / 1000)
    got = ek.profile(tiny_llama, prompt=16, new_tokens=10, repeats=4, warmup=0)
    steps = np.arange(1.0, 41.0).reshape(4, 10)
    assert got.time_to_first_token.value == pytest.approx(steps[:, 0].mean())
    assert got.time_per_output_token.value == pytest.approx(steps[:, 1:].mean())
    assert list(got.output_token_percentiles.values()) == pytest.approx(np.quantile(steps[:, 1:], [0.5, 0.9, 0.99]).tolist())
    assert list(got.first_token_percentiles) == ["p50", "p90", "p99"]
    times, rates = (got.time_to_first_token, got.time_per_output_token), (got.prefill, got.decode)
    for estimate, unit in (*((t, "ms") for t in times), *((r, "tokens/s") for r in rates)):
        assert (estimate.unit, estimate.n) == (unit, 4)
        assert estimate.low < estimate.value < estimate.high


def test_where_and_how(tiny_llama):
    got = ek.profile(tiny_llama, **FEW)
    assert (got.device, got.device_type, got.simulated, got.dtype) == (repr(tiny_llama.device), "cpu", False, "float32")
    assert (got.prompt, got.new_tokens, got.batch, got.repeats, got.warmup) == (16, 4, 1, 3, 1)
    assert got.threads == torch.get_num_threads()
    assert "wall clock" in got.timing
    assert got.memory.resident > 50_000_000
    assert got.memory.allocated is None
    assert ek.Profile.model_validate_json(got.model_dump_json()) == got


def test_one_new_token_has_no_output_tokens(tiny_llama):
    got = ek.profile(tiny_llama, prompt=16, new_tokens=1, repeats=2, warmup=0)
    assert got.time_to_first_token.value > 0
    assert got.time_per_output_token.value is None
    assert got.decode.value is None
    assert got.output_token_percentiles == {}
    assert str(got.decode) == "unavailable"


def test_one_repeat_has_no_interval(tiny_llama):
    got = ek.profile(tiny_llama, prompt=16, new_tokens=3, repeats=1, warmup=0)
    assert got.time_to_first_token.low is None
    assert got.time_per_output_token.n == 1


def test_classifier(tiny_classifier, calls):
    seen = calls(tiny_classifier)
    got = ek.profile(tiny_classifier, prompt=128, batch=2, repeats=3, warmup=1)
    assert seen == [(2, 128)] * 4
    assert got.time_to_first_token.value > 0
    assert got.time_per_output_token.value is got.decode.value is None
    assert got.new_tokens == 0


def test_a_model_without_a_cache_has_no_decode(tiny_llama, calls):
    tiny_llama.module.register_forward_hook(lambda _, __, out: setattr(out, "past_key_values", None))
    seen = calls(tiny_llama)
    got = ek.profile(tiny_llama, **FEW)
    assert seen == [(1, 16)] * 4
    assert got.decode.value is got.time_per_output_token.value is None


def test_quantized_models_run(tiny_llama):
    assert ek.profile(ek.quantize(tiny_llama, bits=4, group_size=32), **FEW).decode.value > 0


def test_the_whole_window_fits(tiny_llama):
    assert ek.profile(tiny_llama, prompt=254, new_tokens=2, repeats=1, warmup=0).decode.value > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": 0}, "prompt is 0. Allowed: a whole number of at least 1."),
        ({"prompt": 2.5}, "prompt is 2.5. Allowed: a whole number of at least 1."),
        ({"new_tokens": 0}, "new_tokens is 0. Allowed: a whole number of at least 1."),
        ({"batch": -1}, "batch is -1. Allowed: a whole number of at least 1."),
        ({"repeats": 0}, "repeats is 0. Allowed: a whole number of at least 1."),
        ({"warmup": -1}, "warmup is -1. Allowed: a whole number of at least 0."),
        (
            {"prompt": 250, "new_tokens": 7},
            "prompt is 250 tokens and new_tokens is 7, 257 in all. This model reads at most 256 at once. "
            "Choose a shorter prompt or fewer new tokens.",
        ),
    ],
)
def test_bad_input(tiny_llama, calls, given, message):
    seen = calls(tiny_llama)
    with pytest.raises(BadInput) as caught:
        ek.profile(tiny_llama, **given)
    assert str(caught.value) == message
    assert seen == []


def test_a_classifiers_prompt_that_is_too_long(tiny_classifier):
    with pytest.raises(BadInput, match=r"prompt is 129 tokens\. This model reads at most 128 at once\. Choose a shorter prompt\."):
        ek.profile(tiny_classifier, prompt=129)


def test_one_event_before_every_pass(tiny_llama, calls):
    seen = calls(tiny_llama)
    events, passes = [], []
    for event in ek.profile.work(tiny_llama, **FEW):
        events.append(event)
        passes.append(len(seen))
    assert passes == [e.done for e in events] == list(range(16))
    assert {e.total for e in events} == {16}
    assert [e.message for e in events] == ["warm-up"] * 4 + ["measuring"] * 12
    assert set(events[-1].metrics) == {"first_token_ms", "ms"}


def test_cancel_leaves_the_model_as_it_was(tiny_llama):
    tiny_llama.module.train()
    for stop in range(1, 12):
        work = ek.profile.work(tiny_llama, **FEW)
        for _ in range(stop):
            next(work)
        assert not tiny_llama.module.training
        assert not torch.is_inference_mode_enabled()
        work.close()
        assert all(m.training for m in tiny_llama.module.modules())


def test_out_of_memory_is_one_error(tiny_llama):
    tiny_llama.module.get_submodule("model.norm").register_forward_hook(lambda *_: torch.empty(1 << 55, dtype=torch.uint8))
    with pytest.raises(OutOfMemory, match="Out of memory on cpu while profiling with batch 1"):
        ek.profile(tiny_llama, **FEW)


def test_the_base_takes_turns_and_a_slower_model_says_so(tiny_llama, calls, clockwork):
    base = tiny_llama.clone()
    order = []
    for name, model in (("model", tiny_llama), ("base", base)):
        model.module.register_forward_pre_hook(
            lambda _, __, given, name=name: order.append((name, given["input_ids"].shape[1])), with_kwargs=True
        )
    clockwork(tiny_llama, lambda number, _: 0.025 + 0.001 * (number // 3 % 2))
    clockwork(base, lambda *_: 0.020)
    got = ek.profile(tiny_llama, base, prompt=16, new_tokens=3, repeats=3, warmup=1)
    turn = [16, 1, 1]
    assert order == [(name, tokens) for _ in range(4) for name in ("model", "base") for tokens in turn]
    assert got.speed_ratio.value == pytest.approx((20 / 26 * 20 / 25 * 20 / 26) ** (1 / 3))
    assert got.speed_ratio.low < got.speed_ratio.value < got.speed_ratio.high < 1
    assert got.slower == "decodes 0.779 times as fast as its base"
    turned = ek.profile(base, tiny_llama, prompt=16, new_tokens=3, repeats=3, warmup=1)
    assert turned.speed_ratio.value > 1
    assert turned.slower is None
    alone = ek.profile(tiny_llama, tiny_llama, **FEW)
    assert alone.speed_ratio.value is None
    assert alone.slower is None


def test_a_slower_classifier_answers(tiny_classifier, clockwork):
    base = tiny_classifier.clone()
    clockwork(tiny_classifier, lambda *_: 0.05)
    clockwork(base, lambda *_: 0.02)
    got = ek.profile(tiny_classifier, base, prompt=32, repeats=2, warmup=0)
    assert got.slower == "answers 0.4 times as fast as its base"


def test_a_base_of_another_task_is_refused(tiny_llama, tiny_classifier):
    with pytest.raises(BadInput, match="the model is a causal-lm model and the base a sequence-classification model"):
        ek.profile(tiny_llama, tiny_classifier, **FEW)
