"""Average by curvature, which the optimizer's second moments stand for; graft what matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from zoo import Chunk, Fraction, Method, PerExpert, Statistic, hookimpl, method
from zoo.errors import GateFailed
from zoo.stages.order import Ranked
from zoo.stages.signs import add_up

if TYPE_CHECKING:
    import torch

MOMENTS = "exp_avg_sq"


class _Sums(Statistic):
    """`stats["sums"]`: row and column sums of the second moments of every matrix, by tensor.

    Shapes (e, m) and (e, n); the row sums are over the sum of all, so that the outer product of
    the two is the rank-1 matrix with the same sums.
    """

    name = "sums"
    scope = "model"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[torch.Tensor]:
        return []

    def wants(self, chunk: Chunk) -> bool:
        return len(chunk.shape) == 2

    def add(
        self,
        state: list[torch.Tensor],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import torch

        if stats[MOMENTS] is None:
            return
        blocks = stats[MOMENTS].view(len(models), -1, chunk.row)
        if not state:
            state += [blocks.new_zeros(len(models), n, dtype=torch.float64) for n in chunk.shape]
        rows, columns = state
        first, last = chunk.start // chunk.row, chunk.stop // chunk.row
        rows[:, first:last] = blocks.sum(2, dtype=torch.float64)
        columns += blocks.sum(1, dtype=torch.float64)

    def finish(self, states: Mapping[str, list[torch.Tensor]]) -> dict[str, Any]:
        found = {}
        for tensor, state in states.items():
            if state:
                rows, columns = state
                total = rows.sum(1, keepdim=True)
                found[tensor] = (rows / (total + (total == 0)), columns)
        return found


class _Means(Statistic):
    """`stats["means"]`: mean of each expert's powers over the tensor."""

    name = "means"
    scope = "tensor"

    def __init__(self, power: float, experts: int) -> None:
        self._power = power
        self._experts = experts

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[float]:
        return [0.0] * self._experts

    def add(
        self,
        state: list[float],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        found = moments(stats[MOMENTS], chunk, stats)
        if found is None:
            return
        for i, row in enumerate(found):
            state[i] += float(_power(row, self._power).double().sum()) / self.elements

    def finish(self, states: Mapping[str, list[float]]) -> list[float]:
        (state,) = states.values()
        return state


def moments(
    given: torch.Tensor | None, chunk: Chunk, stats: Mapping[str, Any]
) -> torch.Tensor | None:
    """The second moments of a chunk, of rank 1 where that is asked for; shape (e, n)."""
    sums = stats.get("sums", {}).get(chunk.tensor)
    if given is None or sums is None:
        return given
    rows, columns = sums
    first, last = chunk.start // chunk.row, chunk.stop // chunk.row
    blocks = rows[:, first:last, None] * columns[:, None, :]
    return blocks.to(given.dtype).view(given.shape)  # type: ignore[no-any-return]


def saliency(experts: torch.Tensor, base: torch.Tensor | None, found: torch.Tensor) -> torch.Tensor:
    """Second moment times squared delta, float64: products of small numbers vanish in float32.

    Without a base, the second moment alone.
    """
    scores = found.double()
    if base is not None:
        scores.mul_(experts.sub(base).double().square_())
    return scores


def _saliency(
    experts: torch.Tensor, base: torch.Tensor | None, chunk: Chunk, stats: Mapping[str, Any]
) -> torch.Tensor | None:
    found = moments(stats[MOMENTS], chunk, stats)
    return None if found is None else saliency(experts, base, found)


def _power(values: torch.Tensor, power: float) -> torch.Tensor:
    if power == 0.5:
        return values.sqrt()
    if power > 1:
        values = values.double()  # the power of a small number may be none in float32
    return values.clone() if power == 1 else values.pow(power)


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    found: list[Statistic] = []
    if p.compress == "rank1":
        found.append(_Sums())
    if min(p.density) < 1:
        found.append(
            Ranked(
                "threshold",
                _saliency,
                [lambda i, n: n - int(p.density[i] * n)],
                experts,
                reads=("density", "compress"),
            )
        )
    if p.normalize == "mean":
        found.append(_Means(p.power, experts))
    return found


def _trivial(p: Any, experts: int) -> int | None:
    if not any(p.density) and p.fallback == "base":
        return -1
    unmasked = p.density == [1] and p.saliency_threshold == [0]
    return 0 if unmasked and p.epsilon > 0 else None


def _one_mask(p: Any, experts: int) -> str | None:
    if min(p.density) < 1 and any(p.saliency_threshold):
        return "`density` and `saliency_threshold` both say which entries stay; give one of them"
    return None


@method(
    "ota",
    version="1.0.0",
    needs="statistics",
    unit=lambda p: "row" if p.compress == "rank1" else "element",
    statistics=_statistics,
    artifacts=(MOMENTS,),
    replay="platform",
    tolerance=1e-6,
    shortcut=_trivial,
    check=_one_mask,
)
def ota(
    experts: torch.Tensor,
    base: torch.Tensor | None,
    exp_avg_sq: torch.Tensor | None,
    *,
    power: Annotated[float, Gt(0), "exponent of the second moments"] = 0.5,
    epsilon: Annotated[
        float, Ge(0), "added to each weight; far below the second moments, or it takes over"
    ] = 1e-26,
    density: Annotated[
        PerExpert[Fraction], "fraction of each delta that is grafted, over the whole model"
    ] = 1.0,
    saliency_threshold: Annotated[
        PerExpert[Annotated[float, Ge(0)]], "least saliency that is grafted, in place of density"
    ] = 0.0,
    weight: Annotated[
        PerExpert[Annotated[float, Ge(0)]], "factor of each expert's powers, dimensionless"
    ] = 1.0,
    normalize: Annotated[
        Literal["none", "mean"], "divide the powers by their mean over the tensor"
    ] = "none",
    compress: Annotated[
        Literal["none", "rank1"], "take matrices of second moments as their row and column sums"
    ] = "none",
    fallback: Annotated[
        Literal["base", "mean"], "what an entry gets that no expert keeps"
    ] = "base",
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Average deltas by their curvature, after grafting the entries that matter (OTA with FFG).

        s_i    = v_i * delta_i^2                   v_i: Adam's second moments, exp_avg_sq
        mask_i = the floor(density * D) largest s_i, or s_i >= saliency_threshold
        W_i    = (w_i v_i^power + epsilon) * mask_i
        merged = base + sum_i W_i delta_i / sum_i W_i;      base where no expert keeps the entry

    When: fine-tuned experts of one base whose optimizer state was kept. On one expert with
    density < 1 it grafts: the entries that matter come over, the others stay the base's. Not for
    optimizers other than Adam, nor for runs with different beta2: their moments do not compare.

    Args:
        experts: shape (e, n), overwritten.
        base: shape (n,). Without one, weights are averaged and saliency is v_i alone.
        exp_avg_sq: shape (e, n), non-negative; None gives the plain mean.
    Returns:
        Shape (n,).
    Cost: one pass over experts and second moments; density < 1 two more (one sampled, exact all
        the same), normalize and compress one each. compress holds m + n numbers for each matrix.
    Source: Mahdavinia et al. 2025, arXiv:2509.11167; rank-1 moments after Shazeer & Stern 2018,
        arXiv:1804.04235, section 3.
    Departs: epsilon is 1e-26, where the authors' code has 1e-8 and their recipes 1e-26. Masked
        entries always leave numerator and denominator. normalize=mean is the code's `global`.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    least: list[float] = saliency_threshold  # type: ignore[assignment]
    found = moments(exp_avg_sq, chunk, stats)
    if found is None:
        return _mean(experts)
    if bool((found < 0).any()):
        raise GateFailed(
            f"`{MOMENTS}` of tensor `{chunk.tensor}` has negative values.",
            "Second moments are means of squares.",
            "Check what was saved: `exp_avg` is the first moment.",
            tensor=chunk.tensor,
        )
    shares = _power(found, power)
    for row, w in zip(shares, weights, strict=True):
        row.mul_(w)
    for row, mean in zip(shares, stats.get("means", ()), strict=False):
        row.div_(mean or 1.0)
    shares.add_(epsilon)
    if "threshold" in stats:
        least = [t for (t,) in stats["threshold"]]
    if any(least):
        for row, scores, t in zip(shares, saliency(experts, base, found), least, strict=True):
            row.mul_(scores >= t)
    total = add_up(shares)
    nobody = total == 0
    shares.div_(total.add_(nobody))
    if base is not None:
        experts.sub_(base)
    if fallback == "mean" or base is None:
        shares.add_(nobody.to(shares.dtype).div_(len(experts)))
    merged = add_up(experts.mul_(shares))
    return merged if base is None else merged.add_(base)


def _mean(experts: torch.Tensor) -> torch.Tensor:
    return add_up(experts).div_(len(experts))


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(ota)
