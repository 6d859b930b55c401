"""Versions and lineage for `registry_scale.py`: plain, seeded, the same at every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from zoo.catalog.catalog import Catalog
from zoo.digest import flat_key, tensor_digest, weights_digest
from zoo.records import FileRecord, MetricValue, RunDraft, RunInput, TensorRecord, VersionDraft

TASKS = 20
ENTRIES = 2_000
POPULAR = 20_000
BLOCK = 5_000
"""Versions that are added in one transaction."""


def draft(index: int, name: str, **more: Any) -> VersionDraft:
    """One small version, unlike all others: two tensors, two files, three tags, two metrics."""
    chance = random.Random(index)
    data = index.to_bytes(8, "little")
    tensors = tuple(
        TensorRecord(tensor, "F32", (2,), tensor_digest("F32", (2,), data + tensor.encode()))
        for tensor in ("bias", "weight")
    )
    files = (
        FileRecord("config.json", flat_key(b"config"), 600),
        FileRecord("model.safetensors", flat_key(data), 1_000),
    )
    fields: dict[str, Any] = {
        "kind": "expert",
        "task": f"task{chance.randrange(TASKS)}",
        "phase": chance.choice(("I", "II", "III", "IV-A", "IV-B")),
        "license": "apache-2.0",
        "architecture": "llama",
        "tags": {
            "owner": f"team{chance.randrange(50)}",
            "seed": str(chance.randrange(1_000)),
            "stage": chance.choice(("draft", "review", "ready")),
        },
        "metrics": (
            MetricValue("accuracy", chance.random()),
            MetricValue("loss", chance.random()),
        ),
        "source": f"/models/{index}",
    }
    digest = weights_digest((x.name, x.digest) for x in tensors)
    return VersionDraft(name=name, digest=digest, tensors=tensors, files=files, **fields | more)


def fill(catalog: Catalog, first: int, end: int) -> None:
    """Versions `first` to `end` - 1. The first 20,000 are all of the entry `popular`, as one model
    with so many versions is what is slow in peers; the others are dealt over 2,000 entries."""
    for start in range(first, end, BLOCK):
        catalog.add_many(
            [
                draft(i, "popular" if i < POPULAR else f"entry{i % ENTRIES}")
                for i in range(start, min(start + BLOCK, end))
            ]
        )


def family(catalog: Catalog, merges: int) -> tuple[int, int]:
    """A lineage of merges, each of the one before it and of one drawn from all earlier ones.

    No lineage of so many merges is deeper: all of them are ancestors of the last, and descendants
    of the first. Row ids are foreseen, so that they can be written in a few transactions; where
    the registry gives others, this fails.

    Returns:
        Row ids of the first version and of the last.
    """
    chance = random.Random(7)
    drafts = [draft(2**40, "root"), draft(2**40 + 1, "root")]
    first = catalog.add(drafts[0]).id
    catalog.add(drafts[1])
    last = first + 1
    while last - first < merges + 1:
        count = min(BLOCK, merges + 1 - (last - first))
        more = [draft(2**41 + last + i, f"merged{i % 100}", kind="merge") for i in range(count)]
        drafts += more
        runs = []
        for child in range(last + 1, last + 1 + count):
            parents = (child - 1, chance.randrange(first, child - 1))
            runs.append(merge_run(child, [(id_, drafts[id_ - first].digest) for id_ in parents]))
        ids = [version.id for version in catalog.add_many(more, runs)]
        if ids != list(range(last + 1, last + 1 + count)):
            raise RuntimeError(f"the registry gave row ids {ids[0]} to {ids[-1]}")
        last = ids[-1]
    return first, last


def merge_run(index: int, parents: list[tuple[int, str]]) -> RunDraft:
    """What is recorded of a merge."""
    recipe = {"method": "ties", "parameters": {"density": 0.2}, "parents": [d for _, d in parents]}
    return RunDraft(
        id=f"{index:032x}",
        kind="merge",
        inputs=tuple(
            RunInput(id_, digest, "expert", i, 0.5) for i, (id_, digest) in enumerate(parents)
        ),
        recipe=recipe,
        recipe_digest="sha256:" + f"{index:064x}",
        method="ties",
        method_version="1.0.0",
        plugin="zoo-registry",
        plugin_version="0.1.0",
        code_hash="sha256:" + "2" * 64,
        seed=index,
        selection=None,
        environment={"python": "3.11"},
        timings={"execute": 0.5},
        started_at="2026-01-01T00:00:00Z",
        ended_at="2026-01-01T00:00:01Z",
    )


def names(count: int) -> Iterator[str]:
    """References to look up, in an order that no cache likes."""
    chance = random.Random(3)
    for _ in range(count):
        yield f"popular@{chance.randrange(1, POPULAR + 1)}"
