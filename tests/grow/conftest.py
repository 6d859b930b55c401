"""A task of two clouds of points and a module of two layers: training takes milliseconds."""

from __future__ import annotations

import pytest
import torch

from zoo.task import Task


class Clouds(Task):
    """Points around three corners of a square; `train` has 60 of them, `test` 30."""

    name = "clouds"
    splits = ("train", "test")
    labels = ("a", "b", "c")

    def __init__(self, only_in_order: bool = False) -> None:
        generator = torch.Generator().manual_seed(3)
        corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        y = torch.arange(90) % 3
        x = corners[y] + 0.4 * torch.randn(90, 2, generator=generator)
        self.parts = {"train": (x[:60], y[:60]), "test": (x[60:], y[60:])}
        self.only_in_order = only_in_order

    def digest(self, split: str) -> str:
        return "sha256:" + "ab" * 32

    def size(self, split: str) -> int | None:
        return None if self.only_in_order else len(self.parts[split][0])

    def batches(self, split: str, size: int = 256):
        x, y = self.parts[split]
        return zip(x.split(size), y.split(size), strict=True)

    def examples(self, split: str, indices: torch.Tensor):
        if self.only_in_order:
            return None
        x, y = self.parts[split]
        return x[indices], y[indices]


@pytest.fixture
def clouds() -> Clouds:
    return Clouds()


@pytest.fixture
def network():
    """Makes a small network with BatchNorm and dropout."""

    def build() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(2, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(8, 3),
        )

    return build


@pytest.fixture
def ordered_clouds() -> Clouds:
    """The same points as a data set that can only be read from its beginning."""
    return Clouds(only_in_order=True)


@pytest.fixture(scope="session")
def made_clouds() -> Clouds:
    return Clouds()
