"""IDX, the format of MNIST and its kin; plain or gzip-compressed.

    bytes 0, 1      zero
    byte 2          element type: 8 uint8, 9 int8, 11 int16, 12 int32, 13 float32, 14 float64
    byte 3          number of axes
    4 bytes each    length of each axis, big-endian
    the rest        elements, big-endian, last axis fastest

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database", section "File formats".
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zoo.errors import InvalidTask
from zoo.readers.arrays import ArrayOptions, Where, examples
from zoo.readers.compressed import opened

if TYPE_CHECKING:
    import numpy as np

    from zoo.tasks.examples import Examples

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_AXES = 8
"""More than any data has."""


Options = ArrayOptions


def read(path: Path, where: Where, options: ArrayOptions, labels: tuple[str, ...]) -> Examples:
    inputs = array_of(path / where.inputs)
    return examples(inputs, array_of(path / where.targets), options, labels, path / where.inputs)


def array_of(file: Path) -> np.ndarray:
    """The array that a file holds.

    Raises:
        OSError: it cannot be read.
        InvalidTask: it is no IDX file, or holds less or more than its header says.
    """
    with opened(file) as (stream, most):
        return _read(stream, most, file)


def _read(stream: BinaryIO, most: int, file: Path) -> np.ndarray:
    import numpy as np

    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= _AXES:
        raise InvalidTask(
            f"`{file}` is no IDX file: it begins with {head.hex(' ') or 'nothing'}.",
            "IDX begins with two zeros, a type (8, 9, 11 to 14) and a number of axes.",
            path=str(file),
        )
    dtype = np.dtype(_TYPES[head[2]])
    lengths = stream.read(4 * head[3])
    shape = tuple(np.frombuffer(lengths[: len(lengths) // 4 * 4], ">u4").tolist())
    expected = prod(shape) * dtype.itemsize
    # Before room is made: a header can claim what no file of this size holds.
    data = stream.read(expected + 1) if len(shape) == head[3] and expected <= most else b""
    if len(shape) != head[3] or len(data) != expected:
        raise InvalidTask(
            f"`{file}` does not hold what its header says: shape {shape}, {expected} bytes.",
            "It was cut short, or is not what it seems.",
            "Get it again.",
            path=str(file),
        )
    return np.frombuffer(data, dtype).reshape(shape)
