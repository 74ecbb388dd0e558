"""TokenLens on a tiny model: what the page is told is what compare_tokens finds, and what cannot be compared."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import effkit as ek
from effkit.spec.errors import BadInput
from effkit_widgets import TokenLens

from .test_kit import needs_node, run
from .test_live import click, until

TEXT = "the quick <b>brown</b> fox\njumps"


@pytest.fixture
def small(tiny_llama):
    return ek.quantize(tiny_llama, bits=3, group_size=32)


def test_the_page_is_told_what_was_compared(tiny_llama, small):
    lens = TokenLens(tiny_llama, small, TEXT, top=3)
    assert lens.run is not None  # it began by itself, and the cell did not wait
    found = lens.wait(120)
    assert found is lens.comparison
    assert found == ek.compare_tokens(small, tiny_llama, TEXT, top=3)
    assert "".join(row[0] for row in lens.tokens) == TEXT  # as text: the page makes text nodes of it
    assert lens.tokens[0][1:] == [None, None, None, None, []]
    for row, one in zip(lens.tokens[1:], found.tokens[1:], strict=True):
        assert row[1:5] == [one.kl, one.base_nll, one.nll, one.agree]
        assert row[5] == [[c.text, c.base, c.model] for c in one.candidates]
        assert 3 <= len(row[5]) <= 6
    assert lens.state["name"] == "done"
    assert repr(lens) == f"TokenLens('tiny-llama', {small.recipe.label()!r})"


def test_another_text_from_the_page(tiny_llama, small):
    async def main():
        lens = TokenLens(tiny_llama, small, TEXT)
        lens._loop = asyncio.get_running_loop()
        await lens
        click(lens, "start", text="another text")
        await until(lambda: "".join(row[0] for row in lens.tokens) == "another text")
        assert "".join(row[0] for row in lens.tokens) == lens.text == "another text"
        click(lens, "start", text="a")
        await until(lambda: lens.problem)
        assert lens.problem["what"] == "the text has 1 tokens"
        assert lens.text == "another text"

    asyncio.run(main())


def test_what_cannot_be_compared_is_refused_at_once(tiny_llama, small, tiny_classifier):
    with pytest.raises(BadInput, match="compressed is a str"):
        TokenLens(tiny_llama, "small", TEXT)
    with pytest.raises(BadInput, match="the base is a sequence-classification model"):
        TokenLens(tiny_classifier, small, TEXT)
    with pytest.raises(BadInput, match="the text has 999 tokens"):
        TokenLens(tiny_llama, small, "a" * 999)
    with pytest.raises(BadInput, match=r"the option of TokenLens is 'topp'. .*Did you mean 'top'"):
        TokenLens(tiny_llama, small, TEXT, topp=3)


@needs_node
def test_ink_can_be_read_on_every_colour_and_more_is_further_from_the_ground():
    grey = (
        "(c) => { const l = luminance(c), i = inkOn(c) === '#000000' ? 0 : 1; return (Math.max(l, i) + 0.05) / (Math.min(l, i) + 0.05); }"
    )
    assert min(run(f"Array.from({{ length: 101 }}, (_, i) => ({grey})(viridis(i / 100)))", "heat")) >= 4.5
    for theme, sign in (("light", -1), ("dark", 1)):
        bright = run(f"Array.from({{ length: 20 }}, (_, i) => luminance(heat(i / 19, '{theme}')))", "heat")
        assert all((b - a) * sign > 0 for a, b in itertools.pairwise(bright))
    assert run("[logShare(1, 1, 100), logShare(10, 1, 100), logShare(100, 1, 100), logShare(0, 1, 100)]", "heat") == [0, 0.5, 1, 0]
