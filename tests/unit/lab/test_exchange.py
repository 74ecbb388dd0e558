"""Records in files: what is written is read back, and an archive that would do harm is refused before anything is unpacked."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import effkit as ek
from effkit.models.files.stamp import read_record, stamp_
from effkit.spec.errors import BadInput, CannotWrite
from effkit.spec.sharing import shareable

TEXT = "The machine measures what it keeps and what it costs. " * 60
QUICK = {"on": TEXT, "window": 64, "windows": 3, "prompt": 16, "new_tokens": 4, "repeats": 2, "store": False}
METADATA = "ro-crate-metadata.json"


@pytest.fixture(scope="module")
def records(tiny_llama_folder):
    base = ek.load(tiny_llama_folder, device="cpu")
    small = ek.quantize(base, group_size=32)
    return tuple(shareable(r) for r in (ek.measure(base, **QUICK), ek.measure(small, base, name="<b>four</b> bits", **QUICK)))


def zipped(path, files: dict[str, bytes | str], **modes: int):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = modes.get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return path


def contents(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_records_come_back_from_json_and_from_a_crate(records, tmp_path):
    assert ek.read_records(ek.write_records(records[0], tmp_path / "one.json")) == records[:1]
    assert ek.read_records(ek.write_records(records, tmp_path / "two.json")) == records
    assert ek.read_records(ek.write_records(records, tmp_path / "crate.zip")) == records
    again = ek.write_records(records, tmp_path / "again.zip")
    assert again.read_bytes() == (tmp_path / "crate.zip").read_bytes()
    with pytest.raises(BadInput, match=r"ends in '.csv'"):
        ek.write_records(records, tmp_path / "two.csv")
    with pytest.raises(BadInput, match="there are no records"):
        ek.write_records([], tmp_path / "none.zip")
    with pytest.raises(BadInput, match=f"holds 2 records: {records[0].id[:12]} .*effkit replay FILE --record ID"):
        ek.replay(tmp_path / "two.json")
    with pytest.raises(BadInput, match="there are no records"):
        ek.write_records([], tmp_path / "none.json")
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(BadInput, match=r"none\.json' holds no record"):
        ek.replay(tmp_path / "none.json")


def test_whatever_holds_records_is_written(records, tmp_path):
    store = ek.Store(tmp_path / "s.sqlite")
    for record in records:
        store.add(record)
    found = ek.Exploration(objectives=("bytes", "retained"), base=records[0])
    for what, count in ((store, 2), (found, 1), ([tmp_path / "one.json", records[1]], 2), (tmp_path / "one.json", 1)):
        ek.write_records(records[0], tmp_path / "one.json")
        assert ek.read_records(ek.write_records(what, tmp_path / "out.json")) == records[:count]
    for what, says in ((3, "a int holds no records"), ([3], "a int is among the records"), (None, "a NoneType holds no records")):
        with pytest.raises(BadInput, match=says):
            ek.write_records(what, tmp_path / "out.json")
    with pytest.raises(BadInput, match="a tuple is given for a file"):
        ek.replay(records)


@pytest.mark.parametrize("name", ["r.json", "r.html", "r.zip", "r.safetensors", "x" * 300 + ".json"])
def test_what_may_not_be_read_is_said(tmp_path, monkeypatch, name):
    """Permissions do not stop root, who may run this test."""

    def refuse(*given, **options):
        raise PermissionError(13, "Permission denied")

    if len(name) < 200:
        (tmp_path / name).write_bytes(b"{}" * 20)
        for opening in ("pathlib.Path.open", "pathlib.Path.read_text", "zipfile.ZipFile.__init__"):
            monkeypatch.setattr(opening, refuse)
    with pytest.raises(BadInput, match=r"(cannot be read|is not a record) \(.*(Permission denied|too long)"):
        ek.read_records(tmp_path / name)


def test_a_newer_record_asks_for_a_newer_effkit(records, tmp_path):
    newer = {**json.loads(records[0].to_json()), "version": 2, "news": 1}
    (tmp_path / "newer.json").write_text(json.dumps([json.loads(records[1].to_json()), newer]))
    with pytest.raises(BadInput, match=r"newer.json: the version of this record is 2\. .*Update effkit"):
        ek.read_records(tmp_path / "newer.json")


def test_a_crate_says_what_the_specification_asks_for(records, tmp_path, tiny_llama_folder):
    files = contents(ek.write_records(records, tmp_path / "crate.zip", licence="https://spdx.org/licenses/CC-BY-4.0"))
    document = json.loads(files[METADATA])
    assert document["@context"] == "https://w3id.org/ro/crate/1.2/context"
    graph = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(graph) == len(document["@graph"])
    descriptor, root = graph[METADATA], graph["./"]
    assert (descriptor["@type"], descriptor["about"], descriptor["conformsTo"]) == (
        "CreativeWork", {"@id": "./"}, {"@id": "https://w3id.org/ro/crate/1.2"}
    )  # fmt: skip
    assert root["@type"] == "Dataset"
    assert root["license"] == "https://spdx.org/licenses/CC-BY-4.0"
    assert root["datePublished"] == max(record.created for record in records)[:10]
    assert root["name"]
    assert root["description"]
    assert {part["@id"] for part in root["hasPart"]} == set(files) - {METADATA}
    for record in records:
        action = graph[f"#measuring-{record.id}"]
        part = graph[action["result"]["@id"]]
        assert action["@type"] == "CreateAction"
        assert action["endTime"] == part["dateCreated"] == record.created
        assert part["@type"] == "File"
        assert int(part["contentSize"]) == len(files[part["@id"]])
        tools = {graph[tool["@id"]]["name"]: graph[tool["@id"]]["version"] for tool in action["instrument"]}
        assert tools["torch"] == torch.__version__
        assert graph[action["object"]["@id"]]["identifier"] == f"sha256:{record.checkpoint.hash}"
    values = [v for entity in graph.values() for value in entity.values() for v in (value if isinstance(value, list) else [value])]
    references = [v["@id"] for v in values if isinstance(v, dict)]
    assert {r for r in references if not r.startswith("https:")} <= graph.keys()
    assert str(tiny_llama_folder.parent) not in files[METADATA].decode()


def test_a_crate_of_another_program_is_read(records, tmp_path):
    files = contents(ek.write_records(records, tmp_path / "crate.zip"))
    document = json.loads(files[METADATA])
    document["@graph"] = [{"@id": "photo.jpg", "@type": ["File", "ImageObject"]}, *reversed(document["@graph"])]
    files |= {METADATA: json.dumps(document).encode(), "photo.jpg": b"no photo", "folder/": b""}
    assert set(record.id for record in ek.read_records(zipped(tmp_path / "other.zip", files))) == {record.id for record in records}


@pytest.mark.parametrize("name", ["../outside.json", "/etc/outside", "a/../../b", "C:/outside", "..\\outside", "\\outside"])
def test_names_that_point_outside_are_refused(records, tmp_path, name):
    files = contents(ek.write_records(records, tmp_path / "crate.zip"))
    with pytest.raises(BadInput, match="points outside it"):
        ek.read_records(zipped(tmp_path / "trap.zip", {**files, name: b"{}"}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["crate.zip", "trap.zip"]


def test_a_listed_file_outside_is_never_opened(records, tmp_path):
    files = contents(ek.write_records(records[:1], tmp_path / "crate.zip"))
    (tmp_path / "secret.json").write_text(records[1].to_json())
    document = json.loads(files[METADATA])
    for entity in document["@graph"]:
        if entity["@type"] == "File":
            entity["@id"] = "../secret.json"
    with pytest.raises(BadInput, match=r"has no '../secret.json'"):
        ek.read_records(zipped(tmp_path / "trap.zip", {**files, METADATA: json.dumps(document)}))


def test_links_bombs_and_doubles_are_refused(records, tmp_path):
    files = contents(ek.write_records(records, tmp_path / "crate.zip"))
    with pytest.raises(BadInput, match="a link"):
        ek.read_records(zipped(tmp_path / "link.zip", {**files, "link": "/etc/passwd"}, link=stat.S_IFLNK | 0o777))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA, b" " * 25_000_000)
    with pytest.raises(BadInput, match="is too large"):
        ek.read_records(tmp_path / "bomb.zip")
    with zipfile.ZipFile(tmp_path / "bombs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(11):
            archive.writestr(f"{i}", b" " * 20_000_000)
    with pytest.raises(BadInput, match="holds 11 files of 220 MB"):
        ek.read_records(tmp_path / "bombs.zip")
    with zipfile.ZipFile(tmp_path / "double.zip", "w") as archive:
        archive.writestr(METADATA, files[METADATA])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(METADATA, files[METADATA])
    with pytest.raises(BadInput, match="two files of one name"):
        ek.read_records(tmp_path / "double.zip")


def test_broken_archives_are_refused(records, tmp_path):
    whole = ek.write_records(records, tmp_path / "crate.zip").read_bytes()
    broken = tmp_path / "broken.zip"
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match=r"broken.zip cannot be read"):
            ek.read_records(broken)
    for at in range(0, len(whole), 97):  # a byte that flipped anywhere: the records, or a refusal
        broken.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            assert ek.read_records(broken) == records
        except BadInput:
            continue
    files = contents(tmp_path / "crate.zip")
    for metadata, what in ((b"{", "is not JSON"), (b"[]", "has no @graph"), (b'{"@graph": []}', "lists no effkit record")):
        with pytest.raises(BadInput, match=what):
            ek.read_records(zipped(broken, {**files, METADATA: metadata}))
    with pytest.raises(BadInput, match=f"has no '{METADATA}'"):
        ek.read_records(zipped(broken, {"a": b""}))
    with pytest.raises(BadInput, match="is not JSON"):
        ek.read_records(zipped(broken, {METADATA: files[METADATA], **{n: b"\xff" for n in files if n != METADATA}}))


def test_files_that_are_no_records(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"name": "x"}')
    for name, what in (
        ("a.json", "is not a record"),
        ("b.json", "checkpoint is missing"),
        ("c.json", "there is no file"),
        (".", "no record"),
    ):
        with pytest.raises(BadInput, match=what):
            ek.read_records(tmp_path / name)


def test_a_safetensors_file_carries_its_record(records, tmp_path, tiny_llama_folder):
    small = ek.quantize(ek.load(tiny_llama_folder, device="cpu"), group_size=32)
    folder = small.save(tmp_path / "model")
    file = folder / "model.safetensors"
    with pytest.raises(BadInput, match="carries no record"):
        read_record(folder)
    before = load_file(file)
    for record in records:  # a second one takes the place of the first
        stamp_(folder, record)
        assert read_record(file) == record
    assert ek.read_records(folder) == ek.read_records(file) == records[1:]
    after = load_file(file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["format"] == "pt"
    assert torch.equal(ek.load(folder).logits([[5, 6, 7]]), small.logits([[5, 6, 7]]))


def test_a_record_is_read_without_torch_and_without_weights(records, tmp_path, tiny_llama_folder):
    folder = ek.load(tiny_llama_folder, device="cpu").save(tmp_path / "model")
    stamp_(folder, records[0])
    whole = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    assert end % 8 == 0
    (tmp_path / "head.safetensors").write_bytes(whole[:end])
    code = (
        "import sys, effkit as ek; r = ek.read_records(sys.argv[1]); ek.write_records(r, sys.argv[2]); "
        "print(r[0].id, ek.read_records(sys.argv[2]) == r, 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "head.safetensors"), str(tmp_path / "c.zip")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout.split() == [records[0].id, "True", "False"]


def test_damaged_headers_and_a_full_disk(records, tmp_path, monkeypatch):
    file = tmp_path / "m.safetensors"
    for content in (b"", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]", b"PK\x03\x04" * 4):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="no valid header"):
            read_record(file)
    file.write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setattr("effkit.spec.files.free_bytes", lambda path: 10)
    with pytest.raises(CannotWrite, match="are free"):
        stamp_(file, records[0])
    assert file.read_bytes() == (2).to_bytes(8, "little") + b"{}"
