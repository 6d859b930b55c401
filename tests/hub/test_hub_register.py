"""Models are registered from a hub: pinned to a commit, looked at first, kept once."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_models import CONFIG, cache_files, header_bytes, model, weights
from hub_server import TOKEN, HubServer
from safetensors.torch import load, save

from zoo.errors import InvalidCheckpoint, InvalidName, NotFound, UnsupportedFormat
from zoo.registry import Registry


def test_a_revision_is_pinned_to_the_commit_it_stands_for(
    hub: HubServer, registry: Registry
) -> None:
    commit = hub.add("org/tiny", model(0))
    version = registry.register("hf://org/tiny", name="tiny")

    assert f"hf://org/tiny@{commit}" == version.source
    assert {
        "repo": "org/tiny",
        "revision": "main",
        "commit": commit,
        "endpoint": hub.endpoint,
    } == version.notes["hub"]
    assert version.license == "apache-2.0"
    assert version.architecture == "llama"


def test_a_branch_with_a_slash_and_a_model_without_owner_are_named_too(
    hub: HubServer, registry: Registry
) -> None:
    hub.add("old", model(0))
    there = hub.add("old", model(1), branch="try/this")
    version = registry.register("hf://old@try%2Fthis", name="tiny")

    assert there == version.notes["hub"]["commit"]
    assert "try/this" == version.notes["hub"]["revision"]


def test_the_bytes_are_kept_once_on_one_file_system(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/tiny", model(0))
    version = registry.register("hf://org/tiny", name="tiny")
    (snapshot,) = (tmp_path / "hf/hub/models--org--tiny/snapshots").iterdir()

    stored = Path(version.path, "model.safetensors")
    assert (snapshot / "model.safetensors").samefile(stored)
    assert 2 == stored.stat().st_nlink


def test_the_bytes_are_copied_across_file_systems(
    hub: HubServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", model(0))

    def elsewhere(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", elsewhere)
        version = registry.register("hf://org/tiny", name="tiny")

    assert 1 == Path(version.path, "model.safetensors").stat().st_nlink
    assert torch.equal(
        weights(0)["model.layers.0.mlp.up_proj.weight"],
        registry.load_state("tiny")["model.layers.0.mlp.up_proj.weight"],
    )


def test_what_the_hubs_own_library_brought_is_not_brought_again(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    hub.add("org/tiny", model(0))
    snapshot_download("org/tiny", endpoint=hub.endpoint, cache_dir=tmp_path / "hf/hub")
    hub.served.clear()
    registry.register("hf://org/tiny", name="tiny")

    assert header_bytes(model(0)["model.safetensors"]) == hub.weight_bytes


def test_the_hubs_own_library_finds_what_zoo_brought(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    hub.add("org/tiny", model(0))
    registry.register("hf://org/tiny", name="tiny")
    found = snapshot_download("org/tiny", cache_dir=tmp_path / "hf/hub", local_files_only=True)

    assert model(0)["model.safetensors"] == Path(found, "model.safetensors").read_bytes()


def test_a_snapshot_with_more_than_the_model_gives_the_model_only(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    extra = {"model.fp16.safetensors": model(5)["model.safetensors"]}
    hub.add("org/tiny", {**model(0), **extra})
    snapshot_download("org/tiny", endpoint=hub.endpoint, cache_dir=tmp_path / "hf/hub")
    version = registry.register("hf://org/tiny", name="tiny")

    files = sorted(f.path for f in registry.catalog.files(version.id))
    assert ["README.md", "config.json", "model.safetensors"] == files


def test_only_what_zoo_carries_is_downloaded(hub: HubServer, registry: Registry) -> None:
    others = (
        *("model.onnx", "onnx/model.onnx", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"),
        *("pytorch_model.bin", "model.Q8_0.gguf", ".gitattributes", "model.fp16.safetensors"),
        *("checkpoint-5/model.safetensors", "training_args.pt"),
    )
    hub.add("org/tiny", {**model(0), **dict.fromkeys(others, b"other"), "vocab.txt": b"a\n"})
    version = registry.register("hf://org/tiny", name="tiny")

    names = {f.path for f in registry.catalog.files(version.id)}
    assert {"README.md", "config.json", "model.safetensors", "vocab.txt"} == names
    assert not set(others) & hub.served.keys()


def test_shards_are_those_of_the_index(hub: HubServer, registry: Registry) -> None:
    tensors = weights(0, count=3)
    files = {
        f"model-0000{i}-of-00003.safetensors": {n: t} for i, (n, t) in enumerate(tensors.items(), 1)
    }
    index = {"metadata": {}, "weight_map": {n: f for f, own in files.items() for n in own}}
    hub.page = 2
    hub.add(
        "org/tiny",
        {
            **{f: save(own) for f, own in files.items()},
            "model.safetensors.index.json": json.dumps(index).encode(),
            "consolidated.safetensors": save(tensors),
            "config.json": json.dumps(CONFIG).encode(),
        },
    )
    version = registry.register("hf://org/tiny", name="tiny")

    found = registry.load_state("tiny")
    assert all(torch.equal(t, found[n]) for n, t in tensors.items())
    assert "consolidated.safetensors" not in hub.served
    assert 3 == sum(f.path.endswith(".safetensors") for f in registry.catalog.files(version.id))


def test_one_file_of_a_repository_is_named(hub: HubServer, registry: Registry) -> None:
    hub.add("org/tiny", {**model(0), "other/second.safetensors": model(7)["model.safetensors"]})
    version = registry.register("hf://org/tiny@main/other/second.safetensors", name="second")

    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(weights(7)[name], registry.load_state("second")[name])
    assert version.source.endswith("/other/second.safetensors")
    assert {"other/second.safetensors"} == set(hub.served)


def test_a_folder_of_a_repository_is_named(hub: HubServer, registry: Registry) -> None:
    hub.add("org/tiny", {f"inner/{path}": data for path, data in model(3).items()})
    version = registry.register("hf://org/tiny/inner", name="inner")

    names = {f.path for f in registry.catalog.files(version.id)}
    assert {"README.md", "config.json", "model.safetensors"} == names


def test_a_torch_file_is_registered_though_it_has_no_header(
    hub: HubServer, registry: Registry
) -> None:
    tensors = weights(0)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    hub.add("org/old", {"pytorch_model.bin": buffer.getvalue(), "config.json": b"{}"})
    registry.register("hf://org/old", name="old")

    found = registry.load_state("old")
    assert all(torch.equal(t, found[n]) for n, t in tensors.items())


def test_what_would_be_refused_is_not_downloaded(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    whole = model(0)["model.safetensors"]
    broken = whole.replace(b'"F32"', b'"X32"')
    hub.add("org/bad", {**model(0), "model.safetensors": broken})
    with pytest.raises(InvalidCheckpoint, match="unknown dtype"):
        registry.register("hf://org/bad", name="bad")

    assert header_bytes(whole) == hub.weight_bytes
    assert [] == cache_files(tmp_path)
    assert [] == registry.select()


def test_a_private_model_needs_a_token_which_stays_with_the_hub(
    hub: HubServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/secret", model(0), private=True)
    with pytest.raises(NotFound, match="hf auth login"):
        registry.register("hf://org/secret", name="secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    registry.register("hf://org/secret", name="secret")

    assert hub.tokens_at_cdn
    assert {""} == set(hub.tokens_at_cdn)


@pytest.mark.parametrize(
    ("source", "what"),
    [("hf://org/none", "no such model"), ("hf://org/tiny@none", "no such revision")],
)
def test_what_is_not_there_is_said(
    hub: HubServer, registry: Registry, source: str, what: str
) -> None:
    hub.add("org/tiny", model(0))
    with pytest.raises(NotFound, match=what):
        registry.register(source, name="tiny")


def test_a_repository_without_weights_lists_what_it_has(hub: HubServer, registry: Registry) -> None:
    hub.add("org/q", {"a.Q4.gguf": b"GGUF", "b.Q8.gguf": b"GGUF", "config.json": b"{}"})
    with pytest.raises(UnsupportedFormat, match=r"`a.Q4.gguf`, `b.Q8.gguf`"):
        registry.register("hf://org/q", name="q")


@pytest.mark.parametrize(
    "source",
    [
        *("hf://", "hf://../x", "hf://a/../b", "hf://a/b@../c", "hf://a/b@x%2F..%2Fy"),
        *("hf://a/b/../../c", "hf://a/b\n", "hf:///etc/passwd", "hf://a--b/c", "hf://a/b.git"),
        f"hf://a/{'b' * 100}",
    ],
)
def test_a_name_that_leads_elsewhere_asks_nobody(
    hub: HubServer, registry: Registry, source: str
) -> None:
    with pytest.raises(InvalidName, match="names no model on a hub"):
        registry.register(source, name="x")

    assert [] == hub.requests


def test_without_a_network_it_says_so(hub: HubServer, registry: Registry, tmp_path: Path) -> None:
    hub.add("org/tiny", model(0))
    code = (
        "import zoo, sys\n"
        f"with zoo.open({str(tmp_path / 'other.db')!r}) as r:\n"
        "    try: r.register('hf://org/tiny', name='t')\n"
        "    except zoo.ZooError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "HF_HUB_OFFLINE forbids it" in done.stdout


def test_plugins_load_without_the_hubs_library() -> None:
    code = (
        "import sys, zoo\nfrom zoo.plugins import load_plugins\n"
        "assert 'hub' in load_plugins(()).loaded\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_that_came_are_the_weights_that_are_there(
    hub: HubServer, registry: Registry
) -> None:
    hub.add("org/tiny", model(0))
    version = registry.register("hf://org/tiny", name="tiny")

    data = Path(version.path, "model.safetensors").read_bytes()
    assert load(model(0)["model.safetensors"]).keys() == load(data).keys()
    assert model(0)["model.safetensors"] == data


def test_an_adapter_without_its_base_is_told_by_its_name_on_the_hub(
    hub: HubServer, registry: Registry
) -> None:
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "org/base"}
    name = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    files = {"adapter_model.safetensors": save(factors)}
    hub.add("org/lora", {**files, "adapter_config.json": json.dumps(config).encode()})
    with pytest.raises(NotFound) as refused:
        registry.register("hf://org/lora", name="lora")

    assert "hf://org/lora@" in refused.value.what
    assert "zoo-outline-" not in str(refused.value)
    assert 0 == hub.served["adapter_model.safetensors"] - header_bytes(save(factors))
