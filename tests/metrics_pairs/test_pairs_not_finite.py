"""Networks that give no numbers: nothing is made up for them."""

from __future__ import annotations

import math

import pytest
import torch
from pair_subjects import numbers, stored

from zoo.errors import InvalidCheckpoint
from zoo.measuring.cka import Cka, CkaSums
from zoo.paths.profile import barrier, even_positions, wrong


@pytest.mark.parametrize("place", range(4))
def test_a_curve_with_a_gap_has_no_barrier(place: int) -> None:
    values = [0.0, 1.0, 1.0, 0.0]
    values[place] = math.nan

    assert math.isnan(barrier(even_positions(4), values).height)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("examples", [3, None])
def test_cka_of_no_numbers_is_none(value: float, examples: int | None) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[1, 2] = value
    sums = CkaSums(examples)
    sums.add(x, broken)

    assert Cka(None, None) == sums.cka()


def test_an_answer_that_is_no_number_is_wrong() -> None:
    rows = torch.tensor(
        [[1.0, 0.0], [1.0, -math.inf], [math.nan, 0.0], [0.0, math.nan], [math.inf, 0.0]]
    )

    assert [False, False, True, True, True] == wrong(rows, torch.zeros(5).long()).tolist()


@pytest.mark.parametrize("name", ["task_vector", "task_vectors", "subspace_overlap"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_task_vectors_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    def weight(seed: int) -> torch.Tensor:
        return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))

    base = stored({"weight": weight(0)}, "base")
    broken = weight(2)
    broken[1, 2] = value
    pair = [stored({"weight": w}, name, base) for w, name in ((weight(1), "a"), (broken, "b"))]

    with pytest.raises(InvalidCheckpoint, match=r"`weight` .* not finite"):
        numbers(name, pair if name != "task_vector" else pair[1:])
