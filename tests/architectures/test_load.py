"""From a reference to a runnable module."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_plugins.mlp_architecture import Mlp

import zoo
from zoo import Registry
from zoo.errors import InvalidCheckpoint, NotFound, PluginError
from zoo.measuring.subjects import subjects
from zoo.networks.modules import save_module
from zoo.plugins import load_plugins

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def config(classes: int = 3) -> dict[str, Any]:
    own = {"inputs": 8, "width": 6, "depth": 1, "classes": classes, "activation": "relu"}
    return {"model_type": "zoo_mlp", **own}


def mlp(seed: int, classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    return Mlp().build(config(classes))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "zoo").mkdir()
    with zoo.open(tmp_path / "zoo" / "registry.db", plugins=load_plugins()) as opened:
        yield opened


@pytest.fixture
def register(registry: Registry, tmp_path: Path) -> Callable[..., torch.nn.Module]:
    """Register an MLP of a seed: the module."""

    def add(name: str, seed: int, classes: int = 3, **about: Any) -> torch.nn.Module:
        made = mlp(seed, classes).eval()
        save_module(made, config(classes), tmp_path / name)
        registry.register(tmp_path / name, name=name, **about)
        return made

    return add


def test_a_version_is_loaded_as_it_was_saved_in_eval_mode(registry, register):
    made = register("m", 1)
    loaded = registry.load("m")

    assert not loaded.training
    assert torch.equal(made(X), loaded(X))
    assert registry.load("m") is not loaded


def test_a_zoo_is_found_by_its_place(registry, register, tmp_path, monkeypatch):
    made = register("m", 1)
    place = str(tmp_path / "zoo" / "registry.db")

    assert torch.equal(made(X), zoo.load("m", registry=place)(X))
    monkeypatch.setenv("ZOO_REGISTRY", place)
    assert torch.equal(made(X), zoo.load("m@1")(X))


def test_a_directory_is_loaded_without_any_zoo(tmp_path, monkeypatch):
    made = mlp(1).eval()
    save_module(made, config(), tmp_path / "m")
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)

    assert torch.equal(made(X), zoo.load("m")(X))
    assert ["m"] == [p.name for p in tmp_path.iterdir()]


@pytest.mark.parametrize("method", ["tall_masks", "tsv_compress"])
def test_each_task_has_its_own_model_with_its_own_head(registry, register, tmp_path, method):
    register("base", 1)
    experts = {"a": register("a", 2, 3, base="base", task="a")}
    experts["b"] = register("b", 3, 5, base="base", task="b")
    registry.compress(name="m", method=method, experts=["a", "b"], base="base", exclude=["head.*"])

    assert (4, 3) == registry.load("m")(X).shape
    for task, expert in experts.items():
        loaded = registry.load("m", task=task)
        assert torch.equal(expert.head.weight, loaded.head.weight)
        assert not loaded.training
        state = registry.load_state("m", task=task)
        assert all(torch.equal(t, state[n]) for n, t in loaded.state_dict().items())
        assert not torch.equal(registry.load("m").fc1.weight, loaded.fc1.weight)
    with pytest.raises(NotFound, match="has no task `c`"):
        registry.load("m", task="c")

    registry.export("m", tmp_path / "out", task="b")
    assert torch.equal(registry.load("m", task="b")(X), registry.load(tmp_path / "out")(X))


@pytest.mark.parametrize("registered", [True, False])
def test_pickled_weights_run_too(registry, tmp_path, registered):
    made = mlp(1).eval()
    (tmp_path / "m").mkdir()
    torch.save(made.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config()))
    ref = str(tmp_path / "m")
    if registered:
        ref = registry.register(ref, name="m").ref

    assert torch.equal(made(X), registry.load(ref)(X))
    with ExitStack() as stack:
        (subject,) = subjects(registry, [ref], stack)
        assert torch.equal(made(X), subject.module()(X))


def test_an_unknown_architecture_is_named_with_what_can_be_done(registry, tmp_path):
    made = mlp(1)
    save_module(made, {"model_type": "mine"}, tmp_path / "m")
    registry.register(tmp_path / "m", name="m")

    with pytest.raises(PluginError) as caught:
        registry.load("m")
    said = str(caught.value)
    assert "mine" == caught.value.architecture
    assert "`m` cannot be run: no plugin offers the architecture `mine`." in said
    assert "docs/how-to/add-an-architecture.md" in said
    assert "`zoo.load_state('m')`" in said
    assert made.state_dict().keys() == registry.load_state("m").keys()


def test_a_misspelt_architecture_is_told_the_nearest(registry, tmp_path):
    save_module(mlp(1), config() | {"model_type": "zoo_mpl"}, tmp_path / "m")
    registry.register(tmp_path / "m", name="m")

    with pytest.raises(PluginError, match="Did you mean `zoo_mlp`"):
        registry.load("m")
    with ExitStack() as stack:
        (subject,) = subjects(registry, ["m"], stack)
        with pytest.raises(PluginError, match="Did you mean `zoo_mlp`"):
            subject.module()


def test_a_model_without_a_configuration_says_so(registry, tmp_path):
    save_module(mlp(1), config(), tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    registry.register(tmp_path / "m", name="m")

    for ref in ("m", tmp_path / "m"):
        with pytest.raises(PluginError, match=r"has no `config.json` that names"):
            registry.load(ref)
        assert registry.load_state(ref)


def test_weights_that_the_configuration_does_not_ask_for_are_all_told(registry, tmp_path):
    save_module(mlp(1), {**config(), "depth": 2, "classes": 4}, tmp_path / "m")
    registry.register(tmp_path / "m", name="m")

    with pytest.raises(InvalidCheckpoint) as caught:
        registry.load("m")
    assert {
        "`fc2.weight` is missing",
        "`fc2.bias` is missing",
        "`head.weight` is (3, 6), not (4, 6)",
        "`head.bias` is (3,), not (4,)",
    } == set(caught.value.problems)


def test_a_configuration_gets_no_memory_that_the_weights_do_not_fill(registry, tmp_path):
    """Four terabytes of them."""
    save_module(mlp(1), {**config(), "width": 10**6, "depth": 2}, tmp_path / "m")

    with pytest.raises(InvalidCheckpoint, match=r"`fc1.weight` is \(6, 8\), not \(1000000, 8\)"):
        registry.load(tmp_path / "m")


def test_a_configuration_that_cannot_be_built_is_the_checkpoints_fault(registry, tmp_path):
    save_module(mlp(1), {**config(), "width": 10**18, "depth": 2}, tmp_path / "m")

    with pytest.raises(InvalidCheckpoint, match="`zoo_mlp` cannot be built"):
        registry.load(tmp_path / "m")


def test_the_same_module_is_written_to_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_module(mlp(1), dict(reversed(config().items())), tmp_path / name)
    save_module(mlp(1), config(), tmp_path / "three")

    for file in ("model.safetensors", "config.json"):
        assert 1 == len({(tmp_path / n / file).read_bytes() for n in ("one", "two", "three")})
