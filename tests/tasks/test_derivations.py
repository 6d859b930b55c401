"""Steps that make a task from another: what they promise, for any images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import InvalidTask
from zoo.tasks.derivations import STEPS, fold, step
from zoo.tasks.examples import Examples


@st.composite
def data(draw, channels=(1, 3)):
    """Images of 8-bit grey values, with labels."""
    n = draw(st.integers(1, 6))
    shape = (n, draw(st.sampled_from(channels)), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    seed = draw(st.integers(0, 2**32 - 1))
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, shape, generator=random).float() / 255
    return Examples(pixels, torch.randint(4, (n,), generator=random), ("a", "b", "c", "d"))


def after(found, *steps, split="test"):
    for written in steps:
        found = step(written)(found, split)
    return found


IMAGES = {
    "rotate": [90, 180, -90, 30, -12.5],
    "permute": [0, 7],
    "invert": [True],
    "noise": [0.3, {"level": 2}, {"amount": 0.1, "seed": 4}],
    "blur": [0.8, {"level": 5}],
    "contrast": [0.4, {"level": 1}],
    "resize": [5, [3, 6]],
    "channels": [1, 3],
}


@given(data(), st.sampled_from([{k: v} for k, vs in IMAGES.items() for v in vs]))
@settings(max_examples=200)
def test_images_stay_images_and_targets_stay(found, written):
    new = after(found, written)

    assert new.inputs.dtype == torch.float32 and new.inputs.ndim == 4
    assert new.inputs.is_contiguous()
    assert 0 <= float(new.inputs.min()) and float(new.inputs.max()) <= 1
    assert torch.equal(found.targets, new.targets) and found.labels == new.labels
    assert new.digest == after(found, written).digest


@given(data())
def test_four_quarter_turns_are_none(found):
    assert torch.equal(found.inputs, after(found, *[{"rotate": 90}] * 4).inputs)
    assert torch.equal(
        after(found, {"rotate": 180}).inputs, after(found, *[{"rotate": 90}] * 2).inputs
    )
    assert torch.equal(after(found, {"rotate": -90}).inputs, after(found, {"rotate": 270}).inputs)


@given(data())
def test_a_quarter_turn_is_counterclockwise_as_numpy_has_it(found):
    expected = np.rot90(found.inputs.numpy(), axes=(2, 3))

    assert np.array_equal(expected, after(found, {"rotate": 90}).inputs.numpy())


@pytest.mark.parametrize("sign", [1, -1])
def test_other_angles_turn_the_same_way_as_right_ones(sign):
    """Bilinear turning by nearly 90 degrees is nearly a quarter turn, on squares and others."""
    smooth = torch.linspace(0, 1, 81).view(1, 1, 9, 9)
    found = Examples(smooth, torch.zeros(1, dtype=torch.int64), ("a",))

    exact, near = after(found, {"rotate": 90 * sign}), after(found, {"rotate": 89.99 * sign})

    assert (exact.inputs - near.inputs)[..., 1:-1, 1:-1].abs().max() < 0.01


@given(data(channels=(1,)), st.integers(0, 100))
def test_permutation_keeps_each_image_s_values(found, seed):
    new = after(found, {"permute": seed}).inputs

    assert torch.equal(found.inputs.flatten(1).sort(1).values, new.flatten(1).sort(1).values)


def test_one_permutation_is_for_all_images_all_channels_and_all_splits():
    places = torch.arange(30.0).view(1, 1, 5, 6).expand(4, 3, 5, 6) / 30
    found = Examples(places.contiguous(), torch.zeros(4, dtype=torch.int64), ("a",))

    train, test = (after(found, {"permute": 3}, split=s).inputs for s in ("train", "test"))

    assert torch.equal(train, test)
    assert torch.equal(train[:1, :1].expand_as(train), train)
    assert not torch.equal(train, after(found, {"permute": 4}).inputs)
    assert not torch.equal(train, found.inputs)


@given(data())
def test_inverting_twice_is_nothing(found):
    assert torch.allclose(found.inputs, after(found, "invert", "invert").inputs, atol=1e-6)
    assert torch.allclose(1 - found.inputs, after(found, {"invert": True}).inputs)


@given(data(), st.permutations(["a", 1, "c"]), st.integers(1, 3))
def test_a_subset_of_labels_keeps_their_examples_and_numbers_them_anew(found, labels, count):
    keep = labels[:count]
    names = [found.labels[k] if isinstance(k, int) else k for k in keep]
    expected = [
        (x.tolist(), names.index(found.labels[y]))
        for x, y in zip(found.inputs, found.targets, strict=True)
        if found.labels[y] in names
    ]

    new = after(found, {"labels": keep})

    assert tuple(names) == new.labels
    assert expected == [(x.tolist(), int(y)) for x, y in zip(new.inputs, new.targets, strict=True)]


@given(data())
def test_groups_join_labels(found):
    new = after(found, {"groups": {"vowel": ["a"], "consonant": ["b", 2, "d"]}})

    assert ("consonant", "vowel") == new.labels
    assert [int(y == 0) for y in found.targets] == new.targets.tolist()
    fewer = after(found, {"groups": {"x": [0], "y": [1]}})
    assert sum(int(y < 2) for y in found.targets) == len(fewer.targets)


def test_first_keeps_the_first():
    found = Examples(torch.rand(5, 3), torch.arange(5), tuple("abcde"))

    assert torch.equal(found.inputs[:2], after(found, {"first": 2}).inputs)
    assert 5 == len(after(found, {"first": 9}).targets)


def grey(value=0.5, n=40, side=16):
    return Examples(
        torch.full((n, 1, side, side), value), torch.zeros(n, dtype=torch.int64), ("a",)
    )


@pytest.mark.parametrize(("level", "sigma"), [*enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1)])
def test_noise_has_the_deviation_of_its_level(level, sigma):
    noise = after(grey(), {"noise": {"level": level}}).inputs - 0.5

    n = noise.numel()
    assert abs(float(noise.mean())) < 5 * sigma / n**0.5 + 0.5 / 255
    assert float(noise.std()) == pytest.approx(sigma, rel=0.03)


def test_noise_differs_by_seed_and_split_and_not_by_run():
    def noise(seed, split):
        return after(grey(), {"noise": {"amount": 0.1, "seed": seed}}, split=split).digest

    assert noise(0, "test") == noise(0, "test")
    assert 3 == len({noise(0, "test"), noise(1, "test"), noise(0, "train")})


def test_noise_of_an_example_does_not_depend_on_how_many_follow():
    long, short = (after(grey(n=n, side=2), {"noise": 0.2}).inputs for n in (1500, 1100))

    assert torch.equal(long[:1100], short)


def test_blur_is_the_convolution_with_a_gaussian():
    """A point becomes the kernel, computed here without torch."""
    point = torch.zeros(1, 1, 15, 15)
    point[0, 0, 7, 7] = 1
    found = Examples(point, torch.zeros(1, dtype=torch.int64), ("a",))

    new = after(found, {"blur": 1.2}).inputs[0, 0].numpy()

    at = np.arange(15) - 7
    line = np.where(abs(at) <= 5, np.exp(-(at**2) / (2 * 1.2**2)), 0)
    line /= line.sum()
    assert abs(np.outer(line, line) - new).max() <= 0.5 / 255 + 1e-6


def test_blur_leaves_an_even_image_even_to_its_edges():
    assert torch.allclose(grey(0.4).inputs, after(grey(0.4), {"blur": 2.0}).inputs, atol=1e-6)


@given(data())
def test_contrast_keeps_the_mean_and_scales_the_rest(found):
    new = after(found, {"contrast": 0.3}).inputs

    mean = found.inputs.mean((2, 3), keepdim=True)
    assert (mean + 0.3 * (found.inputs - mean) - new).abs().max() <= 0.5 / 255 + 1e-5


@given(data(channels=(1,)))
def test_colour_of_grey_is_grey_again(found):
    colour = after(found, {"channels": 3})

    assert 3 == colour.inputs.shape[1]
    assert torch.equal(colour.inputs[:, :1], colour.inputs[:, 2:])
    assert torch.allclose(found.inputs, after(colour, {"channels": 1}).inputs, atol=1e-6)


def test_resizing_to_half_takes_means_of_what_becomes_one_pixel_and_keeps_even_images():
    assert torch.allclose(
        after(grey(0.6), {"resize": 8}).inputs, torch.tensor(153 / 255), atol=1e-6
    )
    assert (40, 1, 7, 9) == after(grey(), {"resize": [7, 9]}).inputs.shape
    same = grey()
    assert same.inputs is after(same, {"resize": 16}).inputs


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(2, 5))
def test_folds_part_each_class_without_rest(targets, of):
    found = Examples(torch.arange(len(targets)).float()[:, None], torch.tensor(targets), ())

    parts = [fold(found, of, [i]).inputs.flatten().int().tolist() for i in range(1, of + 1)]

    assert list(range(len(targets))) == sorted(i for part in parts for i in part)
    for c in range(3):
        mine = [i for i, t in enumerate(targets) if t == c]
        assert [mine[i::of] for i in range(of)] == [
            [i for i in part if targets[i] == c] for part in parts
        ]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("rotat", r"no step `rotat`. Did you mean `rotate`"),
        ({"rotate": 90, "invert": True}, "one name with its options"),
        (7, "A step of `derive` is 7"),
        ({"rotate": "much"}, "step `rotate`.*|Step `rotate` cannot be read"),
        ({"rotate": 400}, "`degrees` is 400"),
        ({"rotate": {"degree": 9}}, r"`degree` is unknown. Did you mean `degrees`"),
        ({"labels": []}, "Step `labels`"),
        ({"noise": -1}, "`amount` is -1"),
        ({"noise": {"level": 6}}, "`level` is 6"),
        ({"noise": {"level": 1, "amount": 0.5}}, "one of `amount` and `level`"),
        ({"blur": {}}, "one of `amount` and `level`"),
        ({"channels": 2}, "`count` is 2"),
        ({"permute": float("nan")}, "not plain data"),
        ({"first": 0}, "`count` is 0"),
    ],
)
def test_wrong_steps_are_refused_with_their_options(written, what):
    with pytest.raises(InvalidTask, match=what):
        after(grey(n=1), written)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ({"labels": ["z"]}, "no label `z`"),
        ({"labels": [4]}, "no label `4`"),
        ({"labels": ["a", 0]}, "names a label twice"),
        ({"groups": {"x": ["a"], "y": [0]}}, "into two groups"),
    ],
)
def test_wrong_labels_are_refused(written, what):
    with pytest.raises(InvalidTask, match=what):
        after(grey(n=1), written)


@pytest.mark.parametrize("name", sorted(set(STEPS) - {"labels", "groups", "first", "permute"}))
def test_steps_for_images_refuse_features(name):
    features = Examples(torch.rand(3, 8), torch.zeros(3, dtype=torch.int64), ("a",))

    with pytest.raises(InvalidTask, match=rf"Step `{name}` is for images, .*\(3, 8\)"):
        after(features, {name: IMAGES[name][0]})


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_says_what_it_does(name):
    assert STEPS[name].__doc__
