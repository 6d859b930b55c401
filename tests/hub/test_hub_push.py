"""Push: one commit, of what is not there already; what comes back is what was pushed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hub_models import CONFIG, model, weights
from hub_server import TOKEN, File, HubServer
from safetensors.torch import save
from zoo_cli.main import cli

import zoo
from zoo.errors import InvalidCheckpoint, InvalidName, NotFound, StoreError
from zoo.registry import Registry


@pytest.fixture(autouse=True)
def token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def merged(hub: HubServer, registry: Registry) -> str:
    for i, name in enumerate(("base", "a", "b")):
        hub.add(f"org/{name}", model(i))
        registry.pull(f"hf://org/{name}")
    registry.merge(method="task_arithmetic", experts=["a", "b"], base="base", name="merged")
    return "merged"


def files_of(hub: HubServer, repo: str, branch: str = "main") -> dict[str, File]:
    return hub.repos[repo].commits[hub.repos[repo].branches[branch]]


FACTORS = {"A": (2, 8), "B": (8, 2)}.items()
"""Of rank 2, for a tensor of the tiny model."""


def register(
    registry: Registry, folder: Path, files: dict[str, bytes], name: str = "own", **about: str
) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for path, data in files.items():
        (folder / path).write_bytes(data)
    registry.register(folder, name=name, **about)  # type: ignore[arg-type]


def test_what_is_pulled_pushed_and_pulled_keeps_its_digest(
    hub: HubServer, registry: Registry
) -> None:
    hub.add("org/tiny", model(0))
    first = registry.pull("hf://org/tiny").version
    registry.push("tiny", "me/tiny", create=True)
    second = registry.pull("hf://me/tiny", name="back").version

    assert first.digest == second.digest
    assert model(0)["model.safetensors"] == files_of(hub, "me/tiny")["model.safetensors"].data


def test_a_merge_is_pushed_with_card_recipe_and_lineage(
    hub: HubServer, registry: Registry, merged: str
) -> None:
    pushed = registry.push(merged, "me/merged", create=True, private=True)
    files = files_of(hub, "me/merged")
    text = files["README.md"].data.decode()

    assert {
        *(".gitattributes", "README.md", "config.json", "mergekit_config.yml"),
        *("model.safetensors", "zoo_recipe.json"),
    } == files.keys()
    assert "base_model: [org/base, org/a, org/b]" in text
    assert registry.get(merged).digest in text
    assert hub.repos["me/merged"].private
    assert f"{hub.endpoint}/me/merged/commit/{pushed.commit}" == pushed.url


def test_a_pushed_merge_keeps_its_digest(hub: HubServer, registry: Registry, merged: str) -> None:
    registry.push(merged, "me/merged", create=True)
    back = registry.pull("hf://me/merged", name="back").version

    assert registry.get(merged).digest == back.digest
    assert ("merge", "base@1") == (back.kind, back.base)


def test_a_second_push_of_the_same_commits_nothing(
    hub: HubServer, registry: Registry, merged: str
) -> None:
    first = registry.push(merged, "me/merged", create=True)
    hub.committed.clear()
    hub.uploaded.clear()
    second = registry.push(merged, "me/merged")

    assert ((), first.commit) == (second.sent, second.commit)
    assert ([], []) == (hub.committed, hub.uploaded)


def test_a_second_push_sends_only_what_changed(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    one, two = weights(0).items()
    shards = {"model-00001-of-00002.safetensors": one, "model-00002-of-00002.safetensors": two}

    def files(scale: float) -> dict[str, bytes]:
        (first, (n, t)), (second, other) = shards.items()
        index = {"weight_map": {n: first, other[0]: second}, "metadata": {}}
        return {
            first: save({n: t * scale}),
            second: save(dict([other])),
            "model.safetensors.index.json": json.dumps(index).encode(),
            "config.json": json.dumps(CONFIG).encode(),
        }

    register(registry, tmp_path / "own", files(1.0))
    registry.push("own", "me/own", create=True)
    hub.uploaded.clear()
    hub.committed.clear()
    register(registry, tmp_path / "own", files(2.0))
    pushed = registry.push("own", "me/own")

    assert ("README.md", "model-00001-of-00002.safetensors") == pushed.sent
    assert [list(pushed.sent)] == hub.committed
    assert 1 == len(hub.uploaded)
    assert {"config.json", "model-00002-of-00002.safetensors"} < set(pushed.same)


def test_large_files_that_the_hub_has_elsewhere_are_not_sent(
    hub: HubServer, registry: Registry, merged: str
) -> None:
    registry.push(merged, "me/merged", create=True)
    hub.uploaded.clear()
    hub.requests.clear()
    registry.push(merged, "me/second", create=True)

    assert [] == hub.uploaded
    assert ("POST", "/me/second.git/info/lfs/objects/batch") in hub.requests


def test_shards_that_are_no_more_are_removed(
    hub: HubServer, registry: Registry, tmp_path: Path, merged: str
) -> None:
    index = b'{"metadata": {}, "weight_map": {}}'
    old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": index}
    mine = {"notes.txt": b"mine", "other/model.safetensors": b"mine"}
    hub.add("me/merged", {**old, **mine})
    pushed = registry.push(merged, "me/merged")
    files = files_of(hub, "me/merged")

    assert tuple(old) == pushed.removed
    assert not old.keys() & files.keys()
    assert mine == {path: files[path].data for path in mine}
    assert registry.get(merged).digest == registry.pull("hf://me/merged", name="x").version.digest


def test_another_branch_is_made(hub: HubServer, registry: Registry, merged: str) -> None:
    registry.push(merged, "me/merged", create=True)
    registry.push("a", "me/merged", revision="try/a")

    assert files_of(hub, "me/merged")["model.safetensors"].data != (
        files_of(hub, "me/merged", "try/a")["model.safetensors"].data
    )
    back = registry.pull("hf://me/merged@try%2Fa", name="back").version
    assert registry.get("a").digest == back.digest


def test_a_repository_that_is_not_there_is_made_on_demand_only(
    hub: HubServer, registry: Registry, merged: str
) -> None:
    with pytest.raises(NotFound, match="--create"):
        registry.push(merged, "me/merged")

    assert "me/merged" not in hub.repos


def test_without_a_token_it_says_who_may_write(
    hub: HubServer, registry: Registry, merged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(NotFound, match="hf auth login"):
        registry.push(merged, "me/merged", create=True)


@pytest.mark.parametrize("path", ["/api/models/me/merged/commit/main", "/batch"])
def test_a_push_that_fails_commits_nothing(
    hub: HubServer, registry: Registry, merged: str, path: str
) -> None:
    hub.add("me/merged", {"a.txt": b"a"})
    before = dict(hub.repos["me/merged"].branches)

    def refuses(handler: object, asked: str) -> bool:
        if asked.endswith(path):
            handler.fail(412)  # type: ignore[attr-defined]
            return True
        return False

    hub.fault = refuses
    with pytest.raises(StoreError, match="Nothing was committed"):
        registry.push(merged, "me/merged")

    assert before == hub.repos["me/merged"].branches


def test_somebody_elses_commit_meanwhile_is_not_overwritten(
    hub: HubServer, registry: Registry, merged: str
) -> None:
    hub.add("me/merged", {"a.txt": b"a"})

    def pushes(handler: object, asked: str) -> bool:
        if asked.endswith("preupload/main"):
            hub.add("me/merged", {"theirs.txt": b"theirs"})
        return False

    hub.fault = pushes
    with pytest.raises(StoreError, match="somebody else pushed meanwhile"):
        registry.push(merged, "me/merged")

    assert {"theirs.txt"} == files_of(hub, "me/merged").keys()


def test_paths_of_this_machine_stay_here(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    here = tmp_path / "experts" / "math"
    here.mkdir(parents=True)
    config = json.dumps({**CONFIG, "_name_or_path": str(here)}, indent=2).encode()
    text = f"Made of {here} and `{here}`, see https://a.b/c/d and /v1/models.\n"
    recipe = f"models:\n- model: {here}\nmerge_method: linear\n"
    files = {**model(0), "config.json": config, "README.md": text.encode()}
    register(registry, tmp_path / "own", {**files, "mergekit_config.yml": recipe.encode()})
    registry.push("own", "me/own", create=True)
    pushed = files_of(hub, "me/own")

    assert not [p for p, f in pushed.items() if str(tmp_path).encode() in f.data]
    assert {**CONFIG, "_name_or_path": ""} == json.loads(pushed["config.json"].data)
    assert "Made of math and `math`, see https://a.b/c/d and /v1/models." in (
        pushed["README.md"].data.decode()
    )
    assert b"- model: math\n" in pushed["mergekit_config.yml"].data


def test_where_an_adapters_base_lay_stays_here(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    here = tmp_path / "models" / "base"
    here.mkdir(parents=True)
    name = "model.layers.0.mlp.up_proj"
    factors = {f"base_model.model.{name}.lora_{x}.weight": torch.ones(s) for x, s in FACTORS}
    settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(here)}
    front = f"---\ntags: ['base_model:adapter:{here}', lora]\n---\nSee https://a.b/c/d.\n"
    register(registry, tmp_path / "base", model(0), name="base", kind="base")
    files = {
        "adapter_model.safetensors": save(factors),
        "adapter_config.json": json.dumps(settings).encode(),
        "README.md": front.encode(),
    }
    register(registry, tmp_path / "own", files, base="base")
    registry.push("own", "me/own", create=True)
    pushed = files_of(hub, "me/own")

    assert not [p for p, f in pushed.items() if str(tmp_path).encode() in f.data]
    assert "" == json.loads(pushed["adapter_config.json"].data)["base_model_name_or_path"]
    assert b"See https://a.b/c/d." in pushed["README.md"].data


def test_a_pushed_adapter_knows_its_base_by_the_digest_when_pulled(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    name = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{name}.lora_{x}.weight": torch.ones(s) for x, s in FACTORS}
    register(registry, tmp_path / "base", model(0), name="base", kind="base")
    files = {
        "adapter_model.safetensors": save(factors),
        "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 2}).encode(),
    }
    register(registry, tmp_path / "own", files, base="base")
    registry.push("base", "me/origin", create=True)
    registry.push("own", "me/own", create=True)
    with zoo.open(tmp_path / "other.db") as other:
        other.pull("hf://me/origin")
        found = other.pull("hf://me/own").version

    assert ("adapter", "origin@1") == (found.kind, found.base)
    assert registry.get("own").digest == found.digest


def test_tokens_are_not_published(hub: HubServer, registry: Registry, tmp_path: Path) -> None:
    secret = b"token: hf_" + b"a1" * 17
    register(registry, tmp_path / "own", {**model(0), "run.yaml": secret})
    with pytest.raises(InvalidCheckpoint, match="looks like a token"):
        registry.push("own", "me/own", create=True)

    assert "me/own" not in hub.repos


@pytest.mark.parametrize("repo", ["", "../x", "a/b/c", "a/b@main", "a//b"])
def test_a_name_that_is_no_repositorys_is_refused(
    hub: HubServer, registry: Registry, merged: str, repo: str
) -> None:
    hub.requests.clear()
    with pytest.raises(InvalidName):
        registry.push(merged, repo, create=True)

    assert [] == hub.requests


def test_the_command_says_the_commit(hub: HubServer, registry: Registry, merged: str) -> None:
    asked = ["--registry", registry.url, "push", merged, "me/merged"]
    done = CliRunner().invoke(cli, [*asked, "--create"])
    again = CliRunner().invoke(cli, [*asked, "--json"])

    assert 0 == done.exit_code, done.output
    assert f"url\t{hub.endpoint}/me/merged/commit/" in done.stdout
    assert [] == json.loads(again.stdout)["sent"]


def test_what_was_pushed_loads_with_the_hubs_own_library(
    hub: HubServer, registry: Registry, merged: str, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download
    from safetensors.torch import load_file

    registry.push(merged, "me/merged", create=True)
    found = snapshot_download("me/merged", endpoint=hub.endpoint, cache_dir=tmp_path / "other")
    state = load_file(Path(found, "model.safetensors"))

    for name, tensor in registry.load_state(merged).items():
        assert torch.equal(tensor, state[name])
