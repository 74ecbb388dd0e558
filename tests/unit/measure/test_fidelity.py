"""evaluate against independent computations, its orderings, its yardstick, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

import effkit as ek
from effkit.models.texts import datasets
from effkit.spec.errors import BadInput
from effkit.spec.progress import finish

FEW = {"window": 64, "windows": 4}


def windows_of(model, text, window=64, windows=4):
    return datasets.windows(datasets.read_text(text), model, window, windows)


def log_probabilities(model, ids):
    with torch.inference_mode():
        return torch.log_softmax(model.module(input_ids=ids).logits[:, :-1].double(), -1)


def test_perplexity_is_transformers_own(tiny_llama, text):
    ids = windows_of(tiny_llama, text)
    with torch.inference_mode():
        losses = [tiny_llama.module(input_ids=window[None], labels=window[None]).loss.double() for window in ids]
    got = ek.evaluate(tiny_llama, on=text, **FEW)
    assert got.perplexity.value == pytest.approx(math.exp(torch.stack(losses).mean()), rel=1e-5)
    assert got.perplexity.low < got.perplexity.value < got.perplexity.high
    assert (got.kl, got.floor, got.indistinguishable) == (None, None, None)
    assert got.base_perplexity.value is got.perplexity_ratio.value is got.agreement.value is None


def test_perplexity_of_a_trained_model(stories15m):
    """Of its own kind of text stories15m thinks well, of technical English badly."""
    model = ek.load(str(stories15m), device="cpu")
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine. " * 20
    assert 1 < ek.evaluate(model, on=story, window=64, windows=2).perplexity.value < 10
    assert ek.evaluate(model, window=64, windows=2).perplexity.value > 100


def test_kl_and_agreement_are_torchs_own(tiny_llama, noisy, text):
    model = noisy(tiny_llama, 0.2)
    ids = windows_of(tiny_llama, text)
    p, q = log_probabilities(tiny_llama, ids), log_probabilities(model, ids)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    for _ in range(2):  # the second time from the kept outputs
        got = ek.evaluate(model, tiny_llama, on=text, **FEW)
        assert got.kl.mean.value == pytest.approx(kl.mean().item(), abs=1e-6)
        assert got.kl.median.value == pytest.approx(kl.quantile(0.5).item(), abs=1e-5)
        assert got.kl.p90.value == pytest.approx(kl.quantile(0.9).item(), abs=1e-5)
        assert got.kl.p99.value == pytest.approx(kl.quantile(0.99).item(), abs=1e-5)
        assert got.agreement.value == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
        ratio = math.exp(ids_loss(q, ids) - ids_loss(p, ids))
        assert got.perplexity_ratio.value == pytest.approx(ratio, rel=1e-6)
        assert got.perplexity.value / got.base_perplexity.value == pytest.approx(ratio, rel=1e-6)


def ids_loss(log_probabilities, ids) -> float:
    return -log_probabilities.gather(-1, ids[:, 1:, None]).mean().item()


def test_a_tiny_kl_keeps_its_digits(tiny_llama, noisy, text):
    model = noisy(tiny_llama, 0.004)
    ids = windows_of(tiny_llama, text)
    p, q = log_probabilities(tiny_llama, ids), log_probabilities(model, ids)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean().item()
    assert 1e-6 < expected < 1e-3
    assert ek.evaluate(model, tiny_llama, on=text, **FEW).kl.mean.value == pytest.approx(expected, rel=0.01)


def test_second_time_gives_the_same_numbers(tiny_llama, noisy, text):
    model = noisy(tiny_llama, 0.2)
    first, second = (ek.evaluate(model, tiny_llama, on=text, **FEW) for _ in range(2))
    assert first.model_copy(update={"seconds": 0.0}) == second.model_copy(update={"seconds": 0.0})
    assert first.seconds > 0


def test_batches_do_not_matter(tiny_llama, noisy, text):
    model = noisy(tiny_llama, 0.2)
    one, many = (ek.evaluate(model, tiny_llama, on=text, batch=batch, floor=False, **FEW) for batch in (1, 3))
    assert one.kl.mean.value == pytest.approx(many.kl.mean.value, abs=1e-6)
    assert one.perplexity.value == pytest.approx(many.perplexity.value, rel=1e-5)
    assert len(many.blocks.kl) == many.windows == 4


@pytest.mark.parametrize("copy", [False, True])
def test_a_model_against_itself(tiny_llama, text, copy):
    got = ek.evaluate(tiny_llama.clone() if copy else tiny_llama, tiny_llama, on=text, **FEW)
    assert 0 <= got.kl.mean.value < 1e-7
    assert got.agreement.value == 1
    assert got.perplexity_ratio.value == 1
    assert got.indistinguishable is True
    assert got.retained == 1


def test_fewer_bits_are_further_away(tiny_llama, text):
    found = [ek.evaluate(ek.quantize(tiny_llama, bits=b, group_size=32), tiny_llama, on=text, **FEW) for b in (8, 4, 2)]
    kl = [q.kl.mean for q in found]
    assert kl[0].value < kl[1].value < kl[2].value
    assert kl[0].high < kl[1].low < kl[1].high < kl[2].low
    assert found[0].agreement.value > found[1].agreement.value > found[2].agreement.value
    assert found[2].indistinguishable is False
    assert found[0].agreement.high <= 1


def test_floor_is_what_bfloat16_changes(tiny_llama, noisy, text):
    ids = windows_of(tiny_llama, text)
    p, q = log_probabilities(tiny_llama, ids), log_probabilities(tiny_llama.to(dtype="bfloat16"), ids)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean().item()
    got = ek.evaluate(noisy(tiny_llama, 0.2), tiny_llama, on=text, **FEW)
    assert got.floor.kl.value == pytest.approx(expected, rel=0.02)
    assert got.floor.dtype == "bfloat16"
    assert got.floor.agreement.value <= 1
    assert got.indistinguishable is False
    rounded = ek.evaluate(tiny_llama.to(dtype="bfloat16"), tiny_llama, on=text, **FEW)
    assert rounded.kl.mean.value == pytest.approx(got.floor.kl.value, rel=1e-6)
    assert rounded.indistinguishable is True
    assert ek.evaluate(noisy(tiny_llama, 0.2), tiny_llama, on=text, floor=False, **FEW).floor is None


def test_floor_of_a_bfloat16_base_is_the_same_rounding_seen_from_the_other_side(tiny_llama, text):
    base = tiny_llama.to(dtype="bfloat16")
    got = ek.evaluate(base.clone(), base, on=text, **FEW)
    assert got.floor.dtype == "bfloat16"
    assert got.floor.kl.value > 1e-6
    assert got.kl.mean.value < 1e-7


def test_without_bfloat16_the_floor_is_unavailable_and_says_so(tiny_llama, text, monkeypatch):
    import dataclasses

    from effkit.models.model import Model

    narrow = dataclasses.replace(tiny_llama.device, dtypes=("float32", "float16"))
    monkeypatch.setattr(Model, "device", narrow)
    events = list(ek.evaluate.work(tiny_llama.clone(), tiny_llama, on=text, **FEW))
    assert "the noise floor is unavailable: cpu computes in no bfloat16" in events[-1].message
    assert ek.evaluate(tiny_llama, tiny_llama, on=text, **FEW).floor is None


def test_losses_tell_models_apart_even_within_the_floor(tiny_llama, noisy, text):
    """A large change is distinguishable by its loss alone, without a floor."""
    worse = noisy(tiny_llama, 3.0)
    got = ek.evaluate(worse, tiny_llama, on=text, floor=False, window=64, windows=30)
    assert not got.perplexity_ratio.low <= 1 <= got.perplexity_ratio.high
    assert got.indistinguishable is False


def test_what_it_read(tiny_llama, text, tmp_path):
    got = ek.evaluate(tiny_llama, tiny_llama, on=text, window=100, windows=3)
    assert (got.window, got.windows, got.tokens) == (100, 3, 297)
    assert got.text == datasets.read_text(text).hash
    assert len(got.blocks.nll) == len(got.blocks.kl) == len(got.blocks.agreement) == got.perplexity.n == 6
    assert got.blocks.tokens == 49
    file = tmp_path / "text.txt"
    file.write_text(text)
    assert ek.evaluate(tiny_llama, on=file, **FEW).perplexity == ek.evaluate(tiny_llama, on=[text], **FEW).perplexity
    assert ek.Quality.model_validate_json(got.model_dump_json()) == got


def test_default_text_is_there_offline(tiny_llama):
    assert "pydoc_data" in ek.evaluate(tiny_llama, **FEW).text_source


def test_classifier(tiny_classifier, noisy):
    texts = [f"report {i}: the {'pump' if i % 2 else 'valve'} was {'dry' * i}" for i in range(12)]
    model = noisy(tiny_classifier, 0.3)
    with torch.inference_mode():
        p, q = (
            torch.cat([torch.log_softmax(m.module(**m.tokenizer(t, return_tensors="pt")).logits.double(), -1) for t in texts])
            for m in (tiny_classifier, model)
        )
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    got = ek.evaluate(model, tiny_classifier, on=texts, window=64)
    assert got.kl.mean.value == pytest.approx(expected.mean().item(), abs=1e-6)
    assert got.blocks.kl == pytest.approx(expected.tolist(), abs=1e-5)
    assert got.agreement.value == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert got.perplexity.value is got.perplexity_ratio.value is None
    assert got.retained == got.agreement.value
    assert (got.tokens, got.windows, got.blocks.tokens) == (12, 12, 1)
    batched = ek.evaluate(model, tiny_classifier, on=texts, window=64, batch=5)
    assert batched.kl.mean.value == pytest.approx(got.kl.mean.value, abs=1e-6)
    assert ek.evaluate(tiny_classifier, tiny_classifier, on=texts, window=64).indistinguishable is True


def test_classifier_reads_the_lines_of_a_file(tiny_classifier, tmp_path):
    file = tmp_path / "reports.txt"
    file.write_text("first report\n\nsecond report\nthird\n")
    assert ek.evaluate(tiny_classifier, tiny_classifier, on=file, window=64).windows == 3


def test_long_texts_of_a_classifier_are_cut(tiny_classifier):
    assert ek.evaluate(tiny_classifier, tiny_classifier, on=["word " * 400, "short"], window=32).windows == 2


def test_progress(tiny_llama, noisy, text, calls):
    """An event before the first pass and one after each; the running KL ends at the result's."""
    model = noisy(tiny_llama, 0.2)
    base_calls, model_calls = calls(tiny_llama), calls(model)
    work, events, passes = ek.evaluate.work(model, tiny_llama, on=text, floor=False, **FEW), [], []
    try:
        while True:
            events.append(next(work))
            passes.append(len(base_calls) + len(model_calls))
    except StopIteration as end:
        quality = end.value
    assert passes == list(range(9))
    assert [e.done for e in events] == list(range(9))
    assert {e.total for e in events} == {8}
    assert events[-1].metrics["kl"] == pytest.approx(quality.kl.mean.value)
    assert events[-1].metrics["perplexity"] == pytest.approx(quality.perplexity.value)
    assert {"base", "model"} == {e.details["pass"] for e in events[1:]}


def test_cancel_and_failure_leave_the_models_as_they_were(tiny_llama, noisy, text):
    model = noisy(tiny_llama, 0.2)
    model.module.train()
    part = model.module.get_submodule("model.layers.1")
    part.eval()
    before = [m.training for m in model.module.modules()]
    for stop in range(1, 9):
        work = ek.evaluate.work(model, tiny_llama, on=text + str(stop), **FEW)  # nothing of it is kept yet
        for _ in range(stop):
            next(work)
        assert not any(m.training for m in model.module.modules())
        assert not torch.is_inference_mode_enabled()
        work.close()
        assert [m.training for m in model.module.modules()] == before
    finish(ek.evaluate.work(model, tiny_llama, on=text, **FEW))
    assert [m.training for m in model.module.modules()] == before


def test_random_state_is_not_touched(tiny_llama, noisy, text):
    model = noisy(tiny_llama, 0.2)
    state = torch.get_rng_state()
    ek.evaluate(model, tiny_llama, on=text, **FEW)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 1}, "window is 1. Allowed: a whole number of at least 2."),
        ({"window": True}, "window is True. Allowed: a whole number of at least 2."),
        ({"window": 64.0}, "window is 64.0. Allowed: a whole number of at least 2."),
        ({"window": 257}, "window is 257 tokens. The model reads at most 256 at once. Choose at most 256."),
        ({"windows": 0}, "windows is 0. Allowed: a whole number of at least 1."),
        ({"windows": "4"}, "windows is '4'. Allowed: a whole number of at least 1."),
        ({"batch": 0}, "batch is 0. Allowed: a whole number of at least 1."),
        ({"on": ""}, "the text (given text) is empty"),
        ({"on": " \n "}, "the text (given text) is empty"),
        ({"on": []}, "is empty"),
        ({"on": "too short"}, "the text (given text) has 9 tokens, fewer than one window of 64."),
        ({"on": "no/such/file.txt"}, "there is no text file 'no/such/file.txt'"),
    ],
)
def test_bad_input(tiny_llama, text, given, message):
    with pytest.raises(BadInput) as caught:
        ek.evaluate(tiny_llama, **{"on": text, **FEW, **given})
    assert message in str(caught.value)


def other_vocabulary(tokenizer, tmp_path, size: int):
    """A tiny Llama with `size` outputs and this tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer.save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=128
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return ek.load(str(tmp_path), device="cpu")


def test_a_base_of_another_kind(tiny_llama, tiny_classifier, tmp_path, stories15m, text):
    with pytest.raises(BadInput, match="the model is a causal-lm model and the base a sequence-classification model"):
        ek.evaluate(tiny_llama, tiny_classifier, on=text, **FEW)
    with pytest.raises(BadInput, match="the model's vocabulary has 259 tokens and the base's 300"):
        ek.evaluate(tiny_llama, other_vocabulary(tiny_llama.tokenizer, tmp_path, 300), on=text, **FEW)
    with pytest.raises(BadInput, match="the model's vocabulary has 259 tokens and the base's 32000"):
        ek.evaluate(tiny_llama, ek.load(str(stories15m), device="cpu"), on=text, **FEW)


def test_same_size_but_other_tokens(tiny_llama, tmp_path, text):
    base = other_vocabulary(tiny_llama.tokenizer, tmp_path, 259)
    vocabulary = base.tokenizer.get_vocab()
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    swapped = {token: (i if i < 3 else 261 - i) for token, i in vocabulary.items()}
    tokenizer = Tokenizer(models.BPE(vocab=swapped, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    with pytest.raises(BadInput, match="cut the same text into different tokens"):
        ek.evaluate(tiny_llama, base, on=text, **FEW)


@pytest.mark.parametrize("broken", ["model", "base"])
def test_logits_that_are_no_numbers(tiny_llama, text, broken, home):
    bad = tiny_llama.clone()
    bad.module.get_submodule("model.norm").weight.data[3] = math.nan
    model, base = (bad, tiny_llama) if broken == "model" else (tiny_llama, bad)
    with pytest.raises(BadInput) as caught:
        ek.evaluate(model, base, on=text, **FEW)
    assert str(caught.value) == (
        f"the {broken} gives logits that are not finite numbers (window 1 of 4). They must be finite to be compared. "
        "Check its weights for NaN and overflow."
    )
    assert broken == "model" or not list(home.rglob("*.safetensors"))


def test_out_of_memory_is_one_error(tiny_llama, text):
    """The operating system refuses a real allocation in the middle of a pass."""
    from effkit.spec.errors import OutOfMemory

    model = tiny_llama.clone()
    model.module.get_submodule("model.norm").register_forward_hook(lambda *_: torch.empty(1 << 55, dtype=torch.uint8))
    model.module.train()
    with pytest.raises(OutOfMemory, match="Out of memory on cpu while computing logits"):
        ek.evaluate(model, tiny_llama, on=text, **FEW)
    assert model.module.training
