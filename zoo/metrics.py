"""The contract of a metric: a typed function of one model, a pair, or a set, and what it gives.

    @metric("hessian", version="1.0.0", needs="data", gives={"hessian_trace": "trace, ..."})
    def hessian(model: Subject, sample: Sample, *, probes: ... = 50) -> Iterator[MetricValue]:

    first argument      a `Subject`; for metrics of several models, a sequence of them in no
                        particular order
    second argument     with `needs="data"`, the `Sample` it is computed on; else there is none
    keyword-only ones   the parameters, with types, bounds, help and defaults, as those of methods

All randomness comes from the sample's seed, or from a parameter `seed`; the same models, sample and
parameters give the same values. A value's `split` names a part of the model or of the score, such
as a layer. What is not a number (no examples, a fit that fails) is left out, never faked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import InvalidRecipe, PluginError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.records import MetricValue

Passes = Callable[[Any, int], float]
"""(parameters, models) -> passes over the sample, forward and backward, that it takes at most."""


@dataclass(frozen=True)
class Metric:
    """A computation on one model, or on an unordered set of models, that gives numbers."""

    name: str
    version: str
    """Semantic version of what it computes."""
    function: Callable[..., Iterable[MetricValue]]
    gives: Mapping[str, str]
    """Name of each value -> what it is, with its unit."""
    arity: int | None
    """Models it takes; None for any number of two or more."""
    needs: Literal["weights", "data"]
    split: str
    """Split of the task that it is computed on, unless another is asked for."""
    base: bool
    """Whether each model's base must be there too."""
    passes: Passes | None
    """What it costs; None for a metric of weights."""

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """Class of its parameters: unknown keys forbidden, values bounded."""
        from zoo.parameters import parameters_of

        return parameters_of(self)


def metric(
    name: str,
    *,
    version: str,
    gives: Mapping[str, str],
    arity: int | None = 1,
    needs: Literal["weights", "data"] = "weights",
    split: str = "test",
    base: bool = False,
    passes: Passes | None = None,
) -> Callable[[Callable[..., Iterable[MetricValue]]], Metric]:
    """Make a function a metric; see the module's documentation.

    Raises:
        PluginError: the signature is not one of a metric.
    """

    def made(function: Callable[..., Iterable[MetricValue]]) -> Metric:
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        expected = 2 if needs == "data" else 1
        positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        others = len(kinds) - positional - kinds.count(inspect.Parameter.KEYWORD_ONLY)
        if positional != expected or others:
            raise PluginError(
                f"Metric `{name}` takes {positional} positional arguments, expected {expected}.",
                "The models come first, then the sample if it needs data; parameters are "
                "keyword-only.",
                f"Write `def {function.__name__}(model{', sample' * (expected - 1)}, *, ...)`.",
                metric=name,
            )
        if arity is not None and arity < 1:
            raise PluginError(f"Metric `{name}` takes {arity} models.", metric=name)
        if not gives:
            raise PluginError(f"Metric `{name}` gives nothing: name its values.", metric=name)
        return Metric(name, version, function, dict(gives), arity, needs, split, base, passes)

    return made


def metrics_named(known: Mapping[str, Metric], names: Sequence[str]) -> list[Metric]:
    """The metrics that are asked for, each once: by their names, or by those of values they give.

    Raises:
        InvalidRecipe: no metric is asked for, or no plugin offers one; suggests the nearest names.
    """
    if not names:
        raise InvalidRecipe("Name at least one metric.", how="`zoo measure --list` lists them.")
    found: dict[str, Metric] = {}
    for name in names:
        fits = [known[name]] if name in known else [m for m in known.values() if name in m.gives]
        if not fits:
            every = sorted({*known, *(value for m in known.values() for value in m.gives)})
            near = did_you_mean(name, every)
            how = "`zoo measure --list` lists them; scores such as accuracy and loss are taken by "
            raise InvalidRecipe(
                f"Unknown metric `{name}`.",
                how=(f"{near} " if near.startswith("Did") else "") + how + "`zoo evaluate`.",
                metric=name,
            )
        found |= {m.name: m for m in fits}
    return list(found.values())


def parameters_of_each(
    metrics: Sequence[Metric], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The parameters of each metric by public name, checked, with defaults spelt out.

    Args:
        given: `NAME` is for every metric that has such a parameter, `METRIC.NAME` for one.
    Raises:
        InvalidRecipe: no metric has it, or a value is out of range.
    """
    own: dict[str, dict[str, Any]] = {m.name: {} for m in metrics}
    names = {m.name: [f.alias or n for n, f in m.parameters.model_fields.items()] for m in metrics}
    # What is for one metric goes before what is for all.
    for key in sorted(given, key=lambda k: "." in k):
        of, dot, name = key.rpartition(".")
        takers = [m for m in names if name in names[m] and (not dot or m == of)]
        if not takers:
            every = sorted({n for m in names.values() for n in m})
            raise InvalidRecipe(
                f"Unknown parameter `{key}` of {', '.join(f'metric `{m}`' for m in names)}.",
                how=did_you_mean(key, every) if every else "There are no parameters.",
                key=key,
            )
        for metric in takers:
            own[metric][name] = given[key]
    return {m.name: _checked(m, own[m.name]) for m in metrics}


def _checked(metric: Metric, given: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    try:
        return metric.parameters(**given).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        first = error.errors()[-1]
        name = str(first["loc"][0])
        raise InvalidRecipe(
            f"`{name}` of metric `{metric.name}` cannot be {first['input']!r}:"
            if first["type"] != "missing"
            else f"Metric `{metric.name}` needs `{name}`:",
            f"{first['msg'].lower()}.",
            f"See `zoo measure --list --metric {metric.name}`.",
            parameter=name,
            metric=metric.name,
        ) from None
