"""Records as an RO-Crate: a zip with the records and ro-crate-metadata.json, which says in schema.org's words what they are,
what they were measured with and from which checkpoint. Archives of research read that without knowing effkit.

RO-Crate 1.2 (w3id.org/ro/crate/1.2; Soiland-Reyes et al. 2022, Data Science 5:97). A crate from elsewhere is read in memory,
never unpacked: names that point outside it, links, and contents far larger than their archive are refused.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import lzma
import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.files import atomic_file, parsed
from effkit.spec.places import short_name
from effkit.spec.record import Record

METADATA = "ro-crate-metadata.json"
SPEC = "https://w3id.org/ro/crate/1.2"
PROFILE = "#effkit-record"
FILE_LIMIT, TOTAL_LIMIT, COUNT_LIMIT = 20_000_000, 200_000_000, 10_000
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError, ValueError)  # zipfile raises all
UNSTATED = "No licence was stated. The checkpoints that the records name have licences of their own."


def write_crate(records: Sequence[Record], path: Path, licence: str | None = None) -> Path:
    """Write `records`, at least one, to the zip `path`, whole or not at all; the same records give the same bytes."""
    files = {f"records/{_safe(record.id)}.json": record for record in records}
    if len(files) != len(records):
        raise BadInput("two of the records have the same id", "Allowed: each record once")
    contents = {name: (record.to_json() + "\n").encode() for name, record in files.items()}
    graph = list(_graph(files, contents, licence))
    metadata = json.dumps({"@context": f"{SPEC}/context", "@graph": graph}, indent=2, ensure_ascii=False) + "\n"
    with atomic_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {METADATA: metadata.encode(), **contents}.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # no clock in the bytes
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return path


def read_crate(path: str | Path) -> tuple[Record, ...]:
    """The records of a crate that `write_crate` or another program wrote. BadInput: no zip, damaged, unsafe, no record in it."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked(archive, path)
            graph = _entities(_json(archive, entries.get(METADATA), path, METADATA), path)
            found = []
            for name in _record_names(graph):
                content = _json(archive, entries.get(name), path, name)
                found.append(Record.from_json(json.dumps(content)))
    except BadInput:
        raise
    except DAMAGE as error:
        raise BadInput(f"{path.name} cannot be read ({error})", "Allowed: a whole zip archive", "Download it again") from None
    if not found:
        raise BadInput(f"{path.name} lists no effkit record", f"Allowed: an RO-Crate with files that conform to {PROFILE}")
    return tuple(found)


def _safe(id: str) -> str:
    """A file name from a record's id, which may come from anyone."""
    return id if id.isascii() and id.isalnum() and len(id) <= 64 else hashlib.sha256(id.encode()).hexdigest()[:32]


def _graph(files: dict[str, Record], contents: dict[str, bytes], licence: str | None) -> Iterator[dict[str, Any]]:
    yield {"@id": METADATA, "@type": "CreativeWork", "about": _ref("./"), "conformsTo": _ref(SPEC)}
    names = ", ".join(dict.fromkeys(record.name for record in files.values()))
    yield {
        "@id": "./",
        "@type": "Dataset",
        "name": f"effkit: {len(files)} record{'s' if len(files) > 1 else ''} of compressed language models",
        "description": f"What each model keeps of its base and what it costs: {names}. `effkit replay` runs a record again.",
        "datePublished": max(record.created for record in files.values())[:10] or datetime.date(1970, 1, 1).isoformat(),
        "license": licence or UNSTATED,
        "hasPart": [_ref(name) for name in files],
        "mentions": [_ref(_action(record)) for record in files.values()],
    }
    yield {"@id": PROFILE, "@type": "CreativeWork", "name": "effkit record", "version": str(next(iter(files.values())).version)}
    tools: dict[str, dict[str, Any]] = {}
    bases: dict[str, dict[str, Any]] = {}
    for name, record in files.items():
        used = list(_tools(record))
        tools |= {tool["@id"]: tool for tool in used}
        base = _base(record)
        bases[base["@id"]] = base
        yield {
            "@id": name,
            "@type": "File",
            "name": record.name,
            "encodingFormat": "application/json",
            "contentSize": str(len(contents[name])),
            "dateCreated": record.created,
            "conformsTo": _ref(PROFILE),
        }
        yield {
            "@id": _action(record),
            "@type": "CreateAction",
            "name": f"measuring {record.name}",
            "endTime": record.created,
            "description": f"recipe {record.recipe.hash()} with seed {record.recipe.seed}: {record.recipe.label()}",
            "instrument": [_ref(tool["@id"]) for tool in used],
            "object": _ref(base["@id"]),
            "result": _ref(name),
        }
    yield from tools.values()
    yield from bases.values()


def _action(record: Record) -> str:
    return f"#measuring-{_safe(record.id)}"


def _tools(record: Record) -> Iterator[dict[str, Any]]:
    """effkit, Python and the libraries, in the versions that the record names."""
    surroundings = record.environment
    packages = surroundings.get("packages") if isinstance(surroundings.get("packages"), dict) else {}
    versions = {"effkit": surroundings.get("effkit"), "python": surroundings.get("python"), **(packages or {})}
    for name, version in versions.items():
        if version is not None:
            id = f"#software-{hashlib.sha256(f'{name} {version}'.encode()).hexdigest()[:12]}"
            yield {"@id": id, "@type": "SoftwareApplication", "name": str(name), "version": str(version)}


def _base(record: Record) -> dict[str, Any]:
    checkpoint = record.checkpoint
    base = {
        "@id": f"#checkpoint-{hashlib.sha256(checkpoint.hash.encode()).hexdigest()[:16]}",
        "@type": "CreativeWork",
        "name": short_name(checkpoint.source),
        "description": f"{checkpoint.architecture}, {checkpoint.parameters} parameters",
        "identifier": f"sha256:{checkpoint.hash}",
    }
    base |= {"version": checkpoint.revision} if checkpoint.revision else {}
    return base | ({"license": checkpoint.licence} if checkpoint.licence else {})


def _ref(id: str) -> dict[str, str]:
    return {"@id": id}


def _checked(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, refused as a whole if any is unsafe: an archive with one trap deserves no trust for the rest."""
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if len(entries) > COUNT_LIMIT or total > TOTAL_LIMIT:
        raise BadInput(
            f"{path.name} holds {len(entries)} files of {bytes_text(total)}",
            f"Allowed: at most {COUNT_LIMIT} files and {bytes_text(TOTAL_LIMIT)} unpacked",
        )
    for entry in entries:
        name = entry.orig_filename
        parts = name.replace("\\", "/").split("/")
        outside = not name or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise BadInput(
                f"{path.name} holds {name!r}, {'which points outside it' if outside else 'a link'}",
                "Allowed: plain files with names inside the crate",
                "Do not trust this file; ask where it comes from",
            )
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise BadInput(f"{path.name} holds two files of one name", "Allowed: each name once")
    return {entry.filename: entry for entry in entries}


def _json(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None, path: Path, name: str) -> Any:
    if entry is None:
        raise BadInput(f"{path.name} has no {name!r}", f"Allowed: an RO-Crate with {METADATA} and the files that it lists")
    with archive.open(entry) as stream:
        content = stream.read(FILE_LIMIT + 1)  # what the archive says of its size may be a lie
    if len(content) > FILE_LIMIT:
        raise BadInput(f"{name} in {path.name} is too large", f"Allowed: at most {bytes_text(FILE_LIMIT)}")
    try:
        return parsed(content)
    except ValueError as error:
        raise BadInput(f"{name} in {path.name} is not JSON ({error})", "Allowed: UTF-8 JSON") from None


def _entities(document: Any, path: Path) -> dict[str, dict[str, Any]]:
    graph = document.get("@graph") if isinstance(document, dict) else None
    if not isinstance(graph, list):
        raise BadInput(f"{METADATA} of {path.name} has no @graph", "Allowed: the metadata of an RO-Crate")
    return {entity["@id"]: entity for entity in graph if isinstance(entity, dict) and isinstance(entity.get("@id"), str)}


def _record_names(graph: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Files that say that they conform to an effkit record, in the order of the crate."""
    for id, entity in graph.items():
        kinds, profiles = entity.get("@type"), entity.get("conformsTo")
        profiles = profiles if isinstance(profiles, list) else [profiles]
        if "File" in (kinds if isinstance(kinds, list) else [kinds]) and _ref(PROFILE) in profiles:
            yield posixpath.normpath(unquote(id))
