"""Loss over the plane that a base and the task vectors of two experts span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe
from zoo.plots.style import FAINT, INK, SEQUENTIAL, drawn, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 14
"""Steps of shade."""
_STAR: dict[str, Any] = {
    "ls": "", "marker": "*", "ms": 17, "color": "#E69F00", "mec": INK, "mew": 1.0
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """A model that lies in the plane."""

    label: str
    x: float
    y: float
    """Coefficients of the two task vectors."""


@dataclass(frozen=True, slots=True)
class Surface:
    """A measured quantity on a grid of models

    base + x * (first - base) + y * (second - base)
    """

    first: str
    second: str
    """What the two experts are called."""
    x: Sequence[float]
    y: Sequence[float]
    """Coefficients, ascending."""
    values: Sequence[Sequence[float]]
    """One row for each y, one column for each x."""
    quantity: str = "loss (nats)"
    points: Sequence[Point] = ()

    def as_dict(self) -> dict[str, Any]:
        """The numbers drawn, ready for JSON."""
        return {
            "first": self.first,
            "second": self.second,
            "x": list(self.x),
            "y": list(self.y),
            "values": [list(row) for row in self.values],
            "quantity": self.quantity,
            "points": [{"label": p.label, "x": p.x, "y": p.y} for p in self.points],
            "lowest": lowest(self),
        }


def lowest(surface: Surface) -> dict[str, float]:
    """The grid's model of lowest value: its coefficients `x` and `y`, and its `value`."""
    value, y, x = min(
        (v, y, x)
        for y, row in zip(surface.y, surface.values, strict=True)
        for x, v in zip(surface.x, row, strict=True)
    )
    return {"x": x, "y": y, "value": value}


@drawn
def loss_surface(surface: Surface, *, title: str = "") -> Figure:
    """Contours of a surface, its points, the line of equal coefficients, and the lowest model.

    Contours of a positive quantity that grows more than tenfold are spaced by equal factors.

    Raises:
        InvalidRecipe: fewer than two coefficients on a side.
    """
    import numpy as np
    from matplotlib.lines import Line2D

    if min(len(surface.x), len(surface.y)) < 2:
        raise InvalidRecipe("A surface needs two coefficients or more on each side.")
    x, y = np.asarray(surface.x), np.asarray(surface.y)
    values = np.asarray(surface.values, dtype=float)
    low, high = float(values.min()), float(values.max())
    drawing = figure(6.8, 5.4)
    axes = drawing.subplots()
    if high > low:
        levels = _levels(low, high)
        shades = axes.contourf(
            x, y, values, levels=levels, cmap=SEQUENTIAL, norm=_even(levels), extend="neither"
        )
        axes.contour(x, y, values, levels=levels, colors="white", linewidths=0.6, alpha=0.6)
        bar = drawing.colorbar(shades, ax=axes, ticks=levels[::2], pad=0.02)
        bar.ax.set_yticklabels([_number(v, high - low) for v in levels[::2]])
        bar.set_label(surface.quantity)
        bar.outline.set_visible(False)
    reach = [max(x[0], y[0]), min(x[-1], y[-1])]
    axes.plot(reach, reach, color="white", lw=1.4, ls=(0, (4, 3)))
    best = lowest(surface)
    axes.plot(best["x"], best["y"], **_STAR, zorder=7)
    _points(axes, surface, best)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_xlabel(f"coefficient of {surface.first}")
    axes.set_ylabel(f"coefficient of {surface.second}")
    lowest_value = _number(best["value"], high - low)
    star = f"lowest, {lowest_value}, at {best['x']:.2f} and {best['y']:.2f}"
    drawing.legend(
        [Line2D([], [], **_STAR), Line2D([], [], color=FAINT, lw=1.4, ls=(0, (4, 3)))],
        [star, "equal coefficients"],
        loc="outside lower left",
        ncols=2,
        columnspacing=1.2,
    )
    if title:
        axes.set_title(title)
    return drawing


def _levels(low: float, high: float) -> Any:
    """Where the contours are, from the lowest value to the highest."""
    import numpy as np

    even = np.geomspace if low > 0 and high > 10 * low else np.linspace
    levels = even(low, high, LEVELS + 1)
    levels[0], levels[-1] = low, high
    return levels


def _number(value: float, span: float) -> str:
    """Two digits that count, more where the values lie close together."""
    if value and not 1e-4 <= abs(value) < 1e4:
        return f"{value:.1e}"
    size = max(abs(value), 1e-12)
    digits = max(1 - floor(log10(size)), 0 if size >= 10 else 1 - floor(log10(span or size)))
    return f"{value:.{min(max(digits, 0), 5)}f}".replace("-", "\N{MINUS SIGN}")


def _even(levels: Any) -> Any:
    """One shade for each step between contours, however far apart they are."""
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    return BoundaryNorm(levels, colormaps[SEQUENTIAL].N)


def _points(axes: Axes, surface: Surface, best: dict[str, float]) -> None:
    """The models that have names; a name stands where it hides neither border nor the best."""
    box = {"boxstyle": "round,pad=0.22", "fc": "white", "ec": "none", "alpha": 0.85}
    middle = (surface.x[0] + surface.x[-1]) / 2
    for point in surface.points:
        axes.plot(
            point.x, point.y, ls="", marker="o", ms=9, color="white", mec=INK, mew=1.4, zorder=5
        )
        left = point.x > middle
        below = point.y <= best["y"] and abs(point.y - best["y"]) < 0.5 * abs(
            surface.y[-1] - surface.y[0]
        )
        axes.annotate(
            point.label,
            xy=(point.x, point.y),
            xytext=(-10 if left else 10, -10 if below else 10),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if below else "bottom",
            bbox=box,
            zorder=6,
        )
