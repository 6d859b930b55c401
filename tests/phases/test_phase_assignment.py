"""Phases of a grid: which versions are a cell, what is read of it, what is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grids import PLACES, TASK, draft

from zoo.errors import InvalidRecipe, InvalidSelection, NotFound
from zoo.phases.assignment import CONFIDENCE, Assigned, Assignment, advice
from zoo.phases.cells import telling
from zoo.phases.rule import Thresholds
from zoo.records import MetricValue, Version
from zoo.registry import Registry

Grid = Callable[..., dict[tuple[str, str], list[Version]]]


def labels(found: Assignment) -> dict[tuple[str, str], str]:
    return {
        (one.cell.tags["grow.width"], one.cell.tags["grow.batch"]): one.label.phase
        for one in found.cells
    }


def cell_of(found: Assignment, width: str, batch: str) -> Assigned:
    tags = {"grow.batch": batch, "grow.width": width}
    return next(one for one in found.cells if one.cell.tags == tags)


def test_each_cell_of_the_grid_has_its_phase(registry: Registry, grid: Grid) -> None:
    made = grid()

    found = registry.assign_phases()

    assert {place: expected[0] for place, expected in PLACES.items()} == labels(found)
    assert "default@1" == found.rule
    for place, versions in made.items():
        for version in versions:
            now = registry.get(version.ref)
            assert (PLACES[place][0], "default@1") == (now.phase, now.phase_rule)
    assert [] == registry.catalog.check_audit()


def test_what_is_read_are_the_means_over_seeds_and_pairs(registry: Registry, grid: Grid) -> None:
    grid()

    measures = cell_of(registry.assign_phases(dry_run=True), "2", "8").read.measures

    _, loss, connectivity, cka, _ = PLACES["2", "8"]
    assert pytest.approx((3, loss, connectivity, cka, 7.003065)) == (
        *(measures.members, measures.train_loss, measures.connectivity),
        *(measures.cka, measures.log_trace),
    )


def test_a_query_finds_versions_by_phase_rule_and_confidence(
    registry: Registry, grid: Grid
) -> None:
    grid()

    registry.assign_phases()

    found = registry.select(f"phase = 'IV-B' and phase_rule = 'default@1' and {CONFIDENCE} > 0.4")
    assert ["w64-b8-s0", "w64-b8-s1", "w64-b8-s2"] == [v.name for v in found]
    (value,) = [m for m in registry.catalog.measured(found[0].id) if m.name == CONFIDENCE]
    assert pytest.approx((0.85 - 0.6) / 0.6) == value.value
    assert ("default@1", "IV-B") == (value.protocol["rule"], value.protocol["phase"])
    assert ["w64-b8-s0@1", "w64-b8-s1@1", "w64-b8-s2@1"] == value.protocol["members"]


def test_a_dry_run_writes_nothing(registry: Registry, grid: Grid) -> None:
    grid()
    before = registry.catalog.events()

    found = registry.assign_phases(dry_run=True, thresholds={"loss": 0.5})

    assert ("default@1", 0.5) == (found.rule, found.thresholds.loss)
    assert (before, []) == (registry.catalog.events(), registry.catalog.phase_rules())


def test_the_same_again_changes_no_label_and_makes_no_rule(registry: Registry, grid: Grid) -> None:
    grid()
    first = registry.assign_phases()

    again = registry.assign_phases()

    assert (first.rule, labels(first)) == (again.rule, labels(again))
    assert ["default@1"] == [rule.ref for rule in registry.catalog.phase_rules()]


def test_changed_thresholds_are_the_next_rule_and_the_newest_is_used(
    registry: Registry, grid: Grid
) -> None:
    grid()
    registry.assign_phases()

    changed = registry.assign_phases(thresholds={"loss": 0.5})
    newest = registry.assign_phases()
    first = registry.assign_phases(rule="default@1")

    assert ["default@2", "default@2", "default@1"] == [x.rule for x in (changed, newest, first)]
    assert "IV-A" == labels(changed)["8", "512"], "low loss now, connected, CKA 0.5"
    assert Thresholds(loss=0.5) == newest.thresholds
    assert labels(first)["8", "512"] == "unassigned"


def test_a_rule_of_another_name_starts_from_the_defaults(registry: Registry, grid: Grid) -> None:
    grid()

    found = registry.assign_phases(rule="mine", thresholds={"cka": 0.3})

    assert ("mine@1", Thresholds(cka=0.3)) == (found.rule, found.thresholds)
    assert "IV-B" == labels(found)["64", "512"]
    with pytest.raises(NotFound, match="mine"):
        registry.assign_phases(rule="mind")
    with pytest.raises(NotFound, match="mine@1"):
        registry.assign_phases(rule="mine@2")
    with pytest.raises(InvalidRecipe, match="never changes"):
        registry.assign_phases(rule="mine@1", thresholds={"cka": 0.5})


def test_relative_thresholds_are_stored_as_numbers(registry: Registry, grid: Grid) -> None:
    grid()

    found = registry.assign_phases(thresholds={"cka": "midpoint", "loss": "median"})

    losses = sorted(place[1] for place in PLACES.values())
    assert pytest.approx((losses[2] + losses[3]) / 2) == found.thresholds.loss
    fewer = registry.assign_phases(
        where="name not like 'w2-b8-%'", thresholds={"loss": "median"}, dry_run=True
    )
    assert pytest.approx((losses[2] + losses[3]) / 2) == fewer.thresholds.loss, "of five cells"
    assert pytest.approx((0.35 + 0.85) / 2) == found.thresholds.cka
    kept = registry.catalog.phase_rule("default")
    assert kept is not None and found.thresholds.as_dict() == kept.thresholds


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"cka": "median"}, "midpoint"),
        ({"los": "median"}, "Did you mean `loss`"),
        ({"los": 0.5}, "Did you mean `loss`"),
        ({"loss": 1e-9, "cka": "midpoint"}, "two cells"),
    ],
)
def test_an_unfit_threshold_is_refused_and_nothing_is_written(
    registry: Registry, grid: Grid, thresholds: dict[str, float | str], said: str
) -> None:
    grid()
    before = registry.catalog.events()

    with pytest.raises(InvalidRecipe, match=said):
        registry.assign_phases(thresholds=thresholds)

    assert before == registry.catalog.events()


def test_an_asserted_label_stays_unless_forced(registry: Registry, grid: Grid) -> None:
    grid()
    registry.annotate("w64-b8-s0", phase="II")

    found = registry.assign_phases()

    assert ("w64-b8-s0@1",) == cell_of(found, "64", "8").asserted
    kept = registry.get("w64-b8-s0")
    assert ("II", None) == (kept.phase, kept.phase_rule)
    assert CONFIDENCE not in kept.metrics
    assert "IV-B" == registry.get("w64-b8-s1").phase
    registry.assign_phases(force=True)
    assert "IV-B" == registry.get("w64-b8-s0").phase


def test_a_lone_seed_has_no_phase(registry: Registry, grid: Grid) -> None:
    grid(seeds=1)

    found = registry.assign_phases()

    assert {"unassigned"} == set(labels(found).values())
    assert {("1 of 2 seeds",)} == {one.label.why for one in found.cells}


def test_the_same_weights_twice_are_one_seed_and_both_get_the_label(registry: Registry) -> None:
    tags = {"grow.width": "8"}
    metrics = (MetricValue("loss", 0.5, f"{TASK}:train"),)
    drafts = [draft(name, 1, tags=tags, metrics=metrics) for name in ("a", "b")]
    registry.catalog.add_many(drafts)

    (one,) = registry.assign_phases().cells

    assert (2, ("1 of 2 seeds",)) == (len(one.cell.members), one.label.why)
    assert {"unassigned"} == {v.phase for v in registry.select()}


def test_what_is_not_measured_is_told_with_the_command(registry: Registry, grid: Grid) -> None:
    grid(pairs=False)

    found = registry.assign_phases(dry_run=True)

    assert {"unassigned"} == set(labels(found).values())
    (line,) = advice(found.cells, "task = 'digits'", ())
    assert (
        "zoo measure --where \"task = 'digits'\" --metric mode_connectivity "
        "--within grow.batch --within grow.width" == line
    )


def test_a_mean_over_some_pairs_says_so(registry: Registry) -> None:
    a, b, _ = registry.catalog.add_many(
        [
            draft(
                *(f"s{i}", i),
                tags={"grow.width": "8", "grow.seed": str(i)},
                metrics=(MetricValue("loss", 0.5, f"{TASK}:train"),) if i else (),
            )
            for i in range(3)
        ]
    )
    registry.catalog.record_group_metrics([a.id, b.id], [MetricValue("mode_connectivity", -5, "")])

    (one,) = registry.assign_phases().cells

    assert "I" == one.label.phase
    assert ["train loss of 2 of 3 members", "connectivity of 1 of 3 pairs"] == one.read.notes


def test_a_cell_has_one_task_and_the_tags_that_are_asked_for(registry: Registry) -> None:
    registry.catalog.add_many(
        [
            draft("a", 1, tags={"grow.width": "8", "lr": "0.1"}),
            draft("b", 2, tags={"grow.width": "8", "lr": "0.2"}),
            draft("c", 3, tags={"grow.width": "8", "lr": "0.1"}, task="mnist"),
            draft("d", 4),
        ]
    )

    def grouped(*keys: str) -> list[list[str]]:
        found = registry.assign_phases(keys=keys, dry_run=True)
        assert ("d@1",) == found.without
        return [[v.name for v in one.cell.members] for one in found.cells]

    assert [["a", "b"], ["c"]] == grouped()
    assert [["a"], ["b"], ["c"]] == grouped("lr")
    with pytest.raises(InvalidSelection, match=r"grow\.width"):
        grouped("grow.widht")


def test_versions_without_a_grid_are_refused(registry: Registry) -> None:
    with pytest.raises(InvalidSelection, match="0 versions"):
        registry.assign_phases()
    registry.catalog.add(draft("a", 1))
    with pytest.raises(InvalidSelection, match="--cell"):
        registry.assign_phases()
    assert [] == registry.catalog.phase_rules()


def test_values_of_different_protocols_are_noted(registry: Registry) -> None:
    for i, samples in enumerate([100, 100, 200]):
        loss = MetricValue("loss", 0.5, f"{TASK}:train", protocol={"samples": samples})
        tags = {"grow.width": str(i), "grow.seed": str(i)}
        registry.catalog.add(draft(f"m{i}", i, tags=tags, metrics=(loss,)))

    alike = registry.assign_phases(where="tag.'grow.width' < 2", dry_run=True)
    mixed = registry.assign_phases(dry_run=True)

    assert [] == alike.notes
    assert ["train loss was measured in 2 ways, with different protocols"] == mixed.notes
    assert mixed.notes == mixed.as_dict()["notes"]


def test_cells_are_told_apart_by_as_few_tags_as_do(registry: Registry) -> None:
    for i, (width, lr) in enumerate([("16", "0.1"), ("8", "0.1"), ("8", "0.02")]):
        tags = {"grow.width": width, "grow.lr": lr, "grow.plan": "p", "grow.cell": f"c{i}"}
        registry.catalog.add(draft(f"m{i}", i, tags={**tags, "grow.depth": "2"}))

    found = [one.cell for one in registry.assign_phases(dry_run=True).cells]

    names = [cell.name(telling(found)) for cell in found]
    assert ["lr=0.02 width=8", "lr=0.1 width=8", "lr=0.1 width=16"] == names
    assert "cell=c2" == found[0].name(telling(found[:1]))
