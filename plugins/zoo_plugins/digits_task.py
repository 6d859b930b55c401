"""The task `digits`: 1,797 handwritten digits of 8 x 8 pixels, part of zoo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo import Task, hookimpl
from zoo.tasks.data import DataTask
from zoo.tasks.examples import Examples

FILE = Path(__file__).parent / "digits_uci" / "digits.csv.gz"
EVERY = 5
"""Of each digit, the examples 5, 10, 15, ... in order of the file are the test split."""


def read(split: str) -> Examples:
    """Images of shape (n, 1, 8, 8), pixels / 16; 1,442 to train on, 355 to test on.

    The split is ours. The file does not tell its 13 writers apart: all of them are in both parts.

    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine
        Learning Repository, doi:10.24432/C50P49, its test part. CC BY 4.0.
    """
    import numpy as np
    import torch

    table = torch.from_numpy(np.loadtxt(FILE, delimiter=",", dtype=np.int64))
    pixels, digits = table[:, :64], table[:, 64].contiguous()
    is_digit = torch.nn.functional.one_hot(digits, 10)
    place = (is_digit.cumsum(0) * is_digit).sum(1)  # 1 for the first example of its digit
    chosen = (place % EVERY == 0) == (split == "test")
    return Examples(pixels[chosen].float().div(16).view(-1, 1, 8, 8), digits[chosen])


digits = DataTask(
    "digits",
    read,
    labels=tuple("0123456789"),
    license="CC-BY-4.0",
    digests={
        "train": "sha256:565d8e1e024b9ef69251cbdb9adf41498e99a9f115be0718c4901560f427b4e1",
        "test": "sha256:80c88bf407d50a93e455a0e5a58006ed0dd97c95c561c04fa6d5422fd6289ed2",
    },
    mend="The file is part of zoo: install it again.",
)


@hookimpl
def zoo_register_tasks(register: Callable[[Task], None]) -> None:
    register(digits)
