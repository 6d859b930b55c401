"""Archives of NumPy arrays; pickles are refused."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import InvalidTask, did_you_mean
from zoo.readers.arrays import ArrayOptions, examples
from zoo.readers.npy import array

if TYPE_CHECKING:
    import numpy as np

    from zoo.tasks.examples import Examples


@dataclass(frozen=True)
class Where:
    """Two arrays of an archive."""

    inputs: str
    targets: str
    file: str = ""
    """Where the path is a directory: the archive in it."""


Options = ArrayOptions


def read(path: Path, where: Where, options: ArrayOptions, labels: tuple[str, ...]) -> Examples:
    file = path / where.file if where.file else path
    try:
        with zipfile.ZipFile(file) as archive:
            inputs, targets = (_array(archive, k, file) for k in (where.inputs, where.targets))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise InvalidTask(f"`{file}` is no sound npz file: {e}.", path=str(file)) from e
    return examples(inputs, targets, options, labels, file)


def _array(archive: zipfile.ZipFile, key: str, file: Path) -> np.ndarray:
    keys = [name.removesuffix(".npy") for name in archive.namelist()]
    if key not in keys:
        raise InvalidTask(
            f"`{file}` has no array `{key}`.", how=did_you_mean(key, keys), path=str(file), key=key
        )
    info = archive.infolist()[keys.index(key)]
    with archive.open(info) as stream:
        return array(stream, info.file_size, f"{file}:{key}")
