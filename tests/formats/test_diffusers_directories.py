"""Directories of components: registered, merged, loaded again by the library they are for."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from zoo import Registry
from zoo.errors import InvalidCheckpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pipelines of one shape, on disk."""
    folder = tmp_path_factory.mktemp("pipelines")
    for seed in range(2):
        tiny_models.pipeline(seed, folder / "scratch").save_pretrained(folder / str(seed))
    return [folder / "0", folder / "1"]


@pytest.fixture
def copy(pipelines: list[Path], tmp_path: Path) -> Path:
    """A pipeline that a test may change."""
    return Path(shutil.copytree(pipelines[0], tmp_path / "copy"))


@pytest.fixture
def registered(registry: Registry, pipelines: list[Path]) -> Registry:
    for name, path in zip("ab", pipelines, strict=True):
        registry.register(path, name=name)
    return registry


def loaded(path: Path) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(path, safety_checker=None)


def states(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory of components, by folder and name."""
    return {
        f"{file.parent.relative_to(path).as_posix()}/{name}": tensor
        for file in sorted(path.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_registration_keeps_every_file_byte_for_byte(
    registered: Registry, pipelines: list[Path]
) -> None:
    kept = registered.path("a")

    expected = {p.relative_to(pipelines[0]): p for p in pipelines[0].rglob("*") if p.is_file()}
    actual = {p.relative_to(kept): p for p in kept.rglob("*") if p.is_file()}
    assert expected.keys() == actual.keys()
    assert all(p.read_bytes() == actual[k].read_bytes() for k, p in expected.items())


def test_tensors_are_called_by_component_and_name(
    registered: Registry, pipelines: list[Path]
) -> None:
    tensors = registered.catalog.tensors(registered.get("a").id)

    assert sorted(states(pipelines[0])) == [t.name for t in tensors]
    assert {"unet", "vae", "text_encoder"} == {t.name.partition("/")[0] for t in tensors}
    assert ["text_encoder", "unet", "vae"] == registered.get("a").notes["components"]


def test_a_merge_loads_in_diffusers_and_computes_what_the_mean_weights_do(
    registered: Registry, pipelines: list[Path]
) -> None:
    registered.merge(method="linear", experts=["a", "b"], name="m")

    merged = loaded(registered.path("m"))
    one, other = map(states, pipelines)
    by_hand = loaded(pipelines[0])
    for component in tiny_models.COMPONENTS:
        mean = {
            name: ((one[f"{component}/{name}"].double() + other[f"{component}/{name}"]) / 2).float()
            for name in getattr(by_hand, component).state_dict()
            if f"{component}/{name}" in one
        }
        getattr(by_hand, component).load_state_dict(mean, strict=False)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        results = []
        for made in (by_hand, merged):
            context = made.text_encoder(ids)[0]
            noise = made.unet(latents, 5, encoder_hidden_states=context).sample
            results.append((context, noise, made.vae.decode(noise).sample))
    for expected, actual in zip(*results, strict=True):
        assert torch.allclose(expected, actual, rtol=1e-5, atol=1e-6)


def test_a_merge_verifies_and_replays_and_the_store_is_sound(registered: Registry) -> None:
    registered.merge(method="ties", experts=["a", "b"], base="a", name="m")

    assert registered.verify("m").ok
    assert registered.verify("m", replay=True).ok
    assert registered.fsck().ok


def test_components_can_be_left_out_and_filtered_by_name(
    registered: Registry, pipelines: list[Path]
) -> None:
    weight = [{"filter": "unet/*", "value": 1.0}, {"value": 0.25}]
    recipe = {
        "method": "task_arithmetic",
        "base": "a",
        "experts": ["b"],
        "exclude": ["vae/*"],
        "parameters": {"weight": weight},
    }

    registered.merge(recipe, name="m")

    one, other, made = (states(p) for p in (*pipelines, registered.path("m")))
    for name, tensor in made.items():
        share = {"vae": 0.0, "unet": 1.0, "text_encoder": 0.25}[name.partition("/")[0]]
        if tensor.dtype.is_floating_point:
            expected = one[name] + share * (other[name] - one[name])
            assert torch.allclose(expected, tensor, atol=1e-6), name
    assert all(torch.equal(one[n], t) for n, t in made.items() if n.startswith("vae/"))


def test_large_results_are_sharded_by_component_with_indexes_the_library_reads(
    registered: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = registered.merge(method="linear", experts=["a", "b"], name="w")
    monkeypatch.setattr("zoo.recipes.recipe.SHARD_BYTES", 12_000)

    sharded = registered.merge(method="linear", experts=["a", "b"], name="m")

    path = registered.path("m")
    index = json.loads((path / (UNET + ".index.json")).read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert (path / "text_encoder/model.safetensors.index.json").is_file()
    assert not (path / "model.safetensors.index.json").exists()
    assert whole is not None and sharded is not None and whole.digest == sharded.digest
    one, other = (loaded(registered.path(n)).unet.state_dict() for n in ("m", "w"))
    assert all(torch.equal(t, other[n]) for n, t in one.items())
    assert registered.verify("m", replay=True).ok
    again = registered.register(path, name="again")
    assert registered.get("m").digest == again.digest


def test_an_interrupted_merge_goes_on_where_it_was(
    registered: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.engine.shards import ShardWriter

    finish = ShardWriter.finished
    done: list[str] = []

    def dies(self: ShardWriter, info: Any, digest: str) -> None:
        if len(done) == 100:
            raise KeyboardInterrupt
        done.append(info.name)
        finish(self, info, digest)

    monkeypatch.setattr(ShardWriter, "finished", dies)
    with pytest.raises(KeyboardInterrupt):
        registered.merge(method="linear", experts=["a", "b"], name="m", threads=1)
    monkeypatch.setattr(
        ShardWriter, "finished", lambda s, i, d: (done.append(i.name), finish(s, i, d))
    )
    half = set(done)
    done.clear()

    registered.merge(method="linear", experts=["a", "b"], name="m", threads=1)

    assert half and half.isdisjoint(done)
    assert registered.verify("m", replay=True).ok


def test_a_merge_into_a_directory_and_an_export_have_the_components(
    registered: Registry, pipelines: list[Path], tmp_path: Path
) -> None:
    experts = [str(p) for p in pipelines]
    registered.merge(method="linear", experts=experts, out=tmp_path / "out")
    registered.merge(method="linear", experts=["a", "b"], name="m")

    registered.export("m", tmp_path / "exported")

    assert (tmp_path / "out" / UNET).read_bytes() == (tmp_path / "exported" / UNET).read_bytes()
    assert loaded(tmp_path / "exported").unet.config.sample_size == 8


def test_diff_names_components(registered: Registry) -> None:
    found = registered.diff("a", "b")

    assert {"unet", "vae", "text_encoder"} == {d.tensor.partition("/")[0] for d in found.changed}


def test_two_components_may_have_tensors_of_one_name(registry: Registry, copy: Path) -> None:
    shutil.copytree(copy / "text_encoder", copy / "text_encoder_2")
    content = json.loads((copy / "model_index.json").read_text())
    content["text_encoder_2"] = content["text_encoder"]
    (copy / "model_index.json").write_text(json.dumps(content))

    version = registry.register(copy, name="two")

    names = {t.name for t in registry.catalog.tensors(version.id)}
    first = {n for n in names if n.startswith("text_encoder/")}
    assert first
    assert {n.replace("text_encoder/", "text_encoder_2/") for n in first} <= names


def test_the_plain_set_goes_before_variants_and_the_others_are_noted(
    registry: Registry, copy: Path
) -> None:
    shutil.copy(copy / UNET, copy / UNET.replace(".safe", ".fp16.safe"))
    shutil.copy(copy / UNET, copy / "unet" / "flax_model.msgpack")

    version = registry.register(copy, name="model")

    assert "variants" not in version.notes
    assert [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/flax_model.msgpack",
    ] == version.notes["skipped"]


def test_a_variant_is_taken_where_there_is_nothing_else_and_loads_as_one(
    registry: Registry, copy: Path
) -> None:
    for file in copy.glob("*/*.safetensors"):
        half = {n: t.half() if t.is_floating_point() else t for n, t in load_file(file).items()}
        save_file(half, file.with_name(file.stem + ".fp16.safetensors"), {"format": "pt"})
        file.unlink()

    version = registry.register(copy, name="model")
    registry.merge(method="linear", experts=["model", "model"], name="merged")

    assert dict.fromkeys(tiny_models.COMPONENTS, "fp16") == version.notes["variants"]
    kept = diffusers.StableDiffusionPipeline.from_pretrained(
        registry.path("model"), variant="fp16", dtype=torch.float16, safety_checker=None
    )
    merged = loaded(registry.path("merged"))
    for name, tensor in kept.unet.state_dict().items():
        assert torch.equal(tensor.float(), merged.unet.state_dict()[name]), name


def test_pickled_components_are_written_anew_beside_the_others(
    registry: Registry, copy: Path, pipelines: list[Path]
) -> None:
    state = load_file(copy / UNET)
    torch.save(state, copy / "unet/diffusion_pytorch_model.bin")
    (copy / UNET).unlink()

    version = registry.register(copy, name="model")

    whole = registry.register(pipelines[0], name="whole")
    assert whole.digest == version.digest
    assert (registry.path("model") / UNET).is_file()
    assert "unet" in version.notes["source_sha256"]


def test_missing_shards_are_an_error_that_names_the_component(
    registry: Registry, copy: Path
) -> None:
    (copy / UNET).rename(copy / UNET.replace(".safe", "-00001-of-00002.safe"))

    with pytest.raises(InvalidCheckpoint, match="unet` holds 1 of 2 shards"):
        registry.register(copy, name="model")


def test_a_component_path_cannot_leave_the_directory(registry: Registry, copy: Path) -> None:
    content = json.loads((copy / "model_index.json").read_text())
    content["../outside"] = ["diffusers", "UNet2DConditionModel"]
    (copy / "model_index.json").write_text(json.dumps(content))
    outside = copy.parent / "outside"
    outside.mkdir()
    shutil.copy(copy / UNET, outside)

    version = registry.register(copy, name="model")

    assert {"text_encoder", "unet", "vae"} == {
        t.name.partition("/")[0] for t in registry.catalog.tensors(version.id)
    }


def test_sentence_transformers_have_their_further_layers(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "st" / "2_Dense").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, tmp_path / "st" / "model.safetensors", {"format": "pt"})
    save_file({"w": torch.zeros(3)}, tmp_path / "st" / "2_Dense" / "model.safetensors")
    parts = [{"idx": 0, "name": "0", "path": ""}, {"idx": 2, "name": "2", "path": "2_Dense"}]
    (tmp_path / "st" / "modules.json").write_text(json.dumps(parts))
    registry.register(tmp_path / "st", name="st")

    registry.merge(method="linear", experts=["st", "st"], name="m")

    path = registry.path("m")
    assert {"w": [1.0, 1.0]} == {
        n: t.tolist() for n, t in load_file(path / "model.safetensors").items()
    }
    assert [0.0] * 3 == load_file(path / "2_Dense" / "model.safetensors")["w"].tolist()
