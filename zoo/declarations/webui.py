"""Recipes in the metadata of merged diffusion checkpoints, as the A1111 web UI writes them.

    sd_merge_recipe   JSON: type, primary_model_hash, ..., interp_method, multiplier
    sd_merge_models   JSON: sha256 -> {name, legacy_hash, sd_merge_recipe}, ancestors included

The second is flat; which model came from which is said by the hashes in the recipes.

Source: https://github.com/AUTOMATIC1111/stable-diffusion-webui, `modules/extras.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.declarations.files import Files
from zoo.declarations.plain import json_mapping, mapping, number, text
from zoo.declarations.records import Declared, DeclaredParent

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACES = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
_DEEPEST = 12
"""Generations of merges of merges that are followed."""
MOST = 64
"""Models in the tree, each counted as often as it stands there."""


def read(files: Files) -> Declared:
    recipe = _recipe(files.metadata.get("sd_merge_recipe"))
    models = {
        key.lower(): mapping(value)
        for key, value in json_mapping(files.metadata.get("sd_merge_models") or "").items()
        if _SHA256.fullmatch(key.lower())
    }
    if not recipe and not models:
        return Declared()
    parents = _parents(recipe, models, (), [MOST])
    if not parents:  # a recipe that names models in a way of its own
        inner = {h for one in models.values() for h in _hashes(_recipe(one.get("sd_merge_recipe")))}
        left = [MOST]
        parents = tuple(
            _parent(h, "parent", None, models, (), left) for h in models if h not in inner
        )[:MOST]
    facts = {"recipe": recipe, "models": {h: text(m.get("name")) for h, m in models.items()}}
    return Declared(None, parents, {k: v for k, v in facts.items() if v})


def _parents(
    recipe: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    above: tuple[str, ...],
    left: list[int],
) -> tuple[DeclaredParent, ...]:
    if len(above) >= _DEEPEST:
        return ()
    found = []
    for digest, role, weight in _named(recipe, models):
        if left[0] > 0 and digest not in above:
            left[0] -= 1
            found.append(_parent(digest, role, weight, models, above, left))
    return tuple(found)


def _parent(
    digest: str,
    role: str,
    weight: float | None,
    models: Mapping[str, Mapping[str, Any]],
    above: tuple[str, ...],
    left: list[int],
) -> DeclaredParent:
    model = models.get(digest, {})
    return DeclaredParent(
        text(model.get("name")) or digest[:10],
        role,
        "metadata sd_merge_recipe" if role != "parent" else "metadata sd_merge_models",
        digest=f"sha256:{digest}",
        weight=weight,
        parents=_parents(_recipe(model.get("sd_merge_recipe")), models, (*above, digest), left),
    )


def _named(
    recipe: Mapping[str, Any], models: Mapping[str, Any]
) -> Iterable[tuple[str, str, float | None]]:
    """(sha256, role, weight) of each model of a recipe.

    The web UI's own recipes have up to three: a weighted sum `A (1 - m) + B m`, or an added
    difference `A + (B - C) m`. Of the recipes of others only the hashes are understood.
    """
    hashes = [str(recipe.get(place) or "").lower() for place in _PLACES]
    if not _SHA256.fullmatch(hashes[0]):
        yield from ((h, "parent", None) for h in _hashes(recipe) if h in models)
        return
    m, method = number(recipe.get("multiplier")), str(recipe.get("interp_method"))
    weights: tuple[float | None, ...] = (None, None, None)
    if method == "Weighted sum" and m is not None:
        weights = (1 - m, m, None)
    elif method == "Add difference" and m is not None:
        weights = (1.0, m, None)
    roles = ("expert", "expert", "base")
    for digest, role, weight in zip(hashes, roles, weights, strict=True):
        if _SHA256.fullmatch(digest):
            yield digest, role, weight


def _hashes(recipe: Mapping[str, Any]) -> list[str]:
    """All sha256 among a recipe's values, in order, each once."""
    found: dict[str, None] = {}
    left: list[Any] = [dict(recipe)]
    while left:
        value = left.pop(0)
        if isinstance(value, Mapping):
            left = [*value.values(), *left]
        elif isinstance(value, list):
            left = [*value, *left]
        elif isinstance(value, str) and _SHA256.fullmatch(value.lower()):
            found[value.lower()] = None
    return list(found)


def _recipe(value: Any) -> dict[str, Any]:
    """A recipe, which is JSON in JSON in some files."""
    return json_mapping(value) if isinstance(value, str) else mapping(value)
