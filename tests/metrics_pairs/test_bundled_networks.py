"""Every metric of pairs and sets on every kind of network that comes with zoo."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from pair_subjects import METRICS, numbers, subject
from torch import nn

from zoo.grow.training import fresh
from zoo.plugins import load_plugins
from zoo.sample import Sample
from zoo.subject import Subject
from zoo.task import Batch, Task

ARCHITECTURES = load_plugins().architectures
CONFIGS: dict[str, dict[str, Any]] = {
    "zoo_mlp": {"inputs": 64, "width": 6, "depth": 2, "classes": 10, "activation": "gelu"},
    "zoo_resnet": {"channels": 1, "width": 2, "blocks": [1, 1], "classes": 10, "norm": "batch"},
    "zoo_vgg": {
        "channels": 1,
        "width": 2,
        "convolutions": [1, 1],
        "classes": 10,
        "norm": "layer",
    },
    "zoo_vit": {
        "channels": 1,
        "size": 8,
        "patch": 4,
        "width": 8,
        "depth": 1,
        "heads": 2,
        "inner": 4,
        "classes": 10,
    },
    "zoo_gpt": {
        "vocab_size": 5,
        "context": 6,
        "width": 8,
        "depth": 1,
        "heads": 2,
        "inner": 4,
        "tie_word_embeddings": True,
    },
}
SMALL = {"mode_connectivity": {"epochs": 2, "points": 3}, "barrier": {"points": 3}}


class Next(Task):
    """Tell the token that follows each; the answer to the first is not asked for."""

    name = "next"
    splits = ("train", "test")

    def size(self, split: str) -> int:
        return 12

    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        generator = torch.Generator().manual_seed(len(split))
        tokens = torch.randint(5, (12, 7), generator=generator)
        targets = tokens[:, 1:].clone()
        targets[:, 0] = -100
        return zip(tokens[:, :-1].split(size), targets.split(size), strict=True)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().loss(outputs.flatten(0, 1), targets.flatten())


def built(architecture: str, seed: int, base: Subject | None = None) -> Subject:
    known, config = ARCHITECTURES[architecture], CONFIGS[architecture]
    module: nn.Module = fresh(lambda: known.build(config), seed)
    return subject(module.eval(), f"model {seed}", base)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(
    "metric",
    [
        "barrier",
        "set_barrier",
        "mode_connectivity",
        "cka",
        "disagreement",
        "task_vectors",
        "subspace_overlap",
    ],
)
def test_it_tells_unlike_models_from_like_ones(architecture: str, metric: str) -> None:
    task = Next() if architecture == "zoo_gpt" else load_plugins().tasks["digits"]
    sample = Sample(task, count=12, batch=5) if METRICS[metric].needs == "data" else None
    base = built(architecture, 0)
    models = [built(architecture, seed, base) for seed in (1, 2)]
    options = SMALL.get(metric, {})

    unlike = numbers(metric, models, sample, **options)
    alike = numbers(metric, [models[0], built(architecture, 1, base)], sample, **options)

    # A task of tokens has no labels, and still has answers.
    assert any("error" in name for name in unlike) == (
        metric in ("barrier", "set_barrier", "mode_connectivity")
    )
    assert all(math.isfinite(v) for v in unlike.values())
    assert unlike != alike
    expected = {
        "barrier": ("barrier", 0),
        "set_barrier": ("simplex_barrier", 0),
        "cka": ("cka", 1),
        "disagreement": ("jensen_shannon", 0),
        "task_vectors": ("task_vector_cosine", 1),
        "subspace_overlap": ("subspace_overlap", 1),
    }
    if metric in expected:
        name, value = expected[metric]
        assert alike[name] == pytest.approx(value, abs=1e-7)
        assert unlike[name] != pytest.approx(value, abs=1e-7) or metric == "barrier"
