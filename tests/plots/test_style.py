"""Files of pictures: the same bytes for the same numbers, and errors that say what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo.errors import InvalidName, PluginError, StoreError
from zoo.plots.barrier import Line, barrier
from zoo.plots.coefficients import Sweep, Sweeps, coefficients
from zoo.plots.comparison import Bar, Comparison, comparison
from zoo.plots.loss_surface import Point, Surface, loss_surface
from zoo.plots.matrix import Matrix, matrix
from zoo.plots.style import save

LINE = Line("a@1", "b@1", (0.0, 0.5, 1.0), (0.1, 1.4, 0.3), (0.02, 0.5, 0.04))
RISING = ((1, 2), (0.5, 3), (2, 40))
BARS = [Bar("ties", "x@1", 0.4, 0.01), Bar("ties", "x@2", 0.3)]
CLOSE = [Bar("a", "x", 30.1), Bar("b", "y", 30.2)]
PICTURES = {
    "barrier": lambda: barrier([LINE], title="A line"),
    "barriers": lambda: barrier([LINE, Line("b@1", "c@1", LINE.at, LINE.loss, LINE.error)]),
    "surface": lambda: loss_surface(
        Surface("a", "b", (0, 1), (0, 0.5, 1), RISING, points=[Point("p", 0, 1)])
    ),
    "flat surface": lambda: loss_surface(Surface("a", "b", (0, 1), (0, 1), ((2, 2), (2, 2)))),
    "matrix": lambda: matrix(Matrix(["a", "b", "c"], "cka", {("a", "b"): 0.5, ("c", "a"): 0.7})),
    "large matrix": lambda: matrix(
        Matrix([f"m{i}" for i in range(70)], "task_vector_cosine", {("m0", "m1"): -0.2})
    ),
    "bars": lambda: comparison(Comparison("accuracy", BARS, {"base": 0.1})),
    "close bars": lambda: comparison(Comparison("psnr", CLOSE)),
    "sweep": lambda: coefficients(
        Sweeps("accuracy", "lambda", [Sweep("ties", (0.1, 0.2), (0.4, 0.5))], {"experts": 0.9})
    ),
    "sweeps": lambda: coefficients(
        Sweeps("loss", "t", [Sweep(n, (0, 1), (1, 2)) for n in "ab"], higher_is_better=False)
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("name", PICTURES)
def test_the_same_numbers_give_the_same_bytes(name, suffix, tmp_path):
    first = save(PICTURES[name](), tmp_path / f"first.{suffix}").read_bytes()
    second = save(PICTURES[name](), tmp_path / f"second.{suffix}").read_bytes()

    assert first == second
    assert first[:5] == (b"<?xml" if suffix == "svg" else b"\x89PNG\r")
    assert b"<dc:date>" not in first and b"<text" not in first, "letters are outlines"


def test_other_numbers_give_other_bytes(tmp_path):
    other = Line("a@1", "b@1", LINE.at, (0.1, 1.5, 0.3), LINE.error)

    one = save(barrier([LINE]), tmp_path / "one.svg").read_bytes()

    assert one != save(barrier([other]), tmp_path / "two.svg").read_bytes()


def test_settings_of_others_stay_and_do_not_show(tmp_path):
    import matplotlib

    plain = save(PICTURES["bars"](), tmp_path / "plain.svg").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.spines.top": True}):
        told = save(PICTURES["bars"](), tmp_path / "told.svg").read_bytes()

        assert 30 == matplotlib.rcParams["font.size"]
    assert plain == told


def test_only_svg_and_png_are_written(tmp_path):
    with pytest.raises(InvalidName, match=r"\.svg or \.png"):
        save(PICTURES["bars"](), tmp_path / "bars.pdf")


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere.bars\.svg"):
        save(PICTURES["bars"](), tmp_path / "nowhere" / "bars.svg")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(PluginError, match=r"pip install 'zoo-registry\[plot\]'"):
        PICTURES["bars"]()


def test_the_commands_load_neither_matplotlib_nor_torch():
    code = (
        "import sys, zoo_cli.commands.plot, zoo_cli.commands.advise, zoo.plots.style\n"
        "print({'matplotlib', 'torch', 'numpy', 'duckdb'} & set(sys.modules))"
    )

    assert "set()" == subprocess.check_output([sys.executable, "-c", code], text=True).strip()
