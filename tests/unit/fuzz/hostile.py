"""What the fuzz tests share: JSON of any kind, hostile bytes, and what a refusal may cost."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from effkit.spec.errors import BadInput

EXTREME = st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, 10**40, -0.0, 1e308, -1e308, float("inf"), float("-inf"), float("nan")])
WORDS = st.text(max_size=6) | st.sampled_from(["", "\0", "\u202e", "\ud800", "<script>", "a" * 5000, "١", "0x4", "4"])
SCALARS = st.none() | st.booleans() | EXTREME | st.integers() | st.floats() | WORDS
JSON = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(WORDS, x, max_size=3), max_leaves=8)


def altered(draw: Callable[[Any], Any], data: Any) -> Any:
    """`data` (plain JSON) with one place changed: another value there, the place gone, or a field that nobody knows beside it."""
    places = list(_places(data, ()))
    at = draw(st.sampled_from(places))
    what = draw(st.sampled_from(["other", "gone", "more"]))
    new = json.loads(json.dumps(data))
    if not at:
        return draw(JSON) if what == "other" else new
    holder = new
    for key in at[:-1]:
        holder = holder[key]
    if what == "gone":
        del holder[at[-1]]
    elif what == "more" and isinstance(holder, dict):
        holder[draw(WORDS)] = draw(JSON)
    else:
        holder[at[-1]] = draw(JSON)
    return new


def _places(data: Any, at: tuple) -> Iterator[tuple]:
    yield at
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from _places(value, (*at, key))


def damaged(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """`content` cut short, with bytes changed, or with eight bytes that read as an enormous length."""
    content = content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        put = draw(
            st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\0\0\0\x40" + b"\0" * 4])
        )
        content = content[:at] + put + content[at + len(put) :]
    return content


@contextlib.contextmanager
def refused_or_read(refused: bool = False, bytes_at_most: int = 30_000_000) -> Iterator[None]:
    """The block ends well or (`refused`: it must) raises BadInput that says what to do, and holds no more memory than this at any time."""
    said = None
    tracemalloc.start()
    try:
        yield
        assert not refused, "it was not refused"
    except BadInput as error:
        said = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert said is None or (said.given and said.allowed)
    assert len(str(said)) < 20_000, "the error repeats the file"
    assert peak < bytes_at_most, f"{peak} bytes were held"
