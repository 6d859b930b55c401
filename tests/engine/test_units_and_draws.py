"""What a chunk holds whole, as the parameters ask; and randomness for statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
import torch

import zoo
from zoo import Chunk, Statistic, method
from zoo.contract import Unit


def unit(p: Any) -> Unit:
    return "tensor" if p.size == 0 else int(p.size)


@pytest.mark.parametrize("size, expected", [(3, 6), (7, 7), (20, 20), (8, 8), (0, 25)])
def test_chunks_hold_whole_units_of_the_length_that_a_parameter_says(
    size: int, expected: int
) -> None:
    seen: list[Chunk] = []

    @method("listener", version="1.0.0", unit=unit)
    def listener(
        experts: torch.Tensor, *, size: Annotated[int, "elements of a unit, 0: all"], chunk: Chunk
    ) -> torch.Tensor:
        """The first expert."""
        seen.append(chunk)
        return experts[0]

    values = torch.rand(5, 5)
    merged = zoo.merge(listener, [values], parameters={"size": size}, chunk=8)

    assert torch.equal(values, merged)
    assert [expected] * (len(seen) - 1) == [c.stop - c.start for c in seen[:-1]]
    assert 25 == seen[-1].stop


class Kept(Statistic):
    """How many entries a tensor keeps."""

    name = "kept"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[int]:
        return [0]

    def add(
        self,
        state: list[int],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        state[0] += int(self.draw(chunk).keeps(0, 0.5).sum())

    def finish(self, states: Mapping[str, list[int]]) -> int:
        return sum(state[0] for state in states.values())


def kept_share() -> zoo.Method:
    @method(
        "kept_share", version="1.0.0", needs="statistics", statistics=lambda p, experts: [Kept()]
    )
    def kept_share(experts: torch.Tensor, *, stats: Mapping[str, Any], random: Any) -> torch.Tensor:
        """Ones where entries are kept, over how many there are."""
        return random.keeps(0, 0.5).float() / stats["kept"]

    return kept_share


def test_a_statistic_draws_what_the_function_draws() -> None:
    found = zoo.merge(kept_share(), [torch.zeros(40, 50)], seed=3, chunk=64)

    torch.testing.assert_close(torch.tensor(1.0), found.sum())
