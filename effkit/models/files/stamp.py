"""The record of a model inside its own safetensors file: what it keeps and what it costs travels with the weights.

A safetensors file begins with the length of its header and the header, JSON whose "__metadata__" maps strings to strings
(github.com/huggingface/safetensors). The header is read without the weights, and written by copying the weights' bytes
behind a new one: every tensor keeps its place relative to the header's end. Imports no torch.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.files import atomic_file, parsed
from effkit.spec.record import Record
from effkit.spec.sharing import shareable

KEY = "effkit.record"
HEADER_LIMIT = 100_000_000  # the format's own
ALIGN = 8


def read_record(path: str | Path) -> Record:
    """The record in a safetensors file (or in the folder around model.safetensors); no weight is read. BadInput if there is none."""
    path = _file(path)
    kept = _header(path)[0].get("__metadata__", {})
    text = kept.get(KEY) if isinstance(kept, dict) else None
    if not isinstance(text, str):
        raise BadInput(f"{path.name} carries no record", "Allowed: a safetensors file that `effkit run` or `stamp_` wrote one into")
    return Record.from_json(text)


def stamp_(path: str | Path, record: Record) -> Path:
    """Write `record` into the safetensors file at `path`, in place of an earlier one, without the folders of this
    machine (spec/sharing.py). The weights keep every bit; whole or not at all."""
    path = _file(path)
    header, start = _header(path)
    kept = header.get("__metadata__")
    metadata = {**(kept if isinstance(kept, dict) else {}), KEY: shareable(record).model_dump_json()}
    text = json.dumps({"__metadata__": metadata, **{name: v for name, v in header.items() if name != "__metadata__"}}).encode()
    text += b" " * (-len(text) % ALIGN)
    if len(text) > HEADER_LIMIT:
        raise BadInput(
            f"the record has {bytes_text(len(text))}", f"The header of a safetensors file holds at most {bytes_text(HEADER_LIMIT)}"
        )
    with atomic_file(path, needs=path.stat().st_size + len(text)) as part:
        with path.open("rb") as old, part.open("wb") as new:
            new.write(len(text).to_bytes(8, "little"))
            new.write(text)
            old.seek(start)
            shutil.copyfileobj(old, new, 1 << 22)
        part.chmod(path.stat().st_mode & 0o777)
    return path


def write_tensors(tensors: dict[str, Any], path: Path) -> None:
    """A safetensors file. OSError with the system's own number where it is refused, as Python's files raise it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # safetensors reports the system's error as text; give it back its number, so that it is told like all others
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def _file(path: str | Path) -> Path:
    path = Path(path).expanduser()
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"there is no file {str(path)!r}", "Allowed: a safetensors file, or a folder with model.safetensors")
    return path


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the weights begin."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 0 < length <= min(HEADER_LIMIT, size - 8) else b""
    try:
        header = parsed(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise BadInput(f"{path.name} has no valid header", "Allowed: a whole safetensors file", "Download or save it again")
    return header, 8 + length
