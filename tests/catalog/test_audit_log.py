"""The hash-chained audit log."""

from __future__ import annotations

import re
from typing import Any

import pytest
from drafts import draft, merge_run
from sqlalchemy import delete, update

from zoo.catalog import tables as t
from zoo.catalog.catalog import Catalog
from zoo.records import MetricValue


@pytest.fixture
def used(catalog: Catalog) -> Catalog:
    """A catalog with one event of every kind: init, add, add, annotate, measure, alias, ..."""
    a, b = catalog.add_many([draft("a", 1), draft("b", 2)])
    catalog.annotate(a.id, tags={"x": "1"})
    catalog.record_group_metrics([a.id, b.id], [MetricValue("barrier", 0.5)])
    catalog.alias(a.id, "best")
    catalog.unalias("a", "best")
    catalog.remove(a.id, "because")
    return catalog


def test_every_change_leaves_an_event_that_says_what_changed(used: Catalog) -> None:
    events = used.events()

    assert ["init", "add", "add", "annotate", "measure", "alias", "unalias", "remove"] == [
        e["action"] for e in events
    ]
    assert list(range(1, 9)) == [e["sequence"] for e in events]
    assert events[-2:] == used.events(2)
    assert [] == used.check_audit()
    assert {"reason": "because"} == events[-1]["detail"]
    assert ["a@1+b@1", "a@1", "a", "a@1"] == [e["subject"] for e in events[-4:]]


EDITS: dict[str, Any] = {
    "at": "2001-01-01T00:00:00Z",
    "action": "other",
    "subject": "b@7",
    "version_id": None,
    "detail": '{"x":1}',
    "previous": "sha256:0",
    "hash": "sha256:0",
    "sequence": 77,
}


@pytest.mark.parametrize("column", EDITS)
def test_an_edited_event_is_found(used: Catalog, column: str) -> None:
    for sequence in (2, 4, 8):
        here = t.events.c.sequence
        with used.database.write() as connection:
            before = connection.execute(t.events.select().where(here == sequence)).mappings().one()
            changed = update(t.events).where(here == sequence)
            connection.execute(changed.values({column: EDITS[column]}))

        assert used.check_audit(), f"{column} of event {sequence}"

        with used.database.write() as connection:
            at = before["sequence"] if column != "sequence" else EDITS["sequence"]
            connection.execute(update(t.events).where(here == at).values(dict(before)))
        assert [] == used.check_audit()


@pytest.mark.parametrize("first", [1, 4, 8])
def test_a_log_with_events_cut_out_is_found(used: Catalog, first: int) -> None:
    with used.database.write() as connection:
        connection.execute(delete(t.events).where(t.events.c.sequence.between(first, first + 1)))

    assert used.check_audit()


def test_an_event_recomputed_by_hand_is_found_by_the_next_one(used: Catalog) -> None:
    from zoo.digest import json_digest

    with used.database.write() as connection:
        row = dict(
            connection.execute(t.events.select().where(t.events.c.sequence == 3)).mappings().one()
        )
        del row["hash"]
        row["detail"] = "{}"
        changed = update(t.events).where(t.events.c.sequence == 3)
        connection.execute(changed.values(detail="{}", hash=json_digest(row)))

    assert "Event 4 does not follow the event before it." in used.check_audit()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("UPDATE manifests SET digest = 'sha256:0' WHERE id = 2", "`b@1`.*digest changed"),
        ("UPDATE versions SET kind = 'base' WHERE id = 2", "`b@1`.*kind changed"),
        ("UPDATE versions SET base_id = 1 WHERE id = 2", "`b@1`.*base, lineage changed"),
        ("UPDATE versions SET number = 9 WHERE id = 2", "`b@9`.*number changed"),
        ("UPDATE files SET object = 'flat:0' WHERE version_id = 2", "`b@1`.*files changed"),
        ("DELETE FROM files WHERE version_id = 1", "`a@1`.*files changed"),
        (
            "INSERT INTO versions (id, entry_id, number, kind, manifest_id, source, notes, "
            "created_at) VALUES (7, 1, 2, 'expert', 1, '', '{}', '')",
            "addition of `a@2`",
        ),
    ],
)
def test_a_version_edited_behind_the_log_is_found(used: Catalog, edit: str, says: str) -> None:
    with used.database.write() as connection:
        connection.exec_driver_sql(edit)

    (problem,) = used.check_audit()
    assert re.search(says, problem)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("UPDATE edges SET parent_id = 2 WHERE child_id = 4 AND position = 0", "`mix@1`.*lineage"),
        ("UPDATE edges SET weight = 0.9 WHERE child_id = 4 AND position = 0", "`mix@1`.*lineage"),
        ("DELETE FROM edges WHERE child_id = 4", "`mix@1`.*lineage"),
        ("DELETE FROM edges WHERE child_id = 3", "`b@1`.*lineage"),
        ("INSERT INTO edges VALUES (1, 'expert', 0, 3, NULL)", "`base@1`.*lineage"),
        ("UPDATE run_inputs SET weight = 0.9 WHERE position = 1", "`mix@1`.*run, lineage"),
        ("UPDATE run_inputs SET digest = 'sha256:0' WHERE position = 1", "`mix@1`.*run"),
        ("UPDATE runs SET recipe = '{}'", "`mix@1`.*run"),
        ("UPDATE runs SET recipe_digest = 'sha256:0'", "`mix@1`.*recipe, run"),
        ("UPDATE runs SET code_hash = 'sha256:0'", "`mix@1`.*run"),
        ("UPDATE runs SET seed = 8", "`mix@1`.*run"),
        ("UPDATE runs SET environment = '{}'", "`mix@1`.*run"),
    ],
)
def test_a_lineage_edited_behind_the_log_is_found(catalog: Catalog, edit: str, says: str) -> None:
    base = catalog.add(draft("base"))
    a, b = (catalog.add(draft(name, 1, base=base.id)) for name in "ab")
    catalog.add(draft("mix", 2, base=base.id), merge_run("r-1", base, a, b))
    before = catalog.check_audit()
    with catalog.database.write() as connection:
        connection.exec_driver_sql(edit)

    (problem,) = catalog.check_audit()
    assert [] == before
    assert re.search(says + " changed", problem)
