"""Receipt: what it shows, and a button that really runs a record again and tells each figure's verdict."""

from __future__ import annotations

import asyncio

import pytest

import effkit as ek
from effkit.spec.errors import BadInput, Cancelled
from effkit_widgets import Receipt

from .records import family
from .test_live import click

TEXT = " ".join(f"the quick brown fox {i} jumps over the lazy dog" for i in range(300))


@pytest.fixture
def measured(tiny_llama):
    small = ek.quantize(tiny_llama, bits=4, group_size=32)
    record = ek.measure(small, tiny_llama, TEXT, window=32, windows=4, prompt=8, new_tokens=2, repeats=2, store=False)
    return record, {"model": tiny_llama, "on": TEXT, "speed": False}


def test_it_shows_each_record_and_chooses_one():
    records = family()
    card = Receipt(records, file="page.html")
    assert [one["name"] for one in card.receipts] == [one.name for one in records]
    assert card.chosen == records[0].id
    assert "page.html" in card.receipts[1]["command"]
    assert card.receipts[1]["plain"].startswith("8-bit, recorded on")
    assert repr(card) == "Receipt('base', '8-bit', '4-bit', 'half', 'student')"
    assert repr(Receipt(records[0])) == "Receipt('base')"


def test_mistakes_are_found_at_once():
    for given, words in (([], "there are no records"), ([1], "a int is among the records"), ("x", "a str is among the records")):
        with pytest.raises(BadInput, match=words):
            Receipt(given)
    with pytest.raises(BadInput, match="the option in replaying is 'sped'"):
        Receipt(family(), replaying={"sped": False})
    with pytest.raises(BadInput, match="the option of Receipt is 'colour'"):
        Receipt(family(), colour="red")
    with pytest.raises(BadInput, match="the record is 'nobody'"):
        Receipt(family()).run_again("nobody")


def test_it_runs_a_record_again_and_says_of_each_figure_whether_it_is_the_same(measured):
    record, replaying = measured
    card = Receipt(record, replaying=replaying)
    card.run_again()
    replay = card.wait(120)
    assert card.state["name"] == "done"
    told = card.outcomes[record.id]
    assert (told["ok"], told["same_weights"]) == (True, True)
    assert {f["figure"]: f["verdict"] for f in told["figures"]} == {o.figure: o.verdict for o in replay.outcomes}
    assert {f["verdict"] for f in told["figures"]} <= {"same", "within tolerance"}
    assert card.replays[record.id] == replay


def test_the_button_does_the_same_and_an_altered_record_is_told(measured):
    record, replaying = measured
    other = record.model_copy(update={"id": "other", "quality": record.quality.model_copy(update={"perplexity": ek.Estimate(value=1.5)})})
    card = Receipt([record, other], replaying=replaying)
    click(card, "start", record="other")
    card.wait(120)
    told = card.outcomes["other"]
    assert told["ok"] is False
    (wrong,) = [f for f in told["figures"] if f["verdict"] == "different"]
    assert wrong["figure"] == "perplexity"
    assert "may have been altered" in wrong["why"]
    assert record.id not in card.outcomes


def test_it_can_be_cancelled_and_refuses_two_at_once(measured, held):
    record, replaying = measured
    card = Receipt(record, replaying=replaying)

    async def both():
        card.run_again()
        with pytest.raises(BadInput, match="a record is being run again"):
            card.run_again()
        card.cancel()
        held.set()
        return await card

    with pytest.raises(Cancelled):
        asyncio.run(both())
    assert card.outcomes == {}


def test_an_error_of_the_replay_is_shown(measured):
    record, _ = measured
    card = Receipt(record.model_copy(update={"checkpoint": record.checkpoint.model_copy(update={"source": "nowhere"})}))
    click(card, "start", record=record.id)
    with pytest.raises(Exception, match="cannot be loaded"):
        card.wait(120)
    assert card.state["name"] == "failed"
    assert "cannot be loaded" in card.problem["what"]
