"""Figures in cells: shown without pyplot, at their size in inches, in the palette."""

from __future__ import annotations

import io

import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import colors
from matplotlib.image import imread

from effkit_widgets import figures, theme


@pytest.mark.parametrize("look", ["light", "dark"])
def test_a_figure_shows_itself_in_a_notebook(look):
    with figures.figure(height=2.0, look=look) as (figure, axes):
        axes.plot([1, 2], [3, 4])
    data, facts = DisplayFormatter().format(figure)
    assert data["text/plain"] == "<Printed size 650x200 with 1 Axes>"
    assert facts["image/png"] == {"width": 624, "height": 192}
    picture = imread(io.BytesIO(data["image/png"]))
    assert picture.shape[:2] == (288, 936)
    assert colors.to_hex(picture[0, 0]) == theme.colours(look)["ground"]


def test_several_axes_share_their_height():
    with figures.figure(3) as (_, axes):
        axes[0].plot([0, 1], [0, 7])
    assert len({tuple(ax.get_ylim()) for ax in axes}) == 1
