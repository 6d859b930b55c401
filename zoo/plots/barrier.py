"""Loss and error along the straight line between two models: is there a barrier?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe
from zoo.paths.profile import barrier as highest_rise
from zoo.plots.style import COLOURS, FAINT, MARKERS, drawn, figure, rule_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOTHING = 1e-9
"""Of the largest value; what rises less is rounding."""
_NONE = "no barrier"
_ONE_ROW = 44
"""Letters of both names that fit below one panel side by side."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured along the line from one model to another."""

    start: str
    end: str
    """What the two are called."""
    at: Sequence[float]
    """Positions, ascending, from 0 (start) to 1 (end)."""
    loss: Sequence[float]
    """Mean loss at each position, in the task's unit (nats where it has labels)."""
    error: Sequence[float] | None = None
    """Share of wrong answers, 0 to 1; None for a task of no classes."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers drawn, ready for JSON."""
        found: dict[str, Any] = {
            "start": self.start,
            "end": self.end,
            "at": list(self.at),
            "loss": list(self.loss),
            "barrier": highest_rise(self.at, self.loss).height,
        }
        if self.error is not None:
            found["error"] = list(self.error)
            found["error_barrier"] = highest_rise(self.at, self.error).height
        return found


@drawn
def barrier(lines: Sequence[Line], *, title: str = "", unit: str = "nats") -> Figure:
    """Curves of loss, and of error where all have it, each with its chord and its barrier.

    Args:
        lines: at most seven.
        unit: of the loss.
    Raises:
        InvalidRecipe: none, or more lines than can be told apart.
    """
    if not 1 <= len(lines) <= len(COLOURS):
        raise InvalidRecipe(
            f"{len(lines)} lines cannot be drawn in one picture:",
            f"it holds 1 to {len(COLOURS)}.",
            "Draw fewer models, or all pairs as a matrix: "
            "zoo plot matrix --metric barrier --where ...",
        )
    panels = [_Panel(f"loss ({unit})", unit, "{:.2g}", [line.loss for line in lines])]
    errors = [line.error for line in lines if line.error is not None]
    if len(errors) == len(lines):
        percent = [[100 * e for e in error] for error in errors]
        panels.append(_Panel("error (%)", "points", "{:.1f}", percent))
    legend = 0.0 if len(lines) == 1 else 0.28 * len(lines) + 0.1
    drawing = figure(5.0 * len(panels) + 0.6 * (len(panels) == 1), 4.0 + legend)
    all_axes = drawing.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw(axes, panel, lines)
    if legend:
        handles, _ = all_axes[0].get_legend_handles_labels()
        texts = [_told(line, panels, i) for i, line in enumerate(lines)]
        drawing.legend(handles, texts, loc="outside lower left", ncols=1)
    if title:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return drawing


@dataclass(frozen=True, slots=True)
class _Panel:
    label: str
    unit: str
    form: str
    curves: Sequence[Sequence[float]]
    """One for each line."""

    def height(self, at: Sequence[float], curve: Sequence[float]) -> str:
        """The barrier of a curve in words."""
        found = highest_rise(at, curve).height
        told = self.form.format(found)
        if found <= _NOTHING * max(abs(v) for v in curve) or not float(told):
            return _NONE
        return f"barrier {told} {self.unit}"


def _draw(axes: Axes, panel: _Panel, lines: Sequence[Line]) -> None:
    alone = len(lines) == 1
    for i, (line, curve) in enumerate(zip(lines, panel.curves, strict=True)):
        at, colour = line.at, COLOURS[i]
        ends: dict[str, Any] = {"marker": MARKERS[i], "markevery": [0, len(at) - 1]}
        axes.plot(at, curve, color=colour, label=line.start, zorder=3, **ends)
        axes.plot(at, _chord(at, curve), color=FAINT if alone else colour, ls=(0, (4, 3)), lw=1.2)
    low = min(min(curve) for curve in panel.curves)
    high = max(max(curve) for curve in panel.curves)
    if 0 <= low < 0.6 * high:
        low = 0.0
    span = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - 0.06 * span, high + (0.18 if alone else 0.08) * span)
    if alone:
        _mark(axes, panel, lines[0].at, panel.curves[0], span)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    names = (lines[0].start, lines[0].end) if alone else ("start", "end")
    lower = -26 if len("".join(names)) <= _ONE_ROW else -42
    for name, x, side, drop in zip(names, (0, 1), ("left", "right"), (-26, lower), strict=True):
        axes.annotate(
            name,
            xy=(x, 0),
            xycoords="axes fraction",
            xytext=(0, drop),
            textcoords="offset points",
            ha=side,
            va="top",
        )
    axes.set_ylabel(panel.label)
    rule_lines(axes)


def _mark(
    axes: Axes, panel: _Panel, at: Sequence[float], curve: Sequence[float], span: float
) -> None:
    """An arrow from the chord to the curve where it is highest above it, and its length."""
    place = highest_rise(at, curve).index
    top, foot = curve[place], _chord(at, curve)[place]
    if top - foot > 0.05 * span:
        ends = {"arrowstyle": "<->", "color": FAINT, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(at[place], top), xytext=(at[place], foot), arrowprops=ends)
    axes.annotate(
        panel.height(at, curve),
        xy=(0.5, max(curve)),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
    )


def _told(line: Line, panels: Sequence[_Panel], i: int) -> str:
    heights = [panel.height(line.at, panel.curves[i]) for panel in panels]
    rises = [h.removeprefix("barrier ") for h in heights if h != _NONE]
    told = f"barrier {' and '.join(rises)}" if rises else _NONE
    return f"{line.start} to {line.end}: {told}"


def _chord(at: Sequence[float], values: Sequence[float]) -> list[float]:
    return [(1 - t) * values[0] + t * values[-1] for t in at]
