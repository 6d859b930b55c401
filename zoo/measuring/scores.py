"""Scores of a classifier on a sample: accuracy, loss, calibration, accuracy per class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo.errors import IncompatibleModels, InvalidCheckpoint
from zoo.records import MetricValue

if TYPE_CHECKING:
    import torch

    from zoo.sample import Sample
    from zoo.task import Task

BINS = 15
"""Bins of confidence of the calibration error."""


def scores_of_labels(task: Task, module: torch.nn.Module, sample: Sample) -> list[MetricValue]:
    """Scores of a module that gives one logit per class.

        accuracy            share of examples whose largest logit is the target's
        loss                mean cross-entropy, in nats
        calibration_error   sum over 15 equal bins of confidence of
                            share of examples * |accuracy - mean confidence|, dimensionless
        class_accuracy      accuracy on the examples of each class, split by its name

    An example whose probabilities are not numbers counts as answered wrongly. What is not finite
    is left out: there is then no loss and no calibration error.

    Raises:
        IncompatibleModels: the module has not one output for each label.
        InvalidCheckpoint: the sample is empty.
    Source: Guo et al. 2017, arXiv:1706.04599, section 2 (expected calibration error).
    """
    import torch

    classes = len(task.labels)
    right, total = torch.zeros(2, classes, dtype=torch.int64)
    bins = torch.zeros(3, BINS, dtype=torch.float64)  # examples, right ones, confidence
    losses: list[torch.Tensor] = []
    with torch.inference_mode():
        for x, y in sample.batches():
            logits = module(x)
            check_outputs(task, logits)
            logits = logits.double()
            answer = logits.argmax(1)
            confidence = logits.softmax(1).gather(1, answer[:, None]).squeeze(1)
            hit = ((answer == y) & confidence.isfinite()).double()
            each = torch.nn.functional.cross_entropy(logits, y, reduction="none")
            losses.append(each.cpu())
            total += y.cpu().bincount(minlength=classes)
            right += y[hit.bool()].cpu().bincount(minlength=classes)
            place = (confidence * BINS).long().clamp(0, BINS - 1).cpu()
            for row, value in enumerate((torch.ones_like(hit), hit, confidence)):
                bins[row].index_add_(0, place, value.cpu())
    n = int(total.sum())
    if not n:
        raise InvalidCheckpoint(f"Split `{sample.split}` of task `{task.name}` has no examples.")
    accuracy = float(right.sum()) / n
    every = torch.cat(losses)
    spread = float(every.std(unbiased=True)) / n**0.5 if n > 1 else None
    found = [
        MetricValue(
            "accuracy",
            accuracy,
            protocol={"examples": n},
            stderr=(accuracy * (1 - accuracy) / n) ** 0.5,
        ),
        MetricValue("loss", float(every.mean()), stderr=spread),
        MetricValue("calibration_error", float((bins[1] - bins[2]).abs().sum()) / n),
    ]
    found += [
        MetricValue("class_accuracy", int(r) / int(t), split=label, protocol={"examples": int(t)})
        for label, r, t in zip(task.labels, right, total, strict=True)
        if t
    ]
    return [value for value in found if math.isfinite(value.value)]


def check_outputs(task: Task, logits: torch.Tensor) -> None:
    """Refuse outputs that are not one logit for each label.

    Raises:
        IncompatibleModels
    """
    if logits.ndim != 2 or logits.shape[1] != len(task.labels):
        raise IncompatibleModels(
            f"The model gives outputs of shape {tuple(logits.shape)}, and task `{task.name}` has "
            f"{len(task.labels)} labels.",
            "Its head is for other classes.",
            "Evaluate it on a task of its own labels, or give it the head of an expert of this "
            "task.",
            task=task.name,
        )
