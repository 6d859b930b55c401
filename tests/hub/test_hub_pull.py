"""Pull: a commit becomes one version, and a branch that moved the next."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hub_models import header_bytes, model
from hub_server import HubServer
from zoo_cli.main import cli

from zoo.errors import InvalidName, NotFound
from zoo.registry import Registry


def card(**front: object) -> bytes:
    return f"---\n{json.dumps(front)}\n---\n# A model\n".encode()


def test_a_model_is_pulled_under_its_own_name(hub: HubServer, registry: Registry) -> None:
    commit = hub.add("org/tiny", model(0))
    pulled = registry.pull("hf://org/tiny")

    assert ("tiny@1", "base", True) == (pulled.version.ref, pulled.version.kind, pulled.fresh)
    assert f"hf://org/tiny@{commit}" == pulled.version.source


def test_a_commit_that_is_there_is_not_pulled_again(hub: HubServer, registry: Registry) -> None:
    hub.add("org/tiny", model(0))
    registry.pull("hf://org/tiny")
    hub.served.clear()
    again = registry.pull("hf://org/tiny")

    assert ("tiny@1", False) == (again.version.ref, again.fresh)
    assert 1 == len(registry.select())
    assert not hub.served


def test_a_branch_that_moved_gives_the_next_version(hub: HubServer, registry: Registry) -> None:
    hub.add("org/tiny", model(0))
    registry.pull("hf://org/tiny", name="mine")
    still = registry.pull("mine")
    moved = hub.add("org/tiny", model(1))
    after = registry.pull("mine")

    assert not still.fresh
    assert ("mine@2", True) == (after.version.ref, after.fresh)
    assert moved == after.version.notes["hub"]["commit"]
    assert "main" == after.version.notes["hub"]["revision"]


def test_what_has_not_changed_is_not_downloaded_for_the_next_version(
    hub: HubServer, registry: Registry
) -> None:
    hub.add("org/tiny", model(0))
    registry.pull("hf://org/tiny")
    hub.add("org/tiny", {**model(0), "README.md": b"# Another card\n"})
    hub.served.clear()
    registry.pull("tiny")

    assert header_bytes(model(0)["model.safetensors"]) == hub.weight_bytes


def test_a_pinned_commit_cannot_move(hub: HubServer, registry: Registry) -> None:
    commit = hub.add("org/tiny", model(0))
    registry.pull(f"hf://org/tiny@{commit}")
    with pytest.raises(NotFound, match="a commit never moves"):
        registry.pull("tiny")


def test_what_came_from_no_hub_is_not_pulled(
    hub: HubServer, registry: Registry, tmp_path: object
) -> None:
    hub.add("org/tiny", model(0))
    registry.pull("hf://org/tiny")
    registry.merge(method="linear", experts=["tiny", "tiny"], name="merged")
    with pytest.raises(NotFound, match="came from no hub"):
        registry.pull("merged")


def test_another_model_of_the_same_name_is_not_mixed_in(hub: HubServer, registry: Registry) -> None:
    hub.add("org/tiny", model(0))
    hub.add("else/tiny", model(1))
    registry.pull("hf://org/tiny")
    with pytest.raises(InvalidName, match="--name NAME"):
        registry.pull("hf://else/tiny")

    assert "tiny@2" == registry.pull("hf://else/tiny", name="tiny").version.ref


def test_the_card_tells_kind_base_and_licence(hub: HubServer, registry: Registry) -> None:
    hub.add("org/base", model(0))
    front = card(license="mit", base_model="org/base")
    hub.add("org/math", {**model(1), "README.md": front})
    registry.pull("hf://org/base", name="origin")
    found = registry.pull("hf://org/math").version

    assert ("expert", "origin@1", "mit") == (found.kind, found.base, found.license)


def test_a_base_that_was_not_pulled_is_not_invented(hub: HubServer, registry: Registry) -> None:
    hub.add("org/math", {**model(1), "README.md": card(base_model="org/base")})
    found = registry.pull("hf://org/math").version

    assert ("expert", None) == (found.kind, found.base)


def test_the_command_says_what_is_there(
    hub: HubServer, registry: Registry, tmp_path: object
) -> None:
    hub.add("org/tiny", model(0))
    zoo_ = ["--registry", registry.url]
    first = CliRunner().invoke(cli, [*zoo_, "pull", "hf://org/tiny", "--json"])
    again = CliRunner().invoke(cli, [*zoo_, "pull", "tiny"])

    assert 0 == first.exit_code, first.output
    assert json.loads(first.stdout)["fresh"] is True
    assert "tiny@1 is that commit already" in again.stderr
