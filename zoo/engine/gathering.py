"""From what a recipe names to its parents: references, paths, or a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.engine.inputs import Input, Inputs
from zoo.engine.opener import Opener
from zoo.errors import NotFound
from zoo.recipes.recipe import Recipe
from zoo.storage.artifacts import KIND as ARTIFACT
from zoo.tokenizers.vocabulary import speaker_of

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.registry import Registry


def gather(
    registry: Registry,
    recipe: Recipe,
    method: Method,
    opener: Opener,
) -> Inputs:
    """Open everything a recipe names.

    Raises:
        NotFound: a name or path leads nowhere, or a query finds nothing.
    """
    base = opener.open(recipe.base) if recipe.base is not None else None
    opener.foundation = base
    selection = None
    if recipe.select is not None:
        chosen = registry.catalog.select(
            recipe.select.where, recipe.select.order_by, recipe.select.limit
        )
        versions = [v for v in chosen if v.kind != ARTIFACT and (base is None or v != base.version)]
        if not versions:
            raise NotFound(
                f"No version fits `{recipe.select.where or 'everything'}`.",
                "There is nothing to merge.",
                "Try the query with `zoo ls --where`.",
                where=recipe.select.where,
            )
        experts = tuple(opener.version(v) for v in versions)
        selection = {
            "where": recipe.select.where,
            "order_by": recipe.select.order_by,
            "limit": recipe.select.limit,
            "frozen": [f"{v.ref}@{v.digest}" for v in versions],
        }
    else:
        experts = tuple(opener.open(e.model) for e in recipe.experts)
    if base is None and method.base == "required":
        base = _common_base(registry, experts, opener)
    named = [e.artifacts for e in recipe.experts] or [{}] * len(experts)
    experts = tuple(
        opener.with_artifacts(e, method.artifacts, own)
        for e, own in zip(experts, named, strict=True)
    )
    giver = None
    if recipe.donor is not None:
        at = next((i for i, e in enumerate(recipe.experts) if e.model == recipe.donor), None)
        giver = opener.open(recipe.donor) if at is None else experts[at]
    speaker = speaker_of(recipe, (base, giver, *experts), opener.open)
    return Inputs(experts, base, selection, giver, speaker)


def _common_base(registry: Registry, experts: Sequence[Input], opener: Opener) -> Input | None:
    """The base all experts declare, or None: pre-flight then says that one is needed."""
    applied = {e.applied.base.model.digest: e.applied.base for e in experts if e.applied}
    if len(applied) == 1 and all(e.applied for e in experts):
        return applied.popitem()[1]
    bases = {e.version.base if e.version else None for e in experts}
    if len(bases) == 1 and (ref := bases.pop()):
        return opener.version(registry.get(ref))
    return None
