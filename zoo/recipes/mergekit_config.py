"""A recipe said again in mergekit's terms, where it can be: the way back of `mergekit_recipe`.

A method's `Mergekit` entry fits when every parameter is either one that mergekit names or what the
entry sets. Whatever mergekit has no word for makes the recipe one it cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from zoo.dtypes import DTYPES
from zoo.parameters import per_expert
from zoo.recipes.schedule import Value, is_plain, is_rules

if TYPE_CHECKING:
    from zoo.contract import Mergekit, Method


class Unsayable(Exception):
    """There are no words for the recipe; the message is the reason, without a full stop."""


def mergekit_config(method: Method, recipe: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The document, as plain data.

    Args:
        recipe: a lock with models by name.
        dtype: the one type of all merged tensors, or None.
    Raises:
        Unsayable: says why.
    """
    if not method.mergekit:
        raise Unsayable(f"it has no method like `{method.name}`")
    for key in ("exclude", "missing"):
        if recipe[key]:
            raise Unsayable(f"it has nothing like `{key}`")
    models = [*recipe["experts"], recipe["base"], recipe["donor"]]
    if plus := next((m for m in models if m and "+" in m), None):
        raise Unsayable(f"it takes the `+` in `{plus}` for an adapter")
    reasons = []
    for meaning in method.mergekit:
        try:
            document = _Writer(method, meaning, recipe).document()
            break
        except Unsayable as reason:
            reasons.append(str(reason))
    else:
        raise Unsayable(reasons[0])
    if dtype is not None:
        document |= {"dtype": "float32", "out_dtype": DTYPES[dtype].torch_name}
    if recipe["tokenizer"] and recipe["tokenizer"].get("missing"):
        raise Unsayable("it has nothing like `missing` of a tokenizer")
    if recipe["tokenizer"]:
        block = {k: v for k, v in recipe["tokenizer"].items() if k != "files"}
        document["tokenizer"] = {k: v for k, v in block.items() if v not in (None, {})}
    for key in ("chat_template", "mismatch"):  # mergekit crops without being asked
        if recipe[key] is not None:
            document[key] = recipe[key]
    return document


class _Writer:
    """Writes one recipe by one of mergekit's methods."""

    def __init__(self, method: Method, meaning: Mergekit, recipe: Mapping[str, Any]) -> None:
        self.method, self.meaning, self.recipe = method, meaning, recipe
        self.each = per_expert(method)
        self.said: dict[str, tuple[str, Mapping[Any, Any] | None]] = {}
        """Our parameter -> theirs, and our value for each of theirs."""
        together = [ours for ours in meaning.names.values() if isinstance(ours, str)]
        self.switches: dict[str, list[str]] = {}
        """Our parameter -> theirs that mean it together; see `Mergekit.rewrite`."""
        for theirs, ours in meaning.names.items():
            if isinstance(ours, str) and together.count(ours) > 1 and meaning.rewrite:
                self.switches.setdefault(ours, []).append(theirs)
            elif isinstance(ours, str):
                self.said.setdefault(ours, (theirs, None))
            elif ours is not None:
                self.said.setdefault(ours[0], (theirs, ours[1]))

    def document(self) -> dict[str, Any]:
        base = self._base()
        document: dict[str, Any] = {"merge_method": self.meaning.name}
        if base is not None:
            document["base_model"] = base
        slices = self.recipe["slices"]
        if not slices:
            experts = self.recipe["experts"]
            if len(set(experts)) < len(experts):
                raise Unsayable("it merges each model once")
            shared, own = self._parameters(self.recipe["parameters"], len(experts))
            document["models"] = [
                {"model": m, **_parameters(mine)} for m, mine in zip(experts, own, strict=True)
            ]
            return document | _parameters(shared)
        if slices[0]["module"] is None:
            return document | {"slices": [self._slice(s) for s in slices]}
        modules: dict[str, Any] = {}
        for one in slices:
            made = self._slice(one)
            if one["sources"][0]["layers"] is None:
                models = made.pop("sources")
                modules[one["module"]] = {"models": models, **_parameters(made.get("parameters"))}
            else:
                modules.setdefault(one["module"], {"slices": []})["slices"].append(made)
        return document | {"modules": modules}

    def _base(self) -> str | None:
        """`base_model`: mergekit has one word for what we have three for."""
        name = self.meaning.name
        experts: list[str] = self.recipe["experts"]
        base: str | None = self.recipe["base"]
        donor: str | None = self.recipe["donor"]
        if self.meaning.base == "base":
            if donor not in (None, base):
                raise Unsayable("it takes configuration and tokenizer from the base")
            return base
        if base is not None:
            raise Unsayable(f"its `{name}` has no base beside the models it merges")
        if donor is not None and donor not in experts:
            raise Unsayable("it takes configuration and tokenizer from a model it merges")
        if self.meaning.base == "first":
            if donor not in (None, experts[0]):
                raise Unsayable(f"its `{name}` takes configuration and tokenizer from its start")
            return experts[0]
        # Without one, mergekit takes the files of any model; but a base also gives missing tokens.
        return donor or (None if self.recipe["tokenizer"] else experts[0])

    def _slice(self, one: Mapping[str, Any]) -> dict[str, Any]:
        sources, base = one["sources"], one["base"]
        if len({s["model"] for s in sources}) < len(sources):
            raise Unsayable("it merges each model once")
        shared, own = self._parameters(one["parameters"], len(sources))
        found = [_source(s, mine) for s, mine in zip(sources, own, strict=True)]
        made: dict[str, Any] = {"sources": found}
        if self.meaning.base == "first" and len(sources) > 1:
            made["base_model"] = sources[0]["model"]
        elif base is not None:
            made["base_model"] = base["model"]
            found.append(_source(base, {}))
        return made | _parameters(shared)

    def _parameters(
        self, parameters: Mapping[str, Value], experts: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What is said once for all models, and what is said beside each."""
        shared: dict[str, Any] = {}
        own: list[dict[str, Any]] = [{} for _ in range(experts)]
        for name, value in parameters.items():
            values = value if name in self.each else [value]
            if self.recipe["compat"] != "mergekit" and any(map(_has_gradient, values)):
                raise Unsayable(f"the gradient of `{name}` ends at the head, and its begin there")
            if name in self.switches:
                shared |= self._switched(name, value)
                continue
            if name not in self.said:
                self._check_silent(name, values)
                continue
            theirs, choices = self.said[name]
            if any(v != values[0] for v in values):
                for mine, v in zip(own, values, strict=True):
                    mine[theirs] = _theirs(name, v, choices)
            elif values and values[0] is not None:
                shared[theirs] = _theirs(name, values[0], choices)
        return shared, own

    def _switched(self, name: str, value: Value) -> dict[str, bool]:
        """The positions of mergekit's switches that mean our value."""
        assert self.meaning.rewrite is not None
        theirs = self.switches[name]
        for positions in product((True, False), repeat=len(theirs)):
            found = dict(zip(theirs, positions, strict=True))
            if value in self.meaning.rewrite(found).values():
                return found
        raise Unsayable(f"it cannot say `{name}: {value}`")

    def _check_silent(self, name: str, values: Sequence[Any]) -> None:
        """What mergekit has no name for has the value that its method implies."""
        fields = {f.alias or n: f for n, f in self.method.parameters.model_fields.items()}
        implied = self.meaning.sets.get(name, fields[name].default)
        if any(v != implied for v in values):
            raise Unsayable(f"its `{self.meaning.name}` has no parameter for `{name}: {values[0]}`")


def _source(source: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    layers = {"layer_range": source["layers"]} if source["layers"] else {}
    return {"model": source["model"], **layers, **_parameters(parameters)}


def _parameters(found: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"parameters": dict(found)} if found else {}


def _theirs(name: str, value: Value, choices: Mapping[Any, Any] | None) -> Any:
    """mergekit's way to write a value, a gradient or rules."""
    if is_rules(value):
        return [_rule(name, rule, choices) for rule in value]
    if isinstance(value, Mapping):
        return list(value["gradient"])
    if choices is None:
        return value
    for theirs, ours in choices.items():
        if ours == value and type(ours) is type(value):
            return theirs
    raise Unsayable(f"it cannot say `{name}: {value}`")


def _rule(name: str, rule: Mapping[str, Any], choices: Mapping[Any, Any] | None) -> dict[str, Any]:
    if not is_plain(rule.get("filter", "*")):
        raise Unsayable(f"it filters by parts of names, and `{name}` has another filter")
    return {**rule, "value": _theirs(name, rule["value"], choices)}


def _has_gradient(value: Value) -> bool:
    if is_rules(value):
        return any(_has_gradient(rule["value"]) for rule in value)
    return isinstance(value, Mapping)
