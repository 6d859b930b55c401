"""Scores of a language model on windows of tokens: loss, perplexity, accuracy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo.errors import IncompatibleModels
from zoo.records import MetricValue

if TYPE_CHECKING:
    import torch

    from zoo.sample import Sample
    from zoo.task import Task


_LARGEST = 709.0
"""The exponential of more is no float64."""


def scores_of_tokens(task: Task, module: torch.nn.Module, sample: Sample) -> list[MetricValue]:
    """Scores of a module that gives logits (n, t, v) for tokens (n, t).

        loss        mean cross-entropy of the next token, in nats per token
        perplexity  exp(loss), dimensionless
        accuracy    share of tokens whose largest logit is the target's

    Standard errors are those of the mean over windows, whose tokens are not independent. A token
    whose loss is not a number counts as answered wrongly. What is not finite is left out: there is
    then no loss and no perplexity.

    Raises:
        IncompatibleModels: the module's logits are not one for each token of the vocabulary.
    """
    import torch

    losses: list[torch.Tensor] = []
    hits: list[torch.Tensor] = []
    with torch.inference_mode():
        for x, y in sample.batches():
            logits = module(x)
            if logits.shape != (*y.shape, len(task.labels)):
                raise IncompatibleModels(
                    f"The model gives outputs of shape {tuple(logits.shape)} for tokens of shape "
                    f"{tuple(y.shape)}, and task `{task.name}` has {len(task.labels)} tokens.",
                    "It is no language model, or one of another vocabulary.",
                    "Evaluate it on a task of its own vocabulary.",
                    task=task.name,
                )
            each = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).double(), y.flatten(), reduction="none"
            )
            each = each.view(y.shape)
            losses.append(each.mean(1).cpu())
            hits.append(((logits.argmax(2) == y) & each.isfinite()).double().mean(1).cpu())
    loss, loss_error = _mean(torch.cat(losses))
    accuracy, accuracy_error = _mean(torch.cat(hits))
    perplexity = math.exp(loss) if loss < _LARGEST else math.inf
    # First order: d exp(loss) = exp(loss) d loss.
    perplexity_error = None if loss_error is None else perplexity * loss_error
    found = [
        MetricValue("accuracy", accuracy, stderr=accuracy_error),
        MetricValue("loss", loss, stderr=loss_error),
        MetricValue("perplexity", perplexity, stderr=perplexity_error),
    ]
    return [value for value in found if math.isfinite(value.value)]


def _mean(each: torch.Tensor) -> tuple[float, float | None]:
    n = len(each)
    return float(each.mean()), float(each.std()) / n**0.5 if n > 1 else None
