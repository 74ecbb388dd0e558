"""The base's outputs on a text, kept on disk so that the next model is compared without running the base again.

One folder a (base, text, window), one safetensors file a window, written whole or not at all; every file carries a
checksum. Nothing here ever fails: a file that is missing, damaged or of another layout is computed again, and where
nothing can be written the work goes on without, with the reason in `trouble`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from effkit.models.checks import raw_bytes
from effkit.spec.errors import BadInput, bytes_text
from effkit.spec.files import content_hash, free_bytes
from effkit.spec.places import cache_folder

LAYOUT = 1
LIMIT = 4_000_000_000
# Left free for everyone else: a cache must not take the last of a disk.
SPARE = 500_000_000


class Shelf:
    """Tensors by name under one key. `limit`: bytes that all keys together may take; the least recently used go first."""

    def __init__(self, key: str, limit: int | None = None, folder: Path | None = None) -> None:
        self.root = (folder or cache_folder()) / "reference"
        self.folder = self.root / key
        self.limit = limit_bytes() if limit is None else limit
        self.trouble = ""
        self._room = 0  # bytes that may be written before it is counted again what all keys hold

    def load(self, name: str, **shapes: tuple[int, ...]) -> dict[str, Tensor] | None:
        """The tensors saved as `name`, or None if there are none that are whole and have these shapes."""
        path = self._path(name)
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                whole = (file.metadata() or {}).get("crc32") == checksum(tensors)
            fits = all(key in tensors and tuple(tensors[key].shape) == shape for key, shape in shapes.items())
            if whole and fits:
                os.utime(self.folder)
                return tensors
            path.unlink()
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError):
            with contextlib.suppress(OSError):
                path.unlink()
        return None

    def has(self, name: str) -> bool:
        """Whether something lies under `name`; only `load` knows whether it is whole."""
        return self._path(name).exists()

    @property
    def bytes(self) -> int:
        """What lies under this key."""
        return _size(self.folder)

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Keep these CPU tensors; False (and the reason in `trouble`) where that is not possible."""
        if self.trouble:
            return False
        size = sum(t.numel() * t.element_size() for t in tensors.values()) + 4096
        part: Path | None = None
        try:
            if not self._make_room(size):
                return False
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part_name = tempfile.mkstemp(dir=self.folder, prefix=f".{name}.", suffix=".part")
            os.close(handle)
            part = Path(part_name)
            save_file({k: t.contiguous() for k, t in tensors.items()}, part, {"crc32": checksum(tensors)})
            part.replace(self._path(name))
            return True
        except (OSError, SafetensorError) as error:
            reason = str(error).split("(os error", 1)[0].strip() or type(error).__name__
            self.trouble = f"the base's outputs are not kept for the next time: {self.folder} cannot be written ({reason})"
            return False
        finally:
            if part is not None:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _make_room(self, size: int) -> bool:
        """Remove other keys, least recently used first, until `size` more bytes fit the limit."""
        if size <= self._room:
            self._room -= size
            return True
        held = {folder: _size(folder) for folder in _folders(self.root)}
        total = sum(held.values())
        for folder in sorted((f for f in held if f != self.folder), key=_used):
            if total + size <= self.limit:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total -= held[folder]
        if total + size > self.limit:
            self.trouble = (
                f"not all of the base's outputs are kept for the next time: the cache is limited to {bytes_text(self.limit)}; "
                "set EFFKIT_CACHE_BYTES for more"
            )
            return False
        if free_bytes(self.root) < size + SPARE:
            self.trouble = f"the base's outputs are not kept for the next time: the disk that holds {self.root} is almost full"
            return False
        self._room = min(self.limit - total, self.limit // 16) - size
        return True


def limit_bytes() -> int:
    """The size limit of the cache: EFFKIT_CACHE_BYTES, else 4 GB; 0 turns the cache off."""
    given = os.environ.get("EFFKIT_CACHE_BYTES", "")
    try:
        limit = int(float(given)) if given else LIMIT
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise BadInput(
            f"the environment variable EFFKIT_CACHE_BYTES is {given!r}", "Allowed: a number of bytes, such as 4e9, or 0 for none"
        )
    return limit


def key_of(module: nn.Module, facts: Mapping[str, Any]) -> str:
    """The name of the folder for outputs of `module` under `facts` (text, window, device type, ...)."""
    return content_hash({"layout": LAYOUT, "weights": fingerprint(module), "torch": torch.__version__, **facts})


def fingerprint(module: nn.Module) -> str:
    """Changes when a weight or the configuration changes. 135M float32 parameters: 0.1 s, on the device they are on.

    A checksum is the sum of the raw bits as integers, exact in any order, of the whole tensor and of every seventh
    element, so that neither a trained weight nor exchanged rows go unnoticed.
    """
    sums = []
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        flat = tensor.detach().reshape(-1)
        bits = flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(flat.element_size(), torch.int64))
        parts = torch.stack([bits[::step].sum(dtype=torch.int64) for step in (1, 7)])
        sums.append([name, str(tensor.dtype), list(tensor.shape), parts.tolist()])
    config: Any = getattr(module, "config", None)
    facts = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")} if config is not None else {}
    return content_hash([sums, json.loads(json.dumps(facts, default=str, sort_keys=True))])


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, types, shapes and bytes; 25 MB take about 10 ms."""
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(raw_bytes(tensor), total)
    return f"{total:08x}"


def _folders(root: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    """Bytes in a folder; another process may be removing it meanwhile."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
