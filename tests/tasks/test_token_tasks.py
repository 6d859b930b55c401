"""Tasks of tokens: loss and scores over logits (n, t, v), against sums written out."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log

import pytest
import torch

from zoo import Sample
from zoo.errors import IncompatibleModels, InvalidTask


@pytest.fixture
def poem(registry, tmp_path):
    """Ten windows of four characters, of three."""
    (tmp_path / "poem.txt").write_text("abcaabca" * 5 + "a")
    return registry.add_task(
        {
            "name": "poem",
            "format": "text",
            "path": str(tmp_path / "poem.txt"),
            "splits": {"train": [0.0, 0.5], "test": [0.0, 1.0]},
            "options": {"length": 4},
        }
    )


class Bigram(torch.nn.Module):
    """After a comes b with logit 2, after b comes c, after c comes a; else 0."""

    def forward(self, tokens):
        return 2.0 * torch.nn.functional.one_hot((tokens + 1) % 3, 3).float()


def test_scores_are_those_written_out(poem):
    text = "abcaabca" * 5 + "a"
    norm = log(exp(2) + 2)
    pairs = list(pairwise(text))
    hits = [("abc".index(a) + 1) % 3 == "abc".index(b) for a, b in pairs]
    loss = sum(norm - 2 * hit for hit in hits) / len(hits)
    windows = torch.tensor(hits, dtype=torch.float64).view(10, 4).mean(1)

    found = {v.name: v for v in poem.evaluate(Bigram(), Sample(poem, batch=3))}

    assert {"accuracy", "loss", "perplexity"} == set(found)
    assert sum(hits) / len(hits) == pytest.approx(found["accuracy"].value)
    assert loss == pytest.approx(found["loss"].value)
    assert exp(loss) == pytest.approx(found["perplexity"].value)
    assert float(windows.std()) / 10**0.5 == pytest.approx(found["accuracy"].stderr)
    assert exp(loss) * found["loss"].stderr == pytest.approx(found["perplexity"].stderr)


def test_the_loss_is_the_mean_over_tokens_and_can_be_descended(poem):
    x, y = poem.tensors("test")
    logits = torch.zeros(*x.shape, 3, requires_grad=True)

    loss = poem.loss(logits, y)
    loss.backward()

    assert log(3) == pytest.approx(loss.item())
    assert logits.grad.abs().sum() > 0


def test_a_loss_too_large_for_its_perplexity_is_told_alone(poem):
    class Sure(torch.nn.Module):
        def forward(self, tokens):
            return 1e4 * torch.nn.functional.one_hot(tokens, 3).float()

    found = {v.name: v.value for v in poem.evaluate(Sure(), Sample(poem))}

    assert {"accuracy", "loss"} == set(found)
    assert found["loss"] > 710  # whose exp no number holds


def test_answers_that_are_no_numbers_are_wrong(poem):
    class Broken(torch.nn.Module):
        def forward(self, tokens):
            return torch.full((*tokens.shape, 3), torch.nan)

    found = {v.name: v.value for v in poem.evaluate(Broken(), Sample(poem))}

    assert {"accuracy": 0.0} == found


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_model_of_another_vocabulary_is_refused(poem, outputs):
    class Other(torch.nn.Module):
        def forward(self, tokens):
            return torch.zeros(*tokens.shape, outputs)

    with pytest.raises(IncompatibleModels, match="has 3 tokens"):
        poem.evaluate(Other(), Sample(poem))


def test_splits_share_one_vocabulary(poem):
    assert ("a", "b", "c") == poem.labels
    assert (4, 10) == (poem.size("train"), poem.size("test"))


def test_steps_for_images_refuse_tokens(registry, poem):
    with pytest.raises(InvalidTask, match="not for tokens"):
        registry.add_task({"name": "p", "from": "poem", "derive": [{"permute": 1}]})
    assert 3 == registry.add_task({"name": "p", "from": "poem", "derive": [{"first": 3}]}).size(
        "test"
    )


@pytest.mark.parametrize("written", [{"labels": ["a", "b"]}, {"groups": {"one": ["a"]}}])
def test_steps_for_classes_refuse_tokens(registry, poem, written):
    with pytest.raises(InvalidTask, match="for one label of each example"):
        registry.add_task({"name": "p", "from": "poem", "derive": [written]})


def test_folds_refuse_tokens(registry, poem, tmp_path):
    with pytest.raises(InvalidTask, match="for one label of each example"):
        registry.add_task(
            {
                "name": "p",
                "format": "text",
                "path": str(tmp_path / "poem.txt"),
                "splits": {"test": {"share": [0, 1], "fold": {"of": 2, "take": [1]}}},
                "options": {"length": 4},
            }
        )
