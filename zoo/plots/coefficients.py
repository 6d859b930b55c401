"""A score against the coefficient of a merge: where is its best, and how narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe
from zoo.plots.style import COLOURS, INK, MARKERS, drawn, figure, rule_lines, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MEAN = "mean"
"""Label of the curve of the mean over the others; drawn in black."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Scores of merges that differ in one coefficient."""

    label: str
    """A method, or a task."""
    at: Sequence[float]
    """Coefficients, ascending."""
    values: Sequence[float]

    def best(self, *, higher_is_better: bool = True) -> tuple[float, float]:
        """The best value's coefficient, and the value; the smaller coefficient of two."""
        sign = -1 if higher_is_better else 1
        value, at = min(zip((sign * v for v in self.values), self.at, strict=True))
        return at, sign * value


@dataclass(frozen=True, slots=True)
class Sweeps:
    """Curves of one metric over one coefficient."""

    metric: str
    parameter: str
    sweeps: Sequence[Sweep]
    references: Mapping[str, float] = field(default_factory=dict)
    """Drawn as level lines: `experts`, `base`."""
    higher_is_better: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The numbers drawn, ready for JSON."""
        curves = []
        for sweep in self.sweeps:
            at, value = sweep.best(higher_is_better=self.higher_is_better)
            curves.append(
                {
                    "label": sweep.label,
                    "at": list(sweep.at),
                    "values": list(sweep.values),
                    "best": {"at": at, "value": value},
                }
            )
        return {
            "metric": self.metric,
            "parameter": self.parameter,
            "curves": curves,
            "references": dict(self.references),
        }


@drawn
def coefficients(data: Sweeps, *, title: str = "") -> Figure:
    """Curves of a score over a coefficient; each one's best is filled.

    Raises:
        InvalidRecipe: no curves, or more than can be told apart.
    """
    if not 1 <= len(data.sweeps) <= len(COLOURS):
        raise InvalidRecipe(
            f"{len(data.sweeps)} curves cannot be drawn in one picture:",
            f"it holds 1 to {len(COLOURS)}.",
            "Narrow the selection.",
        )
    alone = len(data.sweeps) == 1
    extra = len(data.references) + (0 if alone else len(data.sweeps))
    drawing = figure(6.4, 4.0 + 0.28 * ((extra + 1) // 2))
    axes = drawing.subplots()
    for i, sweep in enumerate(data.sweeps):
        colour = INK if sweep.label == MEAN and not alone else COLOURS[i]
        axes.plot(
            sweep.at,
            sweep.values,
            color=colour,
            marker=MARKERS[i],
            mfc="white",
            mew=1.6,
            label="" if alone else sweep.label,
            zorder=3,
        )
        at, value = sweep.best(higher_is_better=data.higher_is_better)
        axes.plot(at, value, ls="", marker=MARKERS[i], ms=10, color=colour, zorder=4)
        if alone:
            axes.annotate(
                f"{value:.4g} at {at:.3g}",
                xy=(at, value),
                xytext=(0, -11 if data.higher_is_better else 11),
                textcoords="offset points",
                ha="center",
                va="top" if data.higher_is_better else "bottom",
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
                zorder=5,
            )
    styles = ((0, (5, 3)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
    for i, (name, level) in enumerate(data.references.items()):
        line = styles[i % len(styles)]
        axes.axhline(level, color=INK, lw=1.4, ls=line, label=f"{name} {level:.4g}", zorder=2)
    axes.margins(x=0.06, y=0.16)
    axes.autoscale_view()
    axes.set_xlabel(words(data.parameter))
    axes.set_ylabel(words(data.metric))
    rule_lines(axes)
    if extra:
        drawing.legend(loc="outside lower left", ncols=2, columnspacing=1.4)
    if title:
        axes.set_title(title)
    return drawing
