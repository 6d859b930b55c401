"""Merged models of many families load with transformers, and compute what hand-made ones do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import FAMILIES, averaged, built, outputs

import zoo
from zoo import Registry
from zoo.families import family_of
from zoo.plugins import load_plugins

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    place = tmp_path_factory.mktemp("zoo")
    with zoo.open(place / "registry.db", plugins=load_plugins()) as opened:
        yield opened


def saved(model: Any, place: Path, *, now: bool) -> Path:
    """As transformers writes it: with the names files have had, or with those of its modules."""
    model.save_pretrained(place, save_original_format=not now)
    return place


def loaded(model: Any, place: Path) -> Any:
    found, report = type(model).from_pretrained(
        place, output_loading_info=True, local_files_only=True
    )

    assert (set(), set(), set()) == (
        set(report["missing_keys"]),
        set(report["unexpected_keys"]),
        set(report["mismatched_keys"]),
    )
    return found.eval()


def merged(registry: Registry, out: Path, *experts: Path) -> Path:
    recipe = {"method": "linear", "experts": [str(e) for e in experts]}
    registry.merge(recipe, out=out)
    return out


def changed(place: Path, names: Mapping[str, str | None]) -> None:
    """Copy tensors of a saved model, or leave some out: `{new: old, old: None}`."""
    file = place / "model.safetensors"
    state = load_file(file)
    for name, source in names.items():
        if source is None:
            del state[name]
        else:
            state[name] = state[source].clone()
    save_file(state, file, metadata={"format": "pt"})


RENAMED = ["gpt_neox", "vit", "llava", "mixtral"]
"""Families whose files have other names than their modules."""
CASES = [
    *((family, (False, False)) for family in FAMILIES),
    *((family, (True, False)) for family in RENAMED),
    *((family, (False, True)) for family in ("llava", "mixtral")),
]


@pytest.mark.parametrize(("family", "forms"), CASES, ids=str)
def test_a_merge_of_a_family_loads_and_computes_what_the_mean_of_weights_does(
    family: str, forms: tuple[bool, bool], registry: Registry, tmp_path: Path
) -> None:
    models = built(family, 1), built(family, 2)
    assert any(forms) <= (not _written_alike(models[0]))
    places = [
        saved(m, tmp_path / str(i), now=now)
        for i, (m, now) in enumerate(zip(models, forms, strict=True))
    ]

    found = loaded(models[0], merged(registry, tmp_path / "merged", *places))

    expected = outputs(family, averaged(*models))
    torch.testing.assert_close(outputs(family, found), expected, rtol=1e-5, atol=1e-6)


def _written_alike(model: Any) -> bool:
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    return set(state) == set(revert_weight_conversion(model, dict(state)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_data_has_all_that_transformers_has_and_the_files(family: str, tmp_path: Path) -> None:
    model = built(family, 0)
    saved(model, tmp_path, now=False)
    names = {n for f in tmp_path.glob("*.safetensors") for n in load_file(f)}
    known = family_of(transformers.AutoConfig.from_pretrained(tmp_path).to_dict(), names)

    assert known is not None
    assert known.known
    for own in (names, set(model.state_dict())):
        found = known.compare(own)

        assert ((), (), ()) == (found.missing, found.unexpected, found.optional_missing)
    assert dict(model.all_tied_weights_keys) == dict(known.tied)


@pytest.mark.parametrize("first", [0, 1])
def test_a_head_that_only_one_of_two_tied_models_stores_is_no_problem(
    first: int, registry: Registry, tmp_path: Path
) -> None:
    models = built("llama-tied", 1), built("llama-tied", 2)
    places = [saved(m, tmp_path / str(i), now=False) for i, m in enumerate(models)]
    changed(places[first], {"lm_head.weight": "model.embed_tokens.weight"})

    found = loaded(models[0], merged(registry, tmp_path / "merged", *places))

    expected = outputs("llama", averaged(*models))
    torch.testing.assert_close(outputs("llama", found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("family", "copies"),
    [
        ("t5", {"encoder.embed_tokens.weight": "shared.weight"}),
        (
            "t5",
            {
                "encoder.embed_tokens.weight": "shared.weight",
                "decoder.embed_tokens.weight": "shared.weight",
                "lm_head.weight": "shared.weight",
            },
        ),
        ("t5", {"decoder.embed_tokens.weight": "shared.weight", "shared.weight": None}),
        ("bart", {"model.encoder.embed_tokens.weight": "model.shared.weight"}),
    ],
)
def test_copies_of_tied_embeddings_may_be_stored_or_not(
    family: str, copies: dict[str, str | None], first: int, registry: Registry, tmp_path: Path
) -> None:
    models = built(family, 1), built(family, 2)
    places = [saved(m, tmp_path / str(i), now=False) for i, m in enumerate(models)]
    changed(places[first], copies)

    found = loaded(models[0], merged(registry, tmp_path / "merged", *places))

    expected = outputs(family, averaged(*models))
    torch.testing.assert_close(outputs(family, found), expected, rtol=1e-5, atol=1e-6)


def test_a_copy_that_differs_is_a_tensor_of_its_own(registry: Registry, tmp_path: Path) -> None:
    places = [saved(built("t5", i), tmp_path / str(i), now=False) for i in (0, 1)]
    file = places[1] / "model.safetensors"
    state = load_file(file)
    state["encoder.embed_tokens.weight"] = state["shared.weight"] + 1
    save_file(state, file, metadata={"format": "pt"})

    with pytest.raises(zoo.ZooError, match=r"encoder\.embed_tokens\.weight"):
        merged(registry, tmp_path / "merged", *places)


def test_gamma_and_beta_are_weight_and_bias(registry: Registry, tmp_path: Path) -> None:
    models = built("bert", 1), built("bert", 2)
    places = [saved(m, tmp_path / str(i), now=False) for i, m in enumerate(models)]
    file = places[1] / "model.safetensors"
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): t
        for n, t in load_file(file).items()
    }
    save_file(old, file, metadata={"format": "pt"})

    found = loaded(models[0], merged(registry, tmp_path / "merged", *places))

    expected = outputs("bert", averaged(*models))
    torch.testing.assert_close(outputs("bert", found), expected, rtol=1e-5, atol=1e-6)


def test_a_component_is_kept_by_the_glob_of_its_prefix(registry: Registry, tmp_path: Path) -> None:
    models = built("llava", 1), built("llava", 2)
    places = [saved(m, tmp_path / str(i), now=True) for i, m in enumerate(models)]
    config = models[0].config.to_dict()
    family = family_of(config, list(models[0].state_dict()))
    assert family is not None
    recipe = {
        "method": "linear",
        "experts": [str(p) for p in places],
        "exclude": [family.components["vision"] + "*"],
    }
    registry.merge(recipe, out=tmp_path / "merged")

    found = loaded(models[0], tmp_path / "merged").state_dict()

    own = models[0].state_dict()
    mean = averaged(built("llava", 1), models[1]).state_dict()
    for name, tensor in found.items():
        kept = name.startswith("model.vision_tower.")
        expected = own[name] if kept else mean[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("now", [False, True], ids=["as files have had it", "as modules are"])
def test_the_modules_of_a_vision_language_model_are_merged_each_by_itself(
    now: bool, registry: Registry, tmp_path: Path
) -> None:
    models = built("llava", 1), built("llava", 2)
    one, two = (str(saved(m, tmp_path / str(i), now=now)) for i, m in enumerate(models))
    both = [
        {"model": one, "parameters": {"weight": 1}},
        {"model": two, "parameters": {"weight": 1}},
    ]
    recipe = {
        "merge_method": "linear",
        "dtype": "float32",
        "modules": {
            "text_decoder": {"models": both},
            "vision_tower": {"models": [{"model": one, "parameters": {"weight": 1}}]},
            "multi_modal_projector": {"models": both},
        },
    }
    registry.merge(recipe, out=tmp_path / "merged")

    found = loaded(models[0], tmp_path / "merged").state_dict()

    own, mean = built("llava", 1).state_dict(), averaged(*models).state_dict()
    for name, tensor in found.items():
        expected = own[name] if "vision_tower" in name else mean[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)


def test_encoder_and_decoder_are_merged_each_by_itself(registry: Registry, tmp_path: Path) -> None:
    models = built("t5", 1), built("t5", 2)
    one, two = (str(saved(m, tmp_path / str(i), now=False)) for i, m in enumerate(models))
    both = [
        {"model": one, "parameters": {"weight": 1}},
        {"model": two, "parameters": {"weight": 1}},
    ]
    recipe = {
        "merge_method": "linear",
        "dtype": "float32",
        "modules": {
            "encoder": {"models": [{"model": one, "parameters": {"weight": 1}}]},
            "decoder": {"models": both},
        },
    }
    registry.merge(recipe, out=tmp_path / "merged")

    found = loaded(models[0], tmp_path / "merged").state_dict()

    own, mean = built("t5", 1).state_dict(), averaged(*models).state_dict()
    for name, tensor in found.items():
        kept = name.startswith("encoder.") and name != "encoder.embed_tokens.weight"
        torch.testing.assert_close(tensor, (own if kept else mean)[name], rtol=1e-6, atol=1e-6)
