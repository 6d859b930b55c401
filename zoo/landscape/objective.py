"""The mean loss of a module over fixed examples, as a function of its parameters.

    L(theta) = sum_b n_b loss(f_theta(x_b), y_b) / sum_b n_b

over the batches b of n_b examples, in eval mode: buffers, such as the running statistics of
BatchNorm, stay as they are. Parameters are one flat vector, shape (p,), in the order of
`module.named_parameters()`; a tied tensor counts once, a frozen one not at all.

Sums over batches are taken in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch.func import functional_call

from zoo.errors import IncompatibleModels
from zoo.landscape.examples import Examples
from zoo.measuring.scores import check_outputs
from zoo.paths.profile import answers, wrong

if TYPE_CHECKING:
    from zoo.sample import Sample
    from zoo.subject import Subject
    from zoo.task import Batch, Task

Precision = Literal["float32", "float64"]
HESSIAN_PRODUCT = 2
"""Passes, forward and backward, that a product with the Hessian costs."""


class Point(NamedTuple):
    """What the objective is at one place."""

    loss: float
    error: float | None
    """Share of examples, or tokens, answered wrongly; None for a task of no labels."""
    gradient: torch.Tensor | None = None
    """Shape (p,), in the objective's type."""


class Objective:
    """The mean loss of a module over examples; see the module's documentation.

    Args:
        module: in eval mode, of the type `dtype`.
        examples: batches, the same at each pass.
        center_logits: subtract each output's mean and divide it by its norm before the loss, which
            makes models of different confidence comparable (Andriushchenko et al. 2023,
            arXiv:2302.07011).
    """

    def __init__(
        self,
        module: torch.nn.Module,
        examples: Iterable[Batch],
        sample: Sample,
        dtype: torch.dtype,
        *,
        center_logits: bool = False,
    ) -> None:
        self._module = module.eval()
        self._examples = examples
        self._sample = sample
        self._task: Task = sample.task
        self._center = center_logits
        self._graph: tuple[torch.Tensor, torch.Tensor, int] | None = None
        own = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
        if not sum(p.numel() for p in own.values()):
            raise IncompatibleModels(
                "The module has no trainable parameters.",
                "There is no loss landscape to look at.",
                "Let the architecture leave `requires_grad` on.",
            )
        self.shapes = {name: p.shape for name, p in own.items()}
        """Name -> shape of each trainable parameter, in order."""
        self.start = torch.cat([p.reshape(-1) for p in own.values()])
        """The parameters as they are, shape (p,)."""

    @property
    def size(self) -> int:
        """Parameters, p."""
        return self.start.numel()

    def at(self, shift: torch.Tensor | None = None) -> Point:
        """Loss and error at `start + shift`, without gradient. Cost: one pass, forward."""
        theta = self.start if shift is None else self.start + shift
        return scored(lambda x: self._outputs(theta, x), self._examples, self._sample)

    def slope(self, shift: torch.Tensor | None = None) -> Point:
        """Loss, error and gradient at `start + shift`. Cost: one pass."""
        theta = self.start if shift is None else self.start + shift
        sum_ = torch.zeros(self.size, dtype=torch.float64, device=theta.device)
        loss, wrong, answered, total = 0.0, 0, 0, 0
        for x, y in self._examples:
            leaf = theta.detach().requires_grad_()
            outputs = self._outputs(leaf, x)
            value = _loss(self._task, outputs, y)
            n = len(x)
            sum_.add_(torch.autograd.grad(value, leaf)[0], alpha=n)
            loss += n * float(value.detach())
            misses, asked = _wrong(self._task, outputs.detach(), y)
            wrong, answered = wrong + misses, answered + asked
            total += n
            self._sample.progress.advance(n)
        gradient = (sum_ / total).to(self.start.dtype)
        return Point(loss / total, _share(wrong, answered), gradient)

    def hvp(self, vector: torch.Tensor) -> torch.Tensor:
        """Product of the Hessian at `start` with a vector, both of shape (p,).

            H v = d(g . v) / d theta,   g = dL / d theta

        Cost: two passes; of one batch, whose graph is kept, less from the second product on.
        """
        sum_ = torch.zeros(self.size, dtype=torch.float64, device=vector.device)
        total = 0
        for leaf, gradient, n in self._graphs():
            sum_.add_(_product(gradient, leaf, vector), alpha=n)
            total += n
            self._sample.progress.advance(HESSIAN_PRODUCT * n)
        return (sum_ / total).to(vector.dtype)

    def curvatures(self, vectors: Sequence[torch.Tensor]) -> list[float]:
        """v . H v of each vector v, going over the examples once for all of them."""
        sums, total = [0.0] * len(vectors), 0
        for leaf, gradient, n in self._graphs():
            for i, v in enumerate(vectors):
                sums[i] += n * dot(v, _product(gradient, leaf, v))
                self._sample.progress.advance(HESSIAN_PRODUCT * n)
            total += n
        return [s / total for s in sums]

    def _graphs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """(parameters, gradient with its graph, examples) of each batch; of a single batch the
        graph is kept."""
        if self._graph is not None:
            yield self._graph
            return
        count, last = 0, None
        for x, y in self._examples:
            last = None  # frees the graph before the next one is built
            leaf = self.start.detach().requires_grad_()
            with twice_differentiable():
                loss = _loss(self._task, self._outputs(leaf, x), y)
                (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
            last = (leaf, gradient, len(x))
            yield last
            count += 1
        if count == 1:
            self._graph = last

    def _outputs(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(theta, [s.numel() for s in self.shapes.values()])
        named = {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
        outputs: torch.Tensor = functional_call(self._module, named, (x,))
        if self._center:
            outputs = outputs - outputs.mean(-1, keepdim=True)
            outputs = outputs / outputs.norm(dim=-1, keepdim=True).clamp_min(1e-10)
        return outputs


def scored(
    forward: Callable[[torch.Tensor], torch.Tensor], examples: Iterable[Batch], sample: Sample
) -> Point:
    """Mean loss and error of a function over examples. Cost: one pass, forward."""
    loss, wrong, answered, total = 0.0, 0, 0, 0
    with torch.no_grad():
        for x, y in examples:
            outputs = forward(x)
            n = len(x)
            loss += n * float(_loss(sample.task, outputs, y))
            misses, asked = _wrong(sample.task, outputs, y)
            wrong, answered = wrong + misses, answered + asked
            total += n
            sample.progress.advance(n)
    return Point(loss / total, _share(wrong, answered))


def objective(
    model: Subject, sample: Sample, precision: Precision = "float32", *, center_logits: bool = False
) -> Objective:
    """The objective of a model over a whole sample."""
    dtype = getattr(torch, precision)
    module = model.module(sample.device, dtype)
    return Objective(module, Examples(sample, dtype), sample, dtype, center_logits=center_logits)


def objectives(
    model: Subject,
    sample: Sample,
    size: int | None,
    precision: Precision = "float32",
    *,
    center_logits: bool = False,
) -> Iterator[tuple[Objective, int]]:
    """(objective, examples) of each batch of `size` examples; of the whole sample where `size` is
    None. All share one module."""
    if size is None:
        yield objective(model, sample, precision, center_logits=center_logits), 1
        return
    dtype = getattr(torch, precision)
    module = model.module(sample.device, dtype)
    for batch in Examples(sample, dtype, size):
        yield (
            Objective(module, [batch], sample, dtype, center_logits=center_logits),
            len(batch[0]),
        )


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by plain matrix products: the fused kernels have no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Inner product of two vectors, summed in float64."""
    return float(torch.dot(a.double(), b.double()))


def _loss(task: Task, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if task.labels and y.ndim == 1:
        check_outputs(task, outputs)
    return task.loss(outputs, y)


def _wrong(task: Task, outputs: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    """Wrong answers, and all: of examples, or of tokens; none for a task of no labels."""
    rows = answers(outputs, y) if task.labels else None
    if rows is None:
        return 0, 0
    return int(wrong(*rows).sum()), len(rows[1])


def _share(wrong: int, answered: int) -> float | None:
    return wrong / answered if answered else None


def _product(gradient: torch.Tensor, leaf: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    if not gradient.requires_grad:  # a loss that is linear in the parameters
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(
        gradient, leaf, vector, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found
