"""A check never fails to answer, and what it accepts can be planned."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from checked_models import CONFIG, EMBEDDINGS, HEAD, llama
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import Registry
from zoo.compatibility.settings import settings_of
from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.licences import LICENCES, combined, known
from zoo.plugins import Plugins

Headers = dict[str, tuple[str, tuple[int, ...]]]
TYPES = ("F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E8M0")
PARTS = ["model", "layers", "0", "1", "7", "weight", "bias", "lm_head", "embed_tokens", "", "é"]
PARTS += ["module", "lora_A", "wte", "h", "q_proj", "weight_scale", "qweight", "absmax", "[", "`"]

names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(".".join).filter(bool)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
headers = st.dictionaries(names, st.tuples(st.sampled_from(TYPES), shapes), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = ("model_type", "architectures", "vocab_size", "hidden_size", "n_embd", "text_config")
KEYS += ("rope_parameters", "rope_scaling", "rope_theta", "id2label", "num_attention_heads")
KEYS += ("tie_word_embeddings", "quantization_config", "num_hidden_layers", "layer_types")
configurations = st.dictionaries(st.sampled_from(KEYS), values | st.just({}), max_size=6)


def write(directory: Path, tensors: Headers, config: Mapping[str, Any] | None) -> str:
    """A model of zeros with these headers."""
    directory.mkdir()
    header, at = {}, 0
    for name, (dtype, shape) in sorted(tensors.items()):
        size = DTYPES[dtype].bits // 8
        for n in shape:
            size *= n
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    data = json.dumps(header).encode()
    whole = len(data).to_bytes(8, "little") + data + bytes(at)
    (directory / "model.safetensors").write_bytes(whole)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config, allow_nan=False))
    return str(directory)


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Registry]:
    with zoo.open(tmp_path_factory.mktemp("zoo") / "registry.db", plugins=plugins) as opened:
        yield opened


def _is_json(config: Mapping[str, Any]) -> bool:
    try:
        json.dumps(config, allow_nan=False)
    except ValueError:
        return False
    return True


@settings(max_examples=40)
@given(st.lists(st.tuples(headers, st.none() | configurations.filter(_is_json)), max_size=3))
def test_a_check_of_strange_headers_answers(
    somewhere: Registry, models: list[tuple[Headers, Mapping[str, Any] | None]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [write(Path(folder) / f"m{i}", *m) for i, m in enumerate([*models, ({}, None)])]
        report = somewhere.check(paths)

        assert len(report.problems) == len(set(report.problems))
        json.dumps(report.as_dict())


@given(configurations)
def test_settings_are_read_from_any_configuration(config: dict[str, Any]) -> None:
    found = settings_of(config)

    assert found.head_dim is None or found.head_dim >= 0


BASE: Headers = {n: ("F32", tuple(t.shape)) for n, t in llama()[0].items()}


def dropped(tensors: Headers, config: dict[str, Any], name: str) -> None:
    tensors.pop(name, None)


def reshaped(tensors: Headers, config: dict[str, Any], name: str) -> None:
    if name in tensors:
        dtype, shape = tensors[name]
        tensors[name] = (dtype, (shape[0] + 1, *shape[1:]))


def turned_to_integers(tensors: Headers, config: dict[str, Any], name: str) -> None:
    if name in tensors:
        tensors[name] = ("I64", tensors[name][1])


def halved(tensors: Headers, config: dict[str, Any], name: str) -> None:
    if name in tensors:
        tensors[name] = ("F16", tensors[name][1])


def wrapped(tensors: Headers, config: dict[str, Any], name: str) -> None:
    for n in list(tensors):
        tensors["module." + n] = tensors.pop(n)


def tied(tensors: Headers, config: dict[str, Any], name: str) -> None:
    config["tie_word_embeddings"] = True
    tensors.pop(HEAD, None)


def enlarged(tensors: Headers, config: dict[str, Any], name: str) -> None:
    config["vocab_size"] = 20
    for n in (EMBEDDINGS, HEAD):
        if n in tensors:
            tensors[n] = (tensors[n][0], (20, 8))


def described(tensors: Headers, config: dict[str, Any], name: str) -> None:
    config |= {"model_type": "other", "rope_theta": 1.0, "hidden_size": 99}


def added(tensors: Headers, config: dict[str, Any], name: str) -> None:
    tensors["extra." + name] = ("F32", (2,))


CHANGES = (dropped, reshaped, turned_to_integers, halved, wrapped, tied, enlarged, described, added)
changes = st.lists(st.tuples(st.sampled_from(CHANGES), st.sampled_from(sorted(BASE))), max_size=3)


@settings(max_examples=40)
@given(st.lists(changes, min_size=2, max_size=3), st.booleans())
def test_a_check_is_ok_where_the_merge_can_be_planned_and_nowhere_else(
    somewhere: Registry, changed: list[list[tuple[Any, str]]], with_base: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, own in enumerate(changed):
            tensors, config = dict(BASE), dict(CONFIG)
            for change, name in own:
                change(tensors, config, name)
            paths.append(write(Path(folder) / f"m{i}", tensors, config))
        experts, base = (paths[:-1], paths[-1]) if with_base else (paths, None)
        method = "task_arithmetic" if with_base else "linear"

        report = somewhere.check(experts, base=base)
        try:
            somewhere.plan(method=method, experts=experts, base=base)
            planned: list[str] = []
        except IncompatibleModels as error:
            planned = error.problems
        except InvalidRecipe as error:
            planned = [error.what]

        assert report.ok == (not planned), (report.problems, planned)
        assert [str(p) for p in report.of("error")] == planned


ids = st.sampled_from([*LICENCES, "other", "strange", "MIT", "Apache-2.0"])


@given(st.lists(ids | st.none(), min_size=1, max_size=4), st.randoms())
def test_the_licence_of_a_merge_depends_on_no_order_and_no_repetition(
    licences: list[str | None], random: Any
) -> None:
    found = combined(licences)
    again = list(licences) * 2
    random.shuffle(again)
    other = combined(again)

    assert (found.conflicts, found.together) == (other.conflicts, other.together)
    assert sorted(found.unknown) == sorted(other.unknown)
    assert (found.license or "").lower() == (other.license or "").lower()
    assert (found.license is None) == bool(found.reason)


@given(st.lists(st.sampled_from(list(LICENCES)), min_size=1, max_size=4))
def test_a_licence_is_said_only_where_it_asks_for_all_that_the_parents_ask(
    licences: list[str],
) -> None:
    found = combined(licences)
    said = known(found.license)
    parents = [p for name in licences if (p := known(name)) is not None]

    assert (said is None) == (found.license is None)
    if said is not None:
        assert said in parents
        assert not any(p.no_derivatives for p in parents)
        for asks in ("non_commercial", "use_restrictions", "name_required"):
            assert bool(getattr(said, asks)) == any(getattr(p, asks) for p in parents)
        if not said.permissive:
            assert all(p.permissive or p == said or said.same_terms for p in parents)
