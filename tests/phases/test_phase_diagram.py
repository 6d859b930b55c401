"""The phase diagram: which cell has which value and phase, and the picture's file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from grids import PLACES, TASK, draft

from zoo.errors import InvalidName, InvalidRecipe, InvalidSelection, NotFound
from zoo.phases.map import phase_map
from zoo.plots.phase_diagram import Diagram, phase_diagram
from zoo.plots.style import save
from zoo.records import MetricValue, Version
from zoo.registry import Registry

Grid = Callable[..., dict[tuple[str, str], list[Version]]]
AXES = {"x": "grow.batch", "y": "grow.width"}


def test_axes_are_in_order_of_numbers_and_say_where_they_lead(
    registry: Registry, grid: Grid
) -> None:
    grid()

    found = phase_map(registry, **AXES, colour="accuracy")

    assert (["8", "512"], ["2", "8", "64"]) == (found.columns, found.rows)
    assert ("batch (temperature falls →)", "width (load falls →)") == (found.x, found.y)


@pytest.mark.parametrize(
    ("colour", "place"),
    [
        (None, 1),
        (f"loss/{TASK}:train", 1),
        ("mode_connectivity/digits:train", 2),
        ("cka", 3),
        ("hessian_trace", 4),
    ],
)
def test_a_cell_has_the_mean_over_seeds_or_pairs(
    registry: Registry, grid: Grid, colour: str | None, place: int
) -> None:
    grid()

    found = phase_map(registry, **AXES, colour=colour)

    expected = {(batch, width): known[place] for (width, batch), known in PLACES.items()}
    assert expected.keys() == found.values.keys()
    for where, value in expected.items():
        assert pytest.approx(value) == found.values[where]
    assert (colour is not None and colour.startswith("mode")) == found.is_signed


def test_logarithms_are_of_the_mean_and_only_of_what_is_above_zero(
    registry: Registry, grid: Grid
) -> None:
    grid()

    trace = phase_map(registry, **AXES, colour="hessian_trace", log=True)
    signed = phase_map(registry, **AXES, colour="mode_connectivity/digits:train", log=True)

    assert pytest.approx(math.log(1100)) == trace.values["8", "2"]
    assert "log hessian trace" == trace.colour
    assert 3 == len(signed.values), "three cells have a barrier"


def test_a_cell_bears_the_phase_its_members_agree_on(registry: Registry, grid: Grid) -> None:
    grid()
    assert {} == phase_map(registry, **AXES, colour="accuracy").phases
    registry.assign_phases()
    registry.annotate("w64-b8-s0", phase="II")

    found = phase_map(registry, **AXES, colour="accuracy").phases

    expected = {(batch, width): known[0] for (width, batch), known in PLACES.items()}
    assert {**expected, ("8", "64"): "unassigned"} == found


def test_cells_that_differ_in_more_than_the_axes_are_refused_with_the_remedy(
    registry: Registry,
) -> None:
    for i, (lr, task) in enumerate([("0.1", TASK), ("0.02", TASK), ("0.02", "mnist")]):
        tags = {"grow.width": "8", "grow.batch": "8", "grow.lr": lr, "grow.cell": f"c{lr}"}
        metrics = (MetricValue("accuracy", 0.5),)
        registry.catalog.add(draft(f"m{i}", i, tags=tags, task=task, metrics=metrics))

    with pytest.raises(InvalidSelection, match=r"differ in `grow\.lr`") as caught:
        phase_map(registry, **AXES, colour="accuracy")
    remedy = str(caught.value).split('--where "')[1].split('"')[0]
    assert "tag.'grow.lr' = '0.02'" == remedy
    with pytest.raises(InvalidSelection, match="task = 'digits'"):
        phase_map(registry, **AXES, colour="accuracy", where=remedy)
    found = phase_map(registry, **AXES, colour="accuracy", where=f"{remedy} and task = 'mnist'")
    assert {("8", "8"): 0.5} == found.values


def test_an_unknown_tag_or_metric_is_refused_with_the_nearest(
    registry: Registry, grid: Grid
) -> None:
    grid()

    with pytest.raises(InvalidSelection, match=r"Did you mean `grow\.width`"):
        phase_map(registry, x="grow.batch", y="grow.widht", colour="accuracy")
    with pytest.raises(NotFound, match="Did you mean `mode_connectivity`"):
        phase_map(registry, **AXES, colour="mode_conectivity")
    registry.catalog.add(draft("new", 99, tags={"grow.batch": "1", "grow.width": "1"}))
    with pytest.raises(NotFound, match="--split train"):
        phase_map(registry, **AXES, where="name = 'new'")


DIAGRAM = Diagram(
    "batch",
    "width",
    ["8", "64"],
    ["2", "16", "128"],
    "mode connectivity",
    {("8", "2"): -9.0, ("64", "2"): 3.0, ("8", "16"): -1.0},
    {("8", "2"): "I", ("64", "2"): "II", ("64", "16"): "unassigned", ("8", "128"): "IV-B"},
    is_signed=True,
)


def written(data: Diagram) -> list[str]:
    drawing = phase_diagram(data)
    return [text.get_text() for text in drawing.axes[0].texts]


def test_letters_are_in_their_cells_and_the_key_names_those_that_occur() -> None:
    *letters, key = written(DIAGRAM)

    assert ["I", "IV-B", "II", "?"] == letters
    assert [line.split()[0] for line in key.splitlines()] == ["I", "II", "IV-B", "?"]
    places = [t.get_position() for t in phase_diagram(DIAGRAM).axes[0].texts[:-1]]
    assert [(0.5, 0.5), (0.5, 2.5), (1.5, 0.5), (1.5, 1.5)] == places


def test_colours_of_a_signed_metric_are_about_zero() -> None:
    bounds = [
        phase_diagram(data).axes[0].collections[0].get_clim()
        for data in (
            DIAGRAM,
            Diagram("x", "y", ["8", "64"], ["2", "16", "128"], "loss", DIAGRAM.values, {}),
        )
    ]

    assert [(-9.0, 9.0), (-9.0, 3.0)] == bounds


def test_lines_lie_between_phases_thick_where_both_have_a_label() -> None:
    _, vague, _, clear = phase_diagram(DIAGRAM).axes[0].collections

    assert [[[1.0, 0.0], [1.0, 1.0]]] == [line.tolist() for line in clear.get_segments()]
    assert [[[1.0, 1.0], [2.0, 1.0]]] == [line.tolist() for line in vague.get_segments()]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_diagram_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    one, two = (
        save(phase_diagram(DIAGRAM, title="Digits"), tmp_path / f"{name}{suffix}").read_bytes()
        for name in ("one", "two")
    )

    assert one == two
    if suffix == ".svg":
        assert ElementTree.fromstring(one).tag.endswith("svg")
    else:
        assert one.startswith(b"\x89PNG")


def test_a_grid_of_one_value_or_of_phases_alone_is_drawn(tmp_path: Path) -> None:
    one = Diagram("x", "y", ["1"], ["1"], "loss", {("1", "1"): 0.0}, {})
    phases = Diagram("x", "y", ["1"], ["1"], "loss", {}, {("1", "1"): "III"})

    for i, data in enumerate((one, phases)):
        save(phase_diagram(data), tmp_path / f"{i}.svg")
    with pytest.raises(InvalidRecipe, match="nothing to draw"):
        phase_diagram(Diagram("x", "y", ["1"], ["1"], "loss", {}, {}))
    with pytest.raises(InvalidName, match=r"\.svg"):
        save(phase_diagram(one), tmp_path / "map.jpeg")
