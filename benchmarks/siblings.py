"""Are fine-tuned siblings joined by a line of low loss, and independent networks not?

    python benchmarks/siblings.py

On MNIST and on Fashion-MNIST, a perceptron and a convolutional network: a base, three networks
fine-tuned from it with different orders of the examples, and three trained from starts of their
own for as many epochs in all. Writes the barriers of all pairs to `results/siblings.md`, and a
picture of one pair of each kind. Needs the data, `--data DIR`; about three minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import zoo
from zoo.grow.training import TrainingPlan, fresh, train
from zoo.networks.modules import save_module
from zoo.plots.barrier import barrier
from zoo.plots.computed import Examples, lines_between
from zoo.plots.style import save
from zoo.tasks.known import task_named

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SEEDS = (1, 2, 3)
BASE = TrainingPlan(lr=0.05, schedule="onecycle", epochs=6, batch=64)
FINE = TrainingPlan(lr=0.01, schedule="cosine", epochs=3, batch=64)
NETWORKS: dict[str, dict[str, Any]] = {
    "perceptron": {
        "model_type": "zoo_mlp", "inputs": 784, "width": 64, "depth": 2, "classes": 10,
        "activation": "relu",
    },
    "convolutional": {
        "model_type": "zoo_cnn", "channels": 1, "size": 28, "width": 8, "depth": 2, "hidden": 64,
        "classes": 10, "norm": "none",
    },
}  # fmt: skip


def declarations(data: Path) -> list[dict[str, Any]]:
    """6,000 examples to train on and 2,000 to test on, of each data set."""
    fold = {"of": 5, "take": [1]}
    tenth = {"of": 10, "take": [1]}
    common = {"labels": [str(i) for i in range(10)]}
    files = {
        "train": ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"],
        "test": ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
    }
    return [
        {
            "name": "mnist",
            "format": "idx",
            "path": str(data / "mnist"),
            "splits": {
                s: {"inputs": i, "targets": t, "fold": tenth if s == "train" else fold}
                for s, (i, t) in files.items()
            },
            "license": "CC-BY-SA-3.0",
            "normalize": {"mean": 0.1307, "std": 0.3081},
            **common,
        },
        {
            "name": "fashion",
            "format": "npz",
            "path": str(data / "fashion-mnist-40k" / "fashion_mnist_40k.npz"),
            "splits": {
                s: {"inputs": f"x_{s}", "targets": f"y_{s}", "fold": fold}
                for s in ("train", "test")
            },
            "license": "MIT",
            "normalize": {"mean": 0.286, "std": 0.353},
            **common,
        },
    ]


def population(
    registry: zoo.Registry, task: str, network: str, folder: Path
) -> dict[str, list[str]]:
    """Train and register siblings and independent networks; their references."""
    config = NETWORKS[network]
    architecture = registry.plugins.architectures[config["model_type"]]
    data = task_named(registry, task)

    def trained(start: Path | None, name: str, seed: int, plan: TrainingPlan) -> Path:
        module = (
            architecture.load(start) if start else fresh(lambda: architecture.build(config), seed)
        )
        train(module, data, plan, seed=seed)
        return save_module(module, config, folder / f"{task}-{network}-{name}-{len(made)}")

    made: list[Path] = []
    base = trained(None, "base", 0, BASE)
    kinds: dict[str, list[str]] = {"siblings": [], "independent": []}
    for seed in SEEDS:
        for kind in kinds:
            start = base if kind == "siblings" else trained(None, "start", seed, BASE)
            made.append(trained(start, kind, seed, FINE))
            name = f"{task}-{network}-{kind}-{seed}"
            kinds[kind].append(registry.register(made[-1], name=name, task=task).ref)
    registry.evaluate([ref for refs in kinds.values() for ref in refs])
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    lines = [
        "# Fine-tuned siblings and independent networks",
        "",
        "| data | network | pairs | accuracy | barrier, nats: mean | least | most "
        "| error barrier, points: mean | most | CKA |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        zoo.open(Path(folder) / "registry.db") as registry,
    ):
        for declaration in declarations(asked.data):
            registry.add_task(declaration)
            for network in NETWORKS:
                kinds = population(registry, declaration["name"], network, Path(folder))
                for kind, refs in kinds.items():
                    lines.append(row(registry, declaration["name"], network, kind, refs))
                    print(lines[-1], flush=True)
                if network == "perceptron":
                    name = declaration["name"]
                    drawn = [
                        lines_between(refs[:2], Examples(registry, split="train"))[0]
                        for refs in kinds.values()
                    ]
                    save(barrier(drawn, title=name), RESULTS / f"siblings_{name}.svg")
    lines += [
        "",
        f"`python benchmarks/siblings.py`: {time.perf_counter() - began:.0f} s, torch "
        f"{torch.__version__}. Three networks of each kind, all three pairs; 6,000 examples of "
        f"training, {BASE.epochs} epochs and {FINE.epochs} more. Barriers are of the training "
        "examples, on 11 points; accuracy and CKA of the outputs are of 2,000 test examples.",
        "",
        "![On MNIST](siblings_mnist.svg)",
        "![On Fashion-MNIST](siblings_fashion.svg)",
    ]
    (RESULTS / "siblings.md").write_text("\n".join(lines) + "\n")


def row(registry: zoo.Registry, task: str, network: str, kind: str, refs: list[str]) -> str:
    """A line of the table: what all pairs of one kind gave."""
    registry.measure(refs, metrics=["barrier"], split="train")
    registry.measure(refs, metrics=["cka"])
    ids = [registry.get(ref).id for ref in refs]
    found: dict[str, list[float]] = {}
    for pair in combinations(ids, 2):
        for value in registry.catalog.group_metrics(pair):
            if value["split"].startswith(task):
                found.setdefault(value["name"], []).append(value["value"])
    accuracy = fmean(registry.get(ref).metrics["accuracy"] for ref in refs)
    height, error = found["barrier"], [100 * e for e in found["error_barrier"]]
    return (
        f"| {task} | {network} | {kind} | {accuracy:.3f} | {fmean(height):.4f} | {min(height):.4f} "
        f"| {max(height):.4f} | {fmean(error):.2f} | {max(error):.2f} | {fmean(found['cka']):.3f} |"
    )


if __name__ == "__main__":
    main()
