"""Tokenizers compared token by token: the same number of rows may be rows of other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.compatibility.problem import Problem
from zoo.compatibility.wording import by_value, together
from zoo.errors import InvalidCheckpoint, InvalidRecipe
from zoo.tokenizers.chat_templates import template_of
from zoo.tokenizers.tokenizer import CONFIG, FILES, Tokenizer, read_object, read_tokenizer

if TYPE_CHECKING:
    from zoo.engine.inputs import Input

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_SPECIAL_FILES = ("special_tokens_map.json", CONFIG)
_TEMPLATES = (CONFIG, "chat_template.jinja", "chat_template.json")
UNION = (
    "`tokenizer: {source: union}` in the recipe (or `base`, or one of the models) matches rows by "
    "token."
)


def doubts_of_tokenizers(inputs: Sequence[Input], donor: Input, *, template: bool) -> list[Problem]:
    """What the tokenizers of models say differently.

    Args:
        donor: whose files the result has.
        template: whether the recipe says how conversations are written.
    """
    every = list({i.model.label: i for i in (donor, *inputs)}.values())
    having = [i for i in every if _objects(i, FILES)]
    if len(having) < 2:
        return []
    found = []
    if len({_objects(i, FILES - set(_TEMPLATES)) for i in having}) > 1:
        found += _vocabularies(having)
    if len({_objects(i, _SPECIAL_FILES) for i in having}) > 1:
        found += _special(having, donor)
    if not template and len({_objects(i, _TEMPLATES) for i in having}) > 1:
        found += _templates(having, donor)
    return found


def _objects(one: Input, names: Sequence[str] | frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The tokenizer's files among these, by name and content."""
    return tuple(sorted((r.path, r.object) for r in one.beside if r.path in names))


def _files(one: Input) -> dict[str, Path]:
    return {r.path: p for r, p in one.beside.items() if r.path in FILES}


def _vocabularies(having: Sequence[Input]) -> list[Problem]:
    read: dict[str, Tokenizer] = {}
    problems = []
    for one in having:
        try:
            tokenizer = read_tokenizer(one.model.label, _files(one))
        except InvalidCheckpoint as error:
            problems.append(
                Problem(
                    "tokenizer",
                    "warning",
                    f"the tokenizer of `{one.model.label}` cannot be read",
                    f"{error.what} {error.why}".rstrip("."),
                    error.how,
                    (one.model.label,),
                )
            )
        except InvalidRecipe as error:
            problems.append(
                Problem(
                    "tokenizer",
                    "warning",
                    error.what.rstrip("."),
                    "whether its tokens have the rows of the others' cannot be seen",
                    error.how,
                    (one.model.label,),
                )
            )
        else:
            if tokenizer is not None:
                read[one.model.label] = tokenizer
    if len(read) < 2:
        return problems
    (first, reference), *others = read.items()
    told: dict[str, list[str]] = {}
    for label, tokenizer in others:
        if said := _difference(reference.vocabulary, tokenizer.vocabulary):
            told.setdefault(said, []).append(label)
    return problems + [
        Problem(
            "tokenizer",
            "warning",
            f"the tokenizers of `{first}` and {together(labels)} differ: {said}",
            "rows of different tokens would be merged, and nothing would say so",
            UNION,
            (first, *labels),
        )
        for said, labels in told.items()
    ]


def _difference(a: Mapping[str, int], b: Mapping[str, int]) -> str:
    """How two vocabularies differ, in words; empty where they do not."""
    moved = [t for t, i in a.items() if t in b and b[t] != i]
    ours, theirs = [t for t in a if t not in b], [t for t in b if t not in a]
    parts = []
    if moved:
        t = moved[0]
        parts.append(
            f"{len(moved)} of {len(a)} tokens have other ids, first `{t}` ({a[t]} and {b[t]})"
        )
    if ours:
        parts.append(f"{len(ours)} tokens are only in the first, first `{ours[0]}`")
    if theirs:
        parts.append(f"{len(theirs)} tokens are not in the first, first `{theirs[0]}`")
    return "; ".join(parts)


def _special(having: Sequence[Input], donor: Input) -> list[Problem]:
    own = {i.model.label: _special_tokens(_files(i)) for i in having}
    problems = []
    for key in _SPECIAL:
        values = {label: f"`{s[key]}`" for label, s in own.items() if s.get(key)}
        if len(set(values.values())) > 1:
            problems.append(
                Problem(
                    "special_tokens",
                    "warning",
                    f"`{key}` is {by_value(values)}",
                    "a model that ends its answers with another token does not stop",
                    f"The result has that of `{donor.model.label}`; `donor: REF` in the recipe "
                    "takes another's.",
                    tuple(values),
                )
            )
    return problems


def _special_tokens(files: Mapping[str, Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _SPECIAL_FILES:
        try:
            content = read_object(files[name]) if name in files else {}
        except InvalidCheckpoint:
            continue  # told where the vocabulary is read, or not needed at all
        for key in _SPECIAL:
            token: Any = content.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token:
                found.setdefault(key, token)
    return found


def _templates(having: Sequence[Input], donor: Input) -> list[Problem]:
    own = {}
    for one in having:
        try:
            own[one.model.label] = template_of(_files(one))
        except InvalidCheckpoint:
            continue
    if len({t for t in own.values() if t}) < 2:
        return []
    return [
        Problem(
            "chat_template",
            "note",
            f"{together([label for label, t in own.items() if t])} have different chat templates",
            remedy=f"The result has that of `{donor.model.label}`; `chat_template: auto` in the "
            "recipe takes the one that most have.",
            models=tuple(own),
        )
    ]
