"""Methods side by side: one bar each, for the best merge it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe
from zoo.plots.style import COLOURS, FAINT, INK, drawn, figure, rule_lines, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Bar:
    """One merge."""

    method: str
    ref: str
    value: float
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Merges by method, and what they are held against."""

    metric: str
    bars: Sequence[Bar]
    references: Mapping[str, float] = field(default_factory=dict)
    """Drawn as upright lines: `experts`, `base`."""
    higher_is_better: bool = True

    def by_method(self) -> list[tuple[Bar, list[Bar]]]:
        """For each method its best merge and all its merges; the best method first."""
        sign = -1 if self.higher_is_better else 1
        groups: dict[str, list[Bar]] = {}
        for bar in sorted(self.bars, key=lambda b: (sign * b.value, b.method, b.ref)):
            groups.setdefault(bar.method, []).append(bar)
        return [(group[0], group) for group in groups.values()]

    def as_dict(self) -> dict[str, Any]:
        """The numbers drawn, ready for JSON."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "methods": [
                {
                    "method": best.method,
                    "best": best.ref,
                    "value": best.value,
                    "stderr": best.stderr,
                    "all": [{"version": b.ref, "value": b.value} for b in group],
                }
                for best, group in self.by_method()
            ],
            "references": dict(self.references),
        }


@drawn
def comparison(data: Comparison, *, title: str = "") -> Figure:
    """Bars from the best method down, its other merges as rings, standard errors as whiskers.

    The axis begins at zero unless all values lie so close together that nothing could be seen;
    points take the place of bars then, because a bar that does not begin at zero lies.

    Raises:
        InvalidRecipe: there are no merges.
    """
    rows = data.by_method()
    if not rows:
        raise InvalidRecipe(f"No merge has a value of `{data.metric}`: there is nothing to draw.")
    values = [v for b in data.bars for v in (b.value - (b.stderr or 0), b.value + (b.stderr or 0))]
    values += data.references.values()
    low, high = min(values), max(values)
    from_zero = low < 0 or high - low > 0.15 * high
    several = any(len(group) > 1 for _, group in rows)
    drawing = figure(7.2, 1.5 + 0.42 * len(rows) + 0.3 * (several or bool(data.references)))
    axes = drawing.subplots()
    for place, (best, group) in enumerate(rows):
        if from_zero:
            axes.barh(place, best.value, height=0.62, color=COLOURS[0], zorder=2)
        else:
            axes.plot(best.value, place, ls="", marker="o", ms=9, color=COLOURS[0], zorder=4)
        if best.stderr is not None:
            axes.errorbar(
                best.value, place, xerr=best.stderr, color=INK, capsize=3, lw=1.2, zorder=5
            )
        if len(group) > 1:
            others = [b.value for b in group[1:]]
            axes.plot(others, [place] * len(others), **_RING, zorder=3)
    span = (high - low) if not from_zero else high - min(low, 0.0)
    span = span or abs(high) or 1.0
    start = (min(low, 0.0) - (0.1 * span if low < 0 else 0)) if from_zero else low - 0.12 * span
    axes.set_xlim(start, high + 0.04 * span)
    form = _form(span)
    for place, (best, _) in enumerate(rows):
        axes.annotate(
            form.format(best.value).replace("-", "\N{MINUS SIGN}"),
            xy=(1, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    styles = ((0, (5, 3)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
    for i, (name, value) in enumerate(data.references.items()):
        label = f"{name} {form.format(value)}"
        line = styles[i % len(styles)]
        axes.axvline(value, color=INK, lw=1.5, ls=line, label=label, zorder=6 if from_zero else 1.5)
    axes.set_yticks(range(len(rows)), [best.method for best, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(from_zero)
    axes.set_xlabel(words(data.metric))
    axes.locator_params(axis="x", nbins=6)
    rule_lines(axes, "x")
    if several:
        axes.plot([], [], **_RING, label="other settings")
    if several or data.references:
        drawing.legend(loc="outside lower left", ncols=3, columnspacing=1.4)
    if title:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return drawing


_RING: dict[str, Any] = {
    "ls": "", "marker": "o", "ms": 6, "mfc": "white", "mec": FAINT, "mew": 1.4
}  # fmt: skip


def _form(span: float) -> str:
    """As many digits as tell apart what the picture tells apart."""
    digits = 0 if span >= 100 else 1 if span >= 20 else 2 if span >= 2 else 3
    return f"{{:.{digits + (span < 0.02)}f}}"
