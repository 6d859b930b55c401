"""A phase diagram: temperature by load, coloured by a metric, with a phase in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe
from zoo.phases.rule import UNASSIGNED
from zoo.plots.style import DIVERGING, FAINT, GRID, INK, SEQUENTIAL, drawn, figure, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANINGS = {
    "I": "under-fitted, under-sized: high loss, barrier",
    "II": "under-fitted: high loss, no barrier",
    "III": "under-sized: low loss, barrier",
    "IV-A": "over-fitted: low loss, no barrier, outputs differ",
    "IV-B": "generalising: low loss, no barrier, outputs alike",
    UNASSIGNED: "no label: near a threshold, or not measured",
}
_DIRECTIONS = {
    "batch": "temperature falls \N{RIGHTWARDS ARROW}",
    "lr": "temperature rises \N{RIGHTWARDS ARROW}",
    "width": "load falls \N{RIGHTWARDS ARROW}",
    "depth": "load falls \N{RIGHTWARDS ARROW}",
    "data": "load rises \N{RIGHTWARDS ARROW}",
    "label_noise": "load rises \N{RIGHTWARDS ARROW}",
}
"""What the literature calls the way along an axis, by the name that `zoo grow` gives it."""
_MARKS = {UNASSIGNED: "?"}
"""What is written in a cell in place of the phase."""
_MOST = 40
"""Values of an axis up to which each is written."""

Place = tuple[str, str]
"""A cell: its value of x, its value of y."""
Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Diagram:
    """A metric and a phase for each cell of a grid; what is not known is not there."""

    x: str
    y: str
    """What the axes are called."""
    columns: Sequence[str]
    """Values of x from left to right."""
    rows: Sequence[str]
    """Values of y from the bottom up."""
    colour: str
    """What the colours are."""
    values: Mapping[Place, float]
    phases: Mapping[Place, str]
    is_signed: bool = False
    """Whether 0 parts the values in two, and the colours with them."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers drawn, ready for JSON."""
        return {
            "x": self.x,
            "y": self.y,
            "colour": self.colour,
            "cells": [
                {
                    "x": x,
                    "y": y,
                    "value": self.values.get((x, y)),
                    "phase": self.phases.get((x, y)),
                }
                for y in self.rows
                for x in self.columns
                if (x, y) in self.values or (x, y) in self.phases
            ],
        }


@drawn
def phase_diagram(data: Diagram, *, title: str = "") -> Figure:
    """A heat map of a grid, with phases in its cells and lines between regions.

    Grey cells have no value.

    Raises:
        InvalidRecipe: there is neither a value nor a phase.
    """
    import numpy as np

    if not data.values and not data.phases:
        raise InvalidRecipe("There is nothing to draw: no cell has a value or a phase.")
    cells = np.array(
        [[data.values.get((x, y), np.nan) for x in data.columns] for y in data.rows], dtype=float
    )
    known = cells[np.isfinite(cells)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if data.is_signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    elif low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    used = [p for p in MEANINGS if p in data.phases.values()]
    width, height = len(data.columns), len(data.rows)
    drawing = figure(
        min(12.0, max(4.2, 0.78 * width)) + 2.0,
        min(9.0, max(2.6, 0.62 * height)) + 0.95 + 0.21 * len(used) + (0.35 if title else 0.0),
    )
    axes = drawing.subplots()
    axes.set_facecolor(GRID)
    shades = axes.pcolormesh(
        np.ma.masked_invalid(cells),
        cmap=DIVERGING if data.is_signed else SEQUENTIAL,
        vmin=low,
        vmax=high,
        edgecolors="white",
        linewidth=0.6,
    )
    _letters(axes, data, shades)
    _borders(axes, data)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    places = np.arange(max(width, height)) + 0.5
    axes.set_xticks(places[:width], data.columns if width <= _MOST else [""] * width)
    axes.set_yticks(places[:height], data.rows if height <= _MOST else [""] * height)
    if max(map(len, data.columns)) > 5:
        axes.tick_params(axis="x", labelrotation=45)
    axes.set_xlabel(data.x)
    axes.set_ylabel(data.y)
    if known.size:
        bar = drawing.colorbar(shades, ax=axes, pad=0.02)
        bar.set_label(data.colour)
        bar.outline.set_visible(False)
    if used:
        key = "\n".join(f"{_MARKS.get(phase, phase)}  {MEANINGS[phase]}" for phase in used)
        axes.annotate(
            key,
            (0, 0),
            (0, -12),
            xycoords=("axes fraction", axes.xaxis.label),
            textcoords="offset points",
            va="top",
            color=FAINT,
            fontsize=10,
            linespacing=1.35,
        )
    if title:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return drawing


def _letters(axes: Axes, data: Diagram, shades: Any) -> None:
    """The phase in the middle of each cell, light on dark and dark on light."""
    size = 13 if max(len(data.columns), len(data.rows)) <= 14 else 9
    for j, x in enumerate(data.columns):
        for i, y in enumerate(data.rows):
            phase = data.phases.get((x, y))
            if phase is None:
                continue
            value = data.values.get((x, y))
            shade = (1, 1, 1) if value is None else shades.cmap(shades.norm(value))
            is_light = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 0.5
            axes.text(
                j + 0.5,
                i + 0.5,
                _MARKS.get(phase, phase),
                ha="center",
                va="center",
                fontsize=size,
                fontweight="bold",
                color=INK if is_light else "white",
            )


def _borders(axes: Axes, data: Diagram) -> None:
    """Lines between neighbours of different phases, thin ones where one of them has no label."""
    clear: list[Line] = []
    vague: list[Line] = []
    for j, x in enumerate(data.columns):
        for i, y in enumerate(data.rows):
            own = data.phases.get((x, y))
            if j + 1 < len(data.columns):
                right = data.phases.get((data.columns[j + 1], y))
                if own and right and own != right:
                    lines = vague if UNASSIGNED in (own, right) else clear
                    lines.append(((j + 1, i), (j + 1, i + 1)))
            if i + 1 < len(data.rows):
                above = data.phases.get((x, data.rows[i + 1]))
                if own and above and own != above:
                    lines = vague if UNASSIGNED in (own, above) else clear
                    lines.append(((j, i + 1), (j + 1, i + 1)))
    from matplotlib.collections import LineCollection

    for found, colour, wide in ((vague, INK, 0.9), (clear, "white", 4.5), (clear, INK, 2.2)):
        axes.add_collection(
            LineCollection(found, colors=colour, linewidths=wide, capstyle="projecting")
        )


def caption(tag: str) -> str:
    """A tag as an axis calls it: `grow.batch` is `batch (temperature falls ->)`."""
    name = tag.rpartition(".")[2]
    return words(name) + (f" ({_DIRECTIONS[name]})" if name in _DIRECTIONS else "")
