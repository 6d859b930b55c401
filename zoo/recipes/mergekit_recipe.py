"""mergekit's configuration files, read strictly and taken to mean what mergekit means by them.

Where mergekit's semantics differ from a paper's, the method says how (`Method.mergekit`): a
document in this form sets those parameters, so the same file gives the same model. `out_dtype`, or
else `dtype`, is the type written; the computing type is always float32, which is no less than what
`dtype` asks for.

mergekit ignores what it does not know. Here an unknown key is refused; a parameter of another of
its methods has no effect, which a note says. Our `missing` and `mismatch`, and filters by pattern,
may stand in such a document too. Several documents in one file are the stages of one merge; see
`zoo.recipes.multi_stage`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe, did_you_mean
from zoo.recipes.recipe import (
    Expert,
    Recipe,
    mapping,
    one_word,
    output_dtype,
    refuse_unknown,
    sequence,
)
from zoo.recipes.schedule import Value, is_plain, is_rules
from zoo.recipes.slices import Slice, Source, below, layer_range, models_of
from zoo.recipes.tokenizer_block import TokenizerBlock, read_tokenizer_block

if TYPE_CHECKING:
    from zoo.contract import Mergekit, Method

_CONTENT = ("models", "slices", "modules")
_KEYS = (
    "merge_method",
    *_CONTENT,
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "name",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
    "missing",
    "mismatch",
)
_REFERENCE_KEYS = ("model", "lora", "override_architecture")


def read_mergekit(document: Mapping[str, Any], methods: Mapping[str, Method]) -> Recipe:
    """Translate a mergekit document.

    Args:
        methods: the methods there are, whose `mergekit` parameters say what mergekit means.
    Raises:
        InvalidRecipe: a key or a value that mergekit has and we do not yet, or that neither has.
    """
    refuse_unknown(document, _KEYS, "the mergekit document")
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
    given = [key for key in _CONTENT if document.get(key) is not None]
    if len(given) != 1:
        raise InvalidRecipe(
            "A mergekit document has one of `models`, `slices` and `modules`, "
            f"not {' and '.join(f'`{key}`' for key in given) or 'none of them'}."
        )
    base = document.get("base_model")
    reader = _Reader(
        meaning,
        None if base is None else _path(base),
        {n for _, entry in known.values() for n in entry.names},
    )
    shared = reader.parameters(document)
    dtype = document.get("out_dtype") or document.get("dtype")
    recipe = Recipe(
        method=method.name,
        base=reader.base if meaning.base == "base" else None,
        donor=None if meaning.base == "base" else reader.base,
        parameters={**meaning.sets, **shared},
        dtype=None if dtype is None else output_dtype(str(dtype).removeprefix("torch.")),
        tokenizer=_tokenizer(document),
        chat_template=_template(document.get("chat_template")),
        missing=one_word(document.get("missing"), "missing", "base"),
        mismatch=one_word(document.get("mismatch"), "mismatch", "crop"),
        compat="mergekit",
    )
    if "models" in given:
        sources = reader.models(document["models"], shared)
        experts = [Expert(s.model, s.parameters) for s in sources if s.model != recipe.base]
        recipe = replace(recipe, experts=tuple(experts))
    else:
        slices = (
            reader.slices(document["slices"])
            if "slices" in given
            else reader.modules(document["modules"], shared)
        )
        names = [m for m in models_of(slices) if m != recipe.base]
        recipe = replace(recipe, slices=slices, experts=tuple(Expert(m) for m in names))
    return replace(recipe, notes=tuple(dict.fromkeys(reader.notes)))


class _Reader:
    """Reads the parts of a document that name models and parameters."""

    def __init__(self, meaning: Mergekit, base: str | None, theirs: Collection[str]) -> None:
        self.meaning = meaning
        self.base = base
        self.theirs = theirs
        """Parameters of any of mergekit's methods."""
        self.notes: list[str] = []

    def models(self, document: Any, shared: Mapping[str, Value]) -> list[Source]:
        """Whole models; the base is one of them, listed or not, unless the method has it apart."""
        found = []
        for listed in sequence(document, "models"):
            entry = mapping(listed, "models")
            refuse_unknown(entry, ("model", "parameters"), "a model")
            found.append(Source(_path(entry.get("model")), None, self.parameters(entry)))
        if not found:
            raise InvalidRecipe("`models` lists no model.", key="models")
        if self.base is not None and self.base not in [s.model for s in found]:
            if self.meaning.base == "expert" and "weight" in self.meaning.names.keys() - shared:
                raise InvalidRecipe(
                    f"mergekit's `{self.meaning.name}` merges `{self.base}` with the others, being "
                    "the `base_model`, and it has no weight.",
                    how="List it among `models` with a weight, or remove `base_model`.",
                )
            found.append(Source(self.base))
        _once_each(found)
        return self._in_order(found, self.base)

    def slices(
        self, document: Any, module: str | None = None, around: Mapping[str, Value] | None = None
    ) -> tuple[Slice, ...]:
        """Slices, of a module where one is named.

        Args:
            around: the parameters of the module.
        """
        found = []
        for listed in sequence(document, "slices"):
            one = mapping(listed, "slices")
            known = ("sources", "parameters", "base_model", "residual_weight")
            refuse_unknown(one, known, "a slice")
            if one.get("residual_weight") is not None:
                self.notes.append("`residual_weight` has no effect, nor has it in mergekit.")
            sources = []
            for written in sequence(one.get("sources", ()), "sources"):
                entry = mapping(written, "sources")
                refuse_unknown(entry, ("model", "layer_range", "parameters"), "a source")
                layers = layer_range(entry.get("layer_range"), "layer_range")
                sources.append(Source(_path(entry.get("model")), layers, self.parameters(entry)))
            if not sources:
                raise InvalidRecipe("A slice lists no `sources`.", key="sources")
            _once_each(sources)
            own = _path(one["base_model"]) if one.get("base_model") is not None else None
            found.append(
                Slice(
                    # A slice of one model takes its layers as they are, whatever the method.
                    tuple(self._in_order(sources, own or self.base) if sources[1:] else sources),
                    below(self.parameters(one), around or {}),
                    own if self.meaning.base == "base" else None,
                    module,
                )
            )
        if not found:
            raise InvalidRecipe("`slices` lists no slice.", key="slices")
        if len(found[-1].sources) > len(found[0].sources):
            self.notes.append(
                "the norm and the head are merged of all sources of the last slice; mergekit "
                f"leaves out those after the first {len(found[0].sources)}, as many as the first "
                "slice has"
            )
        return tuple(found)

    def modules(self, document: Any, shared: Mapping[str, Value]) -> tuple[Slice, ...]:
        """Modules by name; one that has models is one slice of all there is in it."""
        found: list[Slice] = []
        for name, listed in mapping(document, "modules").items():
            one = mapping(listed, "modules")
            refuse_unknown(one, ("models", "slices", "parameters"), f"module `{name}`")
            own = self.parameters(one)
            if (one.get("models") is None) == (one.get("slices") is None):
                raise InvalidRecipe(f"Module `{name}` has either `models` or `slices`.")
            if one.get("slices") is not None:
                found += self.slices(one["slices"], str(name), own)
            else:
                sources = self.models(one["models"], {**shared, **own})
                found.append(Slice(tuple(sources), own, None, str(name)))
        if not found:
            raise InvalidRecipe("`modules` names no module.", key="modules")
        return tuple(found)

    def _in_order(self, sources: list[Source], base: str | None) -> list[Source]:
        """mergekit's slerp goes from `base_model` to the other model, in whatever order."""
        if self.meaning.base != "first":
            return sources
        others = [s for s in sources if s.model != base]
        if base is None or len(others) != 1 or len(sources) > 2:
            raise InvalidRecipe(
                f"mergekit's {self.meaning.name} takes `base_model`, where the arc begins, and one "
                "other model.",
                f"Here `base_model` is {base!r}, and the models are {[s.model for s in sources]}.",
            )
        return [*(s for s in sources if s.model == base), *others]

    def parameters(self, around: Mapping[str, Any]) -> dict[str, Value]:
        """The `parameters` of a scope, in our terms."""
        given: Mapping[str, Any] = mapping(around.get("parameters") or {}, "parameters")
        if self.meaning.rewrite is not None:
            given = self.meaning.rewrite(given)
        found: dict[str, Value] = {}
        for name, value in given.items():
            if name not in self.meaning.names and name in self.theirs:
                self.notes.append(f"`{name}` has no effect in mergekit's `{self.meaning.name}`.")
                continue
            refuse_unknown(
                {name: value},
                tuple(self.meaning.names),
                f"mergekit's `{self.meaning.name}`",
                noun="parameter",
            )
            ours = self.meaning.names[name]
            if ours is None:
                self.notes.append(f"`{name}` has no effect here.")
            elif isinstance(ours, str):
                found[ours] = _schedule(value, _number)
            else:
                found[ours[0]] = _schedule(value, _Choice(name, ours[1]))
        return found


def _once_each(sources: Sequence[Source]) -> None:
    """mergekit tells sources apart by their models, and merges none with itself."""
    names = [s.model for s in sources]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRecipe(
                f"`{name}` is listed twice.",
                "mergekit takes each model once.",
                "Add up the weights; our own form of recipe takes layers of one model together.",
                model=name,
            )


@dataclass(frozen=True, slots=True)
class _Choice:
    """Our value for each of theirs."""

    name: str
    values: Mapping[Any, Any]

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, (bool, int, float, str)) or value not in self.values:
            allowed = " or ".join(str(v).lower() for v in self.values)
            raise InvalidRecipe(
                f"`{self.name}` must be {allowed}, not {value!r}.", parameter=self.name
            )
        return self.values[value]


def _schedule(value: Any, meaning: Any) -> Value:
    """mergekit's lists are gradients, or rules whose values may be gradients."""
    if isinstance(value, Mapping) and "value" in value:
        value = [value]
    if is_rules(value):
        return [_rule(rule, meaning) for rule in value]
    if isinstance(value, list) and meaning is _number:
        return {"gradient": [_number(anchor) for anchor in value]}
    return meaning(value)


def _rule(rule: Mapping[str, Any], meaning: Any) -> dict[str, Any]:
    found = {k: v for k, v in rule.items() if v is not None}
    pattern = found.get("filter", "*")
    if isinstance(pattern, str) and not is_plain(pattern):
        raise InvalidRecipe(
            f"The filter `{pattern}` fits no tensor:",
            "mergekit's filters are parts of names, and no name holds such characters.",
            f"Mean it as a pattern: `filter: {{glob: {pattern!r}}}`, or `{{regex: ...}}`.",
            filter=pattern,
        )
    if "value" in found:
        found["value"] = _schedule(found["value"], meaning)
    return found


def _number(value: Any) -> Any:
    """A number, also where YAML reads it as text, as it does with 1e-5."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _path(value: Any) -> str:
    """What a model is called: text, or mergekit's longer forms. `BASE+ADAPTER` is an adapter on its
    base.

    Raises:
        InvalidRecipe: something else.
    """
    written = value
    if isinstance(value, Mapping) and "model" in value:
        refuse_unknown(value, _REFERENCE_KEYS, "a model reference")
        if value.get("lora") is not None:
            return f"{_path(value['model'])}+{_path(value['lora'])}"
        value = value["model"]
    if isinstance(value, Mapping) and set(value) <= {"path", "revision"}:
        value, revision = value.get("path"), value.get("revision")
        value = f"{value}@{revision}" if value and revision else value
    if not isinstance(value, str) or not value:
        raise InvalidRecipe(f"A model is named by a path or reference, not {written!r}.")
    return value


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
