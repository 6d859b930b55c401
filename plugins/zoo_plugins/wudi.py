"""WUDI-Merging: the delta that interferes least with each task, judged by the deltas alone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from zoo import Method, hookimpl, method
from zoo.stages.spectrum import gram, inner, matrices, mean, times

if TYPE_CHECKING:
    import torch

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants, as the authors leave them."""
_RANK = 1e-10
"""Eigenvalues of the summed Gram matrices below this fraction of the largest count as zero."""


def _trivial(p: Any, experts: int) -> int | None:
    return 0 if experts == 1 and p.rest == "mean" else None


def _scratch(shape: tuple[int, ...], models: int, width: int) -> int:
    """Start, residual, step, gradient, two moments and one temporary; and the Gram matrices."""
    elements = prod(shape)
    if len(shape) < 2 or not elements:
        return 0
    side = min(elements // shape[0], models * shape[0])
    return 7 * width * elements + 4 * 8 * side * side


@method(
    "wudi",
    version="1.0.0",
    needs="tensor",
    scratch=_scratch,
    replay="platform",
    tolerance=1e-3,
    shortcut=_trivial,
)
def wudi(
    deltas: torch.Tensor,
    *,
    solver: Annotated[
        Literal["adam", "closed_form"], "few small steps, as published, or the exact optimum"
    ] = "adam",
    lr: Annotated[float, Gt(0), "length of a step of each weight, in units of the weights"] = 1e-5,
    steps: Annotated[int, Ge(0), "steps of Adam; the result depends on lr * steps"] = 300,
    rest: Annotated[
        Literal["mean", "base"], "other tensors: mean of the deltas, or the base's value"
    ] = "mean",
    convolutions: Annotated[
        Literal["mean", "matrix"], "leave them to `rest`, or take them as matrices (out, rest)"
    ] = "mean",
) -> torch.Tensor:
    """Move the sum of the deltas to where it disturbs each delta least.

        L(M) = sum_i |(M - delta_i) delta_i^T|^2 / |delta_i|^2
        merged = base + M, after `steps` of Adam down L from M = sum_i delta_i     adam
        merged = base + M, the minimum of L nearest to sum_i delta_i               closed_form
        merged = base + mean_i delta_i                                  tensors but matrices

    When: experts of different tasks and no data: rows of a delta lie in the span of the inputs
    that it was trained on, and stand in for them. There is no scale to tune. Leave embeddings
    and heads out with `exclude`.

    Args:
        deltas: shape (e, *shape), overwritten.
    Returns:
        The merged delta, shape `shape`.
    Cost: for a matrix (out, in), 2 out in min(in, 2 e out) operations for each step of Adam, the
        Gram matrices being formed once; as much as some ten steps for the closed form. On one
        core two minutes for a matrix of 900 x 4900 and three experts, five seconds in closed
        form: use a GPU for large models. Memory for one tensor of each model and eight more.
    Source: Cheng et al. 2025, arXiv:2503.08099, section 4.
    Departs: an expert equal to the base is skipped, where the formula is 0 / 0. The authors
        optimize attention and feed-forward matrices, and leave the rest at the base
        (`rest=base`, and `exclude`); other implementations take the mean. The closed form is
        not the authors', whose early stop is part of the method.
    """
    import torch

    tasks = matrices(deltas, convolutions)
    if tasks is None:
        return mean(deltas) if rest == "mean" else torch.zeros_like(deltas[0])
    start = tasks[0].clone()
    for task in tasks[1:]:
        start.add_(task)
    squares = [float(task.flatten().double().square().sum()) for task in tasks]
    changed = [i for i, square in enumerate(squares) if square > 0]
    if len(changed) < len(tasks):
        tasks, squares = tasks[changed], [squares[i] for i in changed]
    if not changed:
        return start.reshape(deltas.shape[1:])
    # Through the columns, the Gram matrices are (in, in); through the rows, (e out, e out).
    by_columns = tasks.shape[2] <= tasks.shape[0] * tasks.shape[1]
    if solver == "closed_form":
        optimum = _optimum_by_columns if by_columns else _optimum_by_rows
        moved = optimum(tasks, start, squares)
    else:
        gradient = _gradient_by_columns if by_columns else _gradient_by_rows
        moved = _adam(gradient(tasks, start, squares), start, lr, steps)
    return start.add_(moved).reshape(deltas.shape[1:])


Gradient = Callable[["torch.Tensor"], "torch.Tensor"]
"""From M - start, the gradient of L / 2."""


def _adam(gradient: Gradient, start: torch.Tensor, lr: float, steps: int) -> torch.Tensor:
    """M - start after some steps. It is kept apart from M, beside which it would be rounded."""
    import torch

    moved, first, second = (torch.zeros_like(start) for _ in range(3))
    for step in range(1, steps + 1):
        slope = gradient(moved).mul_(2)
        first.lerp_(slope, 1 - _BETA_1)
        second.mul_(_BETA_2).addcmul_(slope, slope, value=1 - _BETA_2)
        size = second.sqrt().div_((1 - _BETA_2**step) ** 0.5).add_(_EPSILON)
        moved.addcdiv_(first, size, value=-lr / (1 - _BETA_1**step))
    return moved


def _gradient_by_columns(
    tasks: torch.Tensor, start: torch.Tensor, squares: list[float]
) -> Gradient:
    import torch

    n = start.shape[1]
    summed = torch.zeros(n, n, dtype=torch.float64, device=start.device)
    residual = torch.zeros_like(start)
    for task, square in zip(tasks, squares, strict=True):
        own = gram(task).div_(square)
        summed.add_(own)
        residual.add_(times(task - start, own))
    metric = summed.to(start.dtype)
    return lambda moved: torch.mm(moved, metric).sub_(residual)


def _gradient_by_rows(tasks: torch.Tensor, start: torch.Tensor, squares: list[float]) -> Gradient:
    import torch

    residual = torch.zeros_like(start)
    for task, square in zip(tasks, squares, strict=True):
        across = inner((task - start).T, task.T).div_(square)
        residual.add_(times(task.T, across.T).T)
        task.div_(square**0.5)
    rows = tasks.flatten(0, 1)
    return lambda moved: torch.mm(torch.mm(moved, rows.T), rows).sub_(residual)


def _optimum_by_columns(
    tasks: torch.Tensor, start: torch.Tensor, squares: list[float]
) -> torch.Tensor:
    """sum_i (delta_i - start) G_i S^+ with G_i = delta_i^T delta_i / |delta_i|^2, S = sum_i G_i."""
    import torch

    # G_i S^+ is tame where S^+ alone is huge: so it is formed before it meets a rounded matrix.
    summed = gram(tasks[0]).div_(squares[0])
    for task, square in zip(tasks[1:], squares[1:], strict=True):
        summed.add_(gram(task).div_(square))
    inverse = torch.linalg.pinv(summed, hermitian=True, rtol=_RANK)
    moved = torch.zeros_like(start)
    for task, square in zip(tasks, squares, strict=True):
        moved.add_(times(task - start, gram(task).div_(square) @ inverse))
    return moved


def _optimum_by_rows(
    tasks: torch.Tensor, start: torch.Tensor, squares: list[float]
) -> torch.Tensor:
    """The same as E (T T^T)^+ T, where T stacks the delta_i / |delta_i| and S = T^T T."""
    import torch

    across = []
    for task, square in zip(tasks, squares, strict=True):
        across.append(inner((task - start).T, task.T).div_(square**0.5))
        task.div_(square**0.5)
    columns = tasks.flatten(0, 1).T
    inverse = torch.linalg.pinv(gram(columns), hermitian=True, rtol=_RANK)
    return times(columns, (torch.cat(across, dim=1) @ inverse).T).T


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(wudi)
