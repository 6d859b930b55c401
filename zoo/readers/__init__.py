"""Readers of data sets, one module per format.

Each has two dataclasses and a function:

    Where       what a declaration says of a split: files, keys, ...
    Options     what it says of all splits
    read(path, where, options, labels) -> Examples

csv, npy, npz, idx      numbers
images, text            folders of images, windows of tokens
datasets                what the library of that name saves
arrays, compressed      what several of them share

`path` is the file or directory that was declared. `labels` are the names of the classes in order;
where they are empty, the reader finds them, and its result has them. Inputs of images are float32,
shape (n, c, h, w), in [0, 1]. Nothing is unpickled, and a size that a file claims is compared with
the file's own before room is made for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from zoo.errors import InvalidTask, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.tasks.examples import Examples

FORMATS = ("csv", "datasets", "idx", "images", "npy", "npz", "text")


class Reader(Protocol):
    Where: type[Any]
    Options: type[Any]

    def read(self, path: Path, where: Any, options: Any, labels: tuple[str, ...]) -> Examples:
        """The examples of a split.

        Raises:
            OSError: a file is not there, or cannot be read.
            InvalidTask: a file is not what it claims to be.
        """


def reader(format: str) -> Reader:
    """The reader of a format.

    Raises:
        InvalidTask: there is none.
    """
    if format not in FORMATS:
        raise InvalidTask(
            f"There is no reader of `{format}`.", how=did_you_mean(format, FORMATS), format=format
        )
    module: Any = import_module(f"zoo.readers.{format}")
    found: Reader = module
    return found
