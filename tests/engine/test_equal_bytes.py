"""One recipe, one result: for any threads, budget, chunk of files, and with or without a zoo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import State, bits, family, same_bytes, write

import zoo
from zoo import Registry
from zoo.digest import tensor_digest, weights_digest
from zoo.dtypes import dtype_name

RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.2, 0.5, 0.7]},
    "slerp": {"t": 0.3},
    "task_arithmetic": {"lambda": 0.4, "weight": [1.0, -0.5, 0.3]},
    "ties": {"density": 0.3, "lambda": 0.7},
    "ties by tensor": {"scope": "tensor", "zero_sign": "positive", "density": [0.1, 0.5, 1.0]},
}


def asked(case: str, names: list[str]) -> dict[str, Any]:
    method = case.split()[0]
    return {
        "method": method,
        "experts": names[:2] if method == "slerp" else names,
        "base": None if method in ("linear", "slerp") else "base",
        "parameters": RECIPES[case],
    }


def digest_of(state: State) -> str:
    return weights_digest(
        (n, tensor_digest(dtype_name(t.dtype), tuple(t.shape), bits(t).numpy().tobytes()))
        for n, t in state.items()
    )


@pytest.mark.parametrize("case", RECIPES)
def test_threads_and_budget_change_nothing(
    case: str, registry: Registry, members: list[State]
) -> None:
    made = [
        registry.merge(**asked(case, ["a", "b", "c"]), name="m", threads=threads, memory=memory)
        for threads, memory in ((1, "1GiB"), (2, "1GiB"), (1, "500MiB"), (2, "500MiB"), (5, "8GiB"))
    ]

    assert 1 == len({v.digest for v in made if v})
    assert 1 == len({registry.catalog.files(v.id) for v in made if v})


@pytest.mark.parametrize("case", RECIPES)
def test_a_merge_in_a_zoo_is_the_merge_in_memory(
    case: str, registry: Registry, members: list[State], load: Callable[..., State]
) -> None:
    how = asked(case, ["a", "b", "c"])
    version = registry.merge(**how, name="m")
    assert version is not None

    merged = zoo.merge(
        how["method"],
        members[1 : 1 + len(how["experts"])],
        base=members[0] if how["base"] else None,
        parameters=how["parameters"],
        threads=2,
    )

    assert same_bytes(merged, load(registry.path("m")))
    assert digest_of(merged) == version.digest


@pytest.mark.parametrize("case", RECIPES)
def test_the_order_and_number_of_input_files_change_nothing(
    case: str, registry: Registry, members: list[State], tmp_path: Path
) -> None:
    again = []
    for name, state in zip(("base", "a", "b", "c"), members, strict=True):
        again.append(str(sharded(tmp_path / "sharded" / name, state)))
    how = asked(case, ["a", "b", "c"])
    version = registry.merge(**how, name="m")

    how = asked(case, again[1:])
    if how["base"]:
        how["base"] = again[0]
    other = registry.merge(**how, name="m")

    assert version and other
    assert version.digest == other.digest
    assert registry.catalog.files(version.id) == registry.catalog.files(other.id)
    assert {"base", "a", "b", "c", "m"} == {v.name for v in registry.select()}


def sharded(directory: Path, state: State) -> Path:
    """The same model in three files, tensors in an order of their own."""
    from safetensors.torch import save_file

    write(directory, {})
    (directory / "model.safetensors").unlink()
    names = sorted(state, key=lambda n: n[::-1])
    places = {}
    for i in range(3):
        file = f"model-0000{i + 1}-of-00003.safetensors"
        save_file({n: state[n] for n in names[i::3]}, directory / file, {"format": "pt"})
        places.update(dict.fromkeys(names[i::3], file))
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


@pytest.mark.parametrize("case", ["linear", "ties"])
def test_a_large_result_is_cut_into_files_with_an_index(
    case: str,
    registry: Registry,
    members: list[State],
    load: Callable[..., State],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = registry.merge(**asked(case, ["a", "b", "c"]), name="one")
    monkeypatch.setattr("zoo.recipes.recipe.SHARD_BYTES", 400)

    many = registry.merge(**asked(case, ["a", "b", "c"]), name="many")

    assert one and many and one.digest == many.digest
    path = registry.export("many", tmp_path / "many")
    shards = sorted(p.name for p in path.glob("*.safetensors"))
    assert len(shards) >= 3 and f"-of-0000{len(shards)}.safetensors" in shards[0]
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(members[0])
    assert set(index["weight_map"].values()) == set(shards)
    assert same_bytes(load(registry.path("one")), load(path))
    assert registry.verify("many").ok
    monkeypatch.undo()
    assert registry.verify("many", replay=True).ok
    assert registry.register(path, name="again").digest == one.digest


@pytest.mark.parametrize("case", RECIPES)
def test_a_plain_directory_holds_what_the_zoo_would(
    case: str, registry: Registry, members: list[State], tmp_path: Path
) -> None:
    registry.merge(**asked(case, ["a", "b", "c"]), name="m")

    assert registry.merge(**asked(case, ["a", "b", "c"]), out=tmp_path / "out") is None

    def files(directory: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in directory.iterdir()}

    assert files(registry.path("m")) == files(tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", ["linear", "task_arithmetic"])
def test_elementwise_methods_do_not_depend_on_the_chunk(case: str, dtype: torch.dtype) -> None:
    base, *experts = family(3, dtype)

    def merged(chunk: int) -> State:
        return zoo.merge(case, experts, base=base, parameters=RECIPES[case], chunk=chunk)

    whole = merged(1 << 18)

    assert all(same_bytes(whole, merged(chunk)) for chunk in (1, 5, 8, 17, 64))


@pytest.mark.parametrize("case", ["ties", "ties by tensor"])
def test_ties_does_not_depend_on_the_chunk(case: str) -> None:
    base, *experts = family(3, torch.bfloat16)

    def merged(chunk: int) -> State:
        return zoo.merge("ties", experts, base=base, parameters=RECIPES[case], chunk=chunk)

    whole = merged(1 << 18)

    assert all(same_bytes(whole, merged(chunk)) for chunk in (1, 5, 8, 17, 64))


def test_torchs_own_threads_are_as_they_were_after_a_merge() -> None:
    base, *experts = family(2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        zoo.merge("ties", experts, base=base, threads=2)

        assert 2 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_inputs_in_memory_are_left_as_they_are() -> None:
    models = family(3)
    kept = family(3)

    for case, parameters in RECIPES.items():
        experts = models[1:3] if case == "slerp" else models[1:]
        zoo.merge(case.split()[0], experts, base=models[0], parameters=parameters)

    assert all(same_bytes(a, b) for a, b in zip(models, kept, strict=True))
