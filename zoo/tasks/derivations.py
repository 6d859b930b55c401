"""Steps that make a task from another: pure functions of its examples and a seed.

    labels        keep some classes                    first         keep the first examples
    groups        join classes                         resize        another height and width
    rotate        turn images                          channels      grey to colour, and back
    permute       the same pixels in another order     invert        dark for light
    noise, blur, contrast                              corruptions, by amount or by level 1 to 5

A step is written `NAME: VALUE` or `NAME: {OPTION: VALUE, ...}`; a value alone is that of the first
option. Images are (n, c, h, w) in [0, 1] and stay so. Steps that compute new grey values (`rotate`
by other than right angles, `resize`, the corruptions) round them to multiples of 1/255, as a file
of images has them, so that the data's digest does not depend on how a machine adds. What is random
depends on seed, step and split alone. Noise on labels is a matter of training:
see `zoo.grow.training`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Len

from zoo.errors import InvalidTask, did_you_mean
from zoo.tasks.options import options

if TYPE_CHECKING:
    import numpy as np
    import torch

    from zoo.tasks.examples import Examples

Level = Annotated[int, Interval(ge=1, le=5)]
Label = int | str


class Step:
    """From examples to examples."""

    def __call__(self, data: Examples, split: str) -> Examples:
        """The examples after this step.

        Raises:
            InvalidTask: it is not for such data.
        """
        raise NotImplementedError

    def relabelled(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The labels after this step, of the labels before it."""
        return labels


@dataclass(frozen=True)
class Labels(Step):
    """Keep the examples of some classes, which are numbered anew in the order given."""

    keep: Annotated[tuple[Label, ...], Len(1)]
    """Names, or numbers from 0."""

    def __call__(self, data: Examples, split: str) -> Examples:
        import torch

        _check_classes(data, "Step `labels`")
        kept = [_number(label, data.labels) for label in self.keep]
        if len(set(kept)) < len(kept):
            raise InvalidTask(f"Step `labels` names a label twice: {list(self.keep)}.")
        new = torch.full((len(data.labels),), -1)
        new[kept] = torch.arange(len(kept))
        targets = new[data.targets]
        chosen = targets >= 0
        labels = self.relabelled(data.labels)
        return data._replace(inputs=data.inputs[chosen], targets=targets[chosen], labels=labels)

    def relabelled(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(labels[_number(label, labels)] for label in self.keep)


@dataclass(frozen=True)
class Groups(Step):
    """Join classes: `{even: [0, 2, 4], odd: [1, 3, 5]}`; those in no group are left out.

    The new classes are numbered in order of their names.
    """

    groups: Mapping[str, Annotated[tuple[Label, ...], Len(1)]]
    """Name of each new class -> its old ones. Write it without `groups:` too."""

    def __call__(self, data: Examples, split: str) -> Examples:
        import torch

        _check_classes(data, "Step `groups`")
        new = torch.full((len(data.labels),), -1)
        for i, name in enumerate(sorted(self.groups)):
            for member in self.groups[name]:
                place = _number(member, data.labels)
                if new[place] >= 0:
                    raise InvalidTask(f"Step `groups` puts label `{member}` into two groups.")
                new[place] = i
        targets = new[data.targets]
        chosen = targets >= 0
        labels = self.relabelled(data.labels)
        return data._replace(inputs=data.inputs[chosen], targets=targets[chosen], labels=labels)

    def relabelled(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(self.groups))


@dataclass(frozen=True)
class First(Step):
    """Keep the first examples of each split."""

    count: Annotated[int, Ge(1)]
    """Examples; all where there are fewer."""

    def __call__(self, data: Examples, split: str) -> Examples:
        return data._replace(inputs=data.inputs[: self.count], targets=data.targets[: self.count])


@dataclass(frozen=True)
class Rotate(Step):
    """Turn images counterclockwise about their centre; corners are filled with 0."""

    degrees: Annotated[float, Interval(gt=-360, lt=360)]
    """Right angles are exact; others are interpolated bilinearly."""

    def __call__(self, data: Examples, split: str) -> Examples:
        import torch

        images = _images(data, "rotate")
        quarters, rest = divmod(self.degrees, 90)
        if not rest:
            turned = torch.rot90(images, int(quarters), (2, 3))
            return data._replace(inputs=turned.contiguous())
        height, width = images.shape[2:]
        angle = torch.tensor(self.degrees, dtype=torch.float64).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        # Where each pixel comes from, in units of half the image, x before y.
        matrix = torch.stack(
            (
                torch.stack((cos, -sin * height / width, torch.zeros_like(cos))),
                torch.stack((sin * width / height, cos, torch.zeros_like(cos))),
            )
        ).float()
        grid = torch.nn.functional.affine_grid(
            matrix.expand(1, 2, 3), [1, 1, height, width], align_corners=False
        )
        every = images.reshape(1, -1, height, width)
        turned = torch.nn.functional.grid_sample(every, grid, align_corners=False)
        return data._replace(inputs=_rounded(turned.view_as(images)))


@dataclass(frozen=True)
class Permute(Step):
    """Put the pixels of every image, of all splits, into one other order; channels stay.

    Source: Goodfellow et al. 2013, arXiv:1312.6211, section 4.1 (permuted MNIST).
    """

    seed: int

    def __call__(self, data: Examples, split: str) -> Examples:
        import torch

        values = data.inputs
        if not values.is_floating_point():
            raise InvalidTask("Step `permute` is for images and features, not for tokens.")
        flat = values.flatten(2) if values.ndim == 4 else values
        order = torch.from_numpy(_random(self.seed, "permute").permutation(flat.shape[-1]))
        return data._replace(inputs=flat[..., order].view_as(values))


@dataclass(frozen=True)
class Invert(Step):
    """Dark for light: 1 - x."""

    invert: Literal[True]

    def __call__(self, data: Examples, split: str) -> Examples:
        return data._replace(inputs=1 - _images(data, "invert"))


@dataclass(frozen=True)
class Resize(Step):
    """Bring images to a size, by bilinear interpolation; averaged over what becomes one pixel."""

    size: Annotated[int, Ge(1)] | tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]]
    """Height and width in pixels; one number stands for both."""

    def __call__(self, data: Examples, split: str) -> Examples:
        from torch.nn.functional import interpolate

        images = _images(data, "resize")
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        if size == tuple(images.shape[2:]):
            return data
        new = interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return data._replace(inputs=_rounded(new))


@dataclass(frozen=True)
class Channels(Step):
    """One channel becomes three equal ones; three become one by 0.299 R + 0.587 G + 0.114 B.

    Source: ITU-R Recommendation BT.601 (luma).
    """

    count: Literal[1, 3]

    def __call__(self, data: Examples, split: str) -> Examples:
        images = _images(data, "channels")
        now = images.shape[1]
        if now == self.count:
            return data
        if self.count == 3 and now == 1:
            return data._replace(inputs=images.expand(-1, 3, -1, -1).contiguous())
        if now == 3:
            red, green, blue = images.double().unbind(1)
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            return data._replace(inputs=_rounded(grey.float().unsqueeze(1)))
        raise InvalidTask(f"Step `channels` makes {self.count} of 1 or 3 channels, not of {now}.")


@dataclass(frozen=True)
class _Corruption(Step):
    """One of `amount` and `level`."""

    amount: Annotated[float, Gt(0)] | None = None
    level: Level | None = None
    """1 to 5: the amounts of CIFAR-10-C, made for images of about 32 pixels."""

    def strength(self, levels: Sequence[float]) -> float:
        if (self.amount is None) == (self.level is None):
            name = type(self).__name__.lower()
            raise InvalidTask(f"Step `{name}` takes one of `amount` and `level`.")
        return levels[self.level - 1] if self.level is not None else self.amount or 0.0


@dataclass(frozen=True)
class Noise(_Corruption):
    """Add Gaussian noise to every pixel; `amount` is its standard deviation, of grey values in
    [0, 1].

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261; levels of its CIFAR-10-C.
    """

    seed: int = 0

    def __call__(self, data: Examples, split: str) -> Examples:
        import torch

        images = _images(data, "noise")
        strength = self.strength((0.04, 0.06, 0.08, 0.09, 0.10))
        new = torch.empty_like(images)
        random = _random(self.seed, f"noise\0{split}")
        for start in range(0, len(images), 1024):
            part = images[start : start + 1024]
            noise = torch.from_numpy(random.standard_normal(part.shape))
            new[start : start + 1024] = part + strength * noise
        return data._replace(inputs=_rounded(new))


@dataclass(frozen=True)
class Blur(_Corruption):
    """Blur with a Gaussian; `amount` is its standard deviation in pixels. Edges are repeated.

    Source: as `noise`.
    """

    def __call__(self, data: Examples, split: str) -> Examples:
        import torch
        from torch.nn.functional import conv2d, pad

        images = _images(data, "blur")
        sigma = self.strength((0.4, 0.6, 0.7, 0.8, 1.0))
        reach = max(1, round(4 * sigma))
        place = torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = (-(place**2) / (2 * sigma**2)).exp()
        kernel = (kernel / kernel.sum()).float()
        new = images.flatten(0, 1).unsqueeze(1)
        new = conv2d(pad(new, (reach, reach, 0, 0), "replicate"), kernel.view(1, 1, 1, -1))
        new = conv2d(pad(new, (0, 0, reach, reach), "replicate"), kernel.view(1, 1, -1, 1))
        return data._replace(inputs=_rounded(new.view_as(images)))


@dataclass(frozen=True)
class Contrast(_Corruption):
    """Bring pixels nearer to the mean of their image and channel: mean + amount (x - mean).

    Source: as `noise`.
    """

    def __call__(self, data: Examples, split: str) -> Examples:
        images = _images(data, "contrast")
        mean = images.double().mean((2, 3), keepdim=True)
        strength = self.strength((0.75, 0.5, 0.4, 0.3, 0.15))
        return data._replace(inputs=_rounded((mean + strength * (images - mean)).float()))


STEPS: dict[str, type[Step]] = {
    "blur": Blur,
    "channels": Channels,
    "contrast": Contrast,
    "first": First,
    "groups": Groups,
    "invert": Invert,
    "labels": Labels,
    "noise": Noise,
    "permute": Permute,
    "resize": Resize,
    "rotate": Rotate,
}


def step(written: Any) -> Step:
    """The step that a declaration's item names: a mapping of one key, or a name alone.

    Raises:
        InvalidTask: there is no such step, or its options are wrong.
    """
    if isinstance(written, str):
        written = {written: True}
    if not isinstance(written, Mapping) or len(written) != 1:
        raise InvalidTask(
            f"A step of `derive` is {written!r}.",
            "A step is one name with its options.",
            "Write each as an item of its own: `- rotate: 90`.",
        )
    ((name, given),) = written.items()
    if name not in STEPS:
        raise InvalidTask(
            f"There is no step `{name}`.", how=did_you_mean(str(name), list(STEPS)), step=name
        )
    if name == "groups" and isinstance(given, Mapping) and set(given) != {"groups"}:
        given = {"groups": given}
    return options(STEPS[name], given, f"step `{name}`")


def fold(data: Examples, of: int, take: Sequence[int]) -> Examples:
    """Some of every `of` examples of each class, in order of the data.

    Example i of its class, counted from 1, is kept if (i - 1) mod `of` + 1 is in `take`.

    Raises:
        InvalidTask: examples have no one class, as those of tokens.
    """
    import torch

    _check_classes(data, "A `fold`")
    is_class = torch.nn.functional.one_hot(data.targets)
    place = ((is_class.cumsum(0) * is_class).sum(1) - 1) % of + 1
    chosen = torch.isin(place, torch.tensor(list(take)))
    return data._replace(inputs=data.inputs[chosen], targets=data.targets[chosen])


def _check_classes(data: Examples, what: str) -> None:
    if data.targets.ndim != 1:
        raise InvalidTask(
            f"{what} is for one label of each example, and the targets have shape "
            f"{tuple(data.targets.shape)}.",
            how="Use `first`, or another `share` of the text.",
        )


def _number(label: Label, labels: Sequence[str]) -> int:
    """The place of a label that is given by its name, or by its place."""
    if label in labels:
        return labels.index(str(label))
    if isinstance(label, int) and 0 <= label < len(labels):
        return label
    raise InvalidTask(
        f"There is no label `{label}`.", how=did_you_mean(str(label), list(labels)), label=label
    )


def _images(data: Examples, name: str) -> torch.Tensor:
    if data.inputs.ndim != 4 or not data.inputs.is_floating_point():
        raise InvalidTask(
            f"Step `{name}` is for images, and the inputs have shape {tuple(data.inputs.shape)}.",
            how="Give the data a `shape` of (channels, height, width).",
        )
    return data.inputs


def _rounded(images: torch.Tensor) -> torch.Tensor:
    return images.mul(255).round_().clamp_(0, 255).div_(255)


def _random(seed: int, what: str) -> np.random.Generator:
    """Philox, keyed by sha256 of seed and purpose."""
    import numpy as np

    key = hashlib.sha256(f"zoo.derivation\0{seed}\0{what}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], "<u8")))
