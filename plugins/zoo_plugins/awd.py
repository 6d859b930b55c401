"""Take out of the deltas what they share, before they are merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from zoo import Chunk, Fraction, Method, PerExpert, Statistic, hookimpl, method
from zoo.errors import InvalidRecipe
from zoo.stages.gram import inner_products
from zoo_plugins.task_arithmetic import task_arithmetic
from zoo_plugins.ties import ties

if TYPE_CHECKING:
    import numpy as np
    import torch

_NEAR = 1e-9
"""Norm of a remainder, relative to its delta's, at which the descent stops: rounding from there."""


class _Redundant(Statistic):
    """`stats["redundant"]`: coefficients of the shared vector, as a combination of the deltas.

    Gradients of cosines and norms are combinations of the deltas, so the descent never leaves
    their span: e numbers and the e x e matrix of inner products are all it needs.
    """

    name = "redundant"

    def __init__(self, p: Any, experts: int) -> None:
        self.scope = "model" if p.scope == "global" else "tensor"
        self.reads = ("alpha", "lr", "steps", "relative")
        self._p = p
        self._experts = experts

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> np.ndarray:
        import numpy as np

        return np.zeros((self._experts, self._experts))

    def add(
        self,
        state: np.ndarray,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        state += inner_products(models.double()).cpu().numpy()

    def finish(self, states: Mapping[str, np.ndarray]) -> list[float]:
        gram = sum(states.values())
        p = self._p
        return redundant(gram, alpha=p.alpha, lr=p.lr, steps=p.steps, relative=p.relative)


def redundant(
    gram: Any, *, alpha: float, lr: float, steps: int, relative: bool = False
) -> list[float]:
    """Coefficients of the redundant vector, by gradient descent from zero.

    Args:
        gram: inner products of the deltas, shape (e, e), float64.
        relative: measure in units of the root mean square norm of the deltas.
    Raises:
        InvalidRecipe: the steps are too long for deltas of this size.
    """
    import numpy as np

    norms = np.sqrt(np.diag(gram))
    used = np.flatnonzero(norms)  # a zero delta has no direction
    e = len(gram)
    found = np.zeros(e)
    if len(used) < 2:
        return [float(c) for c in found]
    if relative:
        unit = np.mean(norms[used] ** 2)
        gram, norms = gram / unit, norms / unit**0.5
    for _ in range(steps):
        rest = np.eye(e) - found  # row i: coefficients of delta_i - redundant
        inner = rest @ gram @ rest.T
        lengths = np.sqrt(np.maximum(np.diag(inner), 0))
        if (lengths[used] <= _NEAR * norms[used]).any():
            break
        gradient = np.zeros(e)
        for i in used:
            for j in used:
                if i == j:
                    continue
                cosine = inner[i, j] / lengths[i] / lengths[j]
                turn = (rest[i] + rest[j]) / lengths[i] / lengths[j]
                turn -= cosine * (rest[i] / lengths[i] ** 2 + rest[j] / lengths[j] ** 2)
                gradient -= np.sign(cosine) * turn / (e * (e - 1))
        length = np.sqrt(max(float(found @ gram @ found), 0.0))
        if length > 0:
            gradient += alpha * found / length
        found = found - lr * gradient
    length = np.sqrt(max(float(found @ gram @ found), 0.0))
    if not length <= norms.max():
        raise InvalidRecipe(
            f"awd found a vector of norm {length:.3g}, the longest delta has {norms.max():.3g}:",
            "its steps are too long for deltas this short, and nothing that they share.",
            "Set `relative: true`, or a smaller `lr`.",
            parameter="lr",
        )
    return [float(c) for c in found]


class _Afterwards(Statistic):
    """A statistic of what is left of the deltas."""

    def __init__(self, inner: Statistic) -> None:
        self.name, self.scope, self.reads = inner.name, inner.scope, inner.reads
        self.memory = inner.memory
        self._inner = inner

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> Any:
        self._inner.elements = self.elements
        return self._inner.start(tensor, shape, parameters)

    def wants(self, chunk: Chunk) -> bool:
        return self._inner.wants(chunk)

    def add(
        self,
        state: Any,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        self._inner.add(state, disentangled(models, stats["redundant"]), base, chunk, stats)

    def finish(self, states: Mapping[str, Any]) -> Any:
        return self._inner.finish(states)


def disentangled(deltas: torch.Tensor, coefficients: Sequence[float]) -> torch.Tensor:
    """The deltas without the redundant vector, in place; shape (e, n)."""
    if not any(coefficients):
        return deltas
    shared = deltas[0] * coefficients[0]
    for delta, c in zip(deltas[1:], coefficients[1:], strict=True):
        shared.add_(delta * c)
    return deltas.sub_(shared)


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    found: list[Statistic] = [_Redundant(p, experts)]
    if p.merge == "ties":
        assert ties.statistics is not None
        zero_sign = "majority" if p.scope == "global" else "positive"
        own = ties.parameters(
            density=p.density, weight=p.weight, scope=p.scope, zero_sign=zero_sign
        )
        found += [_Afterwards(s) for s in ties.statistics(own, experts)]
    return found


def _trivial(p: Any, experts: int) -> int | None:
    if p.lambda_ == 0 or not any(p.weight) or (p.merge == "ties" and not any(p.density)):
        return -1
    whole = experts == 1 and p.lambda_ == 1 and p.merge == "task_arithmetic"
    return 0 if whole and p.weight == [1] else None


@method(
    "awd",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    replay="platform",
    tolerance=1e-6,
    shortcut=_trivial,
)
def awd(
    deltas: torch.Tensor,
    *,
    alpha: Annotated[float, Ge(0), "weight of the redundant vector's norm, per unit of it"] = 0.1,
    lr: Annotated[float, Gt(0), "length of a step of the descent"] = 0.01,
    steps: Annotated[int, Ge(0), "number of steps; 0 takes nothing out"] = 300,
    relative: Annotated[
        bool, "measure norms in units of the deltas' own, so that lr and alpha fit any model"
    ] = False,
    scope: Annotated[
        Literal["global", "tensor"], "one redundant vector for the model, or one per tensor"
    ] = "global",
    merge: Annotated[
        Literal["task_arithmetic", "ties"], "how what is left is merged"
    ] = "task_arithmetic",
    weight: Annotated[PerExpert[float], "coefficient of each delta in that method"] = 1.0,
    density: Annotated[PerExpert[Fraction], "fraction of each delta kept; merge=ties"] = 0.2,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Take out of the deltas a vector they share, so that they interfere less, and merge the rest.

        v_i      = delta_i - r
        r        = 300 steps of descent on mean_{i != j} |cos(v_i, v_j)| + alpha |r|, from r = 0
        merged   = base + lambda * merge of { w_i v_i }

    When: before task_arithmetic or ties, for experts whose deltas point the same way by accident
    of training. The norm of r counts in the units of the weights: with deltas much shorter or
    longer than 1, set relative=true.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: two passes whatever the number of steps: r is a combination of the deltas, found from
        their inner products. O(e^2 n) time for these.
    Source: Xiong et al. 2024, arXiv:2411.18729, equations 9 to 11. Reconstructed: start, optimizer
        and scope of the authors' runs are not published.
    Departs: exact descent in the span of the deltas. Experts equal to the base take no part in the
        cosines. A redundant vector longer than every delta is refused.
    """
    left = disentangled(deltas, stats["redundant"])
    if merge == "ties":
        merged = ties.function(left, density=density, weight=weight, stats=stats, chunk=chunk)
    else:
        merged = task_arithmetic.function(left, weight=weight)
    return merged.mul_(lambda_)  # type: ignore[no-any-return]


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(awd)
