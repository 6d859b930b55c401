"""Spectra of weights: the specified numbers, an oracle, and what must not vary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_subjects import golden, numbers, run

from zoo.checkpoint import MemoryCheckpoint
from zoo.errors import InvalidCheckpoint
from zoo.landscape import esd
from zoo.landscape.powerlaw import fit_tail
from zoo.subject import Subject

CASE = golden("weightwatcher")
WANTED = CASE["expected"]


def model(**tensors: Any) -> Subject:
    state = {name: torch.as_tensor(t) for name, t in tensors.items()}
    return Subject("small", "", MemoryCheckpoint(state))


def with_spectrum(eigenvalues: Any, columns: int, seed: int = 0) -> np.ndarray:
    """A matrix of so many columns whose squared singular values these are."""
    rng = np.random.default_rng(seed)
    k = len(eigenvalues)
    u = np.linalg.qr(rng.normal(size=(k, k)))[0]
    v = np.linalg.qr(rng.normal(size=(columns, k)))[0]
    found: np.ndarray = u @ np.diag(np.sqrt(eigenvalues)) @ v.T
    return found


def oracle(eigenvalues: np.ndarray) -> tuple[float, float, float]:
    """(alpha, distance, xmin), by plain loops over the definition."""
    x = sorted(v for v in eigenvalues if v >= 1e-5 * max(eigenvalues))
    best = (math.nan, math.inf, math.nan)
    for xmin in x[:-1] if len(x) >= 10 else []:
        tail = [v for v in x if v >= xmin]
        n = len(tail)
        total = sum(math.log(v / xmin) for v in tail)
        if total <= 0:
            continue
        alpha = 1 + n / total
        d = max(abs(1 - (v / xmin) ** (1 - alpha) - j / n) for j, v in enumerate(tail))
        if d < best[1]:
            best = (alpha, d, xmin)
    return best


# Golden numbers


@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_gives_the_golden_numbers(transposed: bool) -> None:
    w = with_spectrum(CASE["evals"], 33)

    found = run("spectral", model(w=w.T.copy() if transposed else w))

    names = {"alpha": "power_law_alpha", "D": "power_law_distance"}
    for key in ("alpha", "D", "alpha_weighted", "log_alpha_norm", "stable_rank", "log_norm"):
        for split in ("", "/w"):
            value = found[names.get(key, key) + split].value
            assert WANTED[key] == pytest.approx(value, rel=1e-9), key
    assert WANTED["log_spectral_norm"] == pytest.approx(found["log_spectral_norm"].value)
    assert WANTED["sigma"] == pytest.approx(found["power_law_alpha"].stderr)
    assert found["power_law_missing"].value == 0


def test_the_tail_is_the_golden_one() -> None:
    fit = fit_tail(np.array(CASE["evals"]))

    assert fit is not None
    assert WANTED["xmin"] == fit.xmin
    assert WANTED["num_tail"] == fit.tail


# An oracle


@settings(max_examples=40)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=10, max_size=40),
    st.booleans(),
)
def test_the_fit_is_that_of_plain_loops(values: list[float], doubled: bool) -> None:
    eigenvalues = np.array(values * 2 if doubled else values)
    alpha, distance, _ = oracle(eigenvalues)

    fit = fit_tail(eigenvalues)

    if fit is None:
        assert math.isnan(alpha)
    else:
        assert distance == pytest.approx(fit.distance, abs=1e-9)
        assert fit.alpha >= 1
        tail = eigenvalues[eigenvalues >= fit.xmin]
        assert len(tail) == fit.tail
        assert 1 + len(tail) / np.log(tail / fit.xmin).sum() == pytest.approx(fit.alpha)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 3, 3, 3), (12, 12)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_spectrum_is_that_of_the_singular_values(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esd, "_BLOCK_BYTES", 8 * 50)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = w.to(dtype)
    wanted = np.linalg.svd(w.double().numpy().reshape(shape[0], -1), compute_uv=False) ** 2

    ((name, found),) = esd.spectra(MemoryCheckpoint({"w": w, "bias": w[0].reshape(-1)}))

    assert name == "w"
    np.testing.assert_allclose(np.sort(wanted), found, atol=1e-9)


def test_a_tail_may_be_as_short_as_two() -> None:
    fit = fit_tail(np.array([1.0] * 8 + [1.5, 2.0]))

    assert fit is not None
    assert (2, 1.5) == (fit.tail, fit.xmin)
    assert 1 + 2 / math.log(2 / 1.5) == pytest.approx(fit.alpha)


def test_no_eigenvalue_is_negative() -> None:
    w = torch.ones(12, 3, dtype=torch.float64) @ torch.rand(3, 12, dtype=torch.float64)

    ((_, found),) = esd.spectra(MemoryCheckpoint({"w": w}))

    assert (found >= 0).all()


def test_a_pure_power_law_gives_its_exponent() -> None:
    rng = np.random.default_rng(0)

    for exponent in (2.0, 3.5):
        fit = fit_tail((1 - rng.random(4000)) ** (-1 / (exponent - 1)))
        assert fit is not None
        assert abs(exponent - fit.alpha) < 4 * fit.sigma


# What must not vary, and how the rest does


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_permutations_rotations_and_scales(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    # Rows of like length: an outlier's would leave fewer than ten eigenvalues to fit.
    w = rng.normal(size=(20, 14)) * rng.uniform(0.5, 2, size=(20, 1))
    rotated = w @ np.linalg.qr(rng.normal(size=(14, 14)))[0]
    permuted = w[rng.permutation(20)][:, rng.permutation(14)]
    plain, *same, larger = (
        numbers(run("spectral", model(w=m))) for m in (w, rotated, permuted, scale * w)
    )

    for other in same:
        assert plain == pytest.approx(other, rel=1e-6, abs=1e-9)
    shift = 2 * math.log10(scale)
    alpha = plain["power_law_alpha"]
    assert alpha == pytest.approx(larger["power_law_alpha"], rel=1e-6)
    assert plain["stable_rank"] == pytest.approx(larger["stable_rank"])
    assert plain["log_norm"] + shift == pytest.approx(larger["log_norm"])
    assert plain["alpha_weighted"] + alpha * shift == pytest.approx(larger["alpha_weighted"])
    assert plain["log_alpha_norm"] + alpha * shift == pytest.approx(larger["log_alpha_norm"])
    assert plain["stable_rank"] <= 14 + 1e-9


def test_the_model_is_the_mean_of_its_layers_and_counts_those_without_a_fit() -> None:
    rng = np.random.default_rng(0)
    of_all = model(
        a=rng.normal(size=(20, 12)), b=rng.normal(size=(30, 15)), c=rng.normal(size=(3, 3)), d=[1.0]
    )

    found = run("spectral", of_all)

    fits = [found[f"power_law_alpha/{n}"] for n in "ab"]
    assert "power_law_alpha/c" not in found
    assert 1 == found["power_law_missing"].value
    assert np.mean([f.value for f in fits]) == pytest.approx(found["power_law_alpha"].value)
    spread = math.hypot(*(f.stderr for f in fits)) / 2
    assert spread == pytest.approx(found["power_law_alpha"].stderr)
    ranks = [found[f"stable_rank/{n}"].value for n in "abc"]
    assert np.mean(ranks) == pytest.approx(found["stable_rank"].value)


def test_large_powers_do_not_overflow() -> None:
    steep = np.append(np.linspace(1, 1.001, 30), 1.0011)

    found = numbers(run("spectral", model(w=with_spectrum(1e8 * steep, 40))))

    assert found["power_law_alpha"] > 100
    assert math.isfinite(found["log_alpha_norm"])


# Edges


def test_a_layer_of_zeros_gives_nothing_and_counts_as_missing() -> None:
    assert {"power_law_missing": 1} == numbers(run("spectral", model(w=torch.zeros(12, 12))))


def test_a_model_without_matrices_gives_nothing() -> None:
    assert {} == run("spectral", model(bias=torch.ones(9), row=torch.ones(1, 50)))


def test_ten_equal_eigenvalues_have_no_tail() -> None:
    assert fit_tail(np.ones(10)) is None
    assert fit_tail(np.arange(1.0, 10)) is None
    assert fit_tail(np.arange(1.0, 11)) is not None


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="`w`"):
        run("spectral", model(w=torch.full((12, 12), math.inf)))
