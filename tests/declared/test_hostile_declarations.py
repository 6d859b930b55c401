"""Whatever strangers write beside weights, registering them neither fails nor grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.checkpoint import Opened
from zoo.declarations.plain import MOST_VALUES, json_mapping, plain, yaml_mapping
from zoo.declared import LARGEST_FACTS, MOST_PARENTS, READERS, read_declared
from zoo.digest import canonical_json

Model = Callable[..., Path]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k0: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)
HOSTILE = {
    "alias bomb": BOMB + "base_model: a/b\n",
    "merge keys": MERGES + "base_model: a/b\n",
    "itself": "base_model: &a [*a]\n",
    "python": "base_model: !!python/object/apply:os.system ['touch pwned']\n",
    "nested": "base_model: " + "[" * 3000 + "]" * 3000 + "\n",
    "deep mapping": "".join(" " * i + "a:\n" for i in range(400)),
    "long": "base_model: [" + ", ".join(f"a/{i}" for i in range(60_000)) + "]\n",
    "huge number": "license: " + "9" * 6000 + "\n",
    "sexagesimal": "license: " + "1:" * 5000 + "1\n",
    "date": "license: 2020-13-45\nbase_model: 2001-01-01\n",
    "odd keys": "? [a, b]\n: c\n1.5: .nan\nbase_model: .inf\n",
    "not a mapping": "- a\n- b\n",
    "broken": "base_model: [a\n",
    "nul": 'base_model: "a\\0b"\nlicense: "\\uD800"\n',
    "tab": "\tbase_model: a\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_card_registers_and_says_little(
    registry: Any, model: Model, name: str, tmp_path: Path
) -> None:
    files = {
        "README.md": f"---\n{HOSTILE[name]}---\nbody",
        "mergekit_config.yml": HOSTILE[name] + "merge_method: linear\n",
    }

    version = registry.register(model(files), name="m")

    assert len(json.dumps(version.notes)) < 2 * LARGEST_FACTS
    assert not (tmp_path / "pwned").exists()
    assert registry.lineage("m").as_tree()


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 50_000, '{"a": 1e999}', '{"a": NaN}', '{"\\ud800": "\\ud800"}', "7"],
)
def test_hostile_json_beside_weights_and_in_them_says_little(
    registry: Any, model: Model, text: str
) -> None:
    files = {"zoo_recipe.json": text}
    metadata = {"sd_merge_recipe": text, "sd_merge_models": text, "modelspec.merged_from": text}

    version = registry.register(model(files, metadata), name="m")

    assert len(json.dumps(version.notes)) < 2 * LARGEST_FACTS
    assert registry.lineage("m").as_tree()


def test_recipes_that_contain_each_other_end(model: Model) -> None:
    hashes = [f"{i:064x}" for i in range(40)]
    every = {"hashes": hashes}
    models = {h: {"name": h[-3:], "sd_merge_recipe": every} for h in hashes}
    metadata = {"sd_merge_recipe": json.dumps(every), "sd_merge_models": json.dumps(models)}
    folder = model(metadata=metadata)

    found = read_declared(Opened("x", {"model.safetensors": folder / "model.safetensors"}))

    def count(parents: Any) -> int:
        return sum(1 + count(p.parents) for p in parents)

    assert 0 < count(found.parents) <= MOST_PARENTS


def test_aliases_and_merge_keys_that_multiply_read_as_nothing() -> None:
    assert {} == yaml_mapping(BOMB)
    assert {} == yaml_mapping(MERGES)
    assert {"a": 1} == yaml_mapping("a: &x 1\n")


@given(st.text() | st.binary())
def test_any_bytes_in_a_card_are_read_without_error(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    folder = tmp_path_factory.mktemp("card")
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    files = {}
    for name in ("README.md", "mergekit_config.yml", "adapter_config.json", "zoo_recipe.json"):
        files[name] = folder / name
        files[name].write_bytes(b"---\n" + raw + b"\n---\n" if name == "README.md" else raw)

    found = read_declared(Opened("x", {}, files))

    assert canonical_json(found.notes)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
KEYS = [
    *("zoo", "base_model", "base_model_relation", "license", "license_name", "tags", "datasets"),
    *("merge_method", "models", "slices", "modules", "recipe", "parents", "base", "experts"),
    *("base_model_name_or_path", "revision", "model", "parameters", "weight", "sources"),
]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_known_keys_may_hold_anything(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("json")
    text = json.dumps(content)  # JSON is YAML too, but for a few marks
    files = {}
    for name in ("mergekit_config.yml", "adapter_config.json", "zoo_recipe.json", "README.md"):
        files[name] = folder / name
        files[name].write_text(f"---\n{text}\n---\n" if name == "README.md" else text)

    found = read_declared(Opened("x", {}, files))

    assert canonical_json(found.notes)
    assert len(found.parents) <= MOST_PARENTS


@given(VALUES)
def test_plain_data_is_plain_and_bounded(value: Any) -> None:
    found = plain(value)

    assert canonical_json(found)
    assert plain(found) == found


def test_more_values_than_are_kept_read_as_nothing() -> None:
    assert {} == json_mapping(json.dumps({"a": list(range(MOST_VALUES))}))
    assert None is plain([[0] * 100] * 1000)


def test_every_reader_is_reached_through_the_door() -> None:
    import pkgutil

    import zoo.declarations

    helpers = {"files", "front_matter", "plain", "records"}
    modules = {m.name for m in pkgutil.iter_modules(zoo.declarations.__path__)}

    assert modules - helpers == {read.__module__.rpartition(".")[2] for read in READERS.values()}
