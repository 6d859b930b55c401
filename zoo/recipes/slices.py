"""Slices of a recipe: which layers of which models follow each other in the result.

    slices:
      - sources: [{model: math, layers: [0, 24]}]
      - sources:
          - {model: math, layers: [16, 32], weight: 0.7}
          - {model: code, layers: [16, 32], weight: 0.3}
        parameters: {normalize: true}

Ranges are half open, and of one length within a slice, whose sources are merged layer by layer; a
slice with one source takes its layers as the method leaves them. Embeddings come from the first
slice's sources, the final norm and the head from the last one's. A value of a parameter is looked
for beside the source, in the slice, in the module, then in the recipe, and filters on values of one
expert see the names its own tensors have.

A slice may name the `module` that it is of, a part of a model whose tensors lie under one name,
such as `vision_tower`; each module is then stacked for itself. A source without `layers` is all of
its module, or of its model.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.errors import InvalidRecipe
from zoo.recipes.schedule import Value, is_rules


@dataclass(frozen=True, slots=True)
class Source:
    """Layers of one model."""

    model: str
    """Reference or path, as `Expert.model`."""
    layers: tuple[int, int] | None = None
    """First layer, and the one after the last; None is the whole module, whatever is in it."""
    parameters: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of the result, and what is merged to make them."""

    sources: tuple[Source, ...]
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """What holds in the slice before what the recipe says for all."""
    base: str | None = None
    """The base of this slice, where it is another than the recipe's."""
    module: str | None = None

    def without(self, names: Container[str]) -> Slice:
        """The same slice, saying nothing of some parameters."""
        kept = (replace(s, parameters=_left(s.parameters, names)) for s in self.sources)
        return replace(self, sources=tuple(kept), parameters=_left(self.parameters, names))


def read_slices(document: Any) -> tuple[Slice, ...]:
    """The `slices` of a recipe in our form.

    Raises:
        InvalidRecipe: an unknown key, or a range that is none.
    """
    from zoo.recipes.recipe import mapping, refuse_unknown, sequence

    found = []
    for entry in sequence(document, "slices"):
        one = mapping(entry, "slices")
        refuse_unknown(one, ("sources", "parameters", "base", "module"), "a slice")
        sources = []
        for listed in sequence(one.get("sources", ()), "sources"):
            source = mapping(listed, "sources")
            model, layers = source.pop("model", None), source.pop("layers", None)
            taken = None if layers is None else layer_range(layers, "layers")
            sources.append(Source(_model(model), taken, source))
        base, module = one.get("base"), one.get("module")
        if module is not None and not isinstance(module, str):
            raise InvalidRecipe(f"`module` must be text, not {module!r}.", key="module")
        found.append(
            Slice(
                _some(sources),
                mapping(one.get("parameters", {}), "parameters"),
                None if base is None else _model(base),
                module,
            )
        )
    return _some(found)


def layer_range(value: Any, key: str) -> tuple[int, int]:
    """Two whole numbers, the second larger.

    Raises:
        InvalidRecipe: something else.
    """
    whole = isinstance(value, (list, tuple)) and [type(v) for v in value] == [int, int]
    if not whole or not 0 <= value[0] < value[1]:
        raise InvalidRecipe(
            f"`{key}` {value!r} is no range of layers.",
            how=f"Write `{key}: [FIRST, AFTER_LAST]`, as `{key}: [0, 32]`.",
            key=key,
        )
    return value[0], value[1]


def models_of(slices: Sequence[Slice]) -> tuple[str, ...]:
    """The models that slices name, each once, in the order they come."""
    named = [
        name
        for one in slices
        for name in (*(s.model for s in one.sources), *([one.base] if one.base else []))
    ]
    return tuple(dict.fromkeys(named))


def falling_through(value: Value, otherwise: Value) -> Value:
    """A value whose rules, where none fits, leave the word to another."""
    if not is_rules(value) or any(r.get("filter", "*") == "*" for r in value):
        return value
    return [*value, *(otherwise if is_rules(otherwise) else [{"value": otherwise}])]


def below(given: Mapping[str, Value], otherwise: Mapping[str, Value]) -> dict[str, Value]:
    """Parameters of one scope over those of the next."""
    both = {**otherwise, **given}
    return {
        name: falling_through(value, otherwise[name]) if name in otherwise else value
        for name, value in both.items()
    }


def _left(parameters: Mapping[str, Value], names: Container[str]) -> dict[str, Value]:
    return {k: v for k, v in parameters.items() if k not in names}


def _model(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRecipe("Each source is a map with `model` and `layers`.", key="sources")
    return value


def _some(found: list[Any]) -> tuple[Any, ...]:
    if not found:
        raise InvalidRecipe("`slices` lists slices, and each slice lists its `sources`.")
    return tuple(found)
