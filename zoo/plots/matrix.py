"""A metric of pairs as a matrix: CKA, cosine, barrier, for each two of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe
from zoo.plots.style import DIVERGING, GRID, INK, SEQUENTIAL, drawn, figure, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WITH_NUMBERS = 12
"""Models up to which each cell shows its number."""
MOST = 60
"""Models up to which each has its name on the axes."""
_UPRIGHT = 6
"""Letters of a name that fit below a cell."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A metric of each unordered pair of a set; what was not measured is not there."""

    labels: Sequence[str]
    metric: str
    values: Mapping[tuple[str, str], float]
    """By two labels, in either order."""

    def value(self, a: str, b: str) -> float | None:
        return self.values.get((a, b), self.values.get((b, a)))

    def rows(self) -> list[list[float | None]]:
        """All cells; None on the diagonal, and where nothing was measured."""
        return [[None if a == b else self.value(a, b) for b in self.labels] for a in self.labels]

    def as_dict(self) -> dict[str, Any]:
        """The numbers drawn, ready for JSON."""
        return {"metric": self.metric, "labels": list(self.labels), "values": self.rows()}


@drawn
def matrix(data: Matrix, *, title: str = "", signed: bool | None = None) -> Figure:
    """A heat map of a metric of pairs, with its numbers in the cells where there is room.

    The diagonal is left empty: what a model is to itself says nothing, and would set the scale.
    Grey cells are pairs that were not measured.

    Args:
        signed: colours about zero; None where any value is negative.
    Raises:
        InvalidRecipe: fewer than two models, or no value at all.
    """
    import numpy as np

    n = len(data.labels)
    cells = np.array(
        [[np.nan if v is None else v for v in row] for row in data.rows()], dtype=float
    )
    known = cells[np.isfinite(cells)]
    if n < 2 or not known.size:
        raise InvalidRecipe(
            f"There is nothing to draw: {n} models, {known.size} values of `{data.metric}`.",
            how=f"Measure it first: zoo measure REF REF --metric {data.metric}",
        )
    low, high = float(known.min()), float(known.max())
    about_zero = low < 0 if signed is None else signed
    if about_zero:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    elif low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    named = n <= MOST
    side = min(9.0, max(3.6, (0.72 if n <= MOST_WITH_NUMBERS else 0.24) * n))
    margin = 0.095 * max(map(len, data.labels)) + 0.2 if named else 0.4
    drawing = figure(side + margin + 1.1, side + 0.75 * margin + 0.5)
    axes = drawing.subplots()
    axes.set_facecolor(GRID)
    shades = axes.pcolormesh(
        np.ma.masked_invalid(cells),
        cmap=DIVERGING if about_zero else SEQUENTIAL,
        vmin=low,
        vmax=high,
        edgecolors="white",
        linewidth=1.0 if n <= MOST_WITH_NUMBERS else 0.2,
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    places = np.arange(n) + 0.5
    axes.set_xticks(places if named else [], data.labels if named else [])
    axes.set_yticks(places if named else [], data.labels if named else [])
    if max(map(len, data.labels)) > _UPRIGHT:
        axes.tick_params(axis="x", labelrotation=45)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
    if not named:
        axes.set_xlabel(f"{n} models")
    if n <= MOST_WITH_NUMBERS:
        form = _form(known)
        for i, j in zip(*np.nonzero(np.isfinite(cells)), strict=True):
            shade = shades.cmap(shades.norm(cells[i, j]))
            light = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 0.5
            axes.text(
                j + 0.5,
                i + 0.5,
                form.format(cells[i, j]).replace("-", "\N{MINUS SIGN}"),
                ha="center",
                va="center",
                color=INK if light else "white",
                fontsize=11,
            )
    bar = drawing.colorbar(shades, ax=axes, pad=0.02, shrink=0.9)
    bar.set_label(words(data.metric))
    bar.outline.set_visible(False)
    if title:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return drawing


def _form(known: Any) -> str:
    """Two digits after the point, or as many as tell the values apart, up to three."""
    import numpy as np

    high = float(np.abs(known).max())
    if high >= 100:
        return "{:.0f}"
    if high >= 10:
        return "{:.1f}"
    return "{:.3f}" if high < 0.1 or float(np.ptp(known)) < 0.05 else "{:.2f}"
