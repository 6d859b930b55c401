"""The contract of a merge method: a typed function, and what the engine must hand it.

A method is a function on tensors. Its signature says what it works on:

    first argument `experts`   weights, shape (e, n): e experts, n elements of one chunk
    first argument `deltas`    the same in delta space: expert minus base; the result is a
                               delta too, and the engine adds the base
    argument `base`            the base's chunk, shape (n,); `base: Tensor | None` when optional
    arguments named in         what lies beside the experts, such as an optimizer's second moments:
    `artifacts`                shape (e, n), or None for a tensor that not all experts have it for
    keyword-only arguments     the parameters, with types, bounds, help and defaults
    `stats`, `chunk`, `random` keyword-only, given when named: statistics of the passes before,
                               where the chunk lies, and counter-based randomness

A chunk ends anywhere, unless the method asks for a `unit`, such as `row`: then it holds whole ones.

Everything is float32 (float64 where an input is float64) and lives on the engine's device.

Elementwise methods use only operations that IEEE 754 rounds one way (add, subtract, multiply,
divide, compare, select). Never a fused one (`add(alpha=)`, `addcmul`, `lerp`): torch fuses in
its vector loop and not in its tail, so the result would depend on where a chunk ends.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import PluginError

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from zoo.random import Random

Needs = Literal["elementwise", "statistics", "tensor", "model", "data"]
Unit = Literal["element", "row", "tensor"] | int
"""What a chunk holds whole; a number is one of elements that follow each other in C order."""
INJECTED = ("stats", "chunk", "random")

CHUNK = 1 << 17
"""Elements per chunk. Reductions are summed chunk by chunk, so this number is part of the
result of every method that uses statistics: change it and old merges replay only nearly."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk lies."""

    tensor: str
    shape: tuple[int, ...]
    start: int
    """First element, in C order."""
    stop: int
    index: int
    """Number of the chunk in its tensor, from 0."""
    count: int
    """Number of chunks of the tensor."""
    layer: int | None = None
    """The block of its stack that the tensor belongs to, from 0; None outside blocks."""
    layers: int = 0
    """Number of blocks of that stack."""

    @property
    def row(self) -> int:
        """Elements of a row: all that follows the first axis; a vector is one row."""
        return row_of(self.shape)


def row_of(shape: Sequence[int]) -> int:
    """Elements of one row of a tensor: all that follows its first axis; a vector is one row."""
    return prod(shape[1:]) if len(shape) > 1 else prod(shape)


def chunk_length(shape: Sequence[int], chunk: int, unit: Unit) -> int:
    """Elements per chunk of a tensor: `chunk`, or as many whole units as fit, at least one."""
    if unit == "element":
        return chunk
    size = unit if isinstance(unit, int) else row_of(shape) if unit == "row" else prod(shape)
    return max(1, chunk // size) * size if size else chunk


class Statistic(ABC):
    """Reduces chunks to a value before the elementwise function runs.

    One object lives for one merge when `scope` is `model`, and for one tensor when it is `tensor`.
    The engine calls, for each tensor, `start`, then `add` for its chunks in order, on one thread;
    then `finish` with all the states. What `finish` returns becomes `stats[name]` for later
    statistics and for the function. Return `AGAIN` to be run once more.
    """

    name: str
    scope: Literal["tensor", "model"] = "tensor"
    reads: tuple[str, ...] = ()
    """Parameters, by public name, that a statistic of the whole model uses once for all tensors;
    a recipe that varies one of them over tensors is refused."""
    memory: int = 0
    """Bytes it holds beyond the chunk it is given, for the prediction of a merge's memory. May be
    a property that depends on `elements` and `width`."""
    memory_per_element: float = 0
    """Bytes it holds for each element it has seen, until the tensor, or the model, is merged."""
    elements: int = 0
    """Elements this statistic will see in one pass; the engine sets it before `start`."""
    width: int = 4
    """Bytes of one value; the engine sets it before `memory` is asked for."""
    draw: Callable[[Chunk], Random]
    """Randomness for a chunk, the same the function is given; the engine sets it before `start`."""

    @abstractmethod
    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> Any:
        """A fresh state for one tensor."""

    def wants(self, chunk: Chunk) -> bool:
        """Whether this pass looks at the chunk; those it does not are not even read."""
        return True

    @abstractmethod
    def add(
        self,
        state: Any,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        """Take in one chunk: `models` is `experts` or `deltas`, shape (e, n)."""

    @abstractmethod
    def finish(self, states: Mapping[str, Any]) -> Any:
        """The value, from the state of each tensor (names ascending), or `AGAIN`."""


AGAIN = object()
"""Returned by `Statistic.finish`: one more pass is needed."""


@dataclass(frozen=True, slots=True)
class Mergekit:
    """What a method is called in mergekit's recipes, and how they are read."""

    name: str
    """mergekit's `merge_method`."""
    names: Mapping[str, str | tuple[str, Mapping[Any, Any]] | None]
    """mergekit's parameters: our name; or our name and our value for each of theirs; or None for
    one that changes nothing here."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Our parameters that make the method mean what mergekit means."""
    base: Literal["base", "first", "expert"] = "base"
    """What mergekit's `base_model` is: our base; our first expert (`first`); or a name for where
    the tokenizer comes from, so that a base among the models stays an expert (`expert`)."""
    rewrite: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Applied to mergekit's parameters first, where two of them together mean one of ours."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What each task keeps of one tensor beside the trunk, the merged model; see `Parts`."""

    kind: Literal["mask", "factors", "full"]
    """`mask`: a bit per element, the trunk's value or the base's. `factors`: two thin matrices
    whose product is added to the trunk. `full`: the expert's own tensor; the engine copies it."""
    scaled: bool = False
    """With a mask: a number per task multiplies trunk minus base."""
    rank: int = 0
    """Of the factors: columns of the left, rows of the right."""


@dataclass(slots=True)
class Parts:
    """What a method with overlays returns for a chunk, or for a whole tensor.

    A task's model is, element by element,

        base                                mask 0
        base + scale * (trunk - base)       mask 1; exactly the trunk where scale is 1
        trunk + left right                  factors
    """

    trunk: torch.Tensor
    """What a method without overlays returns."""
    masks: torch.Tensor | None = None
    """Shape (e, *shape of the trunk), boolean."""
    scales: Sequence[float] | None = None
    """One per expert, the same for all chunks of a tensor."""
    factors: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None
    """(m, rank) and (rank, n) for each expert, the tensor being a matrix: first axis, and rest."""


@dataclass(frozen=True)
class Method:
    """A merge algorithm with its declared contract."""

    name: str
    version: str
    """Semantic version; a change of any output byte is a new major version."""
    needs: Needs
    function: Callable[..., Any]
    statistics: Callable[..., Sequence[Statistic]] | None = None
    """Given the resolved parameters and the number of experts, fresh statistics in the order they
    run, those of scope `model` first. Asked again for each tensor, for those of scope `tensor`.
    With needs="tensor", `add` gets whole tensors in their shape, as the function does."""
    base: Literal["required", "optional", "refused"] = "optional"
    artifacts: tuple[str, ...] = ()
    """Names of what it needs beside each expert. Statistics find them in their `stats`."""
    space: Literal["weight", "delta"] = "weight"
    unit: Unit | Callable[[Any], Unit] = "element"
    """What chunks hold whole: `row` for methods that rank or normalize rows. A function of the
    resolved parameters where it depends on them."""
    scratch: Callable[[tuple[int, ...], int, int], int] | None = None
    """For needs="tensor": given a tensor's shape, the number of models (the base included) and the
    bytes of an element, the bytes that the function needs beside the models and its result; one
    tensor for each model where None."""
    min_experts: int = 1
    max_experts: int | None = None
    ordered: bool = False
    """Whether the order of the experts matters."""
    deterministic: bool = True
    replay: Literal["exact", "platform"] = "exact"
    """`exact`: the same bytes anywhere. `platform`: the same bytes on one platform, and within
    `tolerance` elsewhere (sums of products, SVD, training)."""
    tolerance: float = 0.0
    """Largest relative difference of a tensor's norm allowed on another platform."""
    shortcut: Callable[..., int | None] | None = None
    """Given the resolved parameters and the number of experts, the index of the expert whose
    bytes are the exact answer (-1: the base), or None. Keeps trivial cases bit for bit."""
    check: Callable[..., str | None] | None = None
    """Given the resolved parameters and the number of experts, a sentence saying why they
    cannot be, or None. For rules between parameters, such as weights that sum to zero."""
    remark: Callable[..., str | None] | None = None
    """Given the resolved parameters, the number of experts and the shape of a tensor, what the
    user should know before it is merged, or None; the plan says it after the tensors' names."""
    mergekit: Sequence[Mergekit] = ()
    """The names it has in mergekit's recipes; its own first, if mergekit has that."""
    overlays: Callable[..., Overlay | None] | None = None
    """For methods whose result has parts per task: given the resolved parameters, the number of
    experts and a tensor's shape, what each task keeps of it (None: nothing, the trunk serves)."""

    def unit_of(self, parameters: Any) -> Unit:
        return self.unit(parameters) if callable(self.unit) else self.unit

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def injected(self) -> frozenset[str]:
        """Those of `INJECTED` that the function asks for."""
        return frozenset(INJECTED) & set(self.signature.parameters)

    @cached_property
    def takes_base(self) -> bool:
        return "base" in self.signature.parameters

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """The pydantic class of the options: feeds `--set`, recipes and the docs."""
        from zoo.parameters import parameters_of

        return parameters_of(self)

    @cached_property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @cached_property
    def code_hash(self) -> str:
        """`sha256:` of the code behind the method, its helpers included; recorded in each run."""
        from zoo.code_hash import code_hash

        parts = (self.function, self.statistics, self.shortcut, self.check, self.overlays)
        return code_hash(part for part in parts if part is not None)


def method(
    name: str,
    *,
    version: str,
    needs: Needs = "elementwise",
    unit: Unit | Callable[[Any], Unit] = "element",
    scratch: Callable[[tuple[int, ...], int, int], int] | None = None,
    statistics: Callable[..., Sequence[Statistic]] | None = None,
    base: Literal["required", "optional", "refused"] | None = None,
    artifacts: Sequence[str] = (),
    min_experts: int = 1,
    max_experts: int | None = None,
    ordered: bool = False,
    deterministic: bool = True,
    replay: Literal["exact", "platform"] = "exact",
    tolerance: float = 0.0,
    shortcut: Callable[..., int | None] | None = None,
    check: Callable[..., str | None] | None = None,
    remark: Callable[..., str | None] | None = None,
    mergekit: Sequence[Mergekit] = (),
    overlays: Callable[..., Overlay | None] | None = None,
) -> Callable[[Callable[..., Any]], Method]:
    """Make a `Method` of a function; the space and the base come from its signature.

    Raises:
        PluginError: the signature breaks the contract; says which argument.
    """

    def wrap(function: Callable[..., Any]) -> Method:
        positional = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        allowed = ["experts", "base", *artifacts]
        allowed += ["data", "device"] if needs == "data" else []
        first = positional[:1]
        if first not in (["experts"], ["deltas"]) or any(p not in allowed for p in positional[1:]):
            raise PluginError(
                f"Method `{name}` has positional arguments ({', '.join(positional)}).",
                "The first must be `experts` or `deltas`, then optionally `base`; "
                "parameters are keyword-only.",
                "Put a `*` before the parameters.",
                method=name,
            )
        if needs != "tensor" and (statistics is None) == (needs == "statistics"):
            raise PluginError(
                f"Method `{name}` declares needs={needs!r} with statistics={statistics!r}.",
                'Statistics go with needs="statistics", which must have some, or needs="tensor".',
                method=name,
            )
        last = positional[len(positional) - len(artifacts) :]
        if artifacts and (last != [*artifacts] or needs not in ("elementwise", "statistics")):
            raise PluginError(
                f"Method `{name}` declares artifacts={[*artifacts]} and needs={needs!r}.",
                "Artifacts come chunk by chunk, as its last positional arguments, in their order.",
                method=name,
            )
        if overlays is not None and needs in ("model", "data"):
            raise PluginError(
                f"Method `{name}` declares overlays and needs={needs!r}.",
                "Parts per task are made chunk by chunk, or tensor by tensor.",
                method=name,
            )
        delta = first == ["deltas"]
        policy = base or ("required" if delta else _base_policy(function))
        return Method(
            name=name,
            version=version,
            needs=needs,
            function=function,
            statistics=statistics,
            base=policy,
            artifacts=tuple(artifacts),
            space="delta" if delta else "weight",
            unit=unit,
            scratch=scratch,
            min_experts=min_experts,
            max_experts=max_experts,
            ordered=ordered,
            deterministic=deterministic,
            replay=replay,
            tolerance=tolerance,
            shortcut=shortcut,
            check=check,
            remark=remark,
            mergekit=tuple(mergekit),
            overlays=overlays,
        )

    return wrap


def _base_policy(function: Callable[..., Any]) -> Literal["required", "optional"]:
    base = inspect.signature(function).parameters.get("base")
    if base is None or "None" in str(base.annotation):
        return "optional"
    return "required"
