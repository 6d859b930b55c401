"""Recipes in our form: what they mean, and what each mistake is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import State, family, left_behind, same_bytes

import zoo
from zoo import Registry
from zoo.errors import IncompatibleModels, InvalidRecipe, InvalidSelection, NotFound, ZooError
from zoo.plugins import Plugins
from zoo.recipes.recipe import read_recipe

Load = Callable[..., State]


def test_a_recipe_file_a_mapping_and_options_mean_the_same(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    document = {
        "method": "ties",
        "base": "base",
        "experts": ["a", "b"],
        "parameters": {"density": [0.5, 0.25], "lambda": 0.5},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))

    made = [
        registry.merge(path, name="m"),
        registry.merge(document, name="m"),
        registry.merge(
            method="ties",
            base="base",
            experts=["a", "b"],
            parameters={"density": [0.5, 0.25], "lambda": 0.5},
            name="m",
        ),
        registry.merge({**document, "base": "c"}, base="base", name="m"),
    ]

    runs = [registry.catalog.run_of(v.id) for v in made if v]
    assert 1 == len({v.digest for v in made if v})
    assert 1 == len({r.recipe_digest for r in runs if r})


def test_a_parameter_stands_for_all_in_a_list_or_beside_the_expert(
    registry: Registry, members: list[State], load: Load
) -> None:
    _, a, b, _ = members
    listed = {"method": "linear", "experts": ["a", "b"], "parameters": {"weight": [0.2, 0.6]}}
    beside = {
        "method": "linear",
        "experts": [{"model": "a", "weight": 0.2}, {"model": "b", "weight": 0.6}],
    }
    mixed = {
        "method": "linear",
        "parameters": {"weight": 0.6},
        "experts": [{"model": "a", "weight": 0.2}, "b"],
    }

    made = [registry.merge(r, name="m") for r in (listed, beside, mixed)]

    assert 1 == len({v.digest for v in made if v})
    merged = load(registry.path("m"))
    for name, value in a.items():
        if value.is_floating_point():
            expected = (value.double() * 0.2 + b[name].double() * 0.6) / 0.8
            torch.testing.assert_close(merged[name].double(), expected, rtol=1e-6, atol=1e-6)


def test_rules_and_gradients_give_each_tensor_its_value(
    registry: Registry, register: Callable[..., zoo.Version], load: Load
) -> None:
    names = ["embed_tokens.weight"]
    names += [f"model.layers.{i}.{part}.weight" for i in range(5) for part in ("attn", "mlp")]
    names += ["lm_head.weight"]
    register("zero", {n: torch.zeros(2) for n in names}, kind="base")
    register("one", {n: torch.ones(2) for n in names})
    rules = [
        {"filter": "attn", "value": {"gradient": [0.0, 1.0]}},
        {"filter": "embed", "value": 0.125},
        {"value": {"gradient": [1.0, 0.0, 0.5]}},
    ]

    registry.merge(
        {
            "method": "task_arithmetic",
            "base": "zero",
            "experts": ["one"],
            "parameters": {"lambda": rules},
        },
        name="m",
    )

    merged = {n: t[0].item() for n, t in load(registry.path("m")).items()}
    expected = {"embed_tokens.weight": 0.125, "lm_head.weight": 0.5}
    for i, (attn, mlp) in enumerate(
        [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.75, 0.25), (1.0, 0.5)]
    ):
        expected[f"model.layers.{i}.attn.weight"] = attn
        expected[f"model.layers.{i}.mlp.weight"] = mlp
    assert expected == merged


def test_tensors_no_rule_fits_get_the_default(
    registry: Registry, members: list[State], load: Load
) -> None:
    rules = [{"filter": "layers", "value": 0.0}]

    registry.merge(
        {
            "method": "task_arithmetic",
            "base": "base",
            "experts": ["a"],
            "parameters": {"lambda": rules},
        },
        name="m",
    )

    merged = load(registry.path("m"))
    assert torch.equal(members[0]["layers.0.weight"], merged["layers.0.weight"])
    assert torch.equal(members[1]["scale"], merged["scale"])


def test_an_experts_rules_end_with_the_value_for_all(
    registry: Registry, members: list[State], load: Load
) -> None:
    recipe = {
        "method": "task_arithmetic",
        "base": "base",
        "experts": [{"model": "a", "weight": [{"filter": "layers", "value": 1.0}]}],
        "parameters": {"weight": 0.0},
    }

    registry.merge(recipe, name="m")

    merged = load(registry.path("m"))
    assert torch.equal(members[1]["layers.0.weight"], merged["layers.0.weight"])
    assert torch.equal(members[0]["scale"], merged["scale"])


def test_a_selection_freezes_what_it_found(registry: Registry, members: list[State]) -> None:
    recipe = {
        "method": "linear",
        "select": {
            "where": "base = 'base' and task in ('task-a', 'task-c')",
            "order_by": "name desc",
            "limit": 2,
        },
    }

    version = registry.merge(recipe, name="m")

    assert version is not None
    run = registry.catalog.run_of(version.id)
    assert run is not None and run.selection is not None
    c, a = registry.get("c"), registry.get("a")
    assert [f"c@1@{c.digest}", f"a@1@{a.digest}"] == run.selection["frozen"]
    assert [c.digest, a.digest] == run.recipe["experts"]
    asked = {**recipe["select"]}  # type: ignore[dict-item]
    assert asked == {k: v for k, v in run.selection.items() if k != "frozen"}
    by_options = registry.merge(method="linear", **asked, name="m")
    assert by_options is not None and by_options.digest == version.digest


def test_a_selection_leaves_the_base_out(registry: Registry, members: list[State]) -> None:
    version = registry.merge(
        method="task_arithmetic", where="kind in ('base', 'expert')", base="base", name="m"
    )

    assert version is not None
    run = registry.catalog.run_of(version.id)
    assert run is not None
    assert ["base"] + ["expert"] * 3 == [i.role for i in run.inputs]


def test_the_experts_common_base_is_found(registry: Registry, members: list[State]) -> None:
    version = registry.merge(method="ties", experts=["a", "b"], name="m")

    assert version is not None and "base@1" == version.base


def test_a_query_that_finds_nothing_says_so(registry: Registry, members: list[State]) -> None:
    with pytest.raises(NotFound, match="No version fits `task = 'nope'`"):
        registry.merge(method="linear", where="task = 'nope'", name="m")

    with pytest.raises(InvalidSelection, match=r"Did you mean `task`"):
        registry.merge(method="linear", where="tsak = 'a'", name="m")


MISTAKES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"metod": "ties"}, r"Unknown key `metod` in recipe\. Did you mean `method`", {"key": "metod"}),
    ({"method": None}, "names no method", {}),
    ({"method": "tise"}, r"`tise`.*Did you mean `ties`", {}),
    ({"experts": None}, "one of `experts`, `select` and `slices`", {}),
    ({"select": {}}, "one of `experts`, `select` and `slices`", {}),
    ({"experts": "a"}, "`experts` must be a list", {}),
    ({"experts": []}, "merges 1 or more experts, 0 given", {}),
    ({"experts": [1]}, "`experts` must be a map", {}),
    ({"experts": [{"weight": 1}]}, "a reference, or a map with `model`", {}),
    ({"experts": [{"model": "a", "wieght": 1}]}, "`wieght`.*Did you mean `weight`", {}),
    ({"experts": [{"model": "a", "lambda": 1}]}, "`lambda`.*has one value", {}),
    ({"base": 3}, "`base`", {}),
    ({"parameters": [1]}, "`parameters` must be a map", {}),
    ({"parameters": {"densty": 0.2}}, "Unknown parameter `densty`.*Did you mean `density`", {}),
    ({"parameters": {"density": 1.5}}, "`density`.*1.5.*less than or equal to 1", {"value": 1.5}),
    ({"parameters": {"density": -0.1}}, "`density`.*-0.1.*greater than or equal to 0", {}),
    ({"parameters": {"density": "lots"}}, "`density`.*'lots'", {}),
    ({"parameters": {"density": [0.2, 0.2, 0.2]}}, "3 values for 2 experts", {}),
    ({"parameters": {"weight": [1.0]}}, "1 values for 2 experts", {}),
    ({"parameters": {"merge": "avg"}}, "`merge`.*'avg'.*'mean', 'sum' or 'max'", {}),
    ({"parameters": {"lambda": float("nan")}}, "`lambda`.*finite", {}),
    ({"parameters": {"lambda": {"gradient": []}}}, "`lambda`.*gradient", {}),
    ({"parameters": {"lambda": {"gradient": ["x"]}}}, "`lambda`.*anchors are numbers", {}),
    ({"parameters": {"lambda": {"grad": [1]}}}, "`lambda`.*the one key `gradient`", {}),
    (
        {"parameters": {"lambda": [{"value": 1, "fliter": "x"}]}},
        "`lambda`.*`filter` and `value`",
        {},
    ),
    ({"parameters": {"lambda": [{"filter": "x"}]}}, "`lambda`.*`filter` and `value`", {}),
    ({"parameters": {"lambda": [{"value": [{"value": 1}]}]}}, "cannot be nested", {}),
    ({"parameters": {"lambda": [1, 2]}}, "`lambda`.*one value", {}),
    ({"parameters": {"scope": "tensor"}}, "zero_sign=majority.*scope=tensor", {}),
    (
        {"parameters": {"density": [{"filter": "bias", "value": 1}, {"value": 0.1}]}},
        "`density`.*varies over tensors",
        {},
    ),
    ({"seed": -1}, "`seed` must be an integer", {}),
    ({"seed": True}, "`seed` must be an integer", {}),
    ({"seed": 2**63}, "`seed` must be an integer", {}),
    ({"dtype": "bloat16"}, r"`bloat16` is no type.*Did you mean .*bfloat16", {}),
    ({"dtype": "int64"}, "`int64` is no type a merge can have", {}),
    ({"dtype": ["f32"]}, "is no type a merge can have", {}),
    ({"max_norm_drift": "big"}, "`max_norm_drift`", {}),
    ({"max_norm_drift": -1}, "`max_norm_drift`", {}),
    ({"data": {"task": "digits", "splt": "x"}}, "Unknown key `splt` in data.*`split`", {}),
    ({"data": {}}, "`data` names no task", {}),
]


@pytest.mark.parametrize("change, message, facts", MISTAKES, ids=lambda v: str(v)[:60])
def test_a_mistake_in_a_recipe_is_told(
    change: dict[str, Any],
    message: str,
    facts: dict[str, Any],
    registry: Registry,
    members: list[State],
) -> None:
    recipe = {"method": "ties", "base": "base", "experts": ["a", "b"], **change}
    recipe = {k: v for k, v in recipe.items() if v is not None}

    with pytest.raises((InvalidRecipe, IncompatibleModels), match=message) as error:
        registry.merge(recipe, name="m")

    assert facts.items() <= error.value.facts.items()
    assert [] == left_behind(registry)
    assert not registry.select("name = 'm'")


@pytest.mark.parametrize(
    "select, message",
    [
        ({"were": "x"}, "Unknown key `were` in select.*Did you mean `where`"),
        ([], "`select` must be a map"),
        ({"where": 3}, "`where`"),
        ({"order_by": ["name"]}, "`order_by`"),
        ({"limit": "two"}, "`limit`"),
        ({"limit": -1}, "`limit`|limit"),
        ({"limit": True}, "`limit`|limit"),
    ],
)
def test_a_mistake_in_a_selection_is_told(
    select: Any, message: str, registry: Registry, members: list[State]
) -> None:
    with pytest.raises((InvalidRecipe, InvalidSelection), match=message):
        registry.merge({"method": "linear", "select": select}, name="m")


def test_a_required_parameter_is_asked_for(registry: Registry, members: list[State]) -> None:
    with pytest.raises(InvalidRecipe, match=r"`slerp` needs the parameter `t` .*--set t=VALUE"):
        registry.merge(method="slerp", experts=["a", "b"], name="m")


def test_rules_that_leave_a_required_parameter_open_are_refused(
    registry: Registry, members: list[State]
) -> None:
    rules = [{"filter": "layers", "value": 0.5}]

    with pytest.raises(InvalidRecipe, match="leave tensors without a value"):
        registry.merge(
            {"method": "slerp", "experts": ["a", "b"], "parameters": {"t": rules}}, name="m"
        )


@pytest.mark.parametrize("t, extrapolate", [(1.5, False), (-0.5, False), (1.5, True)])
def test_extrapolation_must_be_meant(
    t: float, extrapolate: bool, registry: Registry, members: list[State]
) -> None:
    parameters = {"t": t, "extrapolate": extrapolate}

    def merge() -> None:
        registry.merge(method="slerp", experts=["a", "b"], parameters=parameters, name="m")

    if extrapolate:
        merge()
        return
    with pytest.raises(InvalidRecipe, match="pass extrapolate=true to mean it"):
        merge()


def test_options_go_before_what_the_document_says(registry: Registry, members: list[State]) -> None:
    recipe = {
        "method": "linear",
        "seed": 3,
        "experts": [{"model": "a", "weight": 5.0}, {"model": "b", "weight": 1.0}],
    }

    changed = registry.merge(recipe, parameters={"weight": [1.0, 3.0]}, seed=4, name="m")
    plain = registry.merge(
        method="linear", experts=["a", "b"], parameters={"weight": [1.0, 3.0]}, name="m"
    )

    assert changed and plain and changed.digest == plain.digest
    run = registry.catalog.run_of(changed.id)
    assert run is not None and 4 == run.seed == run.recipe["seed"]


def test_contradictory_requests_are_refused(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    recipe = {"method": "linear", "experts": ["a", "b"]}

    with pytest.raises(InvalidRecipe, match="not both"):
        registry.merge(method="linear", experts=["a"], where="true", name="m")
    with pytest.raises(InvalidRecipe, match="needs a recipe or a method"):
        registry.merge(name="m")
    with pytest.raises(InvalidRecipe, match="Nothing says what to merge"):
        registry.merge(method="linear", name="m")
    with pytest.raises(InvalidRecipe, match="The recipe's method is `linear`, not `ties`"):
        registry.merge(recipe, method="ties", name="m")
    with pytest.raises(InvalidRecipe, match="Name the result"):
        registry.merge(recipe)
    with pytest.raises(NotFound, match="nobody"):
        registry.merge(method="linear", experts=["a", "nobody"], name="m")
    with pytest.raises(ZooError, match="cannot name an entry"):
        registry.merge(recipe, name="../m")
    assert [] == left_behind(registry)


def test_a_file_that_is_no_recipe_is_told(
    registry: Registry, tmp_path: Path, plugins: Plugins
) -> None:
    def refused(data: bytes, message: str) -> None:
        path = tmp_path / "r.yaml"
        path.write_bytes(data)
        with pytest.raises(InvalidRecipe, match=message):
            read_recipe(path, plugins.methods)

    with pytest.raises(NotFound, match="There is no recipe"):
        read_recipe(tmp_path / "nowhere.yaml", plugins.methods)
    refused(b"{", "is not YAML: line 1, column 2: expected the node content")
    refused(b"- a\n- b\n", "must be a map")
    refused(b"", "is empty")
    refused(b"method: ties\nmethod: linear\n", "line 2, column 1: the key `method` stands twice")
    refused(b"\xff\xfe\xff", "Cannot read|is not YAML")
    refused(b"!!python/object/apply:os.system ['true']", "is not YAML")
    refused(b"[" * 20_000, "is not YAML")
    with pytest.raises(InvalidRecipe, match="Cannot read"):
        read_recipe(tmp_path, plugins.methods)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["value", "filter", "gradient", "model", "weight", "where", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = [
    "method",
    "base",
    "experts",
    "select",
    "parameters",
    "seed",
    "dtype",
    "data",
    "max_norm_drift",
    "merge_method",
    "models",
    "slices",
    "base_model",
    "out_dtype",
    "tokenizer_source",
]


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    document=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6),
    method=st.sampled_from([None, "linear", "ties", "slerp"]),
    form=st.sampled_from(["method", "merge_method"]),
)
def test_any_document_is_read_or_refused_and_never_breaks(
    document: dict[str, Any], method: str | None, form: str, plugins: Plugins
) -> None:
    if method is not None:
        document[form] = method
    try:
        read_recipe(document, plugins.methods)
    except ZooError as error:
        assert str(error)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parameters=st.dictionaries(
        st.sampled_from(["weight", "density", "lambda", "merge", "scope", "trim", "zero_sign"]),
        ANYTHING,
        max_size=3,
    )
)
def test_any_parameters_merge_or_are_refused_and_never_break(parameters: dict[str, Any]) -> None:
    base, *experts = family(2)
    try:
        merged = zoo.merge("ties", experts, base=base, parameters=parameters)
    except ZooError as error:
        assert str(error)
    else:
        assert merged.keys() == base.keys()


def test_paths_merge_without_a_zoo_and_are_registered_with_one(
    zoo_path: Path, registry: Registry, tmp_path: Path, load: Load
) -> None:
    from small_models import write

    models = family(2)
    paths = [str(write(tmp_path / f"model-{i}", m)) for i, m in enumerate(models)]

    registry.merge(method="task_arithmetic", base=paths[0], experts=paths[1:], out=tmp_path / "out")

    assert [] == registry.select()
    registry.merge(method="task_arithmetic", base=paths[0], experts=paths[1:], name="m")
    kinds = {v.name: v.kind for v in registry.select()}
    assert {"model-0": "base", "model-1": "expert", "model-2": "expert", "m": "merge"} == kinds
    assert same_bytes(load(tmp_path / "out"), load(registry.path("m")))
