"""The published data sets themselves, against what their publishers and other readers say."""

from __future__ import annotations

import hashlib
from math import log

import numpy as np
import torch


def test_mnist(registry, real_data):
    task = registry.add_task(
        {
            "name": "mnist",
            "format": "idx",
            "path": str(real_data / "mnist"),
            "splits": {
                "test": {
                    "inputs": "t10k-images-idx3-ubyte.gz",
                    "targets": "t10k-labels-idx1-ubyte.gz",
                }
            },
        }
    )

    x, y = task.tensors("test")
    pixels = (x * 255).round().to(torch.uint8).numpy().tobytes()
    header = bytes.fromhex("00000803 00002710 0000001c 0000001c")
    # MD5 of the uncompressed file, as its publishers give it.
    assert "2646ac647ad5339dbf082846283269ea" == hashlib.md5(header + pixels).hexdigest()
    assert [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] == y.bincount().tolist()


def test_fashion_mnist_and_tasks_derived_from_it(registry, real_data):
    file = real_data / "fashion-mnist-40k" / "fashion_mnist_40k.npz"
    with np.load(file) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    whole = registry.add_task(
        {
            "name": "fashion",
            "format": "npz",
            "path": str(file),
            "splits": {"test": {"inputs": "x_test", "targets": "y_test"}},
        }
    )
    derived = {
        "shoes": [{"labels": [5, 7, 9]}],
        "turned": [{"rotate": 90}],
        "shuffled": [{"permute": 0}],
        "negative": ["invert"],
    }
    tasks = {
        name: registry.add_task({"name": name, "from": "fashion", "derive": steps})
        for name, steps in derived.items()
    }

    assert np.array_equal(x, (whole.tensors("test")[0] * 255).round().numpy()[:, 0])
    assert np.array_equal(y, whole.tensors("test")[1].numpy())
    assert 3000 == tasks["shoes"].size("test")
    turned = (tasks["turned"].tensors("test")[0] * 255).round().numpy()[:, 0]
    assert np.array_equal(np.rot90(x, axes=(1, 2)), turned)
    shuffled, plain = (t.tensors("test")[0].flatten(1) for t in (tasks["shuffled"], whole))
    assert torch.allclose(plain.mean(0).sort().values, shuffled.mean(0).sort().values)
    assert torch.allclose(1 - whole.tensors("test")[0], tasks["negative"].tensors("test")[0])


def test_digits_are_the_csv_by_declaration(registry, real_data):
    """The bundled task, declared: the same digests."""
    file = {"file": "digits.csv.gz"}
    task = registry.add_task(
        {
            "name": "uci",
            "format": "csv",
            "path": str(real_data / "digits-uci"),
            "splits": {
                "train": {**file, "fold": {"of": 5, "take": [1, 2, 3, 4]}},
                "test": {**file, "fold": {"of": 5, "take": [5]}},
            },
            "options": {"shape": [1, 8, 8], "divide": 16},
        }
    )

    digits = registry.task("digits")
    assert [digits.digest(s) for s in digits.splits] == [task.digest(s) for s in task.splits]


def test_tiny_shakespeare(registry, real_data):
    task = registry.add_task(
        {
            "name": "shakespeare",
            "format": "text",
            "path": str(real_data / "text" / "tinyshakespeare" / "input.txt"),
            "splits": {"train": [0.0, 0.9], "test": [0.9, 1.0]},
        }
    )

    x, y = task.tensors("train")
    assert 65 == len(task.labels)
    text = "".join(task.labels[i] for i in x[:2].flatten())
    assert text.startswith("First Citizen:\nBefore we proceed")
    assert torch.equal(x[0, 1:], y[0, :-1]) and y[0, -1] == x[1, 0]
    even = torch.zeros(*y[:4].shape, 65)
    assert abs(float(task.loss(even, y[:4])) - log(65)) < 1e-5
