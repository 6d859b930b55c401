"""What a zoo wrote: the `zoo:` block of a card, and the resolved recipe beside the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zoo.declarations.files import Files
from zoo.declarations.plain import listed, mapping, number, text
from zoo.declarations.records import Declared, DeclaredParent
from zoo.engine.inputs import RECIPE_FILE


def read(files: Files) -> Declared:
    """Parents from the block, which has their names, or else from the recipe, which has digests."""
    block = mapping(files.card[0].get("zoo"))
    found = files.json(RECIPE_FILE)
    lock = mapping(found.get("recipe"))
    parents = tuple(_from_block(block)) or tuple(_from_lock(lock))
    facts = {
        "method": text(lock.get("method") or lock.get("transform") or block.get("method")),
        "recipe": text(found.get("recipe_digest") or block.get("recipe")),
        "ref": text(block.get("ref")),
        "weights": text(block.get("weights")),
    }
    facts = {k: v for k, v in facts.items() if v}
    return Declared(None, parents, facts or None)


def _from_block(block: Mapping[str, Any]) -> Iterable[DeclaredParent]:
    for one in map(mapping, listed(block.get("parents"))):
        name = text(one.get("ref"))
        if name:
            yield DeclaredParent(
                name,
                text(one.get("role"), 64) or "parent",
                "README.md zoo",
                weights=text(one.get("weights")),
                weight=number(one.get("weight")),
                source=text(one.get("source")),
                revision=text(one.get("revision")),
            )


def _from_lock(lock: Mapping[str, Any]) -> Iterable[DeclaredParent]:
    roles = mapping(lock.get("parents"))  # of a transform
    if not roles:
        base = lock.get("base")
        roles = {"base": [base] if base else [], "expert": listed(lock.get("experts"))}
    weights = listed(mapping(lock.get("parameters")).get("weight"))
    for role, digests in roles.items():
        for i, digest in enumerate(listed(digests)):
            if not isinstance(digest, str):
                continue
            own = role == "expert" and i < len(weights)
            yield DeclaredParent(
                digest[:71],
                role[:64],
                f"{RECIPE_FILE} recipe",
                weights=digest[:71],
                weight=number(weights[i]) if own else None,
            )
