"""The model card of a merge: what made it, from what, how to make it again and how to check it.

A card is a function of the recipe and the models' names: no times, no machines, no name of its
own, so that the same merge has the same card wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.cards.front import CardParent, card_parent, front_matter, library_of
from zoo.cards.text import as_yaml, code, fenced, inline, plain
from zoo.cards.version_card import version_card as version_card
from zoo.compatibility.terms import licence_lines, licences_of
from zoo.dtypes import DTYPES
from zoo.engine.inputs import RECIPE_FILE
from zoo.licences import combined
from zoo.parameters import per_expert
from zoo.recipes.mergekit_config import Unsayable, mergekit_config
from zoo.recipes.recipe import MAX_NORM_DRIFT
from zoo.tokenizers.vocabulary import names_in_lock

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.engine.inputs import Input, Inputs
    from zoo.engine.merging import Prepared

CARD, MERGEKIT = "README.md", "mergekit_config.yml"


def cards(ready: Prepared, digest: str, licence: str | None) -> dict[str, bytes]:
    """The card of a merge, and mergekit's document where mergekit can say the recipe.

    Args:
        digest: weights digest of the result.
    """
    found = {}
    try:
        types = {t.info.dtype for t in ready.plan.merged}
        dtype = types.pop() if len(types) == 1 else None
        theirs = as_yaml(mergekit_config(ready.plan.method, _named(ready), dtype))
        found[MERGEKIT] = (_header(ready.inputs) + theirs).encode()
        said = f"`{MERGEKIT}` says the recipe in mergekit's terms."
    except Unsayable as reason:
        theirs, said = "", f"mergekit cannot make this model: {reason}."
    try:
        recipe = as_yaml(recipe_of(ready))
    except Unsayable:
        recipe = theirs
    found[CARD] = _card(ready, digest, licence, recipe, said).encode()
    return found


def licence_of(inputs: Inputs) -> str | None:
    """The licence that those of all parents come to; None where there is no one such licence."""
    return combined(licences_of([*parents(inputs)]).values()).license


def parents(inputs: Inputs) -> list[Input]:
    """The base, the experts, and who else gave files; each model once."""
    every = [*([inputs.base] if inputs.base else []), *inputs.experts, inputs.donor]
    return list({i.model.label: i for i in every}.values())


def recipe_of(ready: Prepared) -> dict[str, Any]:
    """The recipe that resolves to a merge's lock, with models by name; see `zoo.recipes.recipe`.

    Raises:
        Unsayable: it has modules, which only mergekit's form has.
    """
    lock = _named(ready)
    found: dict[str, Any] = {"method": lock["method"]}
    if lock["slices"]:
        found |= _given(lock, "base")
        found["slices"] = [_slice(ready.plan.method, one) for one in lock["slices"]]
    else:
        found["experts"] = [
            {"model": model, **{role: own[i] for role, own in lock["artifacts"].items()}}
            if lock["artifacts"]
            else model
            for i, model in enumerate(lock["experts"])
        ]
        found |= _given(lock, "base") | _parameters(ready.plan.method, lock["parameters"])
    found |= _given(lock, "exclude", "missing", "mismatch", "donor")
    if lock["tokenizer"]:
        block = {k: v for k, v in lock["tokenizer"].items() if k != "files"}
        found["tokenizer"] = {k: v for k, v in block.items() if v not in (None, {})}
    found |= _given(lock, "chat_template", "compat", "seed", "data")
    if lock["dtype"]:
        found["dtype"] = DTYPES[lock["dtype"]].torch_name
    if lock["max_norm_drift"] != MAX_NORM_DRIFT:
        found |= _given(lock, "max_norm_drift")
    return found


def _parameters(method: Method, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a recipe has them: one value where all experts have the same."""
    each = per_expert(method)
    found = {
        name: value[0] if name in each and value and all(v == value[0] for v in value) else value
        for name, value in parameters.items()
    }
    return {"parameters": found} if found else {}


def _slice(method: Method, one: Mapping[str, Any]) -> dict[str, Any]:
    base = one["base"]
    sources = [*one["sources"], *([base] if base else [])]
    found: dict[str, Any] = {"sources": [_given(s, "model", "layers") for s in sources]}
    found |= _given(one, "module")
    if base:
        found["base"] = base["model"]
    return found | _parameters(method, one["parameters"])


def _given(lock: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """What a lock says that a recipe need not: nothing, an empty list, the seed 0."""
    return {k: lock[k] for k in keys if lock[k]}


def _named(ready: Prepared) -> dict[str, Any]:
    """The lock, with what models are called in place of their digests."""
    inputs = ready.inputs
    names = {i.model.digest: i.model.label for i in reversed(parents(inputs))}
    names = {**names_in_lock(inputs), **names}
    for expert in inputs.experts:
        names |= {a.model.digest: a.model.label for a in expert.artifacts.values()}
    found: dict[str, Any] = _renamed({"artifacts": {}, **ready.lock}, names)
    # Two models may have the same weights, and so one digest.
    return found | {"experts": [e.model.label for e in inputs.experts]}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with names in place of digests, which nothing else looks like."""
    if isinstance(value, Mapping):
        return {k: _renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, names) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


def _header(inputs: Inputs) -> str:
    if all(i.version is None for i in parents(inputs)):
        return ""
    return "# Models are named as in the zoo; `zoo path NAME` prints the directory of each.\n"


def _card(ready: Prepared, digest: str, licence: str | None, recipe: str, mergekit: str) -> str:
    lock, inputs, method = ready.lock, ready.inputs, ready.plan.method
    labels = [i.model.label for i in parents(inputs)]
    told = card_parents(inputs, lock["parameters"])
    front = front_matter(
        models=[one.model for one in told if one.label in labels],
        relation="merge",
        library=library_of(inputs.donor.model.checkpoint.opened.config),
        license=licence,
        tags=["merge", "zoo", method.name],
        zoo={
            "weights": digest,
            "recipe": ready.digest,
            "method": f"{method.name} {method.version}",
            "parents": [one.block for one in told],
        },
    )
    replayed = (
        "the same bytes on every machine"
        if method.replay == "exact"
        else "the same bytes on the same platform, and nearly the same on another"
    )
    experts = [e.model.label for e in inputs.experts]
    return "\n".join(
        [
            f"---\n{as_yaml(front)}---",
            "",
            f"# {code(method.name)} of {_listed(experts)}",
            "",
            f"{len(experts)} model{'s' if len(experts) > 1 else ''} merged"
            + (f" on the base {code(inputs.base.model.label)}" if inputs.base else "")
            + ", with zoo.",
            "",
            "## Method",
            "",
            f"{code(method.name)}, version {method.version}: {method.summary}",
            *_table(_parameters(method, lock["parameters"])),
            "",
            "## Recipe",
            "",
            *_recipe(recipe, replayed),
            mergekit,
            "",
            "## Lineage",
            "",
            "| role | model | licence | weights digest |",
            "|---|---|---|---|",
            *lineage_rows(told),
            *licence_lines(licences_of([*parents(inputs)])),
            "",
            *verify_lines(digest, "merges"),
        ]
    )


def _recipe(recipe: str, replayed: str) -> list[str]:
    if not recipe:
        return [f"In `{RECIPE_FILE}`: it has no shorter form."]
    return [
        fenced(recipe, "yaml"),
        "",
        f"Saved as `recipe.yaml`, `zoo merge recipe.yaml --out DIRECTORY` makes {replayed}.",
    ]


def _table(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    values = found["parameters"].items()
    rows = [f"| {code(name)} | {code(inline(value))} |" for name, value in values]
    return ["", "| parameter | value |", "|---|---|", *rows]


def card_parents(inputs: Inputs, parameters: Mapping[str, Any]) -> list[CardParent]:
    """All parents with their roles: the base, the experts and what lies beside them, the donor."""
    weights = parameters.get("weight")
    found = [card_parent(inputs.base, "base")] if inputs.base else []
    for i, expert in enumerate(inputs.experts):
        weight = weights[i] if isinstance(weights, list) and i < len(weights) else None
        given = float(weight) if isinstance(weight, (int, float)) else None
        found.append(card_parent(expert, "expert", given))
        found += [card_parent(one, role) for role, one in expert.artifacts.items()]
    if inputs.donor.model.digest not in [one.digest for one in found]:
        found.append(card_parent(inputs.donor, "donor"))
    if inputs.speaker:
        found.append(card_parent(inputs.speaker, "tokenizer"))
    return found


def verify_lines(digest: str, makes: str) -> list[str]:
    """How to check a model against its card.

    Args:
        makes: what a replay does again: `merges`.
    """
    return [
        "## Verify",
        "",
        f"The weights digest of this model is `{digest}`.",
        "It depends on the names, types, shapes and bytes of the tensors alone.",
        "",
        f"- In the zoo that has it, `zoo verify NAME --replay` {makes} again and compares every",
        "  tensor.",
        "- Anywhere, `zoo register DIRECTORY --name check` reads this directory, and",
        "  `zoo show check` prints its digest.",
        "",
    ]


def lineage_rows(told: Iterable[CardParent]) -> list[str]:
    """Rows of a table: role, model, licence, weights digest."""
    return [
        f"| {one.role} | {code(one.label)} | {plain(one.license or 'not known')} | `{one.digest}` |"
        for one in told
    ]


def _listed(names: list[str]) -> str:
    shown = [code(n) for n in names[:3]]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
