"""Text that may come from anyone, made fit for a page: nothing in it becomes markup, runs, asks an address, or turns the reading around.

Three lines of defence: the template escapes (jinja2's autoescape), data travels packed in base64 (so that no `</script>` can stand
in it), and the page's Content-Security-Policy lets only scripts and styles run whose SHA-256 it names (W3C, CSP Level 3). What
escaping leaves alone, controls that turn lines around and those of terminals, effkit.spec.visible takes out.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from effkit.spec.sharing import without_folders
from effkit.spec.visible import visible

BYTES = "$bytes"  # {"$bytes": base64} stands for binary data in packed JSON


def cleaned(data: Any) -> Any:
    """`data` as JSON holds it, every text in it made `visible` and rid of the author's folders, bytes as {"$bytes": base64},
    infinities as None."""
    if isinstance(data, str):
        return visible(without_folders(data))
    if isinstance(data, bytes | bytearray | memoryview):
        return {BYTES: base64.b64encode(bytes(data)).decode()}
    if isinstance(data, Mapping):
        return {visible(str(key)): cleaned(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set):
        return [cleaned(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


def packed(data: Any) -> str:
    """JSON, gzip, base64: short, and of letters, digits, + / = alone. The same data gives the same text."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), 9, mtime=0)).decode()


def policy(scripts: list[str], styles: list[str]) -> str:
    """The Content-Security-Policy of a page that runs exactly these scripts and styles, and asks nobody for anything.

    Style attributes are allowed: the cards set colours of cells so; a style cannot run, and without url() it asks nobody.
    """

    def hashes(texts: list[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts) or "'none'"

    rules = {
        "default-src": "'none'",
        "script-src": hashes(scripts),
        "style-src": hashes(styles),
        "style-src-attr": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
