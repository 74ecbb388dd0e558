"""The palette of the cards for figures to print: the same colours, read from static/theme.css, and the same shapes.

from effkit_widgets import theme
with theme.figures():
    seaborn.scatterplot(..., hue="kind", style="kind", palette=theme.palette(), markers=theme.MARKERS)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ._base import STATIC

KINDS = ("base", "quantized", "pruned", "distilled", "combined")
CATEGORIES = ("embeddings", "head", "attention", "mlp", "norms", "scales", "other")
MARKERS = {"base": "o", "quantized": "o", "pruned": "s", "distilled": "^", "combined": "D"}  # matplotlib's names of the shapes
OUTSIDE_BUDGET = 0.35  # strength of what does not fit
SIZE = (6.5, 4.0)  # inches


@cache
def colours(theme: str = "light") -> dict[str, str]:
    """Every colour of the theme by its name in theme.css without "--ek-": {"ink": "#1f1f1f", "quantized": "#0072b2", ...}."""
    css = (STATIC / "theme.css").read_text(encoding="utf-8")
    blocks = {"light": r"\.ek-card \{(.*?)\}", "dark": r"\.ek-card\[data-theme=\"dark\"\] \{(.*?)\}"}
    found = re.search(blocks[theme], css, re.DOTALL)
    assert found is not None
    return dict(re.findall(r"--ek-([a-z-]+):\s*(#[0-9a-f]{6});", found[1]))


def palette(names: tuple[str, ...] = KINDS, theme: str = "light") -> dict[str, str]:
    """Colours for seaborn's `palette=`, by kind of model (or by category of bytes, with `names=CATEGORIES`)."""
    return {name: colours(theme)[name] for name in names}


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two colours "#rrggbb": 1 to 21. contrast("#000000", "#ffffff") = 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def rc(theme: str = "light") -> dict[str, Any]:
    """matplotlib's settings for a figure to print: 6.5 by 4 inches, 10 pt, the cards' ink and grid."""
    c = colours(theme)
    return {
        "figure.figsize": SIZE, "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "figure.facecolor": c["ground"],
        "axes.facecolor": c["ground"], "savefig.facecolor": c["ground"], "text.color": c["ink"], "axes.labelcolor": c["muted"],
        "xtick.color": c["muted"], "ytick.color": c["muted"], "axes.edgecolor": c["rule"], "grid.color": c["grid"], "axes.grid": True,
        "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "none",
    }  # fmt: skip


@contextmanager
def figures(theme: str = "light") -> Iterator[None]:
    """Inside, matplotlib and seaborn draw as the cards do. Use `matplotlib.figure.Figure`, not pyplot, in callbacks."""
    import matplotlib

    with matplotlib.rc_context(rc(theme)):  # type: ignore[arg-type]
        yield
