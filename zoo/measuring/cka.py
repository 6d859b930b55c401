"""Linear centred kernel alignment of two streams of features.

    CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))

Source: Kornblith et al. 2019, arXiv:1905.00414, section 3; Song et al. 2012, "Feature selection via
    dependence maximization", section 2.3 (the unbiased HSIC).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_CONSTANT = 1e-24
"""Centred features whose squares sum to this part of the uncentred sum, or less, are rounding."""


class Cka(NamedTuple):
    """How alike two sets of features are."""

    biased: float | None
    """0 to 1; None where one of the two is constant or no number, or there are no examples."""
    debiased: float | None
    """From unbiased HSIC, at most about 1; None likewise, with fewer than four examples, and where
    features are so few that they are not even like themselves."""


class CkaSums:
    """What linear CKA needs of two streams of features, summed batch by batch in float64.

    Sums over features (p x q) where these are fewer than the examples; else all features are kept,
    in float32, and compared example by example (n x n).
    """

    def __init__(self, examples: int | None = None) -> None:
        """
        Args:
            examples: how many will come, at most; None where it is not known.
        """
        self._expected = examples
        self._sums: tuple[_Features, _Features, _Features] | None = None
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._squares = [0.0, 0.0]
        """Of x and y as they came."""
        self.examples = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take in a batch: shapes (n, p) and (n, q)."""
        x, y = x.double(), y.double()
        self.examples += len(x)
        for i, features in enumerate((x, y)):
            self._squares[i] += float(features.square().sum())
        if self._shift is None:
            # CKA does not depend on a common shift, and sums cancel less without one.
            self._shift = x.mean(0), y.mean(0)
            widest = max(x.shape[1], y.shape[1])
            if self._expected is None or widest <= self._expected:
                self._sums = _Features.zero(x, y), _Features.zero(x, x), _Features.zero(y, y)
        x, y = x - self._shift[0], y - self._shift[1]
        if self._sums is None:
            self._kept.append((x.float(), y.float()))
            return
        for sums, (a, b) in zip(self._sums, ((x, y), (x, x), (y, y)), strict=True):
            sums.add(a, b)

    def cka(self) -> Cka:
        """Of all that was added."""
        if not self.examples:
            return Cka(None, None)
        n, sums = self.examples, self._sums or self._grams()
        spreads = [s.spread(n) for s in sums[1:]]
        if not all(map(math.isfinite, spreads)):
            return Cka(None, None)
        if any(s <= _CONSTANT * q for s, q in zip(spreads, self._squares, strict=True)):
            return Cka(None, None)
        biased = _ratio([s.biased(n) for s in sums])
        debiased = _ratio([s.unbiased(n) for s in sums]) if n > 3 else None
        return Cka(None if biased is None else min(1.0, biased), debiased)

    def unbiased_hsic(self) -> float:
        """HSIC_1 of the two, in the unit of both squared; four examples or more."""
        return (self._sums or self._grams())[0].unbiased(self.examples)

    def _grams(self) -> tuple[_Grams, _Grams, _Grams]:
        import torch

        x, y = (torch.cat([kept[i] for kept in self._kept]).double() for i in (0, 1))
        k, m = x @ x.T, y @ y.T
        return _Grams(k, m), _Grams(k, k), _Grams(m, m)


@dataclass
class _Features:
    """Sums over examples of features x (p) and y (q), with a = |x|^2 and b = |y|^2."""

    xy: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    xb: torch.Tensor
    ya: torch.Tensor
    a: float = 0.0
    b: float = 0.0
    ab: float = 0.0

    @classmethod
    def zero(cls, x: torch.Tensor, y: torch.Tensor) -> _Features:
        p, q = x.shape[1], y.shape[1]
        zeros = x.new_zeros
        return cls(zeros(p, q), zeros(p), zeros(q), zeros(p), zeros(q))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        a, b = x.square().sum(1), y.square().sum(1)
        self.xy += x.T @ y
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xb += b @ x
        self.ya += a @ y
        self.a += float(a.sum())
        self.b += float(b.sum())
        self.ab += float(a @ b)

    def spread(self, n: int) -> float:
        """Squares of the centred x, summed."""
        return self.a - float(self.x @ self.x) / n

    def biased(self, n: int) -> float:
        """(n-1)^2 HSIC, |X^T Y|^2 of the centred features."""
        centred = self.xy - self.x[:, None] * self.y / n
        return float(centred.square().sum())

    def unbiased(self, n: int) -> float:
        """HSIC_1, from Gram matrices K and L with zeros on their diagonals.

        K_ij = x_i . x_j, so that tr(KL) = |X^T Y|^2 - sum a b, and K 1 = X (sum x) - a.
        """
        trace = float(self.xy.square().sum()) - self.ab
        ones = (float(self.x @ self.x) - self.a) * (float(self.y @ self.y) - self.b)
        mixed = float(self.x @ self.xy @ self.y - self.x @ self.xb - self.y @ self.ya) + self.ab
        return _hsic(trace, ones, mixed, n)


@dataclass
class _Grams:
    """The same of two Gram matrices (n x n)."""

    k: torch.Tensor
    m: torch.Tensor

    def spread(self, n: int) -> float:
        return float(self.k.trace() - self.k.sum() / n)

    def biased(self, n: int) -> float:
        k, m = (g - g.mean(0) - g.mean(1, keepdim=True) + g.mean() for g in (self.k, self.m))
        return float((k * m).sum())

    def unbiased(self, n: int) -> float:
        k, m = (g - g.diag().diag() for g in (self.k, self.m))
        return _hsic(float((k * m).sum()), float(k.sum() * m.sum()), float(k.sum(0) @ m.sum(0)), n)


def _hsic(trace: float, ones: float, mixed: float, n: int) -> float:
    """[tr(KL) + (1K1)(1L1) / ((n-1)(n-2)) - 2 (1KL1) / (n-2)] / (n (n-3))"""
    return (trace + ones / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)) / (n * (n - 3))


def _ratio(found: list[float]) -> float | None:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))."""
    both, first, second = found
    if first <= 0 or second <= 0:
        return None
    return both / math.sqrt(first) / math.sqrt(second)
