"""The example plugin: the network computes what its publisher's does, and the task scores it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import zoo
from zoo.plugins import Plugins, load_plugins

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "upscaler"
SHARED = REPOSITORY.parent / "shared" / "data"

LEVELS = ("clean", "q90", "q70", "q50", "q30")
# Published with the checkpoints: mean PSNR in dB on three 320-pixel crops.
PUBLISHED = {
    "base-scale": (33.10, 31.13, 28.87, 27.83, 26.80),
    "noise0": (32.97, 31.74, 29.65, 28.35, 27.08),
    "noise1": (32.74, 31.54, 30.01, 28.99, 27.77),
    "noise2": (32.22, 31.13, 29.67, 28.92, 27.97),
    "noise3": (30.44, 30.28, 29.56, 28.90, 28.05),
}
# On the shipped crops; as examples/upscaler/README.md tells them.
SHIPPED = {
    "base-scale": (32.94, 31.09, 28.97, 27.88, 26.74),
    "noise0": (32.80, 31.57, 29.55, 28.22, 26.86),
    "noise1": (32.72, 31.43, 29.79, 28.83, 27.46),
    "noise2": (32.36, 31.06, 29.69, 28.90, 27.78),
    "noise3": (30.49, 30.26, 29.45, 28.84, 27.75),
}


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins([EXAMPLE], entry_points=False)


@pytest.fixture(scope="module")
def example(plugins):
    """The plugin's module, as zoo loaded it."""
    import sys

    return sys.modules[type(plugins.tasks["upscale-jpeg"]).__module__]


def load(plugins: Plugins, directory: Path) -> torch.nn.Module:
    return plugins.architectures["upresnet10"].load(directory)


def test_the_plugin_loads_as_a_drop_in_without_complaint(plugins):
    assert [] == plugins.broken
    assert ["upresnet10"] == list(plugins.architectures)
    assert ["upscale-jpeg"] == list(plugins.tasks)


@pytest.mark.parametrize("model", SHIPPED)
def test_each_model_scores_on_the_shipped_crops_what_the_readme_says(plugins, model):
    task = plugins.tasks["upscale-jpeg"]
    scores = task.evaluate(load(plugins, EXAMPLE / "models" / model), zoo.Sample(task))

    found = {s.split: s.value for s in scores}
    assert {"psnr"} == {s.name for s in scores}
    assert list(SHIPPED[model]) == pytest.approx([found[s] for s in LEVELS], abs=0.05)
    assert sum(SHIPPED[model]) / 5 == pytest.approx(found[""], abs=0.05)


def test_the_readme_holds_the_scores_tested_here():
    text = (EXAMPLE / "README.md").read_text()

    for model, scores in SHIPPED.items():
        assert f"| {model} | " + " | ".join(f"{s:.2f}" for s in scores) + " | " in text


def test_scoring_twice_on_other_thread_counts_gives_the_same_numbers(plugins):
    module = load(plugins, EXAMPLE / "models" / "noise1")
    task = plugins.tasks["upscale-jpeg"]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = task.evaluate(module, zoo.Sample(task))
        torch.set_num_threads(2)
        two = task.evaluate(module, zoo.Sample(task))
    finally:
        torch.set_num_threads(threads)

    assert one == two


@pytest.mark.parametrize("model", PUBLISHED)
def test_each_model_reaches_its_published_check_values(plugins, example, model):
    photographs = SHARED / "test-images"
    if not photographs.is_dir():
        pytest.skip(f"the whole photographs are not at {photographs}")
    module = load(plugins, EXAMPLE / "models" / model)

    means = []
    for level in LEVELS:
        scores = []
        for name in ("chelsea", "astronaut", "coffee"):
            image = PIL.Image.open(photographs / f"{name}.png").convert("RGB")
            x, y = image.width // 2, image.height // 2
            up = 160 if image.height >= 320 else 144
            full = image.crop((x - 160, y - up, x + 160, y + up))
            small = example.degrade(full, level)
            scores += example.psnr(module, example.to_tensor(small), example.to_tensor(full))
        means.append(sum(scores) / 3)

    assert list(PUBLISHED[model]) == pytest.approx(means, abs=0.05)


def test_the_stored_jpegs_are_the_crops_at_their_quality(example):
    # Another encoder may round another way, so not byte for byte.
    for name in example.crop_names():
        for level in LEVELS:
            made = np.asarray(example.degrade(example.load_crop(name), level), dtype=float)
            stored = np.asarray(example.load_small(name, level), dtype=float)

            assert stored == pytest.approx(made, abs=8)


def test_psnr_of_a_known_error_is_minus_ten_log_of_its_square(example):
    full = torch.full((2, 3, 8, 8), 0.5)

    class Grey(torch.nn.Module):
        def forward(self, small: torch.Tensor) -> torch.Tensor:
            return torch.full((2, 3, 8, 8), 153 / 255)  # 25.5 steps of 1/255 too bright

    found = example.psnr(Grey(), torch.zeros(2, 3, 4, 4), full)

    assert [-20 * math.log10(25.5 / 255)] * 2 == pytest.approx(found, abs=1e-5)


def test_the_picture_has_a_panel_per_model_between_bicubic_and_the_original(plugins):
    module = load(plugins, EXAMPLE / "models" / "noise3")
    task = plugins.tasks["upscale-jpeg"]
    box = (32, 32, 96, 96)

    sheets = {
        (models, levels): task.compare(
            {str(i): module for i in range(models)}, "chelsea", ("clean", "q30")[:levels], box
        ).size
        for models in (1, 2, 3)
        for levels in (1, 2)
    }

    panel = sheets[2, 1][0] - sheets[1, 1][0]
    assert panel > 64 * 3
    assert sheets[1, 1][0] + 2 * panel == sheets[3, 1][0]
    assert sheets[1, 1][1] * 2 == sheets[1, 2][1]


def test_every_checkpoint_says_its_architecture_and_where_it_is_from():
    for model in SHIPPED:
        config = json.loads((EXAMPLE / "models" / model / "config.json").read_text())

        assert "upresnet10" == config["model_type"]
        assert config["source_file"].startswith("models/upresnet10/anime_style_")
    assert "MIT License" in (EXAMPLE / "models" / "LICENSE").read_text()
