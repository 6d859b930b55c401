"""Spectra of the weights: tail exponents and norms of every layer, without data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from zoo import Metric, MetricValue, Subject, hookimpl, metric

if TYPE_CHECKING:
    import numpy as np

    from zoo.landscape.estimate import Estimate


@metric(
    "spectral",
    version="1.0.0",
    gives={
        "power_law_alpha": "exponent of the tail of the layer's eigenvalues, dimensionless; well "
        "trained layers have 2 to 6",
        "power_law_distance": "Kolmogorov-Smirnov distance of the tail from that law, from 0 to 1",
        "alpha_weighted": "alpha * log10 of the largest eigenvalue",
        "log_alpha_norm": "log10 of the sum of the eigenvalues to the power alpha",
        "log_norm": "log10 of the sum of the eigenvalues, the squared Frobenius norm",
        "log_spectral_norm": "log10 of the largest eigenvalue, the squared spectral norm",
        "stable_rank": "sum of the eigenvalues over the largest, dimensionless",
        "power_law_missing": "layers whose tail could not be fitted",
    },
)
def spectral(model: Subject) -> Iterator[MetricValue]:
    """Spectra of the weight matrices: the power law of their tails, and norms.

    Eigenvalues are the squared singular values of each matrix W; a convolution is the matrix of its
    outputs by all else. Values are split by tensor; the bare ones are means over the layers.

    When: to compare models of one architecture without any data. Layers of fewer than some hundred
        units have noisy tails; compare over seeds, and with the standard error.

    Cost: O(n m min(n, m)) of each matrix, and O(min(n, m)^2) of its fit; one matrix in memory.
    Source: Martin and Mahoney 2021, JMLR 22(165); Martin, Peng, Mahoney 2021, arXiv:2002.06716;
        code of WeightWatcher.
    Departs: a convolution is one matrix, not one for each place of its kernel.
    """
    from zoo.landscape.esd import spectra
    from zoo.landscape.estimate import value

    of_layers: dict[str, list[Estimate]] = {}
    missing, layers = 0, 0
    for name, eigenvalues in spectra(model.checkpoint):
        found = _of_layer(eigenvalues)
        layers += 1
        missing += "power_law_alpha" not in found
        for key, one in found.items():
            yield from value(key, one.value, name, one.stderr)
            of_layers.setdefault(key, []).append(one)
    for key, every in of_layers.items():
        errors = [e.stderr for e in every if e.stderr is not None]
        stderr = sum(e**2 for e in errors) ** 0.5 / len(every) if errors else None
        yield from value(key, sum(e.value for e in every) / len(every), stderr=stderr)
    if layers:
        yield from value("power_law_missing", missing)


def _of_layer(eigenvalues: np.ndarray) -> dict[str, Estimate]:
    """The values of one spectrum; without those of a tail that cannot be fitted, and without any
    where all is zero."""
    import numpy as np

    from zoo.landscape.estimate import Estimate
    from zoo.landscape.powerlaw import fit_tail

    largest, total = float(eigenvalues.max()), float(eigenvalues.sum())
    if not largest > 0:
        return {}
    log_largest = float(np.log10(largest))
    found = {
        "log_norm": float(np.log10(total)),
        "log_spectral_norm": log_largest,
        "stable_rank": total / largest,
    }
    fit = fit_tail(eigenvalues)
    known = {key: Estimate(number, None, 1) for key, number in found.items()}
    if fit is None:
        return known
    # Relative to the largest, so that no power overflows.
    powers = np.sum((eigenvalues / largest) ** fit.alpha)
    return known | {
        "power_law_alpha": Estimate(fit.alpha, fit.sigma, fit.tail),
        "power_law_distance": Estimate(fit.distance, None, fit.tail),
        "alpha_weighted": Estimate(fit.alpha * log_largest, fit.sigma * abs(log_largest), fit.tail),
        "log_alpha_norm": Estimate(fit.alpha * log_largest + float(np.log10(powers)), None, 1),
    }


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(spectral)
