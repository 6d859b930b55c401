"""Arrays of NumPy, one per file; pickles are refused."""

from __future__ import annotations

from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING

from zoo.errors import InvalidTask
from zoo.readers.arrays import ArrayOptions, Where, examples

if TYPE_CHECKING:
    import numpy as np

    from zoo.tasks.examples import Examples


_HEADER = (EOFError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError, ValueError)
"""What NumPy raises on headers that are none: it takes them for Python, and only reads literals."""


Options = ArrayOptions


def read(path: Path, where: Where, options: ArrayOptions, labels: tuple[str, ...]) -> Examples:
    def array_of(name: str) -> np.ndarray:
        file = path / name
        with file.open("rb") as stream:
            return array(stream, file.stat().st_size, str(file))

    return examples(
        array_of(where.inputs), array_of(where.targets), options, labels, path / where.inputs
    )


def array(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """The array that a stream of `size` bytes holds.

    Args:
        where: what messages name.
    Raises:
        InvalidTask: it is no array of plain numbers or strings, or is longer or shorter than its
            header says.
    """
    import numpy as np
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = header(stream)
    except _HEADER as e:
        said = str(e)[:200].rstrip(".")
        raise InvalidTask(f"`{where}` is no array of NumPy: {said}.", path=where) from e
    if dtype.hasobject or dtype.kind not in "buifU" or dtype.itemsize == 0:
        raise InvalidTask(
            f"`{where}` holds {dtype}, not plain numbers or strings.",
            "Python objects are pickled, and a pickle can run code.",
            "Save it as an array of numbers.",
            path=where,
        )
    expected = prod(shape) * dtype.itemsize
    data = stream.read(expected + 1) if expected <= size else b""
    if min(shape, default=0) < 0 or len(data) != expected:
        raise InvalidTask(
            f"`{where}` does not hold what its header says: shape {shape}, {expected} bytes.",
            "It was cut short, or is not what it seems.",
            path=where,
        )
    values = np.frombuffer(data, dtype)
    return values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)
