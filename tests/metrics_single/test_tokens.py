"""Metrics of one model on tasks of tokens, whose outputs have three axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_subjects import OfHead, numbers, run, sample, subject
from torch import nn

from zoo.errors import IncompatibleModels
from zoo.landscape.examples import Examples as Batches
from zoo.landscape.objective import Objective
from zoo.subject import Subject
from zoo.tasks.data import DataTask
from zoo.tasks.examples import Examples


class Bigram(nn.Module):
    """The next token from the one before it, by way of two features."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(3, 2, dtype=torch.float64)
        self.head = nn.Linear(2, 3, dtype=torch.float64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.embedding(tokens))
        return out


@pytest.fixture
def text() -> DataTask:
    tokens = torch.randint(0, 3, (7, 6), generator=torch.Generator().manual_seed(0))
    return DataTask("text", lambda _: Examples(tokens[:, :-1], tokens[:, 1:]), labels="abc")


def model(seed: int = 0, base: Subject | None = None) -> Subject:
    return subject(Bigram(seed), architecture=OfHead("head"), base=base)


def test_loss_and_error_are_means_over_tokens(text: DataTask) -> None:
    examples = sample(text, batch=3)  # 3, 3 and 1
    module = Bigram(0)
    loss = Objective(module, Batches(examples, torch.float64), examples, torch.float64)
    x, y = text.tensors("test")
    logits = module(x).detach()

    at, slope = loss.at(), loss.slope()

    mean = float(text.loss(logits, y))
    assert mean == pytest.approx(at.loss)
    assert mean == pytest.approx(slope.loss)
    wrong = float((logits.argmax(2) != y).double().mean())
    assert 0 < wrong < 1
    assert wrong == pytest.approx(at.error)
    assert wrong == pytest.approx(slope.error)


def test_the_hessian_is_that_of_torch(text: DataTask) -> None:
    module = Bigram(0)
    names = [n for n, _ in module.named_parameters()]
    x, y = text.tensors("test")

    def loss(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(names, values, strict=True))
        return text.loss(torch.func.functional_call(module, named, (x,)), y)

    whole = torch.autograd.functional.hessian(loss, tuple(module.parameters()))
    diagonal = [
        np.trace(row[i].reshape(p.numel(), p.numel()).numpy())
        for i, (row, p) in enumerate(zip(whole, module.parameters(), strict=True))
    ]

    found = numbers(run("hessian", model(), sample(text), probes=100, dtype="float64"))

    assert sum(diagonal) == pytest.approx(found["hessian_trace"])


@pytest.mark.parametrize("name", ["sam_sharpness", "average_sharpness", "worst_sharpness"])
def test_sharpness_tells_loss_and_error(text: DataTask, name: str) -> None:
    found = numbers(run(name, model(), sample(text), rho=0.1))

    assert {name, f"{name}_error"} == set(found)


def test_layers_of_a_language_model_have_barriers_of_accuracy(text: DataTask) -> None:
    found = run("layer_sharpness", model(1, base=model(0)), sample(text), points=3)

    assert {"layer_barrier/embedding", "layer_barrier/head", "stragglers"} <= set(found)


def test_neural_collapse_says_that_tokens_have_no_one_feature_vector(text: DataTask) -> None:
    with pytest.raises(IncompatibleModels, match="one feature vector"):
        run("neural_collapse", model(), sample(text))
