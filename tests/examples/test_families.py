"""The example networks: what they compute, on the published checkpoints where these are."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import zoo
from zoo.errors import InvalidCheckpoint
from zoo.plugins import Plugins, load_plugins
from zoo.testing import ArchitectureConformance

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "families"
DATA = REPOSITORY.parent / "shared" / "data"

published = pytest.mark.skipif(
    not DATA.is_dir(), reason="the published checkpoints are not here (../shared/data)"
)


@cache
def plugins() -> Plugins:
    return load_plugins([EXAMPLE], entry_points=False)


def load(directory: str) -> torch.nn.Module:
    config = json.loads((DATA / directory / "config.json").read_text())
    return plugins().architectures[config["model_type"]].load(DATA / directory)


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def bases(length: int) -> torch.Tensor:
    codes = torch.randint(4, (2, length), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.one_hot(codes, 4).float().transpose(1, 2)


class TestUpConv7(ArchitectureConformance):
    architecture = plugins().architectures["upconv7"]
    config = {}

    def inputs(self) -> torch.Tensor:
        return drawn(2, 3, 7, 5)


class TestWakeWord(ArchitectureConformance):
    architecture = plugins().architectures["openwakeword-dnn"]
    config = {"layout": "a"}

    def inputs(self) -> torch.Tensor:
        return drawn(3, 16, 96)


class TestWakeWordOfOtherNames(TestWakeWord):
    config = {"layout": "b"}


class TestOpenSpliceAi(ArchitectureConformance):
    architecture = plugins().architectures["openspliceai"]
    config = {"channels": 6, "kernel_sizes": [3, 5], "dilations": [1, 2]}

    def inputs(self) -> torch.Tensor:
        return bases(40)


class TestPangolin(TestOpenSpliceAi):
    architecture = plugins().architectures["pangolin"]
    config = {"channels": 6, "kernel_sizes": [3, 5] * 2, "dilations": [1, 1, 2, 2]}


class TestResNetCifar10(ArchitectureConformance):
    architecture = plugins().architectures["resnet-cifar10"]
    config = {"depth": 8}

    def inputs(self) -> torch.Tensor:
        return drawn(2, 3, 32, 32)


def test_the_plugins_load_without_complaint():
    assert [] == plugins().broken
    assert {"upconv7", "openwakeword-dnn", "openspliceai", "pangolin", "resnet-cifar10"} == {
        *plugins().architectures
    }


def test_the_readme_names_each_architecture():
    text = (EXAMPLE / "README.md").read_text()

    assert {*plugins().architectures} == set(re.findall(r"^\| `\w+\.py` \| `(\S+)`", text, re.M))


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("resnet-cifar10", {"depth": 21}, "no depth 21"),
        ("resnet-cifar10", {}, "no depth None"),
        ("openwakeword-dnn", {"layout": "c"}, "no layout 'c'"),
    ],
)
def test_what_cannot_be_built_is_refused(name, config, said):
    with pytest.raises(InvalidCheckpoint, match=said):
        plugins().architectures[name].build(config)


@published
@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("base-scale", (32.31, 28.17)),
        ("noise0", (32.33, 28.45)),
        ("noise1", (32.29, 28.77)),
        ("noise2", (32.26, 28.82)),
        ("noise3", (30.87, 28.83)),
    ],
)
def test_upscalers_reach_their_published_psnr(model, wanted):
    """Without JPEG noise, and at quality 50; in dB."""
    photograph = PIL.Image.open(DATA / "test-images" / "chelsea.png").convert("RGB")
    full = photograph.crop((100, 0, 356, 256))
    module = load(f"w2x-upconv7-photo/{model}")

    def pixels(image: PIL.Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255

    found = []
    for quality in (None, 50):
        small = full.reduce(2)
        if quality:
            file = io.BytesIO()
            small.save(file, "JPEG", quality=quality, subsampling=0)
            small = PIL.Image.open(file).convert("RGB")
        with torch.inference_mode():
            made = module(pixels(small)).clamp(0, 1)
        found.append(float(-10 * (made - pixels(full)).square().mean().log10()))
    assert list(wanted) == pytest.approx(found, abs=0.02)
    assert {torch.float32} == {p.dtype for p in module.parameters()}


def wake_words(layout: str) -> list[Path]:
    return sorted((DATA / "wakeword-zoo" / layout).iterdir())


@published
def test_wake_words_of_both_layouts_are_one_network():
    """What layout `a` gives with the tensors of a network in layout `b`."""
    by_place = plugins().architectures["openwakeword-dnn"].layers
    names = [[n for layer in by_place({"layout": x}) for n in layer] for x in "ab"]
    a, b = (load(f"wakeword-zoo/{x}/{wake_words(x)[0].name}") for x in "ab")
    x = torch.randn(5, 16, 96, generator=torch.Generator().manual_seed(0))
    state = b.state_dict()

    assert not torch.allclose(a(x), b(x))
    a.load_state_dict(
        {
            to: state[of].T if state[of].ndim == 2 else state[of]
            for to, of in zip(*names, strict=False)
        }
    )
    torch.testing.assert_close(a(x), b(x))


@published
def test_the_vectors_of_a_wake_word_are_told_apart_by_their_values():
    """No graph was published with layout `b`. The bias of a wide layer stays near where torch draws
    it, within 1 / sqrt(inputs); that of a norm begins at zero, and gains begin at one."""
    for layout in "ab":
        modules = [load(f"wakeword-zoo/{layout}/{d.name}") for d in wake_words(layout)]
        assert {"a": 9, "b": 20}[layout] == len(modules)
        layers = plugins().architectures["openwakeword-dnn"].layers({"layout": layout})
        (b1, g1, c1), (b2, g2, c2) = (
            [torch.stack([m.state_dict()[n] for m in modules]) for n in names[1:4]]
            for names in layers[:2]
        )
        assert b1.abs().max() < 1536**-0.5 + 0.015 < c1.abs().max()
        assert c1.median().abs() < 0.005
        assert b2.abs().max() < 32**-0.5 + 0.05 < c2.abs().max()
        assert b2.mean().abs() < 0.02 and 0.07 < c2.mean() < 0.1
        assert all(0.95 < g.mean() < 1.15 for g in (g1, g2))


def gene(context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """SLC5A1: one-hot bases with context, (1, 4, n); acceptors and donors, (2, n - 2 context)."""
    start, end = 32_043_000, 32_113_100
    (sequence,) = (DATA / "dna-splice").glob("*.fa.gz")
    with gzip.open(sequence, "rt") as file:
        text = "".join(file.read().splitlines()[1:]).upper()
    first = int(sequence.name.split("_")[2]) + 1
    (annotation,) = (DATA / "dna-splice").glob("*.gff")
    exons = []
    for line in annotation.read_text().splitlines():
        fields = line.split("\t")
        inside = not line.startswith("#") and fields[2] == "exon" and "SLC5A1" in fields[8]
        if inside and fields[6] == "+" and start <= int(fields[3]) <= end:
            exons.append((int(fields[3]), int(fields[4])))
    exons = sorted({*exons})
    sites = torch.zeros(2, end - start)
    sites[0, [a - start for a, _ in exons[1:]]] = 1
    sites[1, [b - start for _, b in exons[:-1]]] = 1
    codes = ["ACGT".find(c) for c in text[start - first - context : end - first + context]]
    onehot = torch.stack([torch.tensor(codes) == i for i in range(4)])[None].float()
    return onehot, sites


def average_precision(score: torch.Tensor, truth: torch.Tensor) -> float:
    hit = truth[score.argsort(descending=True, stable=True)].double()
    return float((hit.cumsum(0) / torch.arange(1, len(hit) + 1) * hit).sum() / hit.sum())


@published
@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("human-s10", (0.838, 0.716)),
        ("human-s11", (0.887, 0.783)),
        ("mouse-s10", (0.913, 0.724)),
        ("zebrafish-s10", (0.328, 0.336)),
        ("honeybee-s10", (0.121, 0.162)),
        ("arabidopsis-s10", (0.201, 0.111)),
    ],
)
def test_splice_networks_reach_their_published_precision(model, wanted):
    onehot, sites = gene(40)
    with torch.inference_mode():
        scores = load(f"openspliceai-80nt/{model}")(onehot)[0]

    assert (14, 14) == tuple(sites.sum(1).int().tolist())
    assert scores.shape[1] == sites.shape[1]
    found = [average_precision(scores[1 + side], sites[side]) for side in (0, 1)]
    assert list(wanted) == pytest.approx(found, abs=0.002)


@published
def test_pangolin_reaches_its_published_precision():
    onehot, sites = gene(5000)
    with torch.inference_mode():
        scores = load("pangolin-splice/r1-heart-psplice")(onehot)[0]

    assert (12, sites.shape[1]) == scores.shape
    assert 0.999 == pytest.approx(average_precision(scores[1], sites.sum(0)), abs=0.001)


@published
def test_a_published_resnet_is_registered_and_right_as_often_as_published(tmp_path):
    """ResNet-20 on JPEG copies of 2,000 test images of CIFAR-10, from its pickle."""
    (tmp_path / "source").mkdir()
    shutil.copy(DATA / "resnet-cifar10" / "resnet20-12fca82f.th", tmp_path / "source")
    config: dict[str, Any] = {"model_type": "resnet-cifar10", "depth": 20}
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    data = np.load(DATA / "cifar10-10k" / "test.npz")
    raw, ends = data["jpeg"].tobytes(), data["offsets"].tolist()
    decoded = [np.asarray(PIL.Image.open(io.BytesIO(raw[a:b]))) for a, b in pairwise(ends)]
    x = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    x = (x - mean[:, None, None]) / deviation[:, None, None]
    with zoo.open(tmp_path / "registry.db", plugins=load_plugins([EXAMPLE])) as registry:
        registry.register(tmp_path / "source", name="resnet20")
        module = registry.load("resnet20")

    with torch.inference_mode():
        answers = torch.cat([module(part).argmax(1) for part in x.split(250)])
    right = (answers == torch.from_numpy(data["labels"].astype(np.int64))).float().mean()
    assert 0.814 == pytest.approx(float(right), abs=0.0006)
