"""compare_tokens against the definition of KL computed directly, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import effkit as ek
from effkit.measure.tokenwise import TokenComparison, compare_tokens, token_text
from effkit.spec.errors import BadInput

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
def small(tiny_llama):
    return ek.quantize(tiny_llama, bits=3, group_size=32)


def test_every_token_has_the_kl_and_the_probabilities_of_the_definition(tiny_llama, small):
    found = compare_tokens(small, tiny_llama, TEXT, top=4)
    ids = tiny_llama.tokens(TEXT)
    assert [one.token for one in found.tokens] == ids
    assert "".join(one.text for one in found.tokens) == TEXT
    assert (found.tokens[0].kl, found.tokens[0].agree, found.tokens[0].candidates) == (None, None, ())
    base = tiny_llama.logits([ids])[0].double().log_softmax(-1)
    ours = small.logits([ids])[0].double().log_softmax(-1)
    for i, one in enumerate(found.tokens[1:]):
        p, q = base[i].exp(), ours[i].exp()
        assert one.kl == pytest.approx(float((p * (base[i] - ours[i])).sum()), rel=1e-4, abs=1e-7)
        assert one.base_nll == pytest.approx(-float(base[i, ids[i + 1]]), rel=1e-5)
        assert one.nll == pytest.approx(-float(ours[i, ids[i + 1]]), rel=1e-5)
        assert one.agree == bool(p.argmax() == q.argmax())
        union = set(p.topk(4).indices.tolist()) | set(q.topk(4).indices.tolist())
        assert {c.token for c in one.candidates} == union
        assert [c.base for c in one.candidates] == sorted((c.base for c in one.candidates), reverse=True)
        for c in one.candidates:
            assert (c.base, c.model) == (pytest.approx(float(p[c.token]), rel=1e-4), pytest.approx(float(q[c.token]), rel=1e-4))
            assert c.text == token_text(tiny_llama.tokenizer, c.token)


def test_the_mean_is_what_evaluate_finds_on_the_same_tokens(tiny_llama, small):
    text = TEXT * 3
    found = compare_tokens(small, tiny_llama, text)
    whole = ek.evaluate(small, tiny_llama, [text], window=len(tiny_llama.tokens(text)), windows=1, floor=False)
    assert found.mean_kl == pytest.approx(whole.kl.mean.value, rel=2e-3)  # evaluate keeps the base's outputs in 16 bits
    assert found.agreement == pytest.approx(whole.agreement.value, abs=1e-9)


def test_a_model_against_itself_is_zero_everywhere(tiny_llama):
    found = compare_tokens(tiny_llama, tiny_llama, TEXT)
    assert {one.kl for one in found.tokens[1:]} == {0.0}
    assert found.agreement == 1.0
    assert all(c.base == c.model for one in found.tokens for c in one.candidates)
    assert TokenComparison.model_validate_json(found.model_dump_json()) == found


def test_events_and_refusals(tiny_llama, tiny_classifier, small):
    assert [e.done for e in compare_tokens.work(small, tiny_llama, TEXT)] == [0, 1, 2]
    with pytest.raises(BadInput, match=r"the text has 1 tokens. Allowed: 2 to 256. Give more text"):
        compare_tokens(small, tiny_llama, "a")
    with pytest.raises(BadInput, match=r"the text has 300 tokens. Allowed: 2 to 256. Give a part of it"):
        compare_tokens(small, tiny_llama, "a" * 300)
    with pytest.raises(BadInput, match="the base is a sequence-classification model"):
        compare_tokens(small, tiny_classifier, TEXT)
    with pytest.raises(BadInput, match=r"top is 0. Allowed: a whole number from 1 to 50"):
        compare_tokens(small, tiny_llama, TEXT, top=0)
    with pytest.raises(BadInput, match="the text is a list"):
        compare_tokens(small, tiny_llama, [TEXT])
    broken = tiny_llama.clone()
    broken.module.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(BadInput, match="the model gives logits that are not finite"):
        compare_tokens(broken, tiny_llama, TEXT)


def test_a_sentencepiece_token_keeps_its_space(stories15m):
    base = ek.load(str(stories15m), device="cpu")
    pieces = [token_text(base.tokenizer, t) for t in base.tokens("Once upon a time, there was")]
    assert "".join(pieces).strip() == "Once upon a time, there was"
    assert " upon" in pieces
