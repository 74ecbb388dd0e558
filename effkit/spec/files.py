"""Writing so that a crash, a full disk or a second process never leaves half a file; reading JSON that anyone may have written.

Everything goes to a temporary sibling first and is renamed at the end (POSIX rename is atomic).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BadInput, CannotWrite, bytes_text

_SHORT = re.compile(r"requested and \d+ written")  # how numpy tells of a full disk, without the system's number
NESTED = 100  # levels of JSON; a record has 8


@contextlib.contextmanager
def atomic_file(path: str | Path, needs: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any failure it is removed.

    `needs` (bytes) is compared with the free space first. Raises CannotWrite: no space, read-only, not a folder.
    """
    path = Path(path)
    with writing(path, needs):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            yield part
            _sync(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, needs: int = 0) -> Iterator[Path]:
    """Like `atomic_file` for a whole folder. An existing folder at `path` is replaced only at the end."""
    path = Path(path)
    with writing(path, needs):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            yield part
            part.chmod(0o755)
            for file in part.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                old = part.with_suffix(".old")
                path.rename(old)
                try:
                    part.rename(path)
                except OSError:
                    old.rename(path)
                    raise
                shutil.rmtree(old)
            else:
                part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_file(path, needs=len(text)) as part:
        part.write_text(text, encoding="utf-8")


def parsed(text: str | bytes) -> Any:
    """What JSON from anywhere says. ValueError for all that is none, also where it is nested too deeply for Python to read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_writable(data: Any, where: str) -> None:
    """Raise BadInput for what could be read but not written again: half a surrogate pair, a number that is none, nesting without end."""
    for level in levels(data, where):
        for value in level:
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise BadInput(f"{where} holds the text {value[:80]!r}", "Allowed: text that UTF-8 can hold")
            if isinstance(value, float) and not math.isfinite(value):
                raise BadInput(f"{where} holds the number {value}", "Allowed: finite numbers")


def levels(data: Any, where: str) -> Iterator[list[Any]]:
    """All values of plain data, level by level. Raises BadInput past NESTED of them, where what recurses would break."""
    level, depth = [data], 0
    while level:
        yield level
        holders = [value for value in level if isinstance(value, dict | list | tuple)]
        level = [inner for held in holders for inner in ([*held, *held.values()] if isinstance(held, dict) else held)]
        depth += 1
        if depth > NESTED:
            raise BadInput(f"{where} is nested more than {NESTED} levels deep", "Allowed: what to_json() writes")


@contextlib.contextmanager
def writing(path: Path, needs: int = 0) -> Iterator[None]:
    """Turn the system's errors about `path` into CannotWrite, which says what to do."""
    try:
        if needs and (free := free_bytes(path)) < needs:
            raise CannotWrite(
                f"Cannot write {path}: it needs {bytes_text(needs)} and {bytes_text(free)} are free. "
                "Free some space or choose another folder."
            )
        yield
    except OSError as error:
        if isinstance(error, CannotWrite):
            raise
        reason = {
            errno.ENOSPC: "the disk is full. Free some space or choose another folder",
            errno.EDQUOT: "the disk quota is used up. Free some space or choose another folder",
            errno.EFBIG: "a file may not grow that large here. Choose another folder",
            errno.EROFS: "the file system is read-only. Choose another folder",
            errno.EACCES: "permission denied. Choose a folder that you may write to",
            errno.EPERM: "permission denied. Choose a folder that you may write to",
            errno.ENOTDIR: "a part of the path is a file. Choose another folder",
            errno.EEXIST: "a part of the path is a file. Choose another folder",
            errno.EISDIR: "it is a folder. Choose another name",
            errno.ENOTEMPTY: "it is a folder. Choose another name",
            errno.ENAMETOOLONG: "the name is too long. Choose a shorter one",
        }.get(error.errno or (errno.ENOSPC if _SHORT.search(str(error)) else 0))
        if reason is None:
            raise
        raise CannotWrite(f"Cannot write {path}: {reason}.") from error


def free_bytes(path: Path) -> int:
    """Free bytes where `path` is or will be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def upgrade(data: dict[str, Any], version: int, what: str) -> dict[str, Any]:
    """Bring plain data of an older version up to `version`. A newer one is refused with what to do."""
    given = data.get("version", version)
    if not isinstance(given, int) or given < 1:
        raise BadInput(f"the version of this {what} is {given!r}", f"Allowed: 1 to {version}")
    if given > version:
        raise BadInput(f"the version of this {what} is {given}", f"This effkit reads versions 1 to {version}", "Update effkit to read it")
    return {**data, "version": version}


def content_hash(data: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of `data`."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
