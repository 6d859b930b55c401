"""Data sets of Hugging Face `datasets`, as its `save_to_disk` leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidTask, did_you_mean
from zoo.readers.arrays import examples
from zoo.readers.images import Options as ImageOptions
from zoo.readers.images import decoded

if TYPE_CHECKING:
    from zoo.tasks.examples import Examples


@dataclass(frozen=True)
class Where:
    """A split of the data set; empty where it is saved alone."""

    split: str = ""


@dataclass(frozen=True)
class Options(ImageOptions):
    inputs: str = "image"
    """Column of images, or of lists of numbers."""
    targets: str = "label"


def read(path: Path, where: Where, options: Options, labels: tuple[str, ...]) -> Examples:
    """Nothing is downloaded, and no code of the data set is run.

    Raises:
        InvalidTask: `datasets` is not installed, or the directory is not one of its own.
    """
    import numpy as np

    from zoo.readers.arrays import ArrayOptions

    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        from datasets import load_from_disk
    except ImportError as e:
        raise InvalidTask(
            f"Reading `{path}` needs Hugging Face datasets.", how="pip install datasets"
        ) from e
    try:
        data = load_from_disk(str(path))
    except Exception as e:  # of a library that does not say which
        raise InvalidTask(f"`{path}` cannot be read by datasets: {e}", path=str(path)) from e
    data = _split(data, where.split, path)
    for name in (options.inputs, options.targets):
        if name not in data.column_names:
            raise InvalidTask(
                f"`{path}` has no column `{name}`.",
                how=did_you_mean(name, list(data.column_names)),
                path=str(path),
            )
    labels = labels or tuple(getattr(data.features[options.targets], "names", None) or ())
    shown = [_array(value, options, f"{path}[{i}]") for i, value in enumerate(data[options.inputs])]
    if len({a.shape for a in shown}) > 1:
        raise InvalidTask(
            f"`{path}` has inputs of several shapes in `{options.inputs}`.",
            how="Say a `size` in the options.",
            path=str(path),
        )
    layout = ArrayOptions(layout="channels_last" if shown and shown[0].ndim == 3 else None)
    targets = np.array(data[options.targets])
    return examples(np.stack(shown) if shown else np.empty((0, 1)), targets, layout, labels, path)


def _split(data: Any, name: str, path: Path) -> Any:
    if not isinstance(data, dict):
        if name:
            raise InvalidTask(
                f"`{path}` is one split, not several.", how="Leave out `split`.", path=str(path)
            )
        return data
    if name not in data:
        raise InvalidTask(
            f"`{path}` has no split `{name}`.", how=did_you_mean(name, list(data)), path=str(path)
        )
    return data[name]


def _array(value: Any, options: Options, where: str) -> Any:
    import numpy as np

    if hasattr(value, "convert"):
        return decoded(value, options, where)
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as e:
        raise InvalidTask(
            f"`{where}` is neither an image nor a list of numbers.", path=where
        ) from e
