"""mergekit's configuration files, read strictly and taken to mean what mergekit means by them.

Where mergekit's semantics differ from a paper's, the method says how (`Method.mergekit`): a
document in this form sets those parameters, so the same file gives the same model, computed in
float32 where mergekit computes in the tensors' own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe, did_you_mean
from zoo.recipe import Expert, Recipe, mapping, output_dtype, refuse_unknown, sequence
from zoo.schedule import Value, is_rules
from zoo.tokenizer_block import TokenizerBlock, read_tokenizer_block

if TYPE_CHECKING:
    from zoo.contract import Mergekit, Method

_KEYS = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "name",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
)
_LATER = ("modules",)
_MODEL_KEYS = ("model", "parameters", "layer_range")


def read_mergekit(document: Mapping[str, Any], methods: Mapping[str, Method]) -> Recipe:
    """Translate a mergekit document.

    Args:
        methods: the methods there are, whose `mergekit` parameters say what mergekit means.
    Raises:
        InvalidRecipe: a key or a value that mergekit has and we do not yet, or that neither has.
    """
    for key in _LATER:
        if key in document:
            raise InvalidRecipe(f"mergekit's `{key}` is not supported yet.", key=key)
    refuse_unknown(document, (*_KEYS, *_LATER), "the mergekit document")
    name = document["merge_method"]
    known = {
        entry.name: (method, entry) for method in methods.values() for entry in method.mergekit
    }
    if not isinstance(name, str) or name not in known:
        raise InvalidRecipe(
            f"No method here means mergekit's `{name}`.",
            how=did_you_mean(str(name), tuple(known)),
            method=name,
        )
    method, meaning = known[name]
    entries, layers = _models(document)
    base = document.get("base_model")
    if base is not None:
        base = _path(base)
    parameters, notes = _translate(meaning, mapping(document.get("parameters", {}), "parameters"))
    parameters = {**meaning.sets, **parameters}
    experts = []
    for entry in entries:
        refuse_unknown(entry, _MODEL_KEYS, "a model")
        own, more = _translate(meaning, mapping(entry.get("parameters") or {}, "parameters"))
        notes = (*notes, *more)
        experts.append(Expert(_path(entry.get("model")), own))
    if meaning.base == "first":
        experts, base = _ends(name, experts, base), None
        parameters.update(experts[1].parameters)
        experts = [Expert(e.model) for e in experts]
    elif base is not None and meaning.base == "base":
        # mergekit lets the base stand among the models, and leaves it out of the sum.
        experts = [e for e in experts if e.model != base]
    dtype = document.get("out_dtype") or document.get("dtype")
    return Recipe(
        method=method.name,
        experts=tuple(experts),
        base=base,
        parameters=parameters,
        dtype=None if dtype is None else output_dtype(dtype),
        layers=layers,
        tokenizer=_tokenizer(document),
        chat_template=_template(document.get("chat_template")),
        notes=tuple(dict.fromkeys(notes)),
    )


def _tokenizer(document: Mapping[str, Any]) -> TokenizerBlock | None:
    """Either spelling of whose vocabulary the result has."""
    block, source = document.get("tokenizer"), document.get("tokenizer_source")
    if block is not None and source is not None:
        raise InvalidRecipe(
            "A mergekit document has either `tokenizer` or `tokenizer_source`.",
            how="Move the source into `tokenizer`.",
        )
    if source is not None:
        block = {"source": source}
    return None if block is None else read_tokenizer_block(block, _path)


def _template(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidRecipe(f"`chat_template` must be text, not {value!r}.", key="chat_template")
    return value


def _models(document: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int | None]:
    """The model entries, and the number of layers when they came as one slice."""
    if ("models" in document) == ("slices" in document):
        raise InvalidRecipe("A mergekit document has either `models` or `slices`.")
    if "models" in document:
        entries = [mapping(m, "models") for m in sequence(document["models"], "models")]
        for entry in entries:
            refuse_unknown(entry, ("model", "parameters"), "a model")
        return entries, None
    slices = [mapping(s, "slices") for s in sequence(document["slices"], "slices")]
    found = [s.get("sources", ()) for s in slices]
    sources = [mapping(s, "sources") for s in sequence(found[0] if found else (), "sources")]
    ranges = [s.get("layer_range") for s in sources]
    alone = len(slices) == 1 and set(slices[0]) == {"sources"}
    if not alone or not ranges or ranges != ranges[:1] * len(ranges):
        raise InvalidRecipe(
            "Slices that cut or stack layers are not supported yet.",
            "One slice over all layers of every source is.",
            "Use `models`, or one slice with one `layer_range` from 0.",
            key="slices",
        )
    layer_range: Any = ranges[0]
    whole = isinstance(layer_range, list) and len(layer_range) == 2 and layer_range[0] == 0
    if not whole or not isinstance(layer_range[1], int):
        raise InvalidRecipe(
            f"`layer_range` {layer_range} leaves layers out, which is not supported yet.",
            key="layer_range",
        )
    return sources, layer_range[1]


def _translate(
    meaning: Mergekit, given: Mapping[str, Any]
) -> tuple[dict[str, Value], tuple[str, ...]]:
    refuse_unknown(given, tuple(meaning.names), f"mergekit's `{meaning.name}`", noun="parameter")
    found: dict[str, Value] = {}
    notes = []
    for name, value in given.items():
        ours = meaning.names[name]
        if ours is None:
            notes.append(f"`{name}` has no effect here.")
        elif isinstance(ours, str):
            found[ours] = _schedule(value)
        else:
            parameter, values = ours
            if not isinstance(value, (bool, int, float, str)) or value not in values:
                allowed = " or ".join(str(v).lower() for v in values)
                raise InvalidRecipe(f"`{name}` must be {allowed}, not {value!r}.", parameter=name)
            found[parameter] = values[value]
    return found, tuple(notes)


def _schedule(value: Any) -> Value:
    """mergekit's lists are gradients, or rules whose values may be gradients."""
    if is_rules(value):
        return [
            {k: _schedule(v) if k == "value" else v for k, v in rule.items() if v is not None}
            for rule in value
        ]
    return {"gradient": value} if isinstance(value, list) else value


def _ends(method: str, experts: list[Expert], base: str | None) -> list[Expert]:
    """mergekit's slerp goes from `base_model` to the other model."""
    others = [e for e in experts if e.model != base]
    if base is None or len(others) != 1 or len(experts) > 2:
        raise InvalidRecipe(
            f"mergekit's {method} takes `base_model`, where the arc begins, and one other model.",
            f"Here `base_model` is {base!r}, and the models are {[e.model for e in experts]}.",
        )
    return [Expert(base), others[0]]


def _path(value: Any) -> str:
    if isinstance(value, str) and "+" not in value:
        return value
    if isinstance(value, str):
        raise InvalidRecipe(f"`{value}`: adapters in a mergekit document are not supported yet.")
    raise InvalidRecipe(f"A model is named by a path or reference, not {value!r}.")
