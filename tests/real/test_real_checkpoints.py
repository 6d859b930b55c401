"""Every family of published checkpoints registers, and comes back byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo import Registry, Version

FOLDERS = [
    "w2x-upresnet10",
    "w2x-upconv7-photo",
    "pangolin-splice",
    "ani-potentials",
    "openspliceai-80nt",
    "wakeword-zoo",
]
TORCH = {
    "chgnet-potentials/chgnet_0.3.0_e29f68s314m37.pth.tar": ["model", "state_dict"],
    "chgnet-potentials/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar": [
        "model",
        "state_dict",
    ],
    "gnn-gcn-chem/gcn_contextpred.pth": [],
    "gnn-gcn-chem/gcn_supervised.pth": [],
    "gnn-gcn-chem/gcn_supervised_contextpred.pth": [],
    "pangolin-splice/original/final.1.0.3": [],
    "resnet-cifar10/resnet20-12fca82f.th": ["state_dict"],
    "resnet-cifar10/resnet32-d509ac18.th": ["state_dict"],
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with zoo.open(tmp_path / "registry.db") as opened:
        yield opened


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_tensors(
    registry: Registry, version: Version, expected: Mapping[str, torch.Tensor]
) -> None:
    """The stored file holds these tensors, bit for bit, and the registry describes them."""
    stored = load_file(registry.path(version.ref) / "model.safetensors")
    assert sorted(expected) == sorted(stored)
    for name, tensor in expected.items():
        assert (tensor.dtype, tensor.shape) == (stored[name].dtype, stored[name].shape), name
        assert raw(tensor) == raw(stored[name]), name
    described = registry.catalog.tensors(version.id)
    assert {n: tuple(t.shape) for n, t in expected.items()} == {t.name: t.shape for t in described}


def digests(registry: Registry, ref: str) -> dict[str, str]:
    return {t.name: t.digest for t in registry.catalog.tensors(registry.get(ref).id)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_family_of_directories_registers_and_is_kept_exactly(registry, data, folder):
    sources = [file.parent for file in sorted((data / folder).rglob("model.safetensors"))]
    assert sources

    for i, source in enumerate(sources):
        version = registry.register(source, name=f"m{i}")

        assert_same_tensors(registry, version, load_file(source / "model.safetensors"))
        kept = registry.path(version.ref)
        assert {p.name: p.read_bytes() for p in source.iterdir()} == {
            p.name: p.read_bytes() for p in kept.iterdir()
        }
        assert version.architecture
    assert registry.fsck().ok


@pytest.mark.parametrize("file", TORCH)
def test_a_torch_file_registers_with_the_tensors_torch_loads(registry, data, file):
    expected = torch.load(data / file, map_location="cpu", weights_only=True)
    for key in TORCH[file]:
        expected = expected[key]

    version = registry.register(data / file, name="m")

    assert_same_tensors(
        registry, version, {n.removeprefix("module."): t for n, t in expected.items()}
    )
    assert version.notes.get("state_dict_key", "") == ".".join(TORCH[file])
    assert registry.fsck().ok


def test_what_training_left_beside_the_weights_is_named_as_dropped(registry, data):
    file = "chgnet-potentials/chgnet_0.3.0_e29f68s314m37.pth.tar"

    version = registry.register(data / file, name="m")

    assert {"optimizer", "scheduler", "training_history"} <= set(version.notes["dropped"])


def test_the_pickle_tagged_cuda_has_the_digest_of_its_conversion(registry, data):
    folder = data / "pangolin-splice"
    original = registry.register(folder / "original" / "final.1.0.3", name="original")

    converted = registry.register(folder / "r1-heart-psplice", name="converted")

    assert converted.digest == original.digest


@pytest.mark.parametrize("number", [0, 1, 2])
def test_half_frozen_pairs_share_half_of_their_tensors(registry, data, number):
    folder = data / "ani-potentials"
    registry.register(folder / f"ani1x-m{number}", name="base", kind="base")
    registry.register(folder / f"ani1ccx-m{number}", name="tuned", base="base")

    base, tuned = digests(registry, "base"), digests(registry, "tuned")

    assert 32 == len(base) == len(tuned)
    assert 16 == sum(base[name] == tuned[name] for name in base)


def test_members_with_different_numbers_share_nothing(registry, data):
    folder = data / "ani-potentials"
    registry.register(folder / "ani1x-m0", name="m0")
    registry.register(folder / "ani1x-m1", name="m1")

    assert not set(digests(registry, "m0").values()) & set(digests(registry, "m1").values())


def test_pangolin_experts_share_the_heads_they_do_not_own(registry, data):
    folder = data / "pangolin-splice"
    registry.register(folder / "r1-heart-psplice", name="heart")
    registry.register(folder / "r1-liver-psplice", name="liver")

    heart, liver = digests(registry, "heart"), digests(registry, "liver")

    shared = {n.split(".")[0] for n in heart if "conv_last" in n and heart[n] == liver[n]}
    assert {f"conv_last{head}" for head in (2, 4, 5, 6, 7, 8)} == shared
