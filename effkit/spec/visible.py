"""Text that may come from anyone, as it is: controls of terminals are taken out, those that turn the reading around are shown.

Bidirectional controls make text read otherwise than it is (Boucher and Anderson 2021, "Trojan Source", arXiv:2111.00169), and
escaping leaves them alone. The cards do the same in the browser (static/kit.js).
"""

from __future__ import annotations

import html
import re

# CSI and OSC sequences, and the two-character ones (ECMA-48)
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]")
BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufff9-\ufffb]|[\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` without terminal codes and control characters, and with every bidirectional control shown by its number: '[U+202E]'."""
    text = CONTROLS.sub("", ANSI.sub("", text))
    return BIDI.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def escaped(text: str) -> str:
    """`text` made visible, for the inside of an HTML element or attribute."""
    return html.escape(visible(text))
