"""The look of all pictures: sizes, colours, and files whose bytes depend on the numbers alone.

    @drawn
    def barrier(...) -> Figure:
        f = figure(6.4, 4.0)
        axes = f.subplots()
        ...
        return f

    save(barrier(...), Path("barrier.svg"))

Text is large enough to be read at half the size. The colours are told apart by those who see no
red or no green; heat maps go from dark to light, so they survive a copy in grey.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from zoo.errors import InvalidName, PluginError, StoreError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of lines, bars and points, in order.

Source: Okabe and Ito 2008, Color Universal Design."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Of points, in order: a second way to tell apart what has a colour."""
INK = "#222222"
"""Text, axes, marks."""
FAINT = "#8A8A8A"
"""What explains and is not data: chords, reference lines, notes."""
GRID = "#E4E4E4"
SEQUENTIAL = "cividis"
"""Heat maps of numbers that only grow."""
DIVERGING = "PuOr"
"""Heat maps of numbers about zero: orange below, purple above."""

SUFFIXES = (".svg", ".png")
DPI = 200
"""Pixels per inch of a PNG."""

_CAPITALS = {"cka": "CKA", "psnr": "PSNR", "l2": "L2", "nc1": "NC1"}
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "image.cmap": SEQUENTIAL,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "zoo",
    "path.simplify": False,
}


def figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """An empty figure that gives its parts the room they need.

    Args:
        width, height: inches.
    Raises:
        PluginError: matplotlib is not installed.
    """
    with _styled():
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height), layout="constrained")


def drawn(picture: Callable[P, R]) -> Callable[P, R]:
    """Give a function that draws a picture the style, and the error where there is no matplotlib.

    Other users of matplotlib in the process keep their own settings.
    """

    @wraps(picture)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with _styled():
            return picture(*args, **kwargs)

    return styled


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as SVG or PNG, by the name's ending.

    The same figure gives the same bytes: no date, no random names, text as outlines.

    Raises:
        InvalidName: another ending.
        StoreError: the file cannot be written.
    """
    target = check_path(path)
    content = io.BytesIO()
    kind = target.suffix.lower()[1:]
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with _styled():
        figure.savefig(content, format=kind, dpi=DPI, metadata=metadata)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_bytes(content.getvalue())
        partial.replace(target)
    except OSError as e:
        raise StoreError(
            f"`{target}` cannot be written: {e.strerror or e}.",
            how="Name a file in a directory that exists and is yours.",
            path=str(target),
        ) from e
    return target


def ready(path: str | Path) -> Path:
    """The path of a picture that can be drawn; asked before anything costly is done for it.

    Raises:
        InvalidName: it does not end in `.svg` or `.png`.
        StoreError: its directory does not exist.
        PluginError: matplotlib is not installed.
    """
    target = check_path(path)
    if not target.absolute().parent.is_dir():
        raise StoreError(
            f"There is no directory `{target.parent}` to write `{target.name}` to.",
            how=f"mkdir -p {target.parent}",
            path=str(target),
        )
    with _styled():
        return target


def check_path(path: str | Path) -> Path:
    """The path of a picture.

    Raises:
        InvalidName: it does not end in `.svg` or `.png`.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise InvalidName(
            f"`{target}` is no name of a picture:",
            f"pictures are written as {' or '.join(SUFFIXES)}.",
            f"Call it `{target.with_suffix('.svg') if target.name else 'picture.svg'}`.",
            path=str(target),
        )
    return target


def rule_lines(axes: Axes, which: str = "y") -> None:
    """Thin lines behind the data, at the ticks of one axis."""
    axes.grid(visible=True, axis="x" if which == "x" else "y")


def beside(axes: Axes, **options: Any) -> None:
    """The legend, to the right of the axes, where it can cover nothing."""
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, handlelength=1.6, **options
    )


def words(metric: str) -> str:
    """A metric's name as it is written below an axis."""
    return " ".join(_CAPITALS.get(part, part) for part in metric.split("_"))


@contextmanager
def _styled() -> Iterator[None]:
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as e:
        raise PluginError(
            "Pictures are drawn by matplotlib, and it is not installed.",
            how="pip install 'zoo-registry[plot]'",
        ) from e
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # typed by a list of its names
        settings.update(_STYLE)
        settings["axes.prop_cycle"] = cycler(color=COLOURS)
        yield
