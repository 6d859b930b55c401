"""Adding, finding and describing versions."""

from __future__ import annotations

import pytest
from drafts import draft, merge_run

from zoo.catalog.catalog import Catalog
from zoo.errors import AmbiguousReference, InvalidName, NotFound, RegistryError
from zoo.records import FileRecord, MetricValue, VersionDraft


def test_a_version_reads_back_as_it_was_added(catalog: Catalog) -> None:
    base = catalog.add(draft("qwen", 1, kind="base"))
    added = catalog.add(
        draft(
            "team/math",
            2,
            base=base.id,
            task="math",
            phase="IV-B",
            license="apache-2.0",
            architecture="qwen2",
            source="./math",
            tags={"owner": "ü", "empty": ""},
            metrics=(MetricValue("acc", 0.5), MetricValue("acc", 0.25, "test")),
            notes={"stripped_prefix": "module."},
        )
    )

    read = catalog.get("team/math")

    assert added == read
    assert ("team/math@1", "qwen@1", "expert") == (read.ref, read.base, read.kind)
    assert ("math", "IV-B", "apache-2.0") == (read.task, read.phase, read.license)
    assert ("qwen2", "./math") == (read.architecture, read.source)
    assert {"empty": "", "owner": "ü"} == read.tags
    assert {"acc": 0.5, "acc/test": 0.25} == read.metrics
    assert {"stripped_prefix": "module."} == read.notes
    assert (6, 40) == (read.parameters, read.bytes)
    assert str(catalog.store_root / "views" / "team/math" / "1") == read.path
    assert draft("x", 2).tensors == catalog.tensors(read.id)
    assert draft("x", 2).files == catalog.files(read.id)


def test_versions_of_a_name_are_numbered_from_one_without_gaps(catalog: Catalog) -> None:
    first = catalog.add_many([draft("a", 1), draft("b", 2), draft("a", 3)])
    catalog.remove(first[2].id)
    second = catalog.add_many([draft("a", 4), draft("c", 5)])

    assert ["a@1", "b@1", "a@2", "a@3", "c@1"] == [v.ref for v in first + second]


def test_one_bad_draft_of_many_leaves_nothing_behind(catalog: Catalog) -> None:
    good, bad = draft("a", 1), draft("b", 2, base=999)

    with pytest.raises(RegistryError):
        catalog.add_many([good, bad])

    assert [] == catalog.select()
    assert 1 == len(catalog.events())
    assert "a@1" == catalog.add(good).ref


def test_equal_weights_share_one_manifest(catalog: Catalog) -> None:
    one, two = catalog.add_many([draft("a", 7), draft("b", 7)])

    assert one.digest == two.digest
    assert catalog.tensors(one.id) == catalog.tensors(two.id)
    assert one == catalog.by_digest(one.digest)
    catalog.remove(one.id)
    assert two == catalog.by_digest(two.digest)
    assert catalog.by_digest("sha256:" + "0" * 64) is None


def test_references_name_versions_by_number_alias_and_digest(catalog: Catalog) -> None:
    one, two = catalog.add_many([draft("a", 1), draft("a", 2)])
    catalog.alias(one.id, "best")

    assert two.ref == catalog.get("a").ref == catalog.get("a@latest").ref
    assert "a@1" == catalog.get("a@1").ref == catalog.get("a@best").ref
    assert "a@1" == catalog.get(f"a@{one.digest[:15]}").ref
    assert "a@1" == catalog.get(f"a@{one.digest.upper().replace('SHA', 'sha')}").ref
    assert one.id == catalog.by_id(one.id).id


def test_a_prefix_that_fits_two_digests_lists_both(catalog: Catalog) -> None:
    def with_digest(digits: str) -> VersionDraft:
        plain = draft("a", 1)
        return VersionDraft(
            "a", "expert", "sha256:" + digits.ljust(64, "0"), plain.tensors, plain.files
        )

    catalog.add_many([with_digest("abcd1"), with_digest("abcd2"), with_digest("abcd2")])

    with pytest.raises(AmbiguousReference) as caught:
        catalog.get("a@sha256:abcd")
    assert ["a@1", "a@2", "a@3"] == caught.value.candidates
    assert "a@3" == catalog.get("a@sha256:abcd2").ref, "same weights twice: the newer one"


@pytest.mark.parametrize("ref", ["", "@1", "a@", "a@sha256:abc", "a@sha256:wxyz"])
def test_a_malformed_reference_says_how_to_write_one(catalog: Catalog, ref: str) -> None:
    with pytest.raises(InvalidName):
        catalog.get(ref)


def test_a_missing_version_says_what_there_is(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="registry is empty"):
        catalog.get("math")
    version = catalog.add(draft("math", 1))
    catalog.alias(version.id, "best")

    with pytest.raises(NotFound, match="Did you mean `math`"):
        catalog.get("maht")
    with pytest.raises(NotFound, match="newest is math@1"):
        catalog.get("math@2")
    with pytest.raises(NotFound):
        catalog.get("math@99999999999999999999")
    with pytest.raises(NotFound, match="Did you mean `best`"):
        catalog.get("math@bets")
    with pytest.raises(NotFound, match="write math@sha256:ff2366565790"):
        catalog.get("math@ff2366565790")
    with pytest.raises(NotFound):
        catalog.get("math@sha256:0000000000000000")
    with pytest.raises(NotFound):
        catalog.by_id(99)
    with pytest.raises(NotFound):
        catalog.tensors(99)


def test_a_removed_version_is_a_tombstone_that_says_when_and_why(catalog: Catalog) -> None:
    one, two = catalog.add_many([draft("a", 1), draft("a", 2)])
    catalog.alias(two.id, "best")

    catalog.remove(two.id, "leaked data")
    catalog.remove(two.id, "again")

    assert one.ref == catalog.get("a").ref
    with pytest.raises(NotFound, match="leaked data") as caught:
        catalog.get("a@2")
    assert caught.value.removed_at
    with pytest.raises(NotFound):
        catalog.get("a@best")
    assert "a@2" == catalog.get("a@2", removed=True).ref
    assert ["a@1"] == [v.ref for v in catalog.select()]
    assert {draft("a", 1).files[0].object} == catalog.live_objects()
    assert [] == catalog.versions_with_object(draft("a", 2).files[0].object)
    with pytest.raises(NotFound):
        catalog.alias(two.id, "again")
    catalog.remove(one.id)
    with pytest.raises(NotFound, match="All versions"):
        catalog.get("a")
    assert "a@2" == catalog.get("a", removed=True).ref


def test_an_object_names_the_versions_it_is_part_of(catalog: Catalog) -> None:
    shared = FileRecord("config.json", "flat:" + "a" * 64, 3)
    a, b = catalog.add_many([draft("a", 1, files=(shared,)), draft("b", 2, files=(shared,))])
    catalog.add(draft("c", 3))

    assert [a, b] == catalog.versions_with_object(shared.object)


def test_annotations_replace_what_they_name_and_keep_the_rest(catalog: Catalog) -> None:
    version = catalog.add(
        draft("a", 1, task="math", tags={"x": "1", "y": "2"}, metrics=(MetricValue("acc", 0.1),))
    )

    changed = catalog.annotate(
        version.id,
        tags={"x": "3", "z": "4"},
        drop_tags=["y", "absent"],
        metrics=[MetricValue("acc", 0.2), MetricValue("acc", 0.3, "test")],
        phase="IV-B",
    )

    assert {"x": "3", "z": "4"} == changed.tags
    assert {"acc": 0.2, "acc/test": 0.3} == changed.metrics
    assert ("math", "IV-B") == (changed.task, changed.phase)
    assert changed == catalog.get("a")
    detail = catalog.events(1)[0]["detail"]
    assert {"x": ["1", "3"], "y": ["2", None], "z": [None, "4"]} == detail["tags"]
    assert [["acc", "", 0.1, 0.2], ["acc", "test", None, 0.3]] == detail["metrics"]
    before = len(catalog.events())
    catalog.annotate(version.id)
    assert before == len(catalog.events()), "nothing said, nothing logged"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_no_number_is_refused(catalog: Catalog, value: float) -> None:
    with pytest.raises(RegistryError, match="finite"):
        catalog.add(draft("a", 1, metrics=(MetricValue("acc", value),)))

    assert [] == catalog.select()


def test_text_that_is_no_unicode_is_refused(catalog: Catalog) -> None:
    with pytest.raises(RegistryError, match="Unicode"):
        catalog.add(draft("a", 1, tags={"x": "\ud800"}))

    assert [] == catalog.select()


def test_aliases_move_and_their_history_only_grows(catalog: Catalog) -> None:
    one, two = catalog.add_many([draft("a", 1), draft("a", 2)])

    catalog.alias(one.id, "best")
    catalog.alias(two.id, "best")
    catalog.alias(two.id, "best")
    catalog.alias(one.id, "old")
    catalog.unalias("a", "best")
    catalog.remove(one.id)

    history = catalog.alias_history("a")
    assert [("best", 1), ("best", 2), ("old", 1), ("best", None), ("old", None)] == [
        (move["alias"], move["version"]) for move in history
    ]
    assert sorted(move["at"] for move in history) == [move["at"] for move in history]
    assert () == catalog.get("a").aliases
    with pytest.raises(NotFound):
        catalog.unalias("a", "best")


@pytest.mark.parametrize(
    "alias",
    ["", "3", "latest", "Latest", "sha256", "SHA256", "a b", "a@b", "-x", "x" * 97, "é"],
)
def test_an_alias_that_reads_as_something_else_is_refused(catalog: Catalog, alias: str) -> None:
    version = catalog.add(draft("a", 1))

    with pytest.raises(InvalidName):
        catalog.alias(version.id, alias)


def test_a_run_reads_back_as_it_was_recorded(catalog: Catalog) -> None:
    base, math, code = catalog.add_many([draft("base", 1), draft("math", 2), draft("code", 3)])
    run = merge_run("r-1", base, math, code)

    merged = catalog.add(draft("mix", 4, kind="merge", base=base.id), run)

    assert run == catalog.run("r-1") == catalog.run_of(merged.id)
    assert "r-1" == merged.run
    assert catalog.run_of(base.id) is None
    with pytest.raises(NotFound):
        catalog.run("r-2")
    with pytest.raises(RegistryError):
        catalog.add(draft("mix", 5), run)
    with pytest.raises(RegistryError, match="64 bits"):
        catalog.add(draft("mix", 5), merge_run("r-3", base, math, seed=2**63))


def test_metrics_of_a_set_are_stored_once_whatever_the_order(catalog: Catalog) -> None:
    a, b, c = catalog.add_many([draft("a", 1), draft("b", 2), draft("c", 3)])

    catalog.record_group_metrics(
        [b.id, a.id], [MetricValue("barrier", 0.5, protocol={"points": 5})]
    )
    catalog.record_group_metrics([a.id, b.id, a.id], [MetricValue("barrier", 0.25)])
    catalog.record_group_metrics([a.id, b.id, c.id], [MetricValue("cka", 0.9, "test")])

    (barrier,) = catalog.group_metrics([b.id, a.id])
    assert (["a@1", "b@1"], "barrier", 0.25) == (
        barrier["versions"],
        barrier["name"],
        barrier["value"],
    )
    assert ["barrier", "cka"] == [row["name"] for row in catalog.group_metrics()]
    assert [] == catalog.group_metrics([a.id, c.id])
    with pytest.raises(RegistryError, match="two members"):
        catalog.record_group_metrics([a.id, a.id], [MetricValue("barrier", 0.5)])
    with pytest.raises(NotFound):
        catalog.record_group_metrics([a.id, 99], [MetricValue("barrier", 0.5)])
