"""A recipe said again in mergekit's terms, where it can be: the way back of `zoo.mergekit_recipe`.

A method's `Mergekit` entry fits when every parameter is either one that mergekit names or what the
entry sets. Whatever mergekit has no word for makes the recipe one it cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.dtypes import DTYPES
from zoo.parameters import per_expert
from zoo.schedule import Value, is_plain, is_rules

if TYPE_CHECKING:
    from zoo.contract import Mergekit, Method
    from zoo.tokenizer_block import TokenizerBlock


class Unsayable(Exception):
    """mergekit has no words for the recipe; the message is the reason, without a full stop."""


def mergekit_config(
    method: Method,
    lock: Mapping[str, Any],
    experts: list[str],
    base: str | None,
    tokenizer: TokenizerBlock | None,
    dtype: str | None,
) -> dict[str, Any]:
    """The document, as plain data.

    Args:
        experts: what the models are called, in order.
        tokenizer: the lock's block, its models by their names.
        dtype: the one type of all merged tensors, or None.
    Raises:
        Unsayable: says why.
    """
    if not method.mergekit:
        raise Unsayable(f"it has no method like `{method.name}`")
    if lock["exclude"]:
        raise Unsayable("it cannot exclude tensors")
    if lock.get("compat") != "mergekit":
        each = per_expert(method)
        for name, value in lock["parameters"].items():
            if any(map(_has_gradient, value if name in each else [value])):
                raise Unsayable(
                    f"the gradient of `{name}` ends at the head, and mergekit's begins there"
                )
    reasons = []
    for meaning in method.mergekit:
        try:
            document = _document(method, meaning, lock["parameters"], experts, base)
            break
        except Unsayable as reason:
            reasons.append(str(reason))
    else:
        raise Unsayable(reasons[0])
    if dtype is not None:
        document |= {"dtype": "float32", "out_dtype": DTYPES[dtype].torch_name}
    if tokenizer is not None:
        block = tokenizer.as_dict(str)
        document["tokenizer"] = {k: v for k, v in block.items() if v not in (None, {})}
    if lock["chat_template"] is not None:
        document["chat_template"] = lock["chat_template"]
    return document


def _document(
    method: Method,
    meaning: Mergekit,
    parameters: Mapping[str, Value],
    experts: list[str],
    base: str | None,
) -> dict[str, Any]:
    if meaning.base == "first" and base is not None:
        raise Unsayable(f"its `{meaning.name}` has no base beside the two models")
    each = per_expert(method)
    said: dict[str, tuple[str, Any]] = {}
    for theirs, ours in meaning.names.items():
        if isinstance(ours, str):
            said.setdefault(ours, (theirs, None))
        elif ours is not None:
            said.setdefault(ours[0], (theirs, ours[1]))
    shared: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in experts]
    for name, value in parameters.items():
        values = value if name in each else [value]
        if name not in said:
            _check_silent(method, meaning, name, values)
        elif name in each and any(v != values[0] for v in values):
            for mine, v in zip(own, values, strict=True):
                mine[said[name][0]] = _theirs(name, v, said[name][1])
        elif values and values[0] is not None:
            shared[said[name][0]] = _theirs(name, values[0], said[name][1])
    document: dict[str, Any] = {"merge_method": meaning.name}
    if meaning.base == "first":
        document["base_model"] = experts[0]
    elif base is not None:
        document["base_model"] = base
    document["models"] = [
        {"model": model, **({"parameters": mine} if mine else {})}
        for model, mine in zip(experts, own, strict=True)
    ]
    return document | ({"parameters": shared} if shared else {})


def _check_silent(method: Method, meaning: Mergekit, name: str, values: list[Any]) -> None:
    """A parameter that mergekit has no name for has the value that mergekit's method implies."""
    fields = {f.alias or n: f for n, f in method.parameters.model_fields.items()}
    implied = meaning.sets.get(name, fields[name].default)
    if any(v != implied for v in values):
        raise Unsayable(f"its `{meaning.name}` has no parameter for `{name}: {values[0]}`")


def _theirs(name: str, value: Value, values: Mapping[Any, Any] | None) -> Any:
    """mergekit's way to write a value, a gradient or rules."""
    if is_rules(value):
        return [_rule(name, rule, values) for rule in value]
    if isinstance(value, Mapping):
        return list(value["gradient"])
    if values is None:
        return value
    for theirs, ours in values.items():
        if ours == value and type(ours) is type(value):
            return theirs
    raise Unsayable(f"it cannot say `{name}: {value}`")


def _rule(name: str, rule: Mapping[str, Any], values: Mapping[Any, Any] | None) -> dict[str, Any]:
    if not is_plain(rule.get("filter", "*")):
        raise Unsayable(f"it filters by parts of names only, and `{name}` has another filter")
    return {**rule, "value": _theirs(name, rule["value"], values)}


def _has_gradient(value: Value) -> bool:
    if is_rules(value):
        return any(_has_gradient(rule["value"]) for rule in value)
    return isinstance(value, Mapping)
