"""A figure to print, in a notebook cell: the house's palette and size, drawn with seaborn on plain axes, shown without pyplot.

    with figures.figure(height=2.5) as (figure, axes):
        seaborn.barplot(table, x="probability", y="token", ax=axes)
    figure

A `matplotlib.figure.Figure` alone is shown by Jupyter only once pyplot has chosen a backend; `Printed` shows itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.figure import Figure

from . import theme

DOTS = 144  # per inch: sharp on dense screens, some 30 kB a figure


class Printed(Figure):
    """A figure that Jupyter shows as a PNG, at the size it has in inches whatever its dots."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        with io.BytesIO() as file:
            self.savefig(file, format="png", dpi=DOTS, facecolor=self.get_facecolor())
            picture = file.getvalue()
        width, height = self.get_size_inches()
        return picture, {"width": round(float(width) * 96), "height": round(float(height) * 96)}


@contextmanager
def figure(columns: int = 1, height: float = 3.2, look: str = "light") -> Iterator[tuple[Printed, Any]]:
    """A figure 6.5 inches wide and its axes: one, or an array of several side by side that share their y-axis.

    look: "light" or "dark". Inside the block matplotlib and seaborn draw as the cards do.
    """
    with theme.figures(look):
        made = Printed(figsize=(theme.SIZE[0], height), layout="constrained")
        yield made, made.subplots(1, columns, sharey=columns > 1)
