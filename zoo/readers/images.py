"""Image folders: a directory for each class, and in it the images of the class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo.errors import InvalidTask, did_you_mean
from zoo.tasks.examples import Examples

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Other files are passed over."""
_PIXELS = 1 << 26
"""Pixels that one image may have."""


@dataclass(frozen=True)
class Where:
    """A directory of class directories, below the path."""

    directory: str = "."


@dataclass(frozen=True)
class Options:
    mode: Literal["L", "RGB"] = "RGB"
    """Grey or colour; every image is converted."""
    size: Annotated[int, Ge(1)] | tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    """Height and width in pixels, or both in one number; needed where images differ. Resized with
    Pillow's bilinear filter."""


def read(path: Path, where: Where, options: Options, labels: tuple[str, ...]) -> Examples:
    import numpy as np
    import torch

    root = path / where.directory
    found = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not found:
        raise InvalidTask(
            f"`{root}` holds no directories.",
            "The images of a class lie in a directory that is named after it.",
            path=str(root),
        )
    labels = labels or tuple(found)
    for name in found:
        if name not in labels:
            raise InvalidTask(
                f"`{root / name}` is the directory of no label.",
                how=did_you_mean(name, labels),
                path=str(root / name),
            )
    images, targets = [], []
    for name in found:
        for file in sorted((root / name).iterdir()):
            if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                images.append(image(file, options))
                targets.append(labels.index(name))
                if images[0].shape != images[-1].shape:
                    raise InvalidTask(
                        f"`{file}` is {images[-1].shape[:2]} pixels, and those before it "
                        f"{images[0].shape[:2]}.",
                        "All inputs of a task have one shape.",
                        "Say a `size` in the options.",
                        path=str(file),
                    )
    if not images:
        raise InvalidTask(f"`{root}` holds no images.", path=str(root))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Examples(pixels.float().div_(255), torch.tensor(targets), labels)


def image(file: Path, options: Options) -> np.ndarray:
    """The pixels of a file, uint8, shape (h, w, c).

    Raises:
        OSError: it cannot be read.
        InvalidTask: it is no image, or too large.
    """
    with file.open("rb") as stream:
        return decoded(_opened(stream, str(file)), options, str(file))


def decoded(picture: Any, options: Options, where: str) -> np.ndarray:
    """The pixels of an image of Pillow, uint8, shape (h, w, c)."""
    import numpy as np

    width, height = picture.size
    if width * height > _PIXELS:
        raise InvalidTask(
            f"`{where}` has {width} x {height} pixels; {_PIXELS:,} are the most.", path=where
        )
    size = (options.size,) * 2 if isinstance(options.size, int) else options.size
    try:
        picture = picture.convert(options.mode)
        if size is not None:
            # Pillow's BILINEAR; its sizes are (width, height).
            picture = picture.resize(size[::-1], 2)
    except Exception as e:  # what a decoder raises on damaged bytes is not documented
        raise InvalidTask(f"`{where}` is damaged: {e}.", path=where) from e
    pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def _opened(stream: Any, where: str) -> Any:
    import warnings

    try:
        from PIL import Image
    except ImportError as e:
        raise InvalidTask(
            "Reading images needs Pillow.", how="pip install pillow", path=where
        ) from e
    try:
        with warnings.catch_warnings():
            # Of its size; checked before anything is decoded.
            warnings.simplefilter("ignore")
            return Image.open(stream)
    except Exception as e:  # likewise
        raise InvalidTask(f"`{where}` is no image: {e}.", path=where) from e
