"""Products whose bits do not depend on who computes them."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.adapters.exact import GROUP, Product, gridded, sum_of_squares


def factors(m: int, r: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Thin matrices of float32 values of very different sizes."""
    generator = np.random.default_rng(seed)
    left = generator.normal(size=(m, r)) * 10.0 ** generator.integers(-6, 6, size=(m, r))
    right = generator.normal(size=(r, n)) * 10.0 ** generator.integers(-6, 6, size=(r, n))
    return tuple(torch.from_numpy(x.astype(np.float32).astype(np.float64)) for x in (left, right))  # type: ignore[return-value]


@given(m=st.integers(1, 6), r=st.integers(1, GROUP), n=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_product_of_up_to_32_ranks_is_that_of_rational_arithmetic(
    m: int, r: int, n: int, seed: int
) -> None:
    left, right = factors(m, r, n, seed)

    found = Product.of(left, right).whole()

    a, b = gridded(left, 1), gridded(right, 0)
    for i in range(m):
        for j in range(n):
            exact = sum(Fraction(float(a[i, k])) * Fraction(float(b[k, j])) for k in range(r))
            assert exact == Fraction(float(found[i, j]))


@given(m=st.integers(1, 9), r=st.integers(1, 80), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_rows_in_any_order_of_ranks_are_the_same(m: int, r: int, n: int, seed: int) -> None:
    left, right = factors(m, r, n, seed)
    product = Product.of(left, right)
    whole = product.whole()

    assert torch.equal(whole, torch.cat([product.rows(i, i + 1) for i in range(m)]))

    order = torch.randperm(min(r, GROUP), generator=torch.Generator().manual_seed(seed))
    order = torch.cat([order, torch.arange(min(r, GROUP), r)])
    assert torch.equal(whole, Product.of(left[:, order], right[order]).whole())


@given(m=st.integers(1, 9), r=st.integers(1, 80), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_product_is_as_good_as_float32_can_say_of_its_largest_terms(
    m: int, r: int, n: int, seed: int
) -> None:
    left, right = factors(m, r, n, seed)

    error = (Product.of(left, right).whole() - left @ right).abs()

    rows = left.abs().amax(1, keepdim=True)
    columns = right.abs().amax(0, keepdim=True)
    assert bool((error <= r * rows * columns * 2.0**-23).all())


def test_values_that_are_not_finite_stay_where_they_are() -> None:
    left = torch.tensor([[1.0, float("nan")], [2.0, 3.0], [float("inf"), 1.0]]).double()
    right = torch.ones(2, 2).double()

    found = Product.of(left, right).whole()

    assert [False, True, False] == [bool(torch.isfinite(row).all()) for row in found]
    assert [5.0, 5.0] == found[1].tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64, 1000])
def test_squares_are_summed_whatever_their_number(n: int) -> None:
    values = torch.arange(2 * n).reshape(2, n).double()

    assert (values**2).sum(1).tolist() == sum_of_squares(values).tolist()


def test_the_bits_of_a_product_are_these() -> None:
    left, right = factors(7, 50, 5, 0)

    data = Product.of(left, right).whole().numpy().tobytes()

    assert "a0889ea875ecaf32" == hashlib.sha256(data).hexdigest()[:16]
