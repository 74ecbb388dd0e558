"""Records in and out of files: JSON, an RO-Crate, the metadata of a safetensors file, the folder of `effkit run`.

What is read may come from anyone: sizes are limited, archives are read in memory and never unpacked, and no code is run.
Imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from effkit.models.files.stamp import read_record
from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.exploration import Exploration
from effkit.spec.files import parsed, write_text
from effkit.spec.recipe import validated
from effkit.spec.record import Record
from effkit.spec.sharing import shareable

from ..pages.writing import read_page
from ..searching.folder import STUDY, read
from .crate import read_crate, write_crate

LIMIT = 100_000_000  # bytes of a JSON file
RESULT = "exploration.json"  # in the folder of `effkit explore`
ALLOWED = (
    "Allowed: record.json, the folder of effkit run or explore, an RO-Crate (.zip), a page of ek.share, "
    "or a safetensors file with a record in it"
)


def read_records(path: str | Path) -> tuple[Record, ...]:
    """The records in a file or folder: `record.json` (one record or a list), the folder of `effkit run` or of a search (`effkit explore`,
    ek.explore(study=...)), also while it goes on, an RO-Crate (.zip), a page of `ek.share`, a model's folder or safetensors file with
    its record. BadInput where there is none."""
    if not isinstance(path, str | Path):
        raise BadInput(f"a {type(path).__name__} is given for a file", ALLOWED)
    path = Path(os.path.expanduser(path))
    try:
        return _read(path)
    except OSError as error:
        raise BadInput(
            f"{str(path)[:200]!r} cannot be read ({error.strerror or error})", ALLOWED, "Check the path and its permissions"
        ) from None


def _read(path: Path) -> tuple[Record, ...]:
    if path.is_dir():
        if (path / "record.json").is_file():
            return _json(path / "record.json")
        if (path / "model.safetensors").is_file():
            return (read_record(path / "model.safetensors"),)
        if (found := read_exploration(path)) is not None:
            return found.records
        if (path / RESULT).is_file():
            return _json(path / RESULT)  # which says what is wrong with it
        raise BadInput(f"the folder {str(path)!r} holds no record", ALLOWED)
    if not path.is_file():
        raise BadInput(f"there is no file {str(path)!r}", ALLOWED, "Check the path")
    if path.suffix.lower() == ".safetensors":
        return (read_record(path),)
    if path.suffix.lower() == ".zip":
        return read_crate(path)
    if path.suffix.lower() in (".html", ".htm"):
        return read_page(path)
    return _json(path)


def records_of(
    what: Any, allowed: str = "Allowed: records, as ek.measure returns them and ek.Store holds them; files that hold some"
) -> list[Record]:
    """The records that a person means: a Record, several, whatever has `.records` (an ek.Store, an Exploration), files or folders."""
    if isinstance(what, Record | str | Path):
        several: Any = [what]
    else:
        several = getattr(what, "records", what)
        several = several() if callable(several) else several
    if not isinstance(several, Iterable):
        raise BadInput(f"a {type(what).__name__} holds no records", allowed)
    found: list[Record] = []
    for one in several:
        if isinstance(one, Record):
            found.append(one)
        elif isinstance(one, str | Path):
            found += read_records(one)
        else:
            raise BadInput(f"a {type(one).__name__} is among the records", allowed)
    return found


def read_exploration(path: str | Path) -> Exploration | None:
    """The whole exploration, with trials that failed or were stopped, in a file or folder of a search; None where it is none."""
    path = Path(os.path.expanduser(path))
    if (path / STUDY).is_file():
        return read(path)  # the trials themselves, which may be newer than what the last command wrote of them
    file = path / RESULT if path.is_dir() else path
    if file.suffix.lower() != ".json" or not file.is_file() or file.stat().st_size > LIMIT:
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # read_records says what is wrong with it
    return validated(Exploration, data, file.name) if isinstance(data, dict) and "trials" in data else None


def write_records(records: Any, path: str | Path, licence: str | None = None, *, folders: bool = False) -> Path:
    """Write records to `path`, whole or not at all: an RO-Crate where it ends in .zip, else JSON (a list unless it is one Record).

    records: one or several, whatever has `.records` (an ek.Store, what ek.explore found), or files that hold some. BadInput for none
    licence: under which the records are shared, for the crate
    folders: keep where the base and the texts lay on this machine, for a copy of your own; else others get names and hashes, and
             say where things lie there: replay(record, model=..., on=...)
    """
    path = Path(os.path.expanduser(path))
    several = records_of(records)
    if not several:
        raise BadInput("there are no records", "Allowed: at least one")
    several = several if folders else [shareable(record) for record in several]
    if path.suffix.lower() == ".zip":
        return write_crate(several, path, licence)
    if path.suffix.lower() != ".json":
        raise BadInput(f"the file {path.name!r} ends in {path.suffix!r}", "Allowed: .json, .zip (an RO-Crate)")
    data = [record.model_dump(mode="json") for record in several]
    write_text(path, json.dumps(data[0] if isinstance(records, Record) else data, indent=2) + "\n")
    return path


def _json(path: Path) -> tuple[Record, ...]:
    size = path.stat().st_size
    if size > LIMIT:
        raise BadInput(f"{path.name} has {bytes_text(size)}", f"Allowed: records of at most {bytes_text(LIMIT)} in one file")
    try:
        data = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is not a record ({error})", ALLOWED) from None
    if isinstance(data, dict) and "trials" in data:
        return validated(Exploration, data, path.name).records
    several = data if isinstance(data, list) else [data]
    return tuple(validated(Record, each, path.name) for each in several)
