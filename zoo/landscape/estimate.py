"""Means of random or repeated measurements, with their standard errors; values that are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zoo.records import MetricValue


class Estimate(NamedTuple):
    """A mean and how well it is known."""

    value: float
    stderr: float | None
    """Standard error; None where it was not estimated, as from a single value."""
    repeats: int
    """Values it is the mean of."""


def mean_of(values: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
    """The mean of values that were found alike, with its standard error.

    Args:
        weights: shares of the values, such as examples per batch; equal ones unless given. The
            standard error is then that of a weighted mean, sum w^2 (x - mean)^2 / (sum w)^2, times
            n / (n - 1).
    """
    n = len(values)
    shares = [1.0] * n if weights is None else list(weights)
    total = sum(shares)
    mean = sum(w * v for w, v in zip(shares, values, strict=True)) / total
    if n < 2:
        return Estimate(mean, None, n)
    spread = sum((w * (v - mean)) ** 2 for w, v in zip(shares, values, strict=True))
    return Estimate(mean, (spread / total**2 * n / (n - 1)) ** 0.5, n)


def value(
    name: str, number: float | None, split: str = "", stderr: float | None = None
) -> Iterator[MetricValue]:
    """A value, where it is a number; else nothing."""
    if number is not None and math.isfinite(number):
        known = stderr is not None and math.isfinite(stderr)
        yield MetricValue(name, float(number), split, stderr=stderr if known else None)
