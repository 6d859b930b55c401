"""A registry of any past schema opens, is upgraded, and still says what it said."""

from __future__ import annotations

from pathlib import Path

import pytest
from drafts import draft
from old_schemas import DUMPS, number_of, restore

from zoo.catalog import database
from zoo.catalog.catalog import Catalog
from zoo.catalog.database import SCHEMA
from zoo.records import MetricValue

every_past_schema = pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)


def test_every_past_schema_has_a_dump() -> None:
    assert list(range(1, SCHEMA)) == [number_of(dump) for dump in DUMPS]


@every_past_schema
def test_a_registry_of_a_past_schema_says_what_it_said(
    dump: Path, url: str, tmp_path: Path
) -> None:
    restore(dump, url, tmp_path)

    with Catalog.open(url, create=False) as catalog:
        assert ["base@1", "code@1", "math@1", "mix@1"] == [v.ref for v in catalog.select()]
        math = catalog.get("math@best")
        assert ("IV-B", None) == (math.phase, math.phase_rule)
        assert [
            MetricValue(
                *("accuracy", 0.75, "test", "math", {"shots": 4}, 0.01),
                *({"torch": "2"}, "t"),
            )
        ] == catalog.measured(math.id)
        assert [("barrier", 0.25)] == [(x["name"], x["value"]) for x in catalog.group_metrics()]
        assert [] == catalog.check_audit()
        assert ([], []) == (catalog.tasks(), catalog.phase_rules())


@every_past_schema
def test_an_upgraded_registry_takes_what_the_newest_schema_has(
    dump: Path, url: str, tmp_path: Path
) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from zoo.catalog.tables import ZooTable

    restore(dump, url, tmp_path)

    with Catalog.open(url) as catalog:
        math = catalog.get("math")
        rule = f"default@{catalog.add_phase_rule('default', {'loss': 0.1})}"
        catalog.set_phase([math.id], "III", rule)
        catalog.add_task("digits", {"reader": "npz"}, {"test": "sha256:0"})
        catalog.add(draft("new", 9))
        with catalog.database.write() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": database.VERSION_TABLE}
            )
            assert [] == compare_metadata(context, ZooTable.metadata)
    with Catalog.open(url) as catalog:
        assert ["math@1"] == [v.ref for v in catalog.select("phase_rule = 'default@1'")]
        assert ["digits"] == [task.name for task in catalog.tasks()]
        assert [] == catalog.check_audit()


def test_an_upgrade_that_dies_leaves_the_old_schema(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(DUMPS[0], url, tmp_path)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.add_column", fail)
        with pytest.raises(KeyboardInterrupt):
            Catalog.open(url)

    with Catalog.open(url) as catalog:
        assert [] == catalog.check_audit()
        assert 4 == len(catalog.select())
