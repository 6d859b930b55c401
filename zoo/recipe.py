"""What to merge, as plain data: read from YAML, then resolved to a lock that is replayed.

Our form (unknown keys are refused):

    method: ties
    base: qwen@2
    experts:                     # references, or paths
      - math
      - {model: code@best, weight: 0.5}
    select: {where: "kind = 'expert'", order_by: name, limit: 4}     # in place of experts
    parameters: {density: 0.2, lambda: 1.0}
    exclude: ["lm_head.*"]       # these keep the base's values
    compat: mergekit             # defaults that mean what mergekit means by the method
    seed: 0
    dtype: bfloat16
    data: {task: digits, split: train}      # for methods that need data

A parameter with one value per expert may be given for all, as a list, or beside the expert. A
document with `merge_method` is mergekit's and means what mergekit means; see
`zoo.mergekit_recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.contract import CHUNK
from zoo.errors import InvalidRecipe, did_you_mean
from zoo.safetensors_header import SHARD_BYTES
from zoo.schedule import Value, is_rules, problem_with, value_at

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.contract import Method

FORMAT = 1
MAX_NORM_DRIFT = 100.0
"""Dimensionless; far above what merging does, far below what a runaway does."""


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert as a recipe names it."""

    model: str
    parameters: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """A query in place of a list of experts."""

    where: str | None = None
    order_by: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a method that needs some: a split of a task that a plugin offers."""

    task: str
    split: str = "train"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A merge as somebody asked for it: names, not digests; defaults not filled in."""

    method: str
    """Name of a merge method."""
    experts: tuple[Expert, ...] = ()
    """Versions or paths to merge, in order; in place of `select`."""
    base: str | None = None
    """The version or path that the experts were fine-tuned from."""
    select: Selection | None = None
    """A query for the experts: `where`, `order_by`, `limit`; in place of `experts`."""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """Values for the method's parameters; those left out have the method's defaults."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of tensors that keep the values of the base, or of the first expert, and
    count in no statistic: heads, for instance."""
    seed: int = 0
    """For methods that draw random numbers; 0 to 2^63 - 1."""
    dtype: str | None = None
    """Floating type of the result; None keeps that of the base, or of the first expert."""
    data: Data | None = None
    """A task and one of its splits, for methods that need data."""
    max_norm_drift: float = MAX_NORM_DRIFT
    """Largest allowed ratio of a merged tensor's norm to the largest of its inputs' norms."""
    layers: int | None = None
    """Layers the recipe says it covers (mergekit's `layer_range`); None says nothing."""
    notes: tuple[str, ...] = ()
    """What was read and has no effect, to be told."""


_KEYS = (
    "method",
    "base",
    "experts",
    "select",
    "parameters",
    "exclude",
    "compat",
    "seed",
    "dtype",
    "data",
    "max_norm_drift",
)
MOST_VALUES = 100_000
"""Values in a recipe: more than any has, fewer than hurt."""
_DATA_KEYS = ("task", "split")
_SELECT_KEYS = ("where", "order_by", "limit")


def read_recipe(source: str | Path | Mapping[str, Any], methods: Mapping[str, Method]) -> Recipe:
    """Read a recipe in either form.

    Args:
        methods: the methods there are, by name.
    Raises:
        InvalidRecipe: no such file, not YAML, unknown key, wrong kind of value; says which.
    """
    document = source if isinstance(source, Mapping) else _load(Path(source))
    if "merge_method" in document:
        from zoo.mergekit_recipe import read_mergekit

        return read_mergekit(document, methods)
    refuse_unknown(document, _KEYS, "recipe")
    if not isinstance(document.get("method"), str):
        raise InvalidRecipe("The recipe names no method.", how="Add `method: NAME`.")
    if ("experts" in document) == ("select" in document):
        raise InvalidRecipe(
            "The recipe must have either `experts` or `select`.",
            "One lists what to merge, the other queries for it.",
        )
    select = None
    if "select" in document:
        chosen = mapping(document["select"], "select")
        refuse_unknown(chosen, _SELECT_KEYS, "select")
        select = Selection(
            where=_text(chosen.get("where"), "where"),
            order_by=_text(chosen.get("order_by"), "order_by"),
            limit=None if chosen.get("limit") is None else _integer(chosen["limit"], "limit"),
        )
    data = None
    if "data" in document:
        source_of = mapping(document["data"], "data")
        refuse_unknown(source_of, _DATA_KEYS, "data")
        if "task" not in source_of:
            raise InvalidRecipe("`data` names no task.", how="Add `task: NAME`.", key="data")
        data = Data(**{key: _text(value, key) or "" for key, value in source_of.items()})
    dtype = document.get("dtype")
    settings = mapping(document.get("parameters", {}), "parameters")
    if "compat" in document:
        settings = {**_compatible(document["compat"], document["method"], methods), **settings}
    excluded = sequence(document.get("exclude", ()), "exclude")
    return Recipe(
        method=document["method"],
        experts=tuple(_expert(e) for e in sequence(document.get("experts", ()), "experts")),
        base=_text(document.get("base"), "base"),
        select=select,
        parameters=settings,
        exclude=tuple(_text(pattern, "exclude") or "" for pattern in excluded),
        seed=_integer(document.get("seed", 0), "seed"),
        dtype=None if dtype is None else output_dtype(dtype),
        data=data,
        max_norm_drift=_ratio(document.get("max_norm_drift", MAX_NORM_DRIFT), "max_norm_drift"),
    )


def _compatible(tool: Any, method: str, methods: Mapping[str, Method]) -> Mapping[str, Value]:
    """The parameters that make a method mean what another tool means by it."""
    if tool != "mergekit":
        raise InvalidRecipe(f"`compat` can be `mergekit`, not {tool!r}.", key="compat")
    known = methods[method].mergekit if method in methods else ()
    own = [entry for entry in known if entry.name == method] or list(known)
    if not own:
        raise InvalidRecipe(
            f"mergekit has no method like `{method}`.", how="Leave out `compat`.", method=method
        )
    return own[0].sets


def output_dtype(word: str) -> str:
    """The safetensors name of a floating type.

    Raises:
        InvalidRecipe: no such type, or not one that merges.
    """
    from zoo.dtypes import DTYPES, parse_dtype

    names = [d.torch_name for d in DTYPES.values() if d.merges and d.torch_name]
    try:
        name = parse_dtype(word)
    except (KeyError, AttributeError):
        name = ""
    if name not in DTYPES or not DTYPES[name].merges:
        raise InvalidRecipe(
            f"`{word}` is no type a merge can have.", how=did_you_mean(str(word), names), dtype=word
        )
    return name


def lock(
    recipe: Recipe, method: Method, base: str | None, experts: Sequence[str]
) -> dict[str, Any]:
    """The resolved recipe: digests for names, every parameter spelt out. This is what is replayed.

    Args:
        base: weights digest, or None.
        experts: weights digests, in order.
    Raises:
        InvalidRecipe: unknown parameter, out-of-range value, wrong number of values; names it.
    """
    from zoo.parameters import per_expert

    if not 0 <= recipe.seed < 2**63:
        raise InvalidRecipe(
            f"`seed` must be an integer from 0 to 2^63 - 1, not {recipe.seed}.", seed=recipe.seed
        )
    each = per_expert(method)
    fields = {f.alias or name: f for name, f in method.parameters.model_fields.items()}
    given: dict[str, Value] = {}
    for source in (recipe.parameters, *(e.parameters for e in recipe.experts)):
        refuse_unknown(source, tuple(fields), f"method `{method.name}`", noun="parameter")
    for name, spec in fields.items():
        if spec.is_required() and name not in recipe.parameters and name not in each:
            raise InvalidRecipe(
                f"Method `{method.name}` needs the parameter `{name}` ({spec.description}).",
                how=f"Add `--set {name}=VALUE`, or `parameters: {{{name}: VALUE}}`.",
                parameter=name,
            )
        shared = recipe.parameters.get(name, spec.default)
        if name not in each:
            given[name] = _closed(shared, spec.default, name)
            continue
        values = shared if isinstance(shared, list) and not is_rules(shared) else None
        if values is not None and len(values) != len(experts):
            raise InvalidRecipe(
                f"`{name}` has {len(values)} values for {len(experts)} experts.",
                how="Give one value for all, or one for each.",
                parameter=name,
            )
        own = [e.parameters.get(name) for e in recipe.experts] or [None] * len(experts)
        common = values or [shared] * len(experts)
        given[name] = [
            _closed(common[i], spec.default, name)
            if mine is None
            else _closed(_closed(mine, common[i], name), spec.default, name)
            for i, mine in enumerate(own)
        ]
    for e in recipe.experts:
        if wrong := set(e.parameters) - each:
            raise InvalidRecipe(
                f"`{min(wrong)}` of method `{method.name}` has one value, not one per expert.",
                how="Move it to `parameters`.",
                parameter=min(wrong),
            )
    resolved = {
        "format": FORMAT,
        "method": method.name,
        "method_version": method.version,
        "base": base,
        "experts": list(experts),
        "parameters": given,
        "exclude": list(recipe.exclude),
        "seed": recipe.seed,
        "dtype": recipe.dtype,
        "data": asdict(recipe.data) if recipe.data else None,
        "max_norm_drift": recipe.max_norm_drift,
        "chunk": CHUNK,
        "shard_bytes": SHARD_BYTES,
    }
    parameters_at(method, given, "", 0.0)
    return resolved


def parameters_at(
    method: Method, given: Mapping[str, Value], tensor: str, depth: float
) -> BaseModel:
    """The validated parameters for one tensor.

    Raises:
        InvalidRecipe: a value is out of range; names parameter, value and bound.
    """
    from pydantic import ValidationError

    from zoo.parameters import per_expert

    each = per_expert(method)
    values = {
        name: [value_at(v, tensor, depth) for v in value]
        if name in each
        else value_at(value, tensor, depth)
        for name, value in given.items()
    }
    try:
        return method.parameters(**values)
    except ValidationError as error:
        first = error.errors()[-1]
        name = str(first["loc"][0])
        raise InvalidRecipe(
            f"`{name}` of method `{method.name}` cannot be {first['input']!r}:",
            f"{first['msg'].lower()}.",
            f"See `zoo methods {method.name}`.",
            parameter=name,
            value=first["input"],
        ) from None


def refuse_unknown(
    found: Mapping[str, Any], known: Sequence[str], where: str, noun: str = "key"
) -> None:
    """Raise InvalidRecipe for the first key that is not known, with the nearest that are."""
    for key in found:
        if key not in known:
            raise InvalidRecipe(
                f"Unknown {noun} `{key}` in {where}.",
                how=did_you_mean(str(key), tuple(known)),
                key=key,
            )


def mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRecipe(f"`{name}` must be a map, not {value!r}.", key=name)
    return dict(value)


def sequence(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRecipe(f"`{name}` must be a list, not {value!r}.", key=name)
    return list(value)


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidRecipe(f"There is no recipe `{path}`.", path=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"Cannot read the recipe `{path}`: {error}.", path=str(path)) from None
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidRecipe(f"`{path}` is not YAML: {error}", path=str(path)) from None
    if _values(document, {}) > MOST_VALUES:
        raise InvalidRecipe(
            f"`{path}` unfolds to more than {MOST_VALUES:,} values.",
            "Its aliases repeat each other.",
            path=str(path),
        )
    return mapping(document, str(path))


def _values(document: Any, known: dict[int, int]) -> int:
    """Values in a document with every alias written out, without writing them out."""
    if not isinstance(document, (dict, list)):
        return 1
    if id(document) not in known:
        known[id(document)] = MOST_VALUES + 1  # what a document that contains itself comes to
        parts = document.values() if isinstance(document, dict) else document
        known[id(document)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(document)]


def _expert(value: Any) -> Expert:
    if isinstance(value, str):
        return Expert(value)
    entry = mapping(value, "experts")
    model = entry.pop("model", None)
    if not isinstance(model, str):
        raise InvalidRecipe("Each expert is a reference, or a map with `model`.", key="experts")
    return Expert(model, entry)


def _text(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidRecipe(f"`{key}` must be text, not {value!r}.", key=key)
    return value


def _integer(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidRecipe(
            f"`{key}` must be an integer from 0 to 2^63 - 1, not {value!r}.", key=key
        )
    return value


def _ratio(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
        raise InvalidRecipe(f"`{key}` must be a number above 0, not {value!r}.", key=key)
    return float(value)


def _closed(value: Value, otherwise: Value, name: str) -> Value:
    """A schedule that has a value for every tensor: rules end with what holds otherwise."""
    if problem := problem_with(value):
        raise InvalidRecipe(f"`{name}` has no usable value: {problem}.", parameter=name)
    if not is_rules(value) or any(r.get("filter", "*") == "*" for r in value):
        return value
    if is_rules(otherwise):
        return [*value, *otherwise]
    if not isinstance(otherwise, (int, float, str, bool, Mapping)):
        raise InvalidRecipe(
            f"The rules of `{name}` leave tensors without a value, and it has no default.",
            how="Add a last rule without `filter`.",
            parameter=name,
        )
    return [*value, {"value": otherwise}]
