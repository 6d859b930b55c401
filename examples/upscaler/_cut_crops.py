"""Cuts the crops out of the photographs, and makes their JPEGs; run once, kept as a record.

    python examples/upscaler/_cut_crops.py PHOTOGRAPHS

PHOTOGRAPHS is `skimage/data` of scikit-image 0.26.0, or a directory with the same files. The
JPEGs were made with Pillow 13.0.0 (libjpeg-turbo).
"""

from __future__ import annotations

import sys
from pathlib import Path

import PIL.Image
from upscaler_plugin import CROPS, LEVELS, degrade

# Name -> photograph, and left, top, right, bottom in its pixels.
BOXES = {
    "astronaut": ("astronaut.png", (160, 60, 288, 188)),
    "chelsea": ("chelsea.png", (112, 50, 240, 178)),
    "coffee": ("coffee.png", (300, 200, 428, 328)),
    "shuttle": ("astronaut.png", (352, 150, 480, 278)),
}


def main(photographs: Path) -> None:
    CROPS.mkdir(exist_ok=True)
    for name, (file, box) in BOXES.items():
        crop = PIL.Image.open(photographs / file).convert("RGB").crop(box)
        crop.save(CROPS / f"{name}.png", optimize=True)
        for level, quality in LEVELS.items():
            if quality is not None:
                small = degrade(crop, "clean")
                small.save(CROPS / f"{name}-{level}.jpg", quality=quality, subsampling=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
