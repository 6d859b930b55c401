"""The architecture `upresnet10`, the task `upscale-jpeg`, and a picture that compares models.

A drop-in plugin: `zoo --plugins-dir examples/upscaler ...` loads it. It is also an example of what
a plugin that adds an architecture and a task looks like.

UpResNet10 doubles the size of an RGB image. Some of its checkpoints remove JPEG noise on the way.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import Architecture, MetricValue, Sample, Task, hookimpl

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

__version__ = "1.0.0"

CROPS = Path(__file__).parent / "crops"
LEVELS: dict[str, int | None] = {"clean": None, "q90": 90, "q70": 70, "q50": 50, "q30": 30}
"""Noise levels: name -> JPEG quality of the small image; None for one that was never a JPEG."""
MARGIN = 13
"""Pixels the network eats on each side; images are padded by as many."""


@cache
def _module_class() -> type[torch.nn.Module]:
    """The network. A function, so that loading the plugin does not import torch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def leaky(x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.1)

    class Block(nn.Module):
        """Residual block with squeeze and excitation; (n, 64, h, w) -> (n, 64, h - 4, w - 4)."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(64, 64, 3)
            self.conv2 = nn.Conv2d(64, 64, 3)
            self.fc1 = nn.Linear(64, 16)
            self.fc2 = nn.Linear(16, 64)

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            g = leaky(self.conv2(leaky(self.conv1(h))))
            s = torch.sigmoid(self.fc2(F.relu(self.fc1(g.mean((2, 3))))))
            return g * s[:, :, None, None] + h[:, :, 2:-2, 2:-2]

    class UpResNet10(nn.Module):
        """RGB in [0, 1], (n, 3, h, w) -> RGB in [0, 1], (n, 3, 2h, 2w).

        Source: tsurumeso/waifu2x-chainer, lib/srcnn.py, class UpResNet10.
        """

        def __init__(self) -> None:
            super().__init__()
            self.conv_pre = nn.Conv2d(3, 64, 3)
            for r in range(1, 6):
                self.add_module(f"res{r}", Block())
            self.conv_bridge = nn.Conv2d(64, 64, 3)
            self.conv_post = nn.ConvTranspose2d(64, 3, 4, stride=2, padding=3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = b = leaky(self.conv_pre(F.pad(x, (MARGIN,) * 4, mode="replicate")))
            for r in range(1, 6):
                h = self.get_submodule(f"res{r}")(h)
            h = leaky(self.conv_bridge(h)) + b[:, :, 11:-11, 11:-11]
            y: torch.Tensor = self.conv_post(h)
            return y.clamp(0, 1)

    return UpResNet10


class UpResNet10(Architecture):
    """A 2x upscaler with five residual blocks: 421,712 parameters in 45 tensors."""

    name = "upresnet10"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _module_class()()


class UpscaleJpeg(Task):
    """Upscale photographs that were saved as JPEG, and compare them with the originals.

    The metric is `psnr`, in dB: the mean over the crops, once for each noise level (the split) and
    once over all levels (no split). Pixels are rounded to 8 bits before they are compared, as they
    would be in a file, and the figure to 0.001 dB, which the order of additions does not reach.
    """

    name = "upscale-jpeg"
    splits = tuple(LEVELS)

    def evaluate(self, module: torch.nn.Module, sample: Sample) -> list[MetricValue]:
        protocol = {"unit": "dB", "scale": 2, "channels": "rgb", "jpeg": "4:4:4"}
        levels = {
            level: _mean([p for batch in self.batches(level) for p in psnr(module, *batch)])
            for level in LEVELS
        }
        return [
            MetricValue("psnr", round(value, 3), split, "upscaler-crops", protocol)
            for split, value in {**levels, "": _mean(list(levels.values()))}.items()
        ]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error of pixels in [0, 1], dimensionless."""
        return (outputs - targets).square().mean()

    def batches(self, split: str, size: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One batch: the small images of a noise level, (n, 3, h, w), and the originals.

        The JPEGs are stored, not made here, since encoders differ.
        """
        import torch

        names = crop_names()
        full = torch.cat([to_tensor(load_crop(name)) for name in names])
        yield torch.cat([to_tensor(load_small(name, split)) for name in names]), full

    def compare(
        self,
        models: Mapping[str, torch.nn.Module],
        name: str,
        levels: Sequence[str],
        box: tuple[int, int, int, int],
    ) -> Image:
        """A sheet: a row for each noise level, with bicubic, each model, and the original.

        Args:
            models: label -> model, from left to right.
            name: one of `crop_names()`.
            levels: of `LEVELS`, from top to bottom.
            box: left, top, right, bottom of the part shown, in pixels of the crop. The figures are
                for the whole crop.
        """
        import PIL.Image

        original = load_crop(name)
        truth = to_tensor(original)
        rows = []
        for level in levels:
            small = load_small(name, level)
            upscaled = {"bicubic": small.resize(original.size, PIL.Image.Resampling.BICUBIC)}
            for label, module in models.items():
                upscaled[label] = to_image(upscale(module, to_tensor(small)))
            quality = LEVELS[level]
            panels = [
                (label, f"{_psnr(to_tensor(image), truth)[0]:.2f} dB", image.crop(box))
                for label, image in upscaled.items()
            ]
            panels.append(("original", name, original.crop(box)))
            rows.append(("no JPEG" if quality is None else f"JPEG quality {quality}", panels))
        return _sheet(rows)


def psnr(module: torch.nn.Module, small: torch.Tensor, full: torch.Tensor) -> list[float]:
    """Peak signal-to-noise ratio of each upscaled image, in dB.

        psnr = -10 log10(mean (upscaled - original)^2), both in [0, 1]

    Args:
        small: (n, 3, h, w), in [0, 1].
        full: (n, 3, 2h, 2w), in [0, 1].
    """
    return _psnr(upscale(module, small), full)


def _psnr(found: torch.Tensor, wanted: torch.Tensor) -> list[float]:
    error = (found - wanted).double()
    return [float(p) for p in -10 * error.square().mean((1, 2, 3)).log10()]


def upscale(module: torch.nn.Module, small: torch.Tensor) -> torch.Tensor:
    """(n, 3, h, w) -> (n, 3, 2h, 2w), rounded to 8 bits; both in [0, 1]."""
    import torch

    # 1.5 times as fast on a CPU. The overload is missing from torch's annotations.
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        y: torch.Tensor = module(small.contiguous(memory_format=torch.channels_last))
    return (y * 255).round() / 255


def degrade(image: Image, level: str) -> Image:
    """Half the size (each pixel the mean of four), then through a JPEG of the level's quality."""
    import PIL.Image

    small = image.reduce(2)
    quality = LEVELS[level]
    if quality is None:
        return small
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, subsampling=0)
    return PIL.Image.open(file).convert("RGB")


def crop_names() -> list[str]:
    return sorted(p.stem for p in CROPS.glob("*.png"))


def load_crop(name: str) -> Image:
    import PIL.Image

    return PIL.Image.open(CROPS / f"{name}.png").convert("RGB")


def load_small(name: str, level: str) -> Image:
    """The small image of a crop at a noise level, as it is stored."""
    import PIL.Image

    if LEVELS[level] is None:
        return degrade(load_crop(name), level)
    return PIL.Image.open(CROPS / f"{name}-{level}.jpg").convert("RGB")


def to_tensor(image: Image) -> torch.Tensor:
    """(1, 3, h, w), float32 in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def to_image(pixels: torch.Tensor) -> Image:
    """The inverse of `to_tensor`."""
    import numpy as np
    import PIL.Image

    array = (pixels[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    return PIL.Image.fromarray(array)


def _sheet(rows: list[tuple[str, list[tuple[str, str, Image]]]]) -> Image:
    """Rows of (title, panels); a panel is (label, note, image), magnified three times."""
    import PIL.Image
    from PIL import ImageDraw, ImageFont

    gap, header, footer = 10, 36, 54
    width, height = (side * 3 for side in rows[0][1][0][2].size)
    row_height = header + height + footer
    sheet = PIL.Image.new(
        "RGB", (gap + (width + gap) * len(rows[0][1]), row_height * len(rows)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(16)
    for r, (title, panels) in enumerate(rows):
        top = r * row_height
        draw.text((gap, top + 8), title, fill="#777777", font=large)
        for i, (label, note, image) in enumerate(panels):
            left = gap + i * (width + gap)
            # Pixels stay squares: smoothing would hide what is compared.
            magnified = image.resize((width, height), PIL.Image.Resampling.NEAREST)
            sheet.paste(magnified, (left, top + header))
            draw.text((left, top + header + height + 4), label, fill="black", font=large)
            draw.text((left, top + header + height + 28), note, fill="#777777", font=small)
    return sheet


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(UpResNet10())


@hookimpl
def zoo_register_tasks(register: Callable[[Task], None]) -> None:
    register(UpscaleJpeg())
