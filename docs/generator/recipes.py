"""The page on recipes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from generator.markdown import code, fenced, prose, table
from generator.methods import bundled_methods
from generator.source import attributes


def recipe() -> str:
    import dataclasses

    import zoo.recipes.mergekit_recipe as mergekit
    import zoo.recipes.multi_stage as stages
    import zoo.recipes.recipe as module
    import zoo.recipes.schedule as schedule
    import zoo.recipes.slices as slices
    import zoo.recipes.tokenizer_block as tokenizer
    import zoo.tokenizers.vocabulary as vocabulary

    meanings = {name: text for name, _, text in attributes(module.Recipe)}
    defaults = {f.name: f.default for f in dataclasses.fields(module.Recipe)}
    meanings["compat"], defaults["compat"] = (
        inspect.cleandoc(module._compatible.__doc__ or ""),
        None,
    )
    meanings["name"], defaults["name"] = (
        "What later documents of the file call the result; see `zoo.recipes.multi_stage`.",
        None,
    )
    keys = [(code(key), scalar(defaults[key]), meanings[key]) for key in module._KEYS]
    accepted = [
        (code(entry.name), code(m.name), ", ".join(map(code, entry.names)), settings(entry.sets))
        for m in bundled_methods()
        for entry in m.mergekit
    ]
    return "\n\n".join(
        [
            "# Recipes",
            "## Our form",
            inspect.cleandoc(module.__doc__ or ""),
            table(["key", "default", "meaning"], keys),
            "The language of `select` is that of [Queries](queries.md).",
            "## Values that vary over a model",
            inspect.cleandoc(schedule.__doc__ or ""),
            "## Slices",
            inspect.cleandoc(slices.__doc__ or ""),
            "## Stages",
            inspect.cleandoc(stages.__doc__ or ""),
            "## Tokenizers",
            inspect.cleandoc(tokenizer.__doc__ or ""),
            inspect.cleandoc(vocabulary.__doc__ or ""),
            "## mergekit's form",
            inspect.cleandoc(mergekit.__doc__ or ""),
            f"Keys: {', '.join(map(code, mergekit._KEYS))}.",
            table(["merge_method", "method here", "parameters", "what is set for it"], accepted),
            "## The lock",
            prose(module.lock.__doc__),
            "It is stored with the run, and its JSON digest is the run's `recipe_digest`. "
            "For two experts and `linear`:",
            fenced(json.dumps(example_lock(), indent=2), "json"),
        ]
    )


def scalar(default: object) -> str:
    """A default as somebody would write it; nothing for what is required or empty."""
    return code(default) if isinstance(default, int | float) else ""


def settings(values: Mapping[str, Any]) -> str:
    return ", ".join(code(f"{k}={str(v).lower()}") for k, v in values.items())


def example_lock() -> dict[str, Any]:
    from zoo.recipes.recipe import lock, read_recipe

    methods = {m.name: m for m in bundled_methods()}
    asked = read_recipe({"method": "linear", "experts": ["a", "b"]}, methods)
    return lock(asked, methods["linear"], None, ["sha256:" + digit * 64 for digit in "ab"])
