"""What pictures say of their numbers: barriers, best points, gaps; and what cannot be drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidRecipe
from zoo.plots.barrier import Line, barrier
from zoo.plots.coefficients import Sweep, Sweeps, coefficients
from zoo.plots.comparison import Bar, Comparison, comparison
from zoo.plots.loss_surface import Surface, loss_surface, lowest
from zoo.plots.matrix import Matrix, matrix

numbers = st.floats(0, 100)


def texts(figure) -> str:
    """All that is written in a picture."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def test_the_barrier_is_the_rise_above_the_chord():
    line = Line("a", "b", (0, 0.25, 1), (1.0, 3.0, 5.0), (0.0, 0.5, 0.4))

    told = line.as_dict()

    assert pytest.approx(1.0) == told["barrier"]  # 3 - (0.75 * 1 + 0.25 * 5)
    assert pytest.approx(0.4) == told["error_barrier"]
    assert [1.0, 3.0, 5.0] == told["loss"]
    shown = texts(barrier([line]))
    assert "barrier 1 nats" in shown
    assert "barrier 40.0 points" in shown


def test_a_line_that_sags_has_no_barrier():
    line = Line("a", "b", (0, 0.5, 1), (1.0, 0.2, 1.0))

    assert 0 == line.as_dict()["barrier"]
    assert "no barrier" in texts(barrier([line]))
    assert "error" not in texts(barrier([line]))


@pytest.mark.parametrize("count", [0, 8])
def test_more_lines_than_can_be_told_apart_are_refused(count):
    line = Line("a", "b", (0, 1), (1, 1))

    with pytest.raises(InvalidRecipe, match=f"{count} lines"):
        barrier([line] * count)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=4))
def test_the_star_is_the_lowest_of_the_grid(rows):
    surface = Surface("a", "b", (0, 1, 2), tuple(range(len(rows))), rows)

    best = lowest(surface)

    assert min(map(min, rows)) == best["value"] == rows[int(best["y"])][int(best["x"])]


def test_a_surface_of_one_row_is_refused():
    with pytest.raises(InvalidRecipe, match="two coefficients"):
        loss_surface(Surface("a", "b", (0, 1), (0,), ((1, 2),)))


def test_a_matrix_is_symmetric_with_gaps_where_nothing_was_measured():
    data = Matrix(["a", "b", "c"], "cka", {("b", "a"): 0.5, ("b", "c"): 0.75})

    assert [[None, 0.5, None], [0.5, None, 0.75], [None, 0.75, None]] == data.as_dict()["values"]
    shown = texts(matrix(data))
    assert 2 == shown.count("0.50") and 2 == shown.count("0.75")


def test_a_matrix_without_values_says_how_to_measure():
    with pytest.raises(InvalidRecipe, match="zoo measure REF REF --metric cka"):
        matrix(Matrix(["a", "b"], "cka", {}))


@given(st.lists(st.tuples(st.sampled_from("abc"), numbers), min_size=1, max_size=9), st.booleans())
def test_methods_are_ordered_by_their_best(values, higher):
    bars = [Bar(method, f"v@{i}", value) for i, (method, value) in enumerate(values)]
    pick, sign = (max, -1) if higher else (min, 1)

    told = Comparison("x", bars, higher_is_better=higher).as_dict()["methods"]

    assert {m for m, _ in values} == {row["method"] for row in told}
    for row in told:
        own = [v for m, v in values if m == row["method"]]
        assert pick(own) == row["value"]
        assert sorted(own) == sorted(one["value"] for one in row["all"])
    best = [sign * row["value"] for row in told]
    assert sorted(best) == best


def test_nothing_to_compare_is_told():
    with pytest.raises(InvalidRecipe, match="`accuracy`"):
        comparison(Comparison("accuracy", []))


def test_the_best_coefficient_depends_on_the_sense_of_the_metric():
    sweep = Sweep("ties", (0.1, 0.2, 0.3), (3.0, 1.0, 2.0))

    assert (0.1, 3.0) == sweep.best()
    assert (0.2, 1.0) == sweep.best(higher_is_better=False)
    assert "3 at 0.1" in texts(coefficients(Sweeps("accuracy", "lambda", [sweep])))


def test_more_curves_than_can_be_told_apart_are_refused():
    with pytest.raises(InvalidRecipe, match="8 curves"):
        coefficients(Sweeps("accuracy", "lambda", [Sweep("a", (0, 1), (0, 1))] * 8))
