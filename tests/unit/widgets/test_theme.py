"""The palette: one source for cards and printed figures, readable in both themes."""

from __future__ import annotations

import re

import pytest

from effkit_widgets import theme
from effkit_widgets._base import STATIC

# grounds a card can lie on: its own, JupyterLab's (light, dark), and the wash under errors and table heads
GROUNDS = {"light": ("#ffffff", "#f3f5f7"), "dark": ("#1c1c1c", "#212121", "#2a2d30")}


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_and_marks_have_the_contrast_they_need(name):
    colours = theme.colours(name)
    assert colours["ground"] in GROUNDS[name]
    for ground in GROUNDS[name]:
        for text in ("ink", "muted", "alarm", "accent"):
            assert theme.contrast(colours[text], ground) >= 4.5, (text, ground)
    for ground in GROUNDS[name][: -1 if name == "light" else None]:
        for mark in (*theme.KINDS, *theme.CATEGORIES, "rule"):
            assert theme.contrast(colours[mark], ground) >= 3.0, (mark, ground)
    assert theme.contrast(colours["on-accent"], colours["accent"]) >= 4.5
    for category in theme.CATEGORIES:  # labels stand on the bars in the ground's colour
        assert theme.contrast(colours["ground"], colours[category]) >= 4.5, category


def test_contrast_is_the_published_formula():
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_python_and_css_hold_the_same_colours():
    css = (STATIC / "theme.css").read_text()
    light, dark = theme.colours("light"), theme.colours("dark")
    assert light.keys() == dark.keys() >= {*theme.KINDS, *theme.CATEGORIES, "ink", "ground", "grid"}
    for colours in (light, dark):
        for name, value in colours.items():
            assert f"--ek-{name}: {value};" in css
    for name in (*theme.KINDS, *theme.CATEGORIES):
        assert f".ek-mark-{name} {{ --ek-mark: var(--ek-{name}); }}" in css
    assert len(re.findall(r"--ek-quantized: #", css)) == 2
    assert theme.palette(theme.KINDS, "dark")["distilled"] == dark["distilled"]


def test_shapes_of_figures_are_those_of_the_cards():
    script = (STATIC / "charts.js").read_text()
    shapes = dict(re.findall(r"(\w+): \"(\w+)\"", re.search(r"const SHAPES = \{(.*?)\};", script)[1]))
    names = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
    assert {kind: names[shape] for kind, shape in shapes.items()} == theme.MARKERS


def test_figures_are_drawn_in_the_theme():
    from matplotlib import colors
    from matplotlib.figure import Figure

    with theme.figures("dark"):
        figure = Figure()
        axes = figure.subplots()
    assert tuple(figure.get_size_inches()) == theme.SIZE
    assert colors.to_hex(axes.get_facecolor()) == theme.colours("dark")["ground"]
