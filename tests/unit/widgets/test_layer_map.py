"""LayerMap: the page's solver is Python's, hand-set bits stay, and a verification measures what the page shows."""

from __future__ import annotations

import asyncio
import random
import statistics

import pytest

import effkit as ek
from effkit.compress.quantization.rounding import relative_error
from effkit.spec.allocation import Choice, Sensitive, Sensitivity
from effkit.spec.errors import BadInput
from effkit_widgets import LayerMap

from .test_kit import needs_node, run
from .test_live import click, points

TEXT = " ".join(f"the quick brown fox {i} jumps over the lazy dog" for i in range(400))
FEW = {"window": 64, "windows": 2}


@pytest.fixture
def found(tiny_llama):
    return ek.sensitivity(tiny_llama, TEXT, group_size=32, samples=2, window=64)


@pytest.fixture
def card(tiny_llama, found):
    return LayerMap(tiny_llama, found, on=TEXT, quantizing={"group_size": 32}, measuring=FEW)


def made_up(seed: int, modules: int = 211) -> Sensitivity:
    """As large as a 135M model's: 30 layers of 7 modules and an embedding, with errors that are not always convex."""
    draw = random.Random(seed)
    out = []
    for i in range(modules):
        weights = draw.choice((110_592, 331_776, 884_736, 28_311_552))
        kls = sorted((draw.lognormvariate(-6, 2) * 4.0**-bits for bits in (2, 3, 4, 5, 6, 8)), reverse=True)
        choices = [Choice(bits=b, bytes=weights * b // 8 + weights // 16, kl=k) for b, k in zip((2, 3, 4, 5, 6, 8), kls, strict=True)]
        choices.append(Choice(bits=16, bytes=weights * 4, kl=0.0))
        out.append(Sensitive(module=f"layers.{i}.m", kind="mlp", layer=i, weights=weights, choices=tuple(choices)))
    return Sensitivity(source="toy", text="t", group_size=64, modules=tuple(out), fixed_bytes=70_000, scale=1.3)


@needs_node
def test_the_page_solves_as_python_does_and_in_time():
    found = made_up(1)
    draw = random.Random(2)
    cells = [{"name": m.module, "choices": [[c.bits, c.bytes, c.kl] for c in m.choices]} for m in found.modules]
    asked = []
    for _ in range(40):
        pins = {draw.randrange(len(cells)): draw.choice((2, 3, 4, 5, 6, 8, 16)) for _ in range(draw.randrange(6))}
        asked.append([int(found.smallest * (found.largest / found.smallest) ** draw.random()), pins])
    given = {"map": {"modules": cells, "fixed": found.fixed_bytes, "scale": found.scale}, "asked": asked}
    told = run(
        "(() => { const solver = allocator(given.map); return given.asked.map(([bytes, pins]) => { const begun = performance.now();"
        " const a = solver.allocate(bytes, pins), spent = performance.now() - begun;"
        " return a && [a.bits, a.bytes, a.kl, spent, solver.at(a.bits).kl]; }); })()",
        "allocation",
        given=given,
    )
    spent = []
    for (bytes, pins), answer in zip(asked, told, strict=True):
        fixed = {found.modules[i].module: bits for i, bits in pins.items()}
        try:
            expected = found.allocate(bytes, fixed)
        except BadInput:
            assert answer is None
            continue
        assert answer[0] == list(expected.bits.values())
        assert answer[1] == expected.bytes
        assert answer[2] == pytest.approx(expected.kl, rel=1e-12)
        assert answer[4] == answer[2]
        spent.append(answer[3])
    assert statistics.median(spent) < 50, "milliseconds; one of them may have waited for a processor"
    assert run("[allocator(given.map).smallest, allocator(given.map).largest]", "allocation", given=given) == [
        found.smallest,
        found.largest,
    ]


def test_it_begins_with_four_bits_worth_of_bytes(card, found, tiny_llama):
    four = found.at({m.module: 4 for m in found.modules})
    assert card.choice["budget"] == four.bytes
    assert card.allocation == found.allocate(four.bytes)
    assert card.allocation.kl <= four.kl
    assert card.config["base_bytes"] == tiny_llama.stored_bytes == found.largest
    assert [cell["name"] for cell in card.map["modules"]] == [m.module for m in found.modules]
    cell = next(c for c in card.map["modules"] if c["name"].endswith("layers.1.self_attn.q_proj"))
    assert (cell["layer"], cell["column"], cell["path"]) == (1, "q", "self_attn.q_proj")
    embedding = card.map["modules"][0]
    assert (embedding["layer"], embedding["tied"]) == (None, True)
    assert LayerMap(tiny_llama, found, budget=found.smallest).bits == found.allocate(found.smallest).bits


def test_bits_set_by_hand_stay_when_the_budget_moves(card, found):
    name = found.modules[3].module
    before = card.allocation
    assert card.set_bits(name, 8).bits == {**before.bits, name: 8}
    assert card.choice["budget"] is None
    moved = card.allocate(found.smallest + 12_000)
    assert moved.bits[name] == 8
    assert moved == found.allocate(found.smallest + 12_000, {name: 8})
    assert card.allocation == moved
    assert card.choice["pinned"] == [name]
    freed = card.set_bits(name, None)
    assert freed == found.allocate(found.smallest + 12_000)
    assert card.choice["pinned"] == []
    with pytest.raises(BadInput, match="has no choice of 7 bits"):
        card.set_bits(name, 7)
    with pytest.raises(BadInput, match="is too small"):
        card.allocate(found.smallest - 1)
    card.choice = {**card.choice, "bits": {"no.such": 4}}  # as a page might
    assert "no.such" in card.problem["what"]
    card.choice = {"bits": freed.bits, "pinned": [], "budget": None}
    assert card.problem == {}


def test_verify_quantizes_with_these_bits_and_puts_the_measurement_beside_the_prediction(card, found, tiny_llama):
    name = found.modules[2].module

    async def main():
        card._loop = asyncio.get_running_loop()
        chosen = card.set_bits(name, 2)
        click(card, "start", choice={"bits": card.bits})
        small = await card
        assert small is card.result
        return chosen, small

    chosen, small = asyncio.run(main())
    assert card.problem == {}
    assert small.stored_bytes == chosen.bytes
    assert small.recipe.steps[0].module_bits == chosen.bits
    assert {p.module: p.bits for p in small.plans[-1].acting()} == {k: v for k, v in chosen.bits.items() if v != 16}
    (row,) = card.verified
    assert (row["bytes"], row["predicted"], row["bits"]) == (chosen.bytes, chosen.kl, chosen.bits)
    assert row["kl"][0] == card.quality.kl.mean.value == ek.evaluate(small, tiny_llama, TEXT, floor=False, **FEW).kl.mean.value
    assert small.recipe.steps[0].method == "search"  # which the predictions are made for
    assert card.allocation.kl == pytest.approx(row["kl"][0])  # what was measured sets the scale of what follows
    assert card.map["scale"] == card.sensitivity.scale == pytest.approx(row["kl"][0] / chosen.kl)
    xs, ys = points(card.history, "error")
    errors = dict(zip(xs, ys, strict=True))
    assert sorted(errors) == [i for i, m in enumerate(found.modules) if chosen.bits[m.module] != 16]
    for i, error in errors.items():  # each error is that of its own module
        exact = tiny_llama.module.get_submodule(found.modules[int(i)].module).weight
        stored = small.module.get_submodule(found.modules[int(i)].module).packed.dequantized(slice(0, len(exact)))
        assert error == pytest.approx(relative_error(stored, exact), rel=1e-4)
    card.verify()
    card.wait(120)
    assert len(card.verified) == 1  # the same bits again replace their row


def test_without_a_sensitivity_the_button_finds_it(tiny_llama, found):
    card = LayerMap(tiny_llama, quantizing={"group_size": 32})
    assert card.sensitivity is None
    assert {c["name"] for c in card.map["modules"]} == {m.module for m in found.modules}
    for ask in (card.verify, lambda: card.allocate(1), lambda: card.allocation):
        with pytest.raises(BadInput, match="the sensitivities are not known yet"):
            ask()
    click(card, "start")
    assert card.wait(120) is card.sensitivity
    assert card.problem == {}
    assert card.allocation.bits.keys() == found.allocate(found.largest).bits.keys()
    assert repr(card) == "LayerMap('tiny-llama')"


def test_refusals(tiny_llama, found):
    with pytest.raises(BadInput, match="the model is a str"):
        LayerMap("tiny")
    with pytest.raises(BadInput, match="the sensitivity is a dict"):
        LayerMap(tiny_llama, {})
    with pytest.raises(BadInput, match=r"the sensitivity of toy names 'layers\.0\.m'"):
        LayerMap(tiny_llama, made_up(1))
    with pytest.raises(BadInput, match=r"the option in quantizing is 'metod'.*Did you mean 'method'"):
        LayerMap(tiny_llama, found, quantizing={"metod": "rtn"})
    with pytest.raises(BadInput, match="the option in quantizing is 'module_bits'"):
        LayerMap(tiny_llama, found, quantizing={"module_bits": {}})
    with pytest.raises(BadInput, match="there is nothing to quantize"):
        LayerMap(ek.quantize(tiny_llama, group_size=32), found)
