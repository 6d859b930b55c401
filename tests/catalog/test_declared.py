"""Tasks and rules of phases: kept once, never changed in silence, every change in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from drafts import draft

from zoo.catalog.analytics import query
from zoo.catalog.catalog import Catalog
from zoo.errors import InvalidName, NotFound, RegistryError
from zoo.records import MetricValue

DATA = {"train": "sha256:aa", "test": "sha256:bb"}


def told(catalog: Catalog) -> list[tuple[str, str]]:
    return [(event["action"], event["subject"]) for event in catalog.events()[1:]]


def test_a_task_reads_back_as_it_was_declared(catalog: Catalog) -> None:
    catalog.add_task("digits-5", {"from": "digits", "labels": [0, 5], "ü": None}, DATA)
    catalog.add_task("a", {}, {})

    a, digits = catalog.tasks()
    assert ("a", {}, {}) == (a.name, a.declaration, a.digests)
    assert {"from": "digits", "labels": [0, 5], "ü": None} == digits.declaration
    assert DATA == digits.digests
    assert digits == catalog.task("digits-5")
    assert catalog.task("digits") is None
    assert [("declare", "digits-5"), ("declare", "a")] == told(catalog)
    assert [] == catalog.check_audit()


def test_the_same_declaration_again_changes_nothing(catalog: Catalog) -> None:
    catalog.add_task("digits", {"x": 1, "y": 2}, DATA)
    before = catalog.task("digits")

    catalog.add_task("digits", {"y": 2, "x": 1}, dict(reversed(DATA.items())))

    assert before == catalog.task("digits")
    assert 1 == len(told(catalog))


@pytest.mark.parametrize(
    ("declaration", "digests", "what"),
    [({"x": 2}, DATA, "declaration"), ({"x": 1}, {"test": "sha256:cc"}, "other data")],
)
def test_a_changed_task_is_refused_unless_it_is_to_be_replaced(
    catalog: Catalog, declaration: dict[str, int], digests: dict[str, str], what: str
) -> None:
    catalog.add_task("digits", {"x": 1}, DATA)

    with pytest.raises(RegistryError, match=what):
        catalog.add_task("digits", declaration, digests)
    kept = catalog.task("digits")
    assert kept is not None and ({"x": 1}, DATA) == (kept.declaration, kept.digests)
    catalog.add_task("digits", declaration, digests, replace=True)

    now = catalog.task("digits")
    assert now is not None and (declaration, digests) == (now.declaration, now.digests)
    assert [("declare", "digits")] * 2 == told(catalog)


@pytest.mark.parametrize("name", ["", "a:test", "a/b", "a b", "-a", "a" * 97, "ü"])
def test_a_name_that_would_break_the_splits_of_metrics_is_refused(
    catalog: Catalog, name: str
) -> None:
    with pytest.raises(InvalidName):
        catalog.add_task(name, {}, {})
    with pytest.raises(InvalidName):
        catalog.add_phase_rule(name, {"loss": 0.1})


def test_a_task_is_forgotten_once(catalog: Catalog) -> None:
    catalog.add_task("digits", {"x": 1}, DATA)

    catalog.remove_task("digits")

    assert [] == catalog.tasks()
    assert ("withdraw", "digits") == told(catalog)[-1]
    with pytest.raises(NotFound, match="digits"):
        catalog.remove_task("digits")


def test_a_rule_of_phases_is_never_changed_only_followed(catalog: Catalog) -> None:
    numbers = [
        catalog.add_phase_rule("default", {"loss": loss, "cka": 0.6}) for loss in (0.1, 0.1, 0.2)
    ]
    numbers += [catalog.add_phase_rule("default", {"cka": 0.6, "loss": 0.1})]

    assert [1, 1, 2, 3] == numbers
    rules = catalog.phase_rules()
    assert ["default@1", "default@2", "default@3"] == [rule.ref for rule in rules]
    assert [0.1, 0.2, 0.1] == [rule.thresholds["loss"] for rule in rules]
    assert rules[2] == catalog.phase_rule("default")
    assert rules[0] == catalog.phase_rule("default", 1)
    assert catalog.phase_rule("default", 4) is None
    assert catalog.phase_rule("other") is None
    assert [("rule", "default")] * 3 == told(catalog)


def test_a_derived_phase_names_its_rule_and_an_asserted_one_none(catalog: Catalog) -> None:
    a, b = catalog.add_many([draft("a", 1, phase="II"), draft("b", 2)])
    catalog.add_phase_rule("default", {"loss": 0.1})

    confidence = MetricValue("phase_confidence", 0.75)
    catalog.set_phase([b.id, a.id, b.id], "IV-B", "default@1", [confidence])

    assert ["IV-B", "IV-B"] == [v.phase for v in catalog.select("phase_rule = 'default@1'")]
    assert [0.75, 0.75] == [v.metrics["phase_confidence"] for v in catalog.select()]
    asserted = catalog.annotate(a.id, phase="IV-B")
    assert ("IV-B", None) == (asserted.phase, asserted.phase_rule)
    assert ["a@1"] == [v.ref for v in catalog.select("phase_rule is null")]
    kept = catalog.annotate(b.id, task="math")
    assert "default@1" == kept.phase_rule
    last = catalog.events()[-2]
    assert {"phase": ["IV-B", "IV-B"], "phase_rule": ["default@1", None]} == last["detail"]
    assert [] == catalog.check_audit()


def test_a_phase_is_taken_away_and_the_log_tells_each_version(catalog: Catalog) -> None:
    a, b = catalog.add_many([draft("a", 1, phase="II"), draft("b", 2)])

    catalog.set_phase([a.id, b.id], None)

    assert [None, None] == [v.phase for v in catalog.select()]
    assert [("add", "a@1"), ("add", "b@1"), ("annotate", "a@1")] == told(catalog)


@pytest.mark.parametrize("fault", ["version", "rule", "metric"])
def test_a_phase_is_given_to_all_or_to_none(catalog: Catalog, fault: str) -> None:
    a = catalog.add(draft("a", 1))
    catalog.add_phase_rule("default", {"loss": 0.1})
    ids = [a.id, 99] if fault == "version" else [a.id]
    rule = "default@2" if fault == "rule" else "default@1"
    metrics = [MetricValue("x", float("nan"))] if fault == "metric" else []
    before = catalog.events()

    with pytest.raises(RegistryError if fault == "metric" else NotFound):
        catalog.set_phase(ids, "III", rule, metrics)

    assert (a, before) == (catalog.get("a"), catalog.events())


def test_several_metrics_of_a_set_are_one_change(catalog: Catalog) -> None:
    a, b = catalog.add_many([draft("a", 1), draft("b", 2)])

    values = [MetricValue("barrier", 0.5, "t"), MetricValue("error_barrier", 0.25, "t")]
    catalog.record_group_metrics([a.id, b.id], values)
    with pytest.raises(RegistryError, match="finite"):
        catalog.record_group_metrics(
            [b.id, a.id], [MetricValue("barrier", 1.0, "t"), MetricValue("cka", float("inf"))]
        )

    rows = catalog.group_metrics([b.id, a.id])
    assert [("barrier", 0.5), ("error_barrier", 0.25)] == [(r["name"], r["value"]) for r in rows]
    assert ("measure", "a@1+b@1") == told(catalog)[-1]
    assert [["barrier", "t", None, 0.5], ["error_barrier", "t", None, 0.25]] == (
        catalog.events()[-1]["detail"]["metrics"]
    )


def test_what_was_measured_reads_back_whole(catalog: Catalog) -> None:
    values = [
        MetricValue("accuracy", 0.5, "digits", "digits", {"seed": 1}, 0.1, {"torch": "2"}, "t"),
        MetricValue("accuracy", 0.25),
    ]
    a = catalog.add(draft("a", 1, metrics=tuple(values)))

    assert values[::-1] == catalog.measured(a.id)
    assert [] == catalog.measured(99)


def test_zoo_query_sees_tasks_rules_and_derived_phases(catalog: Catalog, store: Path) -> None:
    a = catalog.add(draft("a", 1))
    assert [] == query(catalog, "SELECT * FROM tasks").rows

    catalog.add_task("digits", {"from": "x"}, DATA)
    catalog.add_phase_rule("default", {"loss": 0.1})
    catalog.set_phase([a.id], "III", "default@1")

    rows = query(
        catalog,
        "SELECT ref, phase, (thresholds->>'loss')::DOUBLE FROM versions "
        "JOIN phase_rules ON rule = phase_rule",
    ).rows
    assert [("a@1", "III", 0.1)] == rows
    tasks = query(catalog, "SELECT name, declaration->>'from', digests->>'test' FROM tasks").rows
    assert [("digits", "x", "sha256:bb")] == tasks


def test_phases_of_several_groups_are_written_together_or_not_at_all(catalog: Catalog) -> None:
    a, b = catalog.add_many([draft("a", 1), draft("b", 2)])
    catalog.add_phase_rule("default", {"loss": 0.1})

    with pytest.raises(NotFound):
        catalog.set_phases([([a.id], "I", ()), ([b.id, 99], "II", ())], "default@1")
    assert [None, None] == [v.phase for v in catalog.select()]
    catalog.set_phases([([a.id], "I", ()), ([b.id], "II", ())], "default@1")

    assert [("I", "default@1"), ("II", "default@1")] == [
        (v.phase, v.phase_rule) for v in catalog.select()
    ]
    assert [] == catalog.check_audit()
