"""The tasks of `eight_tasks.py`: eight from four data sets, and what the base is trained on.

MNIST and Fashion-MNIST are declared by their files, the UCI digits by the file that zoo ships, and
CIFAR-10 after its JPEG images were decoded into the working directory; the others are derived. All
have grey images of 28 x 28. Each data set is cut into parts that share no image, except CIFAR-10,
of which there is too little: the base is trained on what its expert is trained on.

    pretrain      trains the base
    train         trains experts
    validation    chooses the scale of methods
    test          the table
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zoo
    from zoo.tasks.data import DataTask
    from zoo.tasks.examples import Examples

TASKS = (
    "mnist",
    "mnist-turned",
    "mnist-permuted",
    "fashion",
    "fashion-inverted",
    "fashion-tops",
    "digits-28",
    "cifar-grey",
)
SOURCES = ("mnist", "fashion", "cifar-grey")
"""What the base is trained on."""

GARMENTS = [
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot",
]  # fmt: skip
THINGS = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip


def _parts(files: dict[str, dict[str, str]], of: int, take: dict[str, range]) -> dict[str, Any]:
    """Splits of a declaration: folds of the training file, and every second test example."""
    found: dict[str, Any] = {
        name: {**files["train"], "fold": {"of": of, "take": list(numbers)}}
        for name, numbers in take.items()
    }
    return {**found, "test": {**files["test"], "fold": {"of": 2, "take": [1]}}}


def declarations(data: Path, work: Path) -> list[dict[str, Any]]:
    """What `zoo tasks add` takes, in order."""
    digits = Path(__import__("zoo_plugins").__file__).parent / "digits_uci" / "digits.csv.gz"
    thirds = {"pretrain": range(21, 61), "train": range(1, 11), "validation": range(11, 13)}
    cifar = {"pretrain": range(1, 10), "train": range(1, 10), "validation": range(10, 11)}
    idx = {
        split: {"inputs": f"{file}-images-idx3-ubyte.gz", "targets": f"{file}-labels-idx1-ubyte.gz"}
        for split, file in (("train", "train"), ("test", "t10k"))
    }
    npz = {split: {"inputs": f"x_{split}", "targets": f"y_{split}"} for split in ("train", "test")}
    rows = {"train": range(1, 4), "validation": range(4, 5), "test": range(5, 6)}
    return [
        {
            "name": "mnist", "format": "idx", "path": str(data / "mnist"),
            "splits": _parts(idx, 60, thirds), "license": "CC-BY-SA-3.0",
        },
        {
            "name": "fashion", "format": "npz",
            "path": str(data / "fashion-mnist-40k" / "fashion_mnist_40k.npz"),
            "splits": _parts(npz, 30, {
                "pretrain": range(13, 31), "train": range(1, 11), "validation": range(11, 12),
            }),
            "labels": GARMENTS, "license": "MIT",
        },
        {
            "name": "cifar", "format": "npz", "path": str(work / "cifar.npz"),
            "splits": {**_parts(npz, 10, cifar), "test": npz["test"]}, "labels": THINGS,
        },
        {
            "name": "uci", "format": "csv", "path": str(digits),
            "splits": {k: {"fold": {"of": 5, "take": list(v)}} for k, v in rows.items()},
            "options": {"shape": [8, 8], "divide": 16}, "license": "CC-BY-4.0",
        },
        {"name": "mnist-turned", "from": "mnist", "derive": [{"rotate": 90}]},
        {"name": "mnist-permuted", "from": "mnist", "derive": [{"permute": 1}]},
        {"name": "fashion-inverted", "from": "fashion", "derive": ["invert"]},
        {
            "name": "fashion-tops", "from": "fashion",
            "derive": [
                {"labels": ["T-shirt", "Pullover", "Dress", "Coat", "Shirt"]}, {"rotate": 180},
            ],
        },
        {"name": "digits-28", "from": "uci", "derive": [{"resize": 28}]},
        {"name": "cifar-grey", "from": "cifar", "derive": [{"channels": 1}, {"resize": 28}]},
    ]  # fmt: skip


def declare(registry: zoo.Registry, data: Path, work: Path) -> None:
    """Make the tasks known to a registry, once."""
    from zoo.tasks.known import add_task

    known = {record.name for record in registry.catalog.tasks()}
    _decode(data / "cifar10-10k", work / "cifar.npz")
    for one in declarations(data, work):
        if one["name"] not in known:
            print(f"  task {one['name']}", flush=True)
            add_task(registry, one)


def mixture(registry: zoo.Registry) -> DataTask:
    """The classes of all sources side by side."""
    import torch

    from zoo.tasks.data import DataTask
    from zoo.tasks.examples import Examples
    from zoo.tasks.known import task_named

    tasks = [task_named(registry, name) for name in SOURCES]
    labels = tuple(f"{t.name} {label}" for t in tasks for label in t.labels)

    def read(split: str) -> Examples:
        inputs, targets, before = [], [], 0
        for task in tasks:
            for x, y in task.batches(split, 1 << 20):
                inputs.append(x)
                targets.append(y + before)
            before += len(task.labels)
        return Examples(torch.cat(inputs), torch.cat(targets))

    return DataTask("mixture", read, splits=("pretrain", "test"), labels=labels)


def _decode(source: Path, target: Path) -> None:
    """JPEG files in arrays, to arrays of pixels."""
    import numpy as np
    from PIL import Image

    if target.exists():
        return
    arrays = {}
    for split in ("train", "test"):
        found = np.load(source / f"{split}.npz")
        raw, ends = found["jpeg"].tobytes(), found["offsets"]
        pairs = pairwise(ends)
        arrays[f"x_{split}"] = np.stack(
            [np.asarray(Image.open(io.BytesIO(raw[a:b])).convert("RGB")) for a, b in pairs]
        )
        arrays[f"y_{split}"] = found["labels"]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name("partial.npz")
    np.savez(partial, **arrays)
    partial.replace(target)
