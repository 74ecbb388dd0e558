"""Cards without runs: what they refuse, what they say, what they hold."""

from __future__ import annotations

import gc
import re

import pytest

from effkit.models.ledger import Entry, Ledger
from effkit.spec.errors import BadInput
from effkit.spec.recipe import Quantize, Recipe
from effkit_widgets import ByteLedger, DistillLab, FrontierBoard, QuantizeLab, RunMonitor
from effkit_widgets._base import short_name

from .records import family, record


def ledger(scale: int = 1) -> Ledger:
    rows = [("model.embed_tokens", "weight", "embeddings", 400), ("model.norm", "weight", "norms", 4)]
    for i in range(3):
        rows += [
            (f"model.layers.{i}.self_attn.q_proj", "weight", "attention", 100 * scale),
            (f"model.layers.{i}.mlp.up_proj", "weight", "mlp", 200),
        ]
    return Ledger(tuple(Entry(m, t, c, b, (b // 4,), "float32") for m, t, c, b in rows), weights=300)


def test_the_package_offers_these_cards():
    import effkit_widgets

    cards = [
        "ByteLedger", "CostCard", "DistillLab", "FrontierBoard", "FrontierExplorer", "LayerMap", "MethodTable", "QuantizeLab", "Receipt",
        "Roofline", "RunMonitor", "StackCompare", "TimeBreakdown", "TokenLens",
    ]  # fmt: skip
    assert effkit_widgets.__all__ == cards == dir(effkit_widgets)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrontierBoard([], colour=1), "the option of FrontierBoard is 'colour'. Allowed: 'cost', 'quality', 'records', 'x', 'y'."),
        (lambda: FrontierBoard([], qality=1), "Did you mean 'quality'?"),
        (lambda: ByteLedger(ledger(), bas=1), "the option of ByteLedger is 'bas'"),
        (lambda: RunMonitor(None, speed=1), "the option of RunMonitor is 'speed'"),
        (lambda: QuantizeLab(None, bits=4), "the option of QuantizeLab is 'bits'"),
        (lambda: DistillLab(None, steps=4), "the option of DistillLab is 'steps'"),
        (lambda: FrontierBoard([], x="size"), "x is 'size'. Allowed: 'retained', "),
        (lambda: FrontierBoard([], quality=0), "quality is 0. Allowed: a share of the base above 0"),
        (lambda: FrontierBoard(["a"]), "a str is among the records. Allowed: records, as ek.measure returns them"),
        (lambda: ByteLedger("a"), "model_or_ledger is a str. Allowed: a Model or a Ledger. ek.load(...) gives a Model"),
        (lambda: RunMonitor("a"), "the run is a str. Allowed: a Run. ek.start(verb, ...)"),
        (lambda: QuantizeLab("a"), "the model is a str. Allowed: a Model. ek.load(...) gives one."),
        (lambda: DistillLab("a"), "the teacher is a str. Allowed: a Model. ek.load(...) gives one."),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(make, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        make()


def test_a_repr_is_the_configuration_and_no_address():
    assert repr(FrontierBoard(family())) == repr(FrontierBoard([])) == "FrontierBoard(x='bytes', y='retained')"
    assert repr(ByteLedger(ledger())) == "ByteLedger('model')"
    assert repr(ByteLedger(ledger(), base=ledger(2))) == "ByteLedger('compressed', base='base')"
    bundle = FrontierBoard(family())._repr_mimebundle_()
    assert "FrontierBoard(x='bytes', y='retained')" in str(bundle)


def test_no_machine_path_is_shown():
    assert short_name("/home/someone/models/stories") == "stories"
    assert short_name("HuggingFaceTB/SmolLM2") == "HuggingFaceTB/SmolLM2"
    assert short_name("smollm2-135m") == "smollm2-135m"


def test_the_board_holds_every_figure_with_its_interval():
    board = FrontierBoard(family())
    four = next(p for p in board.points if p["name"] == "4-bit")
    assert four["kind"] == "quantized"
    assert four["figures"]["bytes"] == [150_000, None, None]
    value, low, high = four["figures"]["retained"]
    assert value == pytest.approx(0.8)
    assert low < value < high
    assert "peak_memory" not in four["figures"], "what was not measured is not sent as a number"
    assert [p["kind"] for p in board.points] == ["base", "quantized", "quantized", "pruned", "distilled"]


def test_the_board_names_what_the_data_cannot_tell_apart():
    twin = record("4-bit again", Recipe(steps=(Quantize(bits=4, symmetric=True),)), 140_000, 0.8, 29, seed=2)
    points = {p["name"]: p for p in FrontierBoard([*family(), twin]).points}
    assert points["4-bit"]["ties"] == {kind: [points["4-bit again"]["n"]] for kind in ("nll", "kl", "agreement")}
    assert points["8-bit"]["ties"] == {}


def test_the_sentence_follows_the_budget_and_the_axes():
    board = FrontierBoard(family())
    assert board.sentence.startswith("Yes: 8-bit keeps 99.0% at 27.0% of the stored bytes")
    board.budgets = {"x": 200_000.0, "y": 0.9}
    assert (board.quality, board.cost) == (pytest.approx(0.9), pytest.approx(0.2))
    assert board.sentence.startswith("No: nothing measured here keeps 90% of the base's quality at 20%")
    board.axes = {"x": "output_token_ms", "y": "perplexity", "xlog": False, "ylog": False}
    board.budgets = {"x": 100 / 3 * 2, "y": 40.0}
    assert (board.quality, board.cost) == (pytest.approx(0.5), pytest.approx(2.0))
    board.axes = {**board.axes, "y": "kl"}  # the base's KL is zero: no share of it exists
    assert "the base is zero" in board.sentence
    assert FrontierBoard([]).sentence == "Nothing has been measured on these axes yet."
    assert "the base is not among them" in FrontierBoard(family()[1:]).sentence


def test_records_land_while_the_board_is_shown():
    first, *others = family()
    board = FrontierBoard([first])
    assert board.sentence == "Only the base, base, has been measured so far."
    for other in others:
        board.add(other)
    assert [p["name"] for p in board.points] == [r.name for r in family()]
    board.add(others[0].model_copy(update={"name": "renamed"}))
    assert len(board.records) == 5
    assert board.points[-1]["name"] == "renamed"
    board.selected = [others[1].id, "unknown"]
    assert [r.name for r in board.selected_records] == ["4-bit"]
    with pytest.raises(BadInput):
        board.add("a record")


def test_names_reach_the_page_as_they_are():
    """Escaping is the page's part (text nodes, see test_kit); nothing may be dropped or changed on the way."""
    name = '<img src=x onerror="alert(1)">'
    board = FrontierBoard([record(name)])
    assert board.points[0]["name"] == name
    assert "onerror" not in repr(board)


def test_the_ledger_card_loses_no_byte():
    small, base = ledger(), ledger(2)
    shown = ByteLedger(small, base=base).config["models"]
    assert [m["total"] for m in shown] == [base.total, small.total]
    for m, given in zip(shown, (base, small), strict=True):
        assert sum(m["categories"].values()) == given.total
        layers = sum(sum(parts.values()) for _, parts in m["layers"])
        assert layers == given.total - 404
        assert [index for index, _ in m["layers"]] == [0, 1, 2]


def test_the_ledger_card_of_a_model(tiny_llama):
    card = ByteLedger(tiny_llama)
    assert card.config["models"][0]["total"] == tiny_llama.stored_bytes
    assert repr(card) == f"ByteLedger({short_name(tiny_llama.checkpoint.source)!r})"


def test_a_closed_card_can_be_forgotten():
    import weakref

    board = FrontierBoard(family())
    gone = weakref.ref(board)
    board.close()
    del board
    gc.collect()
    assert gone() is None
