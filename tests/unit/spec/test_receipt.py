"""A receipt says all that a replay compares, names what the record lacks, and shows no one's folders."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from widgets.records import family, record

from effkit.spec.receipt import receipt_of
from effkit.spec.recipe import Recipe
from effkit.spec.record import Fingerprint


def everything(receipt) -> dict[str, str]:
    return {f"{heading}/{label}": value for heading, rows in receipt.groups for label, value in rows}


def complete(name: str = "4-bit"):
    made = next(one for one in family() if one.name == name)
    return made.model_copy(
        update={
            "checkpoint": made.checkpoint.model_copy(update={"source": "smollm2-135m", "revision": "r1", "licence": "Apache-2.0"}),
            "fingerprint": Fingerprint(steps=made.recipe.steps_hash(), seed=3, weights="w" * 64, device="cpu (toy)", dtype="float32"),
            "environment": {"effkit": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.13.0", "numpy": None}, "cores": 2, "threads": 1,
                            "processor": "Toy", "system": "Linux", "revision": "abc123"},
            "quality": made.quality.model_copy(update={"text_source": "pydoc_data.topics of Python 3.11.7"}),
        }
    )  # fmt: skip


def test_a_receipt_names_all_that_a_replay_compares():
    made = complete()
    told = everything(receipt_of(made))
    for expected in (
        made.checkpoint.hash,
        "r1",
        "Apache-2.0",
        made.recipe.hash(),
        "w" * 64,
        made.quality.text,
        "2.13.0",
        "3.11.7",
        "abc123",
        "Toy",
    ):
        assert expected in told.values(), expected
    assert "numpy" not in " ".join(told)
    assert receipt_of(made).missing == ()
    assert Recipe.from_json(told["Recipe/as JSON"]) == made.recipe


def test_what_the_record_does_not_say_is_named():
    folder = "/home/somebody/models/mine"
    made = record("base")
    made = made.model_copy(update={"checkpoint": made.checkpoint.model_copy(update={"source": folder})})
    receipt = receipt_of(made)
    assert [sentence.split(",")[0].split(":")[0] for sentence in receipt.missing] == [
        "the base 'mine'", "the text it was measured on", "nothing more"
    ]  # fmt: skip
    assert "somebody" not in str(receipt)


def test_commands_name_the_file_that_the_reader_has():
    made = complete()
    assert receipt_of(made).command == "effkit replay record.json"
    told = receipt_of(made, "my page.html")
    assert told.command == f"effkit replay 'my page.html' --record {made.id[:12]}"
    compile(told.code, "code", "exec")
    assert f"r.id == {made.id!r}" in told.code


@pytest.mark.parametrize("file", ["it's.html", "a;rm -rf b.html", "$(x).html"])
def test_a_file_name_cannot_become_a_command(file):
    import shlex

    assert shlex.split(receipt_of(complete(), file).command)[2] == file


def test_the_plain_text_holds_every_line():
    receipt = receipt_of(complete())
    text = str(receipt)
    assert text.startswith("4-bit, recorded on cpu (toy), ")
    assert all(value in text for _, rows in receipt.groups for _, value in rows)
    assert receipt.command in text
