"""The head of a GGUF file (ggml's docs/gguf.md): magic, version, counts, metadata, tensor infos, then aligned tensor data.

A file cut anywhere shows it: its head ends too early, or a tensor lies beyond its end.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effkit.spec.errors import BadInput, bytes_text

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST = 1 << 24  # values in all lists together: a vocabulary has 300,000; each takes 30 bytes and more here
DEEPEST = 4  # lists within lists


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape in torch's order, ggml's number of its kind, where its bytes lie in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """All metadata by name, and all tensors."""

    path: Path
    fields: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    def raw(self, info: TensorInfo) -> np.ndarray:
        """The bytes of a tensor, [rows, bytes of a row], or its numbers where it is stored as float32 or float16."""
        plain = {0: np.float32, 1: np.float16}.get(info.kind)
        data = np.fromfile(self.path, dtype=np.uint8, count=info.size, offset=info.start)
        return data.view(plain).reshape(info.shape) if plain else data.reshape(*info.shape[:-1], -1)


def read_header(path: Path) -> Header:
    """The head of a whole GGUF file. Raises BadInput for another format, another version, or a file cut short."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        if head[:4] != MAGIC:
            raise BadInput(
                f"{path.name} begins with {head[:4]!r}", f"Allowed: a GGUF file, which begins with {MAGIC!r}", "Download it again"
            )
        version = int.from_bytes(head[4:8], "little")
        if version not in VERSIONS:
            raise BadInput(f"the GGUF version of {path.name} is {version}", f"Allowed: {VERSIONS}", "Convert the model again")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                fields, tensors = _Cursor(data).everything()
            except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
                raise _cut(path, size, str(error) if type(error) is ValueError else "its head ends too early") from None
    end = max((tensor.start + tensor.size for tensor in tensors), default=0)
    if not tensors or end > size:
        raise _cut(path, size, f"its tensors end at {bytes_text(end)}" if tensors else "it holds no tensors")
    return Header(path, fields, tensors)


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.listed = data, 8, 0

    def everything(self) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
        from gguf import GGML_QUANT_SIZES

        count, pairs = self.many("Q", 2)
        fields = {}
        for _ in range(pairs):
            name = self.string()
            fields[name] = self.value(self.one("I"))
        infos = []
        for _ in range(count):
            name = self.string()
            shape = tuple(reversed(self.many("Q", self.one("I"))))
            if not 0 < len(shape) <= 8 or max(*shape, math.prod(shape)) > len(self.data) * 8:
                raise ValueError(f"the tensor {name[:80]!r} has a shape that does not fit the file")
            infos.append((name, shape, self.one("I"), self.one("Q")))
        if len({name for name, *_ in infos}) != len(infos):
            raise ValueError("two tensors have one name")
        align = fields.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1:
            raise ValueError(f"its alignment is {str(align)[:20]!r}")
        start = -(-self.at // align) * align
        sizes = {int(kind): block for kind, block in GGML_QUANT_SIZES.items()}
        tensors = []
        for name, shape, kind, offset in infos:
            per_block, block_bytes = sizes[kind]
            if shape[-1] % per_block:
                raise ValueError(f"the rows of {name[:80]!r} are no whole blocks of {per_block}")
            tensors.append(TensorInfo(name, shape, kind, start + offset, math.prod(shape) // per_block * block_bytes))
        return fields, tuple(tensors)

    def one(self, code: str) -> Any:
        return self.many(code, 1)[0]

    def many(self, code: str, count: int) -> tuple:
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{code}")
        return values

    def string(self) -> str:
        length = self.one("Q")
        if self.at + length > len(self.data):
            raise ValueError("its head ends too early")
        text = self.data[self.at : self.at + length].decode("utf-8")
        self.at += length
        return text

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.one(SCALARS[kind])
        inner, count = self.one("I"), self.one("Q")
        self.listed += count
        if self.listed > MOST or depth == DEEPEST:
            raise ValueError(f"its lists hold more than {MOST} values" if self.listed > MOST else "its lists are nested too deeply")
        if inner in SCALARS:
            return list(self.many(SCALARS[inner], count))
        return [self.value(inner, depth + 1) for _ in range(count)]


def _cut(path: Path, size: int, why: str) -> BadInput:
    return BadInput(f"{path.name} is damaged or cut short ({bytes_text(size)}; {why})", "Allowed: a whole GGUF file", "Download it again")
