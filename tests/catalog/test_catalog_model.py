"""A state machine drives the catalog beside a plain dict."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from drafts import draft, merge_run
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from zoo.catalog.catalog import Catalog
from zoo.errors import NotFound
from zoo.records import MetricValue, Version

NAMES = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from(["x", "y"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
ALIASES = st.sampled_from(["best", "old"])
examples = itertools.count()


@dataclass
class Modelled:
    """What a version should be."""

    id: int
    ref: str
    digest: str
    tags: dict[str, str]
    metrics: dict[str, float]
    task: str | None
    parents: list[int]
    removed: bool = False


@dataclass
class Entry:
    versions: list[Modelled] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    history: list[tuple[str, int | None]] = field(default_factory=list)


class CatalogBesideDict(RuleBasedStateMachine):
    """Each example keeps to names with a prefix of its own in one shared registry."""

    catalog: Catalog
    added = Bundle("added")

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"example-{next(examples)}"
        self.entries: dict[str, Entry] = {}
        self.versions: dict[int, Modelled] = {}

    def remember(
        self, version: Version, tags: dict[str, str], task: str | None, parents: list[int]
    ) -> Modelled:
        entry = self.entries.setdefault(version.name, Entry())
        ref = f"{version.name}@{len(entry.versions) + 1}"
        made = Modelled(version.id, ref, version.digest, dict(tags), {}, task, parents)
        entry.versions.append(made)
        self.versions[version.id] = made
        return made

    @rule(
        target=added,
        name=NAMES,
        seed=st.integers(0, 3),
        tags=st.dictionaries(KEYS, TEXTS),
        task=st.none() | TEXTS,
    )
    def add(self, name: str, seed: int, tags: dict[str, str], task: str | None) -> Modelled:
        made = self.catalog.add(draft(f"{self.prefix}/{name}", seed, tags=tags, task=task))
        return self.remember(made, tags, task, [])

    @rule(target=added, name=NAMES, base=added)
    def add_expert(self, name: str, base: Modelled) -> Modelled:
        made = self.catalog.add(draft(f"{self.prefix}/{name}", 5, base=base.id))
        assert base.ref == made.base
        return self.remember(made, {}, None, [base.id])

    @rule(target=added, name=NAMES, parents=st.lists(added, min_size=1, max_size=3))
    def merge(self, name: str, parents: list[Modelled]) -> Modelled:
        inputs = [self.catalog.by_id(parent.id) for parent in parents]
        run = merge_run(f"{self.prefix}-{len(self.versions)}", None, *inputs)
        made = self.catalog.add(draft(f"{self.prefix}/{name}", 6, kind="merge"), run)
        assert run == self.catalog.run_of(made.id)
        return self.remember(made, {}, None, [parent.id for parent in parents])

    @rule(version=added, key=KEYS, value=st.none() | TEXTS, metric=st.none() | st.floats(-9, 9))
    def annotate(
        self, version: Modelled, key: str, value: str | None, metric: float | None
    ) -> None:
        tags = {} if value is None else {key: value}
        metrics = [] if metric is None else [MetricValue("m", metric, "s")]
        drop = [key] if value is None else []
        self.catalog.annotate(version.id, tags=tags, drop_tags=drop, metrics=metrics)
        version.tags = {k: v for k, v in version.tags.items() if k not in drop} | tags
        version.metrics |= {} if metric is None else {"m/s": metric}

    @rule(version=added, alias=ALIASES)
    def alias(self, version: Modelled, alias: str) -> None:
        if version.removed:
            with pytest.raises(NotFound):
                self.catalog.alias(version.id, alias)
            return
        self.catalog.alias(version.id, alias)
        entry = self.entries[version.ref.split("@")[0]]
        if entry.aliases.get(alias) != version.id:
            entry.history.append((alias, int(version.ref.split("@")[1])))
        entry.aliases[alias] = version.id

    @rule(version=added, alias=ALIASES)
    def unalias(self, version: Modelled, alias: str) -> None:
        name = version.ref.split("@")[0]
        entry = self.entries[name]
        if alias not in entry.aliases:
            with pytest.raises(NotFound):
                self.catalog.unalias(name, alias)
            return
        self.catalog.unalias(name, alias)
        del entry.aliases[alias]
        entry.history.append((alias, None))

    @rule(version=added)
    def remove(self, version: Modelled) -> None:
        self.catalog.remove(version.id, "reason")
        version.removed = True
        entry = self.entries[version.ref.split("@")[0]]
        for alias in sorted(a for a, id_ in entry.aliases.items() if id_ == version.id):
            del entry.aliases[alias]
            entry.history.append((alias, None))

    @rule(version=added)
    def lineage(self, version: Modelled) -> None:
        for descendants in (False, True):
            children: dict[int, list[int]] = {}
            for v in self.versions.values():
                for parent in v.parents:
                    pair = (parent, v.id) if descendants else (v.id, parent)
                    children.setdefault(pair[0], []).append(pair[1])
            reached, todo = {version.id}, [version.id]
            while todo:
                for next_ in children.get(todo.pop(), []):
                    if next_ not in reached:
                        reached.add(next_)
                        todo.append(next_)
            lineage = self.catalog.lineage(version.id, descendants=descendants)
            assert {self.versions[id_].ref for id_ in reached} == {n["ref"] for n in lineage.nodes}
            removed = {v.ref for v in self.versions.values() if v.removed}
            assert {n["ref"] for n in lineage.nodes if n["removed"]} == removed & {
                n["ref"] for n in lineage.nodes
            }
            assert sorted(
                (self.versions[p].ref, v.ref)
                for v in self.versions.values()
                for p in v.parents
                if {p, v.id} <= reached
            ) == sorted((e["parent"], e["child"]) for e in lineage.edges)

    @invariant()
    def selections_hold_the_live_versions_as_they_are(self) -> None:
        found = self.catalog.select(f"name like '{self.prefix}/%'")
        live = [v for v in self.versions.values() if not v.removed]

        def key(ref: str) -> tuple[str, int]:
            name, number = ref.split("@")
            return name, int(number)

        assert sorted((v.ref for v in live), key=key) == [v.ref for v in found]
        for version in found:
            expected = self.versions[version.id]
            aliases = self.entries[version.name].aliases
            assert (expected.digest, expected.tags, expected.metrics, expected.task) == (
                version.digest,
                version.tags,
                version.metrics,
                version.task,
            )
            assert sorted(a for a, id_ in aliases.items() if id_ == version.id) == list(
                version.aliases
            )

    @invariant()
    def names_mean_their_latest_live_version(self) -> None:
        for name, entry in self.entries.items():
            live = [v for v in entry.versions if not v.removed]
            if live:
                assert live[-1].ref == self.catalog.get(name).ref
            else:
                with pytest.raises(NotFound):
                    self.catalog.get(name)
            history = self.catalog.alias_history(name)
            assert entry.history == [(move["alias"], move["version"]) for move in history]


def test_the_catalog_behaves_like_a_plain_dict(shared_catalog: Catalog) -> None:
    machine: Any = type("Machine", (CatalogBesideDict,), {"catalog": shared_catalog})

    run_machine(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert [] == shared_catalog.check_audit()
