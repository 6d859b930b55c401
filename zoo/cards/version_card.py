"""The card of any version: what is known of it, in the Hub's words and in ours.

A merge or a transform keeps a card that was made with it, and a model from elsewhere brings its
author's. Their text stays; the front matter is brought up to what the registry knows by now. A
version without a card gets one made of its record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.cards.front import (
    CardParent,
    front_matter,
    library_of,
    version_parent,
)
from zoo.cards.text import as_yaml, code, inline, plain
from zoo.catalog.origins import as_hub_model, hub_model
from zoo.declarations.front_matter import split
from zoo.declarations.plain import LARGEST, json_mapping, listed
from zoo.errors import NotFound
from zoo.records import FileRecord, MetricValue, Version

if TYPE_CHECKING:
    from zoo.registry import Registry

_CARD = "README.md"


def version_card(registry: Registry, version: Version) -> bytes:
    """A README.md for a version of any kind.

    `base_model` lists only what the Hub can find, models that came from it; the `zoo:` block has
    all parents.

    Raises:
        NotFound: the version's small files are not in the store.
    """
    files = {f.path: f for f in registry.catalog.files(version.id)}
    parents = parents_of(registry, version)
    config = json_mapping(_text(registry, files.get("config.json")) or "", 4_000_000)
    front = _front(registry, version, parents, config)
    kept, body = split(_text(registry, files.get(_CARD)) or "")
    if not body.strip():
        body = _body(registry, version, parents)
    elif version.run is None:
        front = _with_authors(front, kept)
    return f"---\n{as_yaml(front)}---\n{body}".encode()


def _with_authors(front: dict[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """What an author said stands, but for the licence, which the registry may know better."""
    licence = {k: v for k, v in front.items() if k.startswith("license")}
    if licence and any(kept.get(k) != v for k, v in licence.items()):
        kept = {k: v for k, v in kept.items() if not k.startswith("license")}
    measured = [*listed(kept.get("model-index")), *front.get("model-index", ())]
    return {**front, **kept, "zoo": front["zoo"], **({"model-index": measured} if measured else {})}


def parents_of(registry: Registry, version: Version) -> list[CardParent]:
    """The proved parents of a version: those of its run, or the base it was registered with."""
    run = registry.catalog.run_of(version.id)
    if run is not None:
        return [
            version_parent(registry.catalog.by_id(one.version), one.role, one.weight)
            for one in sorted(run.inputs, key=lambda i: (i.role != "base", i.role, i.position))
        ]
    if version.base is None:
        return []
    return [version_parent(registry.catalog.get(version.base, removed=True), "base")]


def relation_of(version: Version, config: Mapping[str, Any], parents: Sequence[object]) -> str:
    """`base_model_relation`, of the Hub's four words the one that fits."""
    if version.kind == "adapter":
        return "adapter"
    if version.kind == "merge":
        return "merge"
    if "quantization_config" in config:
        return "quantized"
    return "finetune" if len(parents) <= 1 else "merge"


def _front(
    registry: Registry, version: Version, parents: list[CardParent], config: Mapping[str, Any]
) -> dict[str, Any]:
    run = registry.catalog.run_of(version.id)
    made_by = [run.method] if run else []
    own = hub_model(version.source)
    block = {
        "ref": version.ref,
        "kind": version.kind,
        "weights": version.digest,
        "source": f"hf://{own.id}" if own else None,
        "revision": own.revision if own else None,
        "recipe": run.recipe_digest if run else None,
        "method": f"{run.method} {run.method_version}" if run else None,
        "task": version.task,
        "phase": version.phase,
        "parents": [one.block for one in parents] or None,
    }
    # What the Hub calls an adapter's base model is what it is loaded onto.
    named = [p for p in parents if version.kind != "adapter" or p.role == "base"]
    front = front_matter(
        models=[one.model for one in named if one.is_public] or _declared_models(version),
        relation=relation_of(version, config, parents),
        library="peft" if version.kind == "adapter" else library_of(config),
        license=version.license,
        tags=[*(["merge"] if version.kind == "merge" else []), "zoo", *made_by, *_words(version)],
        zoo=block,
    )
    measured = registry.catalog.measured(version.id)
    return front | ({"model-index": _model_index(version, measured)} if measured else {})


def _declared_models(version: Version) -> list[str]:
    """Models that its own files say it came from, as the Hub calls them."""
    declared = version.notes.get("declared")
    found = declared.get("parents") if isinstance(declared, Mapping) else None
    names = [p.get("model") for p in found or () if isinstance(p, Mapping)]
    return [hub.id for n in names if isinstance(n, str) and (hub := as_hub_model(n))]


def _words(version: Version) -> list[str]:
    """Tags as the Hub has them, words; ours are pairs."""
    return [f"{key}:{value}" if value else key for key, value in sorted(version.tags.items())]


def _model_index(version: Version, measured: Sequence[MetricValue]) -> list[dict[str, Any]]:
    """Measured values in the Hub's form; one result for each data set and part of it.

    Source: https://huggingface.co/docs/hub/model-cards#evaluation-results
    """
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for one in measured:
        name = one.dataset or one.split or version.task or "unknown"
        data = {"type": name, "name": name, **({"split": one.split} if one.split else {})}
        result = results.setdefault(
            (name, one.split),
            {"task": {"type": version.task or "other"}, "dataset": data, "metrics": []},
        )
        value = one.value if math.isfinite(one.value) else str(one.value)
        result["metrics"].append({"type": one.name, "name": one.name, "value": value})
    return [{"name": version.name, "results": list(results.values())}]


def _body(registry: Registry, version: Version, parents: list[CardParent]) -> str:
    known = {
        "kind": version.kind,
        "architecture": version.architecture,
        "task": version.task,
        "phase": version.phase,
        "licence": version.license,
        "parameters": f"{version.parameters:,}",
        **{f"tag {key}": value for key, value in sorted(version.tags.items())},
    }
    lines = [
        "",
        f"# {plain(version.name)}",
        "",
        f"Version {version.version} of {code(version.name)} in the zoo that it comes from.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {plain(k)} | {code(v)} |" for k, v in known.items() if v),
    ]
    if measured := registry.catalog.measured(version.id):
        lines += ["", "## Measured", "", "| metric | on | value |", "|---|---|---|"]
        for m in measured:
            place = plain("/".join(part for part in (m.dataset, m.split) if part))
            lines.append(f"| {code(m.name)} | {place} | {inline(m.value)} |")
    if parents:
        from zoo.cards.card import lineage_rows

        lines += ["", "## Lineage", "", "| role | model | licence | weights digest |"]
        lines += ["|---|---|---|---|", *lineage_rows(parents)]
    lines += [
        "",
        "## Verify",
        "",
        f"The weights digest of this model is `{version.digest}`.",
        "It depends on the names, types, shapes and bytes of the tensors alone.",
        "`zoo register DIRECTORY --name check` reads this directory, and `zoo show check` prints",
        "its digest.",
        "",
    ]
    return "\n".join(lines)


def _text(registry: Registry, file: FileRecord | None) -> str | None:
    if file is None or file.bytes > 4 * LARGEST:
        return None
    try:
        return registry.store.path(file.object).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        raise NotFound(
            f"`{file.path}` is not in the store:",
            f"object `{file.object}` is missing.",
            "Run `zoo fsck` to see what else is.",
            path=file.path,
        ) from None
