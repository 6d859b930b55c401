"""BatchNorm's running statistics, estimated anew for weights that were never trained together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from zoo.errors import InvalidRecipe

if TYPE_CHECKING:
    import torch

Rule = Literal["cumulative", "sample_weighted"]


def has_statistics(module: torch.nn.Module) -> bool:
    """Whether a module keeps running statistics, which interpolated weights would make stale."""
    return bool(_layers(module))


def reestimate(
    module: torch.nn.Module, inputs: Iterable[torch.Tensor], rule: Rule = "cumulative"
) -> None:
    """Set the running statistics of every BatchNorm layer to those of the inputs, in place.

        cumulative        mean over batches of the batch's mean, and of its unbiased variance
        sample_weighted   each batch with b examples after n moves them by b / (n + b)

    The two are the same where all batches are of one size. Each layer sees what the layers before
    it give with the statistics of the same batch; all else, such as dropout, is as in use. A batch
    of one example is left out: it has no variance. Parameters stay as they are.

    Args:
        inputs: batches, on the module's device; none at all is fine for a module without BatchNorm.
    Raises:
        InvalidRecipe: no batch has two examples.
    Source: Izmailov et al. 2018, arXiv:1803.05407, section 3.2; Jordan et al. 2023,
        arXiv:2211.08403, section 2.
    """
    import torch

    layers = _layers(module)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the cumulative mean
    seen = 0
    try:
        with torch.no_grad(), batch_statistics(module):
            for x in inputs:
                if len(x) < 2:
                    continue
                seen += len(x)
                if rule == "sample_weighted":
                    for layer in layers:
                        layer.momentum = len(x) / seen
                module(x)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if not seen:
        raise InvalidRecipe(
            "The statistics of BatchNorm cannot be estimated:",
            "no batch has two examples.",
            "Use larger batches, or more examples.",
        )


@contextmanager
def batch_statistics(module: torch.nn.Module) -> Iterator[None]:
    """While it lasts, the module is in eval mode but for BatchNorm, which looks at each batch."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for layer in _layers(module):
        layer.train()
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training


def _layers(module: torch.nn.Module) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
