"""Every version has a card that is true of it, in words that the Hub reads."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from zoo import Registry, Version
from zoo.cards.card import version_card


def front_of(card: bytes) -> dict[str, Any]:
    _, front, _ = card.decode().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def test_a_fine_tuned_version_names_its_base_as_the_hub_does(
    registry: Registry, family: dict[str, Version]
) -> None:
    front = front_of(version_card(registry, family["math"]))

    assert "Qwen/Qwen-tiny" == front["base_model"]
    assert "finetune" == front["base_model_relation"]
    assert "mit" == front["license"]
    assert ["zoo", "seed:0"] == front["tags"]
    assert {
        "ref": "math@1",
        "kind": "expert",
        "weights": family["math"].digest,
        "task": "math",
        "parents": [
            {
                "ref": "qwen@1",
                "role": "base",
                "weights": family["qwen"].digest,
                "source": "hf://Qwen/Qwen-tiny",
                "revision": "a" * 40,
            }
        ],
    } == front["zoo"]


def test_a_merge_keeps_the_text_it_was_made_with_and_names_what_the_hub_can_find(
    registry: Registry, family: dict[str, Version]
) -> None:
    card = version_card(registry, family["both"])
    stored = (registry.path("both") / "README.md").read_text()

    front = front_of(card)
    assert stored.split("---\n", 2)[2] == card.decode().split("---\n", 2)[2]
    assert ["Qwen/Qwen-tiny"] == front["base_model"]
    assert "merge" == front["base_model_relation"]
    assert [("qwen@1", "base", None), ("math@1", "expert", 0.25), ("code@1", "expert", 0.75)] == [
        (p["ref"], p["role"], p.get("weight")) for p in front["zoo"]["parents"]
    ]
    assert registry.catalog.run_of(family["both"].id).recipe_digest == front["zoo"]["recipe"]


def test_the_stored_card_of_a_merge_has_digests_weights_and_revisions(
    registry: Registry, family: dict[str, Version]
) -> None:
    front = front_of((registry.path("both") / "README.md").read_bytes())

    assert ["Qwen/Qwen-tiny", "math@1", "code@1"] == front["base_model"]
    assert "ref" not in front["zoo"]
    assert family["both"].digest == front["zoo"]["weights"]
    assert "a" * 40 == front["zoo"]["parents"][0]["revision"]


def test_the_hubs_library_reads_licence_metrics_and_parents_of_a_card(
    registry: Registry, family: dict[str, Version]
) -> None:
    data = ModelCard(version_card(registry, family["code"]).decode()).data

    assert "Qwen/Qwen-tiny" == data.base_model
    (result,) = data.eval_results
    assert ("accuracy", 0.6, "test") == (
        result.metric_type,
        result.metric_value,
        result.dataset_split,
    )


def test_an_authors_card_keeps_its_text_and_keys(registry: Registry, model: Any) -> None:
    card = (
        "---\nlicense: other\nlicense_name: mine\nlanguage: [en]\nbase_model: a/b\n---\n# Hello\n"
    )
    version = registry.register(model("own", 1.0, {"README.md": card}), name="own")

    found = version_card(registry, version)

    front = front_of(found)
    assert found.decode().endswith("---\n# Hello\n")
    assert (["en"], "a/b") == (front["language"], front["base_model"])
    assert version.digest == front["zoo"]["weights"]


@pytest.mark.parametrize(
    ("licence", "front"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("my own", {"license": "other", "license_name": "my own"}),
    ],
)
def test_a_licence_is_said_in_the_hubs_words(
    registry: Registry, model: Any, licence: str, front: dict[str, str]
) -> None:
    version = registry.register(model("m", 1.0), name="m", license=licence)

    found = front_of(version_card(registry, version))

    assert front == {k: v for k, v in found.items() if k.startswith("license")}
    assert "base_model" not in found
    assert "base_model_relation" not in found


def test_names_and_tags_of_strangers_cannot_break_a_card(registry: Registry, model: Any) -> None:
    version = registry.register(
        model("m", 1.0), name="m", tags={"x": "---\n| a: [*b"}, task="a|b\n---\n", license="`"
    )

    card = version_card(registry, version)

    front = front_of(card)
    assert "x:---\n| a: [*b" == front["tags"][1]
    assert all(
        line.count("|") - line.count("\\|") in (0, 3, 4, 5)
        for line in card.decode().split("\n# ")[1].splitlines()
    )
