"""Models of a hub are merged: headers first, and nothing else until all checks have passed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hub_models import cache_files, header_bytes, model, weights
from hub_server import HubServer

import zoo
from zoo.errors import IncompatibleModels, NotFound, UnsupportedFormat
from zoo.registry import Registry

ASKED = {
    "method": "task_arithmetic",
    "experts": ["hf://org/a", "hf://org/b"],
    "base": "hf://org/base",
}
HEADER = header_bytes(model(0)["model.safetensors"])


@pytest.fixture
def models(hub: HubServer) -> dict[str, str]:
    """Commits by repository."""
    return {name: hub.add(f"org/{name}", model(i)) for i, name in enumerate(("base", "a", "b"))}


def local(tmp_path: Path, name: str, seed: int) -> str:
    folder = tmp_path / "local" / name
    folder.mkdir(parents=True)
    for path, data in model(seed).items():
        (folder / path).write_bytes(data)
    return str(folder)


def test_a_merge_of_a_hubs_models_is_that_of_the_same_models_here(
    hub: HubServer, models: dict[str, str], registry: Registry, tmp_path: Path
) -> None:
    here = [local(tmp_path, name, i) for i, name in enumerate(("base", "a", "b"))]
    merged = registry.merge(**ASKED, name="merged")
    registry.merge(
        method="task_arithmetic", experts=here[1:], base=here[0], out=tmp_path / "merged"
    )
    again = registry.register(tmp_path / "merged", name="again")

    assert merged is not None
    assert again.digest == merged.digest
    assert registry.verify("merged", replay=True).ok


def test_parents_are_versions_pinned_to_their_commits(
    hub: HubServer, models: dict[str, str], registry: Registry
) -> None:
    registry.merge(**ASKED, name="merged")
    sources = {v.source for v in registry.select() if v.kind != "merge"}

    assert {f"hf://org/{name}@{commit}" for name, commit in models.items()} == sources
    assert {"a@1", "b@1", "base@1", "merged@1"} == {v.ref for v in registry.select()}


def test_a_failed_preflight_downloads_and_leaves_nothing(
    hub: HubServer, models: dict[str, str], registry: Registry, tmp_path: Path
) -> None:
    odd = model(4, shape=(4, 8))
    hub.add("org/odd", odd)
    before = sorted(p for p in tmp_path.rglob("*") if "registry.db" not in p.name)
    with pytest.raises(IncompatibleModels) as refused:
        registry.merge(
            method="task_arithmetic",
            experts=["hf://org/a", "hf://org/odd"],
            base="hf://org/base",
            name="merged",
        )

    assert 2 == len(refused.value.problems)
    assert 2 * HEADER + header_bytes(odd["model.safetensors"]) == hub.weight_bytes
    assert before == sorted(p for p in tmp_path.rglob("*") if "registry.db" not in p.name)
    assert [] == registry.select()


def test_a_dry_run_downloads_no_weights_and_says_what_it_saw(
    hub: HubServer, models: dict[str, str], registry: Registry, tmp_path: Path
) -> None:
    plan = registry.plan(**ASKED)

    assert 3 * HEADER == hub.weight_bytes
    assert [] == cache_files(tmp_path)
    assert 3 == sum("looked at by its headers" in note for note in plan.notes)
    assert 2 * 8 * 8 * 4 * 3 == plan.bytes_read


def test_a_branch_that_moves_between_check_and_download_changes_nothing(
    hub: HubServer, models: dict[str, str], registry: Registry
) -> None:
    moved = []

    def move(handler: object, path: str) -> bool:
        """Once the headers have been looked at, all branches go on."""
        if path.startswith("cdn:") and not moved and hub.weight_bytes >= 3 * HEADER:
            moved.extend(hub.add(f"org/{name}", model(9)) for name in models)
        return False

    hub.fault = move
    registry.merge(**ASKED, name="merged")
    commits = {v.notes["hub"]["commit"] for v in registry.select() if v.kind != "merge"}

    assert moved
    assert set(models.values()) == commits


def test_a_merge_into_a_directory_needs_no_registry(
    hub: HubServer, models: dict[str, str], tmp_path: Path
) -> None:
    with zoo.Registry(str(tmp_path / "none.db"), create=False) as registry:
        registry.merge(**ASKED, out=tmp_path / "merged")

    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert not (tmp_path / "none.db").exists()


def test_hub_models_and_local_ones_merge_together(
    hub: HubServer, models: dict[str, str], registry: Registry, tmp_path: Path
) -> None:
    base = local(tmp_path, "base", 0)
    merged = registry.merge(
        method="linear", experts=["hf://org/a", base], name="merged", parameters={"weight": 0.5}
    )
    state = registry.load_state("merged")

    assert merged is not None
    for name, tensor in weights(1).items():
        expected = (tensor.double() + weights(0)[name].double()) / 2
        torch.testing.assert_close(expected.float(), state[name], rtol=1e-6, atol=1e-6)


def test_pickled_weights_are_pulled_before_they_are_merged(
    hub: HubServer, models: dict[str, str], registry: Registry
) -> None:
    buffer = io.BytesIO()
    torch.save(weights(5), buffer)
    hub.add("org/old", {"pytorch_model.bin": buffer.getvalue(), "config.json": b"{}"})
    with pytest.raises(UnsupportedFormat, match="zoo pull hf://org/old@"):
        registry.merge(method="linear", experts=["hf://org/a", "hf://org/old"], name="merged")

    assert 0 == hub.served["pytorch_model.bin"]


def test_a_name_as_hubs_have_them_is_answered_with_how_to_write_it(registry: Registry) -> None:
    with pytest.raises(NotFound, match=r"write `hf://org/model`"):
        registry.merge(method="linear", experts=["org/model", "org/other"], name="merged")
