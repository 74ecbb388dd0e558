"""What leaves the machine names nothing of it, and is enough to run the result again elsewhere."""

from __future__ import annotations

import base64
import getpass
import gzip
import json
import platform
import re
import shutil
import zipfile
from pathlib import Path

import pytest

import effkit as ek
from effkit.compress.pipeline import compress
from effkit.models.files.stamp import stamp_
from effkit.spec.errors import BadInput
from effkit.spec.exploration import Exploration, Trial
from effkit.spec.receipt import receipt_of
from effkit.spec.sharing import shareable, texts_of, without_folders

TELLTALE = "tell tale Project-Kestrel"
TEXT = "The machine measures what it keeps and what it costs. " * 60
READ = "What the recipe reads is another text than the one that it is measured on. " * 60


@pytest.fixture(scope="module")
def author(tiny_llama_folder, tmp_path_factory):
    """A folder with a name that nobody else should read: base, text to measure on, text that the recipe reads."""
    folder = tmp_path_factory.mktemp("home") / TELLTALE
    shutil.copytree(tiny_llama_folder, folder / "base")
    (folder / "measured.txt").write_text(TEXT)
    (folder / "read.txt").write_text(READ)
    return folder


@pytest.fixture(scope="module")
def made(author):
    """The model of a recipe whose every step reads a file there."""
    read = str(author / "read.txt")
    rounding = ek.Quantize(method="search", group_size=32, calibration=read, samples=4, window=32)
    steps = (ek.Prune(layers=2, by="importance", text=read), ek.Distill(steps=2, window=16, batch=1, text=read), rounding)
    return compress(ek.load(author / "base", device="cpu"), ek.Recipe(steps=steps))


@pytest.fixture(scope="module")
def records(author, made):
    base = ek.load(author / "base", device="cpu")
    given = {"on": author / "measured.txt", "window": 64, "windows": 3, "prompt": 16, "new_tokens": 4, "repeats": 2, "store": False}
    return ek.measure(base, **given), ek.measure(made, base, **given)


def unfolded(page: Path) -> str:
    """A page with the data that it holds packed."""
    text = page.read_text(encoding="utf-8")
    packed = re.findall(r'<script type="application/octet-stream"[^>]*>([A-Za-z0-9+/=]+)<', text)
    assert len(packed) == 2
    return text + "".join(gzip.decompress(base64.b64decode(one)).decode() for one in packed)


def nothing_of(folder: Path, content: str) -> None:
    for word in ("Kestrel", "tell tale", str(folder), str(Path.home()) + "/", f"/{getpass.getuser()}/", platform.node()):
        assert len(word) < 5 or word not in content, word


def exports(folder: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in sorted(folder.rglob("*")) if file.is_file())


def test_what_leaves_the_machine_names_no_folder_of_it(author, made, records, tmp_path):
    assert all("Kestrel" in record.to_json() for record in records), "what stays here says where things lie"
    search = Exploration(
        objectives=("bytes", "retained"), base=records[0], folder=str(author), notes=(f"went on in {author}",),
        trials=(
            Trial(number=0, label="whole", draft=json.loads(made.recipe.to_json())["steps"][0], recipe=made.recipe, state="done",
                  values=(1.0, 1.0), record=records[1]),
            Trial(number=1, label="lost", draft={}, state="failed", reason=f"there is no text file '{author}/none.txt'"),
        ),
    )  # fmt: skip
    for number, what in enumerate((records, search)):
        nothing_of(author, unfolded(ek.share(what, tmp_path / f"{number}.html").path))
    cards = [ek_widgets().Receipt(list(records)), ek_widgets().FrontierExplorer(list(records))]
    nothing_of(author, unfolded(ek.share(records, tmp_path / "cards.html", cards=cards).path))
    with zipfile.ZipFile(ek.write_records(records, tmp_path / "crate.zip")) as crate:
        nothing_of(author, "".join(crate.read(name).decode() for name in crate.namelist()))
    nothing_of(author, ek.write_records(records, tmp_path / "records.json").read_text())
    assert ek.read_records(ek.write_records(records, tmp_path / "own.json", folders=True)) == records
    saved = made.save(tmp_path / "saved")
    stamp_(saved, records[1])
    nothing_of(author, (saved / "model.safetensors").read_bytes().decode("latin-1"))
    for record in records:
        nothing_of(author, str(receipt_of(record)) + receipt_of(record).model_dump_json())
    for format in ("effkit", "compressed-tensors"):
        ek.export(made, tmp_path / format, format)
        nothing_of(author, exports(tmp_path / format))
    assert ek.load(tmp_path / "effkit").recipe == shareable(made.recipe)


def ek_widgets():
    import effkit_widgets

    return effkit_widgets


def test_a_shared_record_replays_as_the_same_where_it_is_told_where_things_lie(author, records, tmp_path):
    page = ek.share(records, tmp_path / "page.html").path
    (shared,) = (one for one in ek.read_records(page) if one.recipe.steps)
    assert shared == shareable(shared) == shareable(records[1])
    assert texts_of(shared.recipe) == ("./read.txt",)
    assert shared.fingerprint.texts.keys() == {"./read.txt"}
    there = tmp_path / "elsewhere"
    shutil.copytree(author / "base", there / "other name")
    shutil.copy(author / "measured.txt", there / "m.txt")
    shutil.copy(author / "read.txt", there / "renamed.txt")
    (there / "read.txt").write_text("not this one. " * 200)
    with pytest.raises(BadInput, match=r"cannot be loaded from where it came from.*no model at './base'.*model="):
        ek.replay(shared, speed=False)
    with pytest.raises(BadInput, match=r"the text of .* is not here \(./measured.txt\)"):
        ek.replay(shared, there / "other name", data=there, speed=False)
    with pytest.raises(BadInput, match=r"the text 'read.txt', which the recipe of .* is not here.*whose hash is .*data="):
        ek.replay(shared, there / "other name", there / "m.txt", speed=False)
    done = ek.replay(shared, there / "other name", there / "m.txt", data=there, speed=False)
    assert done.changes == ()
    assert done.same_weights is True
    assert {outcome.verdict for outcome in done.outcomes} == {"same"}
    assert len(done.outcomes) >= 5
    wrong = ek.replay(shared, there / "other name", there / "m.txt", data=there / "read.txt", speed=False)
    assert [(change.kind, change.what) for change in wrong.changes] == [("data", "the text that a step reads, read.txt")]
    assert wrong.outcome("kl").causes == ("data",)


def test_the_command_says_what_it_needs_and_takes_it(author, records, tmp_path, capfd):
    from effkit.cli import main

    crate = ek.write_records(records[1], tmp_path / "crate.zip")
    (shared,) = ek.read_records(crate)
    assert [sentence.rpartition("--")[2] for sentence in receipt_of(shared).missing] == ["model FOLDER", "text FILE", "data FILE"]
    words = ["replay", str(crate), "--no-speed", "--model", str(author / "base"), "--text", str(author / "measured.txt")]
    assert main([*words, "--data", str(author)]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["same_weights"], {figure["verdict"] for figure in last["figures"].values()}) == (True, {"same"})


def test_a_record_that_was_altered_still_shows_it(records):
    other = records[1].recipe.model_copy(update={"steps": records[1].recipe.steps[1:]})
    shared = shareable(records[1].model_copy(update={"recipe": other}))
    assert shared.fingerprint.steps == records[1].fingerprint.steps != shared.recipe.steps_hash()
    assert shareable(records[1]).fingerprint.steps == shareable(records[1]).recipe.steps_hash()


def test_two_files_of_one_name_stay_two():
    steps = (ek.Prune(layers=2, text="/a/b/notes.txt"), ek.Quantize(method="gptq", calibration="private/notes.txt"))
    shared = shareable(ek.Recipe(steps=steps))
    assert texts_of(shared) == ("./notes.txt", "./2-notes.txt")
    named = ek.Recipe(steps=(ek.Prune(layers=2, text="generated-by.md"), ek.Quantize(method="gptq", calibration="generated")))
    assert texts_of(shareable(named)) == ("./generated-by.md",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("there is no text file '/home/x/my a/notes.txt'", "there is no text file './notes.txt'"),
        ("it lay in /home/jane/models/y, not in ~/z", "it lay in y, not in z"),
        ("/home/jane", "~"),
        (r"C:\Users\jane\y and D:/work/jane/z and \\server\jane\w", "y and z and w"),
        ("file:///srv/x/y.py:3", "y.py:3"),
        ("https://jane:secret@host/a/b?c", "https://host/a/b?c"),
        ("hf_" + "a1" * 12, "[token]"),
    ],
)
def test_folders_and_secrets_leave_a_sentence(given, told):
    assert without_folders(given) == told
    assert without_folders(told) == told


@pytest.mark.parametrize(
    "kept",
    ["30 tokens/s, 1/2 of a/b", "./notes.txt and ../x/y", "org/name", "</b></i> <a href='https://a/b/c'>", "base64,/9j/4AAQ/SkZ/AB+/x/y",
     "src=//evil/x.js", r"\d+\w", "KL(p || q) / 3 and 4 /a"],
)  # fmt: skip
def test_what_is_no_folder_stays(kept):
    assert without_folders(kept) == kept
