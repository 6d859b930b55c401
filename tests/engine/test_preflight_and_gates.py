"""What cannot be merged is refused at once and whole; what came out bad is never published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import State, family, left_behind, write

import zoo
from zoo import Registry
from zoo.errors import GateFailed, IncompatibleModels, StoreError, ZooError
from zoo.plugins import load_plugins

Register = Callable[..., zoo.Version]


@pytest.fixture
def nothing_left(registry: Registry, tmp_path: Path) -> Iterator[None]:
    """After the test: no version `m`, no staging, no garbage, nothing beside `out`."""
    yield

    assert not registry.select("name = 'm'")
    assert [] == left_behind(registry)
    assert [] == [p.name for p in tmp_path.iterdir() if p.name.startswith((".", "out"))]
    assert registry.fsck().ok


# Pre-flight


def test_every_problem_is_listed_at_once(
    registry: Registry, register: Register, nothing_left: None
) -> None:
    base = {f"w{i}": torch.zeros(2, 3) for i in range(12)}
    register("base", base, kind="base")
    register("short", {n: base[n] for n in list(base)[:2]})
    register(
        "other", {**base, "w0": torch.zeros(3, 2), "w1": torch.zeros(6), "extra": torch.ones(1)}
    )
    register("counts", {**base, "w3": torch.zeros(2, 3, dtype=torch.int64)})

    with pytest.raises(IncompatibleModels) as error:
        registry.merge(
            method="slerp",
            experts=["short", "other", "counts"],
            base="base",
            parameters={"t": 0.5},
            name="m",
        )

    problems = error.value.problems
    assert [
        "method `slerp` merges at most 2 experts, 3 given",
        "`short@1`, `counts@1` and `base@1` lack the tensor `extra`, which `other@1` has. "
        "`missing: base` in the recipe leaves it out.",
        "`short@1` lacks 10 tensors (`w10`, `w11`, `w2`, `w3`, `w4`, `w5`, `w6`, `w7` and 2 more), "
        "which `other@1`, `counts@1` and `base@1` have. `missing: base` in the recipe takes those "
        "of `base@1`.",
        "tensor `w0` is [2, 3] in `short@1` and [3, 2] in `other@1`: one is the other transposed. "
        '`exclude: ["w0"]` in the recipe keeps that of `base@1`.',
        "tensor `w1` is [2, 3] in `short@1` and [6] in `other@1`. "
        '`exclude: ["w1"]` in the recipe keeps that of `base@1`.',
        "tensor `w3` is F32 in `other@1` and I64 in `counts@1`: one merges, the other does not. "
        'Get `counts@1` in floating point, or keep what is copied: `exclude: ["w3"]` in the '
        "recipe.",
    ] == problems
    assert all(p in str(error.value) for p in problems)


def test_shapes_and_names_that_differ_are_named_with_their_models(
    registry: Registry, register: Register, nothing_left: None
) -> None:
    register("a", {"w": torch.zeros(2, 3), "v": torch.zeros(1)})
    register("b", {"w": torch.zeros(3, 2), "u": torch.zeros(1)})

    with pytest.raises(IncompatibleModels) as error:
        registry.merge(method="linear", experts=["a", "b"], name="m")

    assert [
        "`a@1` lacks the tensor `u`, which `b@1` has. `missing: base` in the recipe leaves it out.",
        "`b@1` lacks the tensor `v`, which `a@1` has. `missing: base` in the recipe takes that of "
        "`a@1`.",
        "tensor `w` is [2, 3] in `a@1` and [3, 2] in `b@1`: one is the other transposed. "
        '`exclude: ["w"]` in the recipe keeps that of `a@1`.',
    ] == error.value.problems


def test_a_tensor_that_merges_here_and_not_there_is_refused(
    registry: Registry, register: Register, nothing_left: None
) -> None:
    register("a", {"w": torch.zeros(2)})
    register("b", {"w": torch.zeros(2, dtype=torch.int8)})

    with pytest.raises(IncompatibleModels, match="one merges, the other does not"):
        registry.merge(method="linear", experts=["a", "b"], name="m")


def test_a_missing_base_is_asked_for(
    registry: Registry, register: Register, nothing_left: None
) -> None:
    register("a", {"w": torch.zeros(2)})

    with pytest.raises(IncompatibleModels, match=r"needs the base .*--base REF"):
        registry.merge(method="ties", experts=["a"], name="m")


def test_scaled_eight_bit_floats_merge_as_the_values_they_stand_for(
    registry: Registry, register: Register
) -> None:
    eight = torch.ones(4).to(torch.float8_e4m3fn)
    register("a", {"w": eight, "w_scale": torch.ones(1)})
    register("b", {"w": eight, "w_scale": torch.full((1,), 3.0)})

    registry.merge(method="linear", experts=["a", "b"], name="m")

    merged = zoo.load_state("m", registry=registry)
    assert ["w"] == list(merged)
    assert torch.bfloat16 == merged["w"].dtype
    assert [2.0] * 4 == merged["w"].tolist()


def test_plain_eight_bit_floats_merge() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        a, b = ({"w": torch.tensor([v, 4.0]).to(dtype)} for v in (1.0, 2.0))

        merged = zoo.merge("linear", [a, b])

        assert dtype == merged["w"].dtype
        assert [1.5, 4.0] == merged["w"].float().tolist()


def test_a_plan_predicts_and_writes_nothing(
    registry: Registry, members: list[State], nothing_left: None
) -> None:
    plan = registry.plan(method="ties", experts=["a", "b"], base="base").as_dict()

    weights = 84 + 12 + 84 + 7 + 7 + 1 + 0
    assert 8 == plan["tensors"] and 7 == plan["merged"] and 1 == plan["carried"]
    assert 4 * weights + 8 == plan["bytes_written"]
    assert 3 * 4 * weights * 3 + 8 == plan["bytes_read"]
    assert plan["peak_memory"] < 2**30
    assert "1 BatchNorm statistics were merged like weights" in plan["notes"][0]
    assert {"base", "a", "b", "c"} == {v.name for v in registry.select()}


def test_a_plan_refuses_options_it_does_not_know(registry: Registry, members: list[State]) -> None:
    with pytest.raises(TypeError, match="parametres"):
        registry.plan(method="linear", experts=["a"], parametres={"weight": 1})


def test_a_place_that_is_taken_is_refused_before_any_work(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")

    with pytest.raises(StoreError, match="exists and is not an empty directory"):
        registry.merge(method="linear", experts=["a", "b"], out=taken)

    assert ["thesis.txt"] == [p.name for p in taken.iterdir()]


# Gates


BAD = {"nan": float("nan"), "infinite": float("inf"), "minus infinite": -float("inf")}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "slerp": {"t": 0.5},
    "task_arithmetic": {},
    "ties": {},
}


@pytest.mark.parametrize("where", ["name", "out", "both"])
@pytest.mark.parametrize("method", METHODS)
def test_an_expert_with_nan_is_named_and_nothing_is_left(
    method: str,
    where: str,
    registry: Registry,
    members: list[State],
    register: Register,
    tmp_path: Path,
    nothing_left: None,
) -> None:
    sick = {n: t.clone() for n, t in members[1].items()}
    sick["layers.1.weight"][3, 4] = float("nan")
    register("sick", sick, base="base")
    places: dict[str, Any] = {"name": "m"} if where != "out" else {}
    places |= {"out": tmp_path / "out"} if where != "name" else {}

    with pytest.raises(GateFailed, match=r"`sick@1` has 1 .*not finite.*`layers\.1\.weight`") as e:
        registry.merge(method=method, experts=["b", "sick"], parameters=METHODS[method], **places)

    assert "layers.1.weight" == e.value.tensor


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [4, 1000])
def test_values_that_are_not_finite_are_found_in_any_chunk(
    method: str, dtype: torch.dtype, value: str, chunk: int
) -> None:
    base, good, sick = family(2, dtype)
    sick["layers.0.weight"].view(-1)[-1] = BAD[value]

    with pytest.raises(GateFailed, match=r"`expert 1` has 1 value that is not finite"):
        zoo.merge(method, [good, sick], base=base, parameters=METHODS[method], chunk=chunk)


def test_a_base_with_nan_is_named() -> None:
    base, good = family(1)
    base["scale"] = torch.tensor(float("nan"))

    for method in ("task_arithmetic", "ties"):
        with pytest.raises(GateFailed, match="`base` has 1 value that is not finite"):
            zoo.merge(method, [good], base=base, parameters={"lambda": 0.5})


def test_nan_in_what_is_only_copied_is_found_too() -> None:
    base, sick = family(1)
    base["scale"] = torch.tensor(float("nan"))

    with pytest.raises(GateFailed, match="`base` has 1 value that is not finite"):
        zoo.merge("ties", [sick], base=base, parameters={"lambda": 0.0})


@pytest.mark.parametrize(
    "inputs, output, value",
    [
        (torch.float32, "float16", 70000.0),
        (torch.float32, "float8_e4m3fn", 500.0),
        (torch.float32, "float8_e5m2", 62000.0),
        (torch.float32, "bfloat16", 3.4e38),
        (torch.float64, "float32", 1e300),
        (torch.float64, "bfloat16", 1e39),
    ],
)
def test_an_overflow_of_the_result_is_refused(
    inputs: torch.dtype, output: str, value: float
) -> None:
    big = {"fine": torch.ones(3, dtype=inputs), "w": torch.tensor([1.0, -value], dtype=inputs)}
    zero = {name: torch.zeros_like(t) for name, t in big.items()}

    for weight in ([1.0, 1.0], [1.0, 0.0]):
        with pytest.raises(GateFailed, match=r"`w` does not fit") as error:
            zoo.merge(
                "linear",
                [big, zero],
                parameters={"weight": weight, "normalize": False},
                dtype=output,
            )

    assert "w" == error.value.tensor


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_largest_finite_value_fits(dtype: str) -> None:
    largest = torch.finfo(getattr(torch, dtype)).max
    model = {"w": torch.tensor([largest, -largest], dtype=torch.float64)}

    merged = zoo.merge("linear", [model, model], dtype=dtype)

    assert [largest, -largest] == merged["w"].tolist()


def test_a_sum_that_overflows_is_refused() -> None:
    big = {"w": torch.full((5,), 3e38)}

    with pytest.raises(GateFailed, match=r"The merge made 5 values that are not finite"):
        zoo.merge("linear", [big, big], parameters={"normalize": False})


def test_an_overflow_names_the_tensor_and_publishes_nothing(
    registry: Registry, register: Register, nothing_left: None
) -> None:
    register("a", {"w": torch.full((4,), 65000.0, dtype=torch.float16)})
    register("b", {"w": torch.full((4,), 1.0, dtype=torch.float16)})

    with pytest.raises(GateFailed, match="`w` does not fit in F16: its largest magnitude is 65"):
        registry.merge(
            method="linear",
            experts=["a", "b"],
            parameters={"weight": [1.0, 600.0], "normalize": False},
            name="m",
        )


def test_a_norm_that_runs_away_is_refused_unless_it_is_meant(
    registry: Registry, members: list[State], nothing_left: None
) -> None:
    recipe = {
        "method": "task_arithmetic",
        "base": "base",
        "experts": ["a"],
        "parameters": {"lambda": 1e5},
    }

    with pytest.raises(GateFailed, match=r"norm of tensor `.*` ran away") as error:
        registry.merge(recipe, name="m")

    assert error.value.tensor in members[0]
    assert registry.merge({**recipe, "max_norm_drift": 1e9}, name="meant") is not None


def test_a_norm_may_grow_up_to_the_bound() -> None:
    base = {"w": torch.zeros(4)}
    expert = {"w": torch.ones(4)}

    zoo.merge("task_arithmetic", [expert], base=base, parameters={"lambda": 100.0})
    with pytest.raises(GateFailed):
        zoo.merge("task_arithmetic", [expert], base=base, parameters={"lambda": 100.1})


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("said", [True, False])
def test_tensors_that_are_tied_must_come_out_alike(
    registry: Registry, register: Register, said: bool
) -> None:
    config = {"model_type": "tiny", "tie_word_embeddings": said}
    for name in "ab":
        state = {n: torch.rand(4, 2) for n in ("model.embed_tokens.weight", "lm_head.weight")}
        register(name, state, config=config)

    if not said:
        registry.merge(method="linear", experts=["a", "b"], name="two")
        return
    with pytest.raises(GateFailed, match=r"`lm_head\.weight` and `model\.embed_tokens\.weight`"):
        registry.merge(method="linear", experts=["a", "b"], name="m")


def test_a_merge_that_failed_works_when_the_cause_is_gone(
    registry: Registry, members: list[State], register: Register
) -> None:
    sick = {n: t.clone() for n, t in members[1].items()}
    sick["scale"] = torch.tensor(float("nan"))
    register("x", sick, base="base")
    with pytest.raises(GateFailed):
        registry.merge(method="ties", experts=["x", "b"], name="m")

    register("x", members[1], base="base")
    version = registry.merge(method="ties", experts=["x", "b"], name="m")

    assert version is not None and 1 == version.version


# Hooks


def plugin(tmp_path: Path, body: str) -> Path:
    directory = tmp_path / "plugins"
    directory.mkdir()
    (directory / "watcher.py").write_text("import zoo\nfrom zoo import hookimpl\n" + body)
    return directory


def test_hooks_see_the_merge_before_and_after(
    zoo_path: Path, members: list[State], tmp_path: Path
) -> None:
    directory = plugin(
        tmp_path,
        "seen = []\n"
        "@hookimpl\ndef zoo_before_merge(recipe): seen.append(('before', recipe['method']))\n"
        "@hookimpl\ndef zoo_after_register(version): seen.append(('registered', version.ref))\n"
        "@hookimpl\ndef zoo_after_merge(version, recipe): "
        "seen.append(('after', version and version.ref, recipe['method']))\n",
    )
    with zoo.open(zoo_path, plugins=load_plugins([directory])) as registry:
        registry.merge(method="linear", experts=["a", "b"], name="m")
        registry.merge(method="linear", experts=["a", "b"], out=tmp_path / "out")

        (seen,) = (m.seen for m in registry.plugins._relay.get_plugins() if hasattr(m, "seen"))

    assert [
        ("before", "linear"),
        ("registered", "m@1"),
        ("after", "m@1", "linear"),
        ("before", "linear"),
        ("after", None, "linear"),
    ] == seen


def test_a_hook_may_refuse_a_merge(
    zoo_path: Path,
    registry: Registry,
    members: list[State],
    tmp_path: Path,
) -> None:
    directory = plugin(
        tmp_path,
        "@hookimpl\ndef zoo_before_merge(recipe):\n"
        "    raise zoo.ZooError('Not on a Friday.', how='Wait.')\n",
    )
    with (
        zoo.open(zoo_path, plugins=load_plugins([directory])) as watched,
        pytest.raises(ZooError, match=r"Not on a Friday\. Wait\."),
    ):
        watched.merge(method="linear", experts=["a", "b"], name="m")

    assert not registry.select("name = 'm'")
    assert [] == left_behind(registry)


def test_inputs_are_left_as_they_are(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    source = write(tmp_path / "mine", members[1])
    before = {p.name: p.read_bytes() for p in source.iterdir()}

    registry.merge(method="ties", base="base", experts=["b", str(source)], name="m")

    assert before == {p.name: p.read_bytes() for p in source.iterdir()}
    assert registry.fsck().ok
