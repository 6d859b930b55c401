"""A vector is written as the sum that textbook matching pursuit finds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pursuit_oracle import pursue, transplanted, wide

from zoo.checkpoint import MemoryCheckpoint
from zoo.tokenizers import pursuit
from zoo.tokenizers.pursuit import Matrix, Sums, pursued, summed


def matrix(rows: torch.Tensor) -> Matrix:
    return Matrix(MemoryCheckpoint({"rows": rows}), "rows")


def drawn(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) * (1 + 3 * torch.arange(rows) % 5)[:, None]


def found(rows: torch.Tensor, atoms: int, k: int, **options: int) -> Sums:
    """The rows after the first `atoms` of them, as sums of these."""
    wanted = np.arange(atoms, len(rows), dtype=np.int64)
    return pursued(matrix(rows), wanted, np.arange(atoms, dtype=np.int64), k, **options)


@settings(max_examples=40)
@given(
    atoms=st.integers(1, 60),
    wanted=st.integers(1, 6),
    width=st.integers(1, 12),
    k=st.integers(1, 16),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    seed=st.integers(0, 99),
)
def test_sums_are_those_of_the_textbook(
    atoms: int, wanted: int, width: int, k: int, dtype: torch.dtype, seed: int
) -> None:
    rows = drawn(atoms + wanted, width, seed).to(dtype)

    sums = found(rows, atoms, k)

    own = drawn(atoms, 5, seed + 1)
    result = sums.over(matrix(own), np.arange(atoms, dtype=np.int64), 0, wanted)
    assert (wanted, min(k, atoms)) == tuple(sums.atoms.shape)
    for i in range(wanted):
        vector = wide(rows[atoms + i])
        taken = [a for a in sums.atoms[i].tolist() if a >= 0]
        weights = sums.coefficients[i, : len(taken)].numpy()
        left = vector - weights @ wide(rows[:atoms])[taken]
        others, theirs = pursue(wide(rows[:atoms]), vector, k)
        best = vector - theirs @ wide(rows[:atoms])[others]
        scale = np.linalg.norm(vector)
        assert np.linalg.norm(left) <= np.linalg.norm(best) + 1e-6 * scale
        if taken == others:
            np.testing.assert_allclose(
                result[i].numpy(), transplanted(wide(rows[:atoms]), vector, wide(own), k), rtol=1e-6
            )
        elif np.linalg.norm(best) > 1e-5 * scale:
            assert len(taken) == len(others)  # two atoms were as near as each other


def test_the_very_same_atoms_are_taken_in_the_same_order() -> None:
    rows = drawn(700, 40).to(torch.bfloat16)

    sums = found(rows, 600, 12)

    for i in range(100):
        taken, weights = pursue(wide(rows[:600]), wide(rows[600 + i]), 12)
        assert taken == sums.atoms[i].tolist()
        np.testing.assert_allclose(sums.coefficients[i].numpy(), weights, rtol=1e-9)


def test_a_row_that_an_atom_equals_is_that_atom_alone_whatever_is_longer() -> None:
    rows = drawn(50, 8)
    rows[3] = 100 * rows[7] + rows[8]  # nearly the same direction, and much longer
    rows = torch.cat([rows, rows[7:8]])

    sums = found(rows, 50, 5)

    assert [7, -1, -1, -1, -1] == sums.atoms[0].tolist()
    assert [1, 0, 0, 0, 0] == sums.coefficients[0].tolist()


def test_of_equal_atoms_the_first_is_taken() -> None:
    rows = drawn(40, 8)
    rows[[5, 20, 33]] = rows[12].clone()
    rows = torch.cat([rows, rows[12:13]])

    assert 5 == found(rows, 40, 1).atoms[0, 0]


def test_one_atom_is_the_nearest_direction_at_its_projection() -> None:
    rows = drawn(30, 6)

    sums = found(rows, 29, 1)

    x, a = wide(rows[29]), wide(rows[:29])
    nearest = int((np.abs(a @ x) / np.linalg.norm(a, axis=1)).argmax())
    assert nearest == sums.atoms[0, 0]
    assert pytest.approx(a[nearest] @ x / (a[nearest] @ a[nearest])) == sums.coefficients[0, 0]


def test_what_is_left_is_orthogonal_to_every_atom_taken() -> None:
    rows = drawn(120, 30)

    sums = found(rows, 100, 20)

    atoms = wide(rows[:100])
    for i in range(20):
        taken = sums.atoms[i].numpy()
        left = wide(rows[100 + i]) - sums.coefficients[i].numpy() @ atoms[taken]
        assert np.abs(atoms[taken] @ left).max() < 1e-9


def test_zeros_take_no_atom_and_zero_atoms_are_not_taken() -> None:
    rows = drawn(20, 6)
    rows[:5] = 0
    rows = torch.cat([rows, torch.zeros(1, 6), drawn(1, 6, 3)])

    sums = found(rows, 20, 20)

    assert [-1] * 20 == sums.atoms[0].tolist()
    assert set(range(5)).isdisjoint(sums.atoms[1].tolist())


def test_vectors_that_no_number_describes_are_left_out() -> None:
    rows = drawn(20, 6)
    rows[2] = torch.inf
    rows[19] = torch.nan

    sums = found(rows, 18, 4)

    assert [-1] * 4 == sums.atoms[1].tolist()
    assert 2 not in sums.atoms[0].tolist()
    assert sums.coefficients.isfinite().all()


def test_threads_chunks_and_company_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(900, 24).to(torch.bfloat16)

    def digest(sums: Sums) -> str:
        parts = (sums.atoms.numpy().tobytes(), sums.coefficients.numpy().tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    whole = found(rows, 600, 10, threads=1)
    assert digest(whole) == digest(found(rows, 600, 10, threads=5))
    monkeypatch.setattr(pursuit, "_CHUNK", 1 << 12)
    monkeypatch.setattr(pursuit, "_HELD", 1 << 12)
    assert digest(whole) == digest(found(rows, 600, 10))
    few = pursued(matrix(rows), np.array([700, 650]), np.arange(600), 10)
    assert torch.equal(whole.coefficients[[100, 50]], few.coefficients)


@given(st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=40))
def test_sums_by_halves_are_sums(values: list[float]) -> None:
    both = torch.tensor([values, values], dtype=torch.float64)

    assert pytest.approx(sum(values), abs=1e-9) == summed(both, 1)[0].item()
    torch.testing.assert_close(summed(both, 0), 2 * torch.tensor(values, dtype=torch.float64))
