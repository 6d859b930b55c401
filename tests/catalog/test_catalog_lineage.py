"""The lineage graph, and how it is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from drafts import draft, merge_run

from zoo.catalog.catalog import Catalog
from zoo.catalog.lineage import Lineage
from zoo.errors import NotFound
from zoo.records import Version


@pytest.fixture
def family(catalog: Catalog) -> dict[str, Version]:
    """base <- math, code; mix merges both onto base; again merges mix and math; other is apart."""
    base, _ = catalog.add_many([draft("base", 1, kind="base"), draft("other", 9)])
    math, code = catalog.add_many([draft("math", 2, base=base.id), draft("code", 3, base=base.id)])
    mix = catalog.add(
        draft("mix", 4, kind="merge", base=base.id), merge_run("r-1", base, math, code)
    )
    again = catalog.add(draft("again", 5, kind="merge"), merge_run("r-2", None, mix, math))
    return {v.name: v for v in (base, math, code, mix, again)}


def test_lineage_goes_back_to_every_ancestor_with_roles_weights_and_runs(
    catalog: Catalog, family: dict[str, Version]
) -> None:
    lineage = catalog.lineage(family["mix"].id)

    assert "mix@1" == lineage.root
    assert ["base@1", "math@1", "code@1", "mix@1"] == [n["ref"] for n in lineage.nodes]
    assert [
        {"parent": "base@1", "child": "math@1", "role": "base", "weight": None, "run": None},
        {"parent": "base@1", "child": "code@1", "role": "base", "weight": None, "run": None},
        {"parent": "base@1", "child": "mix@1", "role": "base", "weight": None, "run": "r-1"},
        {"parent": "math@1", "child": "mix@1", "role": "expert", "weight": 0.5, "run": "r-1"},
        {"parent": "code@1", "child": "mix@1", "role": "expert", "weight": 0.5, "run": "r-1"},
    ] == lineage.edges
    assert "ties" == lineage.nodes[-1]["method"]
    assert family["mix"].digest == lineage.nodes[-1]["digest"]


def test_descendants_go_forward_and_leave_other_parents_out(
    catalog: Catalog, family: dict[str, Version]
) -> None:
    lineage = catalog.lineage(family["code"].id, descendants=True)

    assert ["code@1", "mix@1", "again@1"] == [n["ref"] for n in lineage.nodes]
    assert [("code@1", "mix@1"), ("mix@1", "again@1")] == [
        (e["parent"], e["child"]) for e in lineage.edges
    ]
    assert ["math@1", "code@1", "mix@1", "again@1"] == [
        v.ref for v in catalog.descendants(family["base"].id)
    ]
    with pytest.raises(NotFound):
        catalog.lineage(99)


def test_removed_versions_stay_in_the_lineage(catalog: Catalog, family: dict[str, Version]) -> None:
    before = catalog.lineage(family["again"].id)

    catalog.remove(family["mix"].id, "bad")
    after = catalog.lineage(family["again"].id)

    assert before.edges == after.edges
    assert [n["ref"] for n in before.nodes] == [n["ref"] for n in after.nodes]
    assert ["mix@1"] == [n["ref"] for n in after.nodes if n["removed"]]
    assert "(removed " in after.as_tree()


def test_the_tree_expands_each_version_once(catalog: Catalog, family: dict[str, Version]) -> None:
    expected = """\
again@1 merge by ties
├── mix@1 merge by ties [expert, weight 0.5]
│   ├── base@1 base [base]
│   ├── math@1 expert [expert, weight 0.5]
│   │   └── base@1 base [base]
│   └── code@1 expert [expert, weight 0.5]
│       └── base@1 base [base]
└── math@1 expert [expert, weight 0.5] (see above)"""

    assert expected == catalog.lineage(family["again"].id).as_tree()


def test_mermaid_and_dot_draw_every_version_and_edge(
    catalog: Catalog, family: dict[str, Version]
) -> None:
    lineage = catalog.lineage(family["mix"].id)

    assert 'v1 -->|"expert, weight 0.5"| v3' in lineage.as_mermaid()
    assert 'v3["mix@1<br/>merge by ties"]' in lineage.as_mermaid()
    assert 'v1 -> v3 [label="expert, weight 0.5"];' in lineage.as_dot()
    assert len(lineage.edges) == lineage.as_dot().count("->")
    assert {"root", "nodes", "edges"} == set(lineage.as_dict())


def test_a_chain_deeper_than_the_stack_is_walked_and_drawn(tmp_path: Path) -> None:
    with Catalog.open(str(tmp_path / "registry.db")) as catalog:
        from zoo.catalog import additions, audit

        at = "2025-01-01T00:00:00Z"
        with catalog.database.write() as connection:
            base: int | None = None
            for seed in range(1500):
                made, told = additions.add(
                    connection, at, [draft("chain", seed, base=base)], [None]
                )
                audit.append(connection, at, told)
                base = made[0]
        assert base is not None
        lineage = catalog.lineage(base)

    assert 1500 == len(lineage.nodes) == len(lineage.as_tree().splitlines())


def test_a_version_alone_is_its_own_lineage() -> None:
    node = {"ref": "a@1", "kind": "base", "method": None, "removed": None}

    assert "a@1 base" == Lineage("a@1", [node], []).as_tree()
