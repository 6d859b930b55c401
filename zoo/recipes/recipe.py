"""What to merge, as plain data: read from YAML, then resolved to a lock that is replayed.

Our form (unknown keys are refused):

    name: soup                   # for later documents of the file, see `zoo.recipes.multi_stage`
    method: ties
    base: qwen@2
    experts:                     # references, or paths
      - math
      - {model: code@best, weight: 0.5}
      - {model: chat, exp_avg_sq: chat-adam.safetensors}     # what the method needs beside it
    select: {where: "kind = 'expert'", order_by: name, limit: 4}     # in place of experts
    parameters: {density: 0.2, lambda: 1.0}
    slices: [...]                # in place of experts: layers of models; see below
    exclude: ["lm_head.*"]       # these keep the base's values
    missing: base                # what an expert lacks is the base's; else it is an error
    mismatch: crop               # embeddings of different sizes: the block that all have
    donor: chat                  # whose configuration and tokenizer the result has; else the base
    tokenizer: {source: union}   # unlike vocabularies; see `zoo.recipes.tokenizer_block`
    chat_template: chatml        # or `auto`, or the template itself
    compat: mergekit             # defaults that mean what mergekit means by the method
    seed: 0
    dtype: bfloat16
    data: {task: digits, split: train}      # for methods that need data

A parameter with one value per expert may be given for all, as a list, or beside the expert. A
document with `merge_method` is mergekit's and means what mergekit means; see
`zoo.recipes.mergekit_recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.safetensors_header import SHARD_BYTES
from zoo.contract import CHUNK
from zoo.errors import InvalidRecipe, NotFound, did_you_mean
from zoo.recipes.schedule import Value, is_rules, problem_with, value_at
from zoo.recipes.slices import Slice, below, models_of, read_slices

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.contract import Method
    from zoo.recipes.tokenizer_block import TokenizerBlock

FORMAT = 1
MAX_NORM_DRIFT = 100.0
"""Dimensionless; far above what merging does, far below what a runaway does."""


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert as a recipe names it."""

    model: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """References or paths, by what the method calls them; in place of those that are attached."""


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
    tokenizer: TokenizerBlock | None = None
    """Whose vocabulary the result has; without it all models must have the same."""
    chat_template: str | None = None
    """Template of the result's conversations: `auto` for the one most models have, a known name,
    or Jinja; None keeps that of the base, or of the first expert."""
    seed: int = 0
    """For methods that draw random numbers; 0 to 2^63 - 1."""
    dtype: str | None = None
    """Floating type of the result; None keeps that of the base, or of the first expert."""
    data: Data | None = None
    """A task and one of its splits, for methods that need data."""
    max_norm_drift: float = MAX_NORM_DRIFT
    """Largest allowed ratio of a merged tensor's norm to the largest of its inputs' norms."""
    slices: tuple[Slice, ...] = ()
    """Layers of models that follow each other; `experts` are then the models they are of."""
    donor: str | None = None
    """Whose configuration and other files the result carries; None is the base, or the first
    expert."""
    missing: str | None = None
    """`base` lets the base's tensors stand for those that experts lack."""
    mismatch: str | None = None
    """`crop` cuts embeddings and heads of different sizes to the block that all have."""
    compat: str | None = None
    """`mergekit` puts gradients where mergekit does."""
    notes: tuple[str, ...] = ()
    """What was read and has no effect, to be told."""


_KEYS = (
    "name",
    "method",
    "base",
    "experts",
    "select",
    "slices",
    "parameters",
    "exclude",
    "missing",
    "mismatch",
    "donor",
    "tokenizer",
    "chat_template",
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
        from zoo.recipes.mergekit_recipe import read_mergekit

        return read_mergekit(document, methods)
    refuse_unknown(document, _KEYS, "recipe")
    if not isinstance(document.get("method"), str):
        raise InvalidRecipe("The recipe names no method.", how="Add `method: NAME`.")
    if sum(key in document for key in ("experts", "select", "slices")) != 1:
        raise InvalidRecipe(
            "The recipe must have one of `experts`, `select` and `slices`.",
            "They list what to merge, query for it, or cut it in layers.",
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
    if "slices" in document:
        slices, base = read_slices(document["slices"]), document.get("base")
        document = {**document, "experts": [m for m in models_of(slices) if m != base]}
    return Recipe(
        method=document["method"],
        slices=slices if "slices" in document else (),
        missing=one_word(document.get("missing"), "missing", "base"),
        mismatch=one_word(document.get("mismatch"), "mismatch", "crop"),
        compat=document.get("compat"),
        experts=tuple(
            _expert(
                e, methods[document["method"]].artifacts if document["method"] in methods else ()
            )
            for e in sequence(document.get("experts", ()), "experts")
        ),
        base=_text(document.get("base"), "base"),
        select=select,
        parameters=settings,
        exclude=tuple(_text(pattern, "exclude") or "" for pattern in excluded),
        donor=_text(document.get("donor"), "donor"),
        tokenizer=_tokenizer(document.get("tokenizer")),
        chat_template=_text(document.get("chat_template"), "chat_template"),
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
    recipe: Recipe,
    method: Method,
    base: str | None,
    experts: Sequence[str],
    tasks: Sequence[str] = (),
    artifacts: Mapping[str, Sequence[str | None]] | None = None,
    configs: Sequence[str | None] = (),
) -> dict[str, Any]:
    """The resolved recipe: digests for names, every parameter spelt out. This is what is replayed.

    Args:
        base: weights digest, or None.
        experts: weights digests, in order.
        tasks: what the experts' tasks are called, for methods whose result has parts per task.
        artifacts: by name, the weights digest of each expert's, for methods that need some.
        configs: object keys of the models' config.json, that of the base last. They decide too
            what is merged: whether a head is tied, for instance.
    Raises:
        InvalidRecipe: unknown parameter, out-of-range value, wrong number of values; names it.
    """
    if not 0 <= recipe.seed < 2**63:
        raise InvalidRecipe(
            f"`seed` must be an integer from 0 to 2^63 - 1, not {recipe.seed}.", seed=recipe.seed
        )
    if recipe.slices and (method.overlays is not None or method.artifacts):
        raise InvalidRecipe(
            f"Method `{method.name}` takes whole models, not slices of them.",
            "What it keeps or needs beside a model goes by the names of its tensors.",
            method=method.name,
        )
    slices = _locked_slices(recipe, method, base, experts) if recipe.slices else None
    given = {}
    if slices is None:
        own = [e.parameters for e in recipe.experts] or [{}] * len(experts)
        given = _spelt_out(method, recipe.parameters, own)
    resolved = {
        "format": FORMAT,
        "method": method.name,
        "method_version": method.version,
        "base": base,
        "experts": list(experts),
        "configs": list(configs) if any(configs) else None,
        "parameters": given,
        "slices": slices,
        "exclude": list(recipe.exclude),
        "missing": recipe.missing,
        "mismatch": recipe.mismatch,
        "compat": recipe.compat,
        "donor": None,
        "tokenizer": None,
        "chat_template": None,
        "seed": recipe.seed,
        "dtype": recipe.dtype,
        "data": asdict(recipe.data) if recipe.data else None,
        "max_norm_drift": recipe.max_norm_drift,
        "chunk": CHUNK,
        "shard_bytes": SHARD_BYTES,
    }
    if method.overlays is not None:
        resolved["tasks"] = list(tasks)
    if method.artifacts:
        resolved["artifacts"] = {name: list((artifacts or {})[name]) for name in method.artifacts}
    for values in [s["parameters"] for s in slices] if slices else [given]:
        parameters_at(method, values, "", 0.0)
    return resolved


ABSENT: Mapping[str, Any] = {
    "configs": None,
    "slices": None,
    "exclude": [],
    "missing": None,
    "mismatch": None,
    "compat": None,
    "donor": None,
    "tokenizer": None,
    "chat_template": None,
}
"""What locks of earlier releases lack, and what they meant."""


def _spelt_out(
    method: Method, shared: Mapping[str, Value], own: Sequence[Mapping[str, Value]]
) -> dict[str, Value]:
    """Every parameter of a method, with the defaults; a list where it is one per expert.

    Args:
        own: what stands beside each expert.
    """
    from zoo.parameters import per_expert

    each = per_expert(method)
    fields = {f.alias or name: f for name, f in method.parameters.model_fields.items()}
    given: dict[str, Value] = {}
    for source in (shared, *own):
        refuse_unknown(source, tuple(fields), f"method `{method.name}`", noun="parameter")
    for beside in own:
        if wrong := set(beside) - each:
            raise InvalidRecipe(
                f"`{min(wrong)}` of method `{method.name}` has one value, not one per expert.",
                how="Move it to `parameters`.",
                parameter=min(wrong),
            )
    for name, spec in fields.items():
        if spec.is_required() and name not in shared and name not in each:
            raise InvalidRecipe(
                f"Method `{method.name}` needs the parameter `{name}` ({spec.description}).",
                how=f"Add `--set {name}=VALUE`, or `parameters: {{{name}: VALUE}}`.",
                parameter=name,
            )
        common = shared.get(name, spec.default)
        if name not in each:
            given[name] = _closed(common, spec.default, name)
            continue
        values = common if isinstance(common, list) and not is_rules(common) else None
        if values is not None and len(values) != len(own):
            raise InvalidRecipe(
                f"`{name}` has {len(values)} values for {len(own)} experts.",
                how="Give one value for all, or one for each.",
                parameter=name,
            )
        given[name] = [
            _closed(_closed(beside[name], other, name), spec.default, name)
            if name in beside
            else _closed(other, spec.default, name)
            for beside, other in zip(own, values or [common] * len(own), strict=True)
        ]
    return given


def _locked_slices(
    recipe: Recipe, method: Method, base: str | None, experts: Sequence[str]
) -> list[dict[str, Any]]:
    """The slices with digests for names and the four scopes of parameters made one."""
    digests = dict(zip((e.model for e in recipe.experts), experts, strict=True))
    found = []
    for number, one in enumerate(recipe.slices, 1):
        name = one.base or recipe.base
        sources = [s for s in one.sources if s.model != name]
        origin = base if one.base in (None, recipe.base) else digests[one.base]
        own = [s.layers for s in one.sources if s.model == name] or [s.layers for s in sources]
        if origin is not None and len(set(own)) > 1:
            raise InvalidRecipe(
                f"Slice {number} does not say which layers of its base are meant.",
                "Its sources take different ones.",
                f"List `{name}` among the sources, with its own range.",
            )
        found.append(
            {
                "module": one.module,
                "sources": [_source(digests[s.model], s.layers) for s in sources],
                "base": _source(origin, own[0]) if origin is not None else None,
                "parameters": _spelt_out(
                    method,
                    below(one.parameters, recipe.parameters),
                    [s.parameters for s in sources],
                ),
            }
        )
    return found


def _source(digest: str, layers: tuple[int, int] | None) -> dict[str, Any]:
    return {"model": digest, "layers": list(layers) if layers else None}


def parameters_at(
    method: Method,
    given: Mapping[str, Value],
    tensor: str,
    depth: float,
    names: Sequence[str] | None = None,
) -> BaseModel:
    """The validated parameters for one tensor.

    Args:
        names: what each expert calls it, where slices moved it; filters on an expert's own values
            look at these.
    Raises:
        InvalidRecipe: a value is out of range; names parameter, value and bound.
    """
    from pydantic import ValidationError

    from zoo.parameters import per_expert

    each = per_expert(method)
    values = {
        name: [value_at(v, names[i] if names else tensor, depth) for i, v in enumerate(value)]
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
    found = documents(path)
    if len(found) > 1:
        raise InvalidRecipe(
            f"`{path}` holds {len(found)} documents, the stages of one merge.",
            "Here one recipe is wanted.",
            path=str(path),
        )
    return found[0]


def documents(path: Path, what: str = "recipe") -> list[dict[str, Any]]:
    """The documents of a YAML file, at least one.

    Args:
        what: what errors call the file.
    Raises:
        NotFound: no such file.
        InvalidRecipe: not YAML, or empty.
    """
    import yaml

    from zoo.recipes.strict_yaml import complaint, documents_in

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no {what} `{path}`.", path=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"Cannot read the {what} `{path}`: {error}.", path=str(path)) from None
    try:
        found = documents_in(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidRecipe(f"`{path}` is not YAML:", complaint(error), path=str(path)) from None
    if not found:
        raise InvalidRecipe(f"The {what} `{path}` is empty.", path=str(path))
    if _values(found, {}) > MOST_VALUES:
        raise InvalidRecipe(
            f"`{path}` unfolds to more than {MOST_VALUES:,} values.",
            "Its aliases repeat each other.",
            path=str(path),
        )
    return [mapping(document, str(path)) for document in found]


def _values(document: Any, known: dict[int, int]) -> int:
    """Values in a document with every alias written out, without writing them out."""
    if not isinstance(document, (dict, list)):
        return 1
    if id(document) not in known:
        known[id(document)] = MOST_VALUES + 1  # what a document that contains itself comes to
        parts = document.values() if isinstance(document, dict) else document
        known[id(document)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(document)]


def _expert(value: Any, artifacts: Sequence[str]) -> Expert:
    if isinstance(value, str):
        return Expert(value)
    entry = mapping(value, "experts")
    model = entry.pop("model", None)
    if not isinstance(model, str):
        raise InvalidRecipe("Each expert is a reference, or a map with `model`.", key="experts")
    beside = {name: _text(entry.pop(name), name) or "" for name in artifacts if name in entry}
    return Expert(model, entry, beside)


def _tokenizer(value: Any) -> TokenizerBlock | None:
    from zoo.recipes.tokenizer_block import read_tokenizer_block

    def model(named: Any) -> str:
        if not isinstance(named, str):
            raise InvalidRecipe(f"A model is named by a path or reference, not {named!r}.")
        return named

    return None if value is None else read_tokenizer_block(value, model)


def one_word(value: Any, key: str, only: str) -> str | None:
    """The value of a key that has one, or None."""
    if value not in (None, only):
        raise InvalidRecipe(f"`{key}` can be `{only}`, not {value!r}.", key=key)
    return only if value else None


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
