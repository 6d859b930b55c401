"""The model card of a merge: what made it, from what, how to make it again and how to check it.

A card is a function of the recipe and the models' names: no times, no machines, no name of its
own, so that the same merge has the same card wherever it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.dtypes import DTYPES
from zoo.mergekit_config import Unsayable, mergekit_config
from zoo.recipe import MAX_NORM_DRIFT

if TYPE_CHECKING:
    from zoo.inputs import Input, Inputs
    from zoo.merging import Prepared

CARD, MERGEKIT = "README.md", "mergekit_config.yml"
_LIBRARIES = {
    "transformers_version": "transformers",
    "_diffusers_version": "diffusers",
    "pretrained_cfg": "timm",
    "architectures": "transformers",
}
"""A key that a library's configurations have, the surest first."""
_DROPPED = ("format", "method_version", "chunk", "shard_bytes", "tasks")
"""What a lock says beyond a recipe."""


def cards(ready: Prepared, digest: str, licence: str | None) -> dict[str, bytes]:
    """The card of a merge, and mergekit's document where mergekit can say the recipe.

    Args:
        digest: weights digest of the result.
    """
    found = {}
    try:
        document = _header(ready.inputs) + _yaml(_mergekit(ready))
        found[MERGEKIT] = document.encode()
        mergekit = f"`{MERGEKIT}` says the recipe in mergekit's terms."
    except Unsayable as reason:
        mergekit = f"mergekit cannot make this model: {reason}."
    found[CARD] = _card(ready, digest, licence, mergekit).encode()
    return found


def licence_of(inputs: Inputs) -> str | None:
    """The licence that all parents have, or None: they differ, or some are not known."""
    found = {i.version.license if i.version else None for i in parents(inputs)}
    return found.pop() if len(found) == 1 else None


def parents(inputs: Inputs) -> list[Input]:
    """The base, the experts, and who else gave files; each model once."""
    every = [*([inputs.base] if inputs.base else []), *inputs.experts, inputs.donor]
    return list({i.model.digest: i for i in every}.values())


def recipe_of(lock: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """The recipe that resolves to a lock, with models by name; see `zoo.recipe`."""
    names = {i.model.digest: i.model.label for i in parents(inputs)}
    named = {k: v for k, v in lock.items() if k not in _DROPPED and v not in (None, [], {})}
    if "tokenizer" in named:
        block = {k: v for k, v in named["tokenizer"].items() if k != "files"}
        named["tokenizer"] = {k: v for k, v in block.items() if v not in (None, {})}
    if "dtype" in named:
        named["dtype"] = DTYPES[named["dtype"]].torch_name
    if named["max_norm_drift"] == MAX_NORM_DRIFT:
        del named["max_norm_drift"]
    if named["seed"] == 0:
        del named["seed"]
    found: dict[str, Any] = _renamed(named, names)
    return found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with names in place of digests, which nothing else looks like."""
    if isinstance(value, Mapping):
        return {k: _renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, names) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


def _mergekit(ready: Prepared) -> dict[str, Any]:
    from zoo.tokenizer_block import read_tokenizer_block

    lock, inputs = ready.lock, ready.inputs
    types = {t.info.dtype for t in ready.plan.merged}
    block = recipe_of(lock, inputs).get("tokenizer")
    return mergekit_config(
        ready.plan.method,
        lock,
        [e.model.label for e in inputs.experts],
        inputs.base.model.label if inputs.base else None,
        None if block is None else read_tokenizer_block(block, str),
        types.pop() if len(types) == 1 else None,
    )


def _header(inputs: Inputs) -> str:
    if all(i.version is None for i in parents(inputs)):
        return ""
    return "# Models are named as in the zoo; `zoo path NAME` prints the directory of each.\n"


def _card(ready: Prepared, digest: str, licence: str | None, mergekit: str) -> str:
    lock, inputs, method = ready.lock, ready.inputs, ready.plan.method
    labels = [i.model.label for i in parents(inputs)]
    front = {
        "base_model": labels,
        "base_model_relation": "merge",
        "library_name": _library(inputs.donor.model.checkpoint.opened.config),
        "license": licence,
        "tags": list(dict.fromkeys(["merge", "zoo", method.name])),
    }
    replayed = (
        "the same bytes on every machine"
        if method.replay == "exact"
        else "the same bytes on the same platform, and nearly the same on another"
    )
    experts = [e.model.label for e in inputs.experts]
    return "\n".join(
        [
            f"---\n{_yaml({k: v for k, v in front.items() if v is not None})}---",
            "",
            f"# {_code(method.name)} of {_listed(experts)}",
            "",
            f"{len(experts)} model{'s' if len(experts) > 1 else ''} merged"
            + (f" on the base {_code(inputs.base.model.label)}" if inputs.base else "")
            + ", with zoo.",
            "",
            "## Method",
            "",
            f"{_code(method.name)}, version {method.version}: {method.summary}",
            *_parameters(lock["parameters"]),
            "",
            "## Recipe",
            "",
            _fenced(_yaml(recipe_of(lock, inputs)), "yaml"),
            "",
            f"Saved as `recipe.yaml`, `zoo merge recipe.yaml --out DIRECTORY` makes {replayed}.",
            mergekit,
            "",
            "## Lineage",
            "",
            "| role | model | licence | weights digest |",
            "|---|---|---|---|",
            *_lineage(inputs),
            "",
            "## Verify",
            "",
            f"The weights digest of this model is `{digest}`.",
            "It depends on the names, types, shapes and bytes of the tensors alone.",
            "",
            "- In the zoo that has it, `zoo verify NAME --replay` merges again and compares every",
            "  tensor.",
            "- Anywhere, `zoo register DIRECTORY --name check` reads this directory, and",
            "  `zoo show check` prints its digest.",
            "",
        ]
    )


def _library(config: Mapping[str, Any] | None) -> str | None:
    return next((name for key, name in _LIBRARIES.items() if key in (config or {})), None)


def _parameters(parameters: Mapping[str, Any]) -> list[str]:
    if not parameters:
        return []
    rows = [f"| {_code(name)} | {_code(_inline(value))} |" for name, value in parameters.items()]
    return ["", "| parameter | value |", "|---|---|", *rows]


def _lineage(inputs: Inputs) -> list[str]:
    rows = []
    base = [("base", inputs.base)] if inputs.base else []
    for role, one in (*base, *(("expert", e) for e in inputs.experts)):
        licence = (one.version.license if one.version else None) or "not known"
        rows.append(
            f"| {role} | {_code(one.model.label)} | {_plain(licence)} | `{one.model.digest}` |"
        )
    return rows


def _listed(names: list[str]) -> str:
    shown = [_code(n) for n in names[:3]]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _code(text: str) -> str:
    """Text as code on one line, in a table too, whatever is in it."""
    text = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text}{fence}"


def _longest_ticks(text: str) -> int:
    return max(
        (len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0
    )


def _inline(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _yaml(content: Any) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
