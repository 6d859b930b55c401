"""What a transform makes has a card, the same one wherever it is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zoo import Registry, Version
from zoo.cards.card import version_card
from zoo.checkpoints.safetensors import open_path
from zoo.declared import read_declared


@pytest.fixture
def adapter(registry: Registry, family: dict[str, Version]) -> Version:
    """An adapter of the difference of `math` and `qwen`."""
    made = registry.transform(
        "extract_lora", [("model", "math"), ("base", "qwen")], {"rank": 2}, name="lora"
    )
    assert made is not None
    return made


def front_of(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---\n", 2)[1])
    return found


def test_an_adapter_tells_what_it_was_taken_from(registry: Registry, adapter: Version) -> None:
    card = (registry.path("lora") / "README.md").read_text()

    front = front_of(card)
    assert "Qwen/Qwen-tiny" == front["base_model"]
    assert "adapter" == front["base_model_relation"]
    assert "peft" == front["library_name"]
    assert adapter.digest in card
    assert "| `rank` | `2` |" in card
    assert "lora" not in card.replace("extract_lora", "")
    for ref in ("math", "qwen"):
        assert registry.get(ref).digest in card


def test_the_card_is_the_same_in_the_zoo_and_in_a_directory(
    registry: Registry, adapter: Version, tmp_path: Path
) -> None:
    parents = [("model", "math"), ("base", "qwen")]

    registry.transform("extract_lora", parents, {"rank": 2}, out=tmp_path / "out")
    again = registry.transform("extract_lora", parents, {"rank": 2}, name="other")

    assert again is not None
    stored = (registry.path("lora") / "README.md").read_bytes()
    assert stored == (tmp_path / "out" / "README.md").read_bytes()
    assert stored == (registry.path("other") / "README.md").read_bytes()


def test_a_replay_and_a_card_for_the_hub_still_work(registry: Registry, adapter: Version) -> None:
    assert registry.verify("lora", replay=True).ok

    front = front_of(version_card(registry, adapter).decode())

    assert "Qwen/Qwen-tiny" == front["base_model"]
    assert "lora@1" == front["zoo"]["ref"]  # type: ignore[index]


def test_what_the_card_declares_is_what_the_registry_knows(
    registry: Registry, adapter: Version
) -> None:
    with open_path(registry.path("lora")) as checkpoint:
        declared = read_declared(checkpoint.opened)

    assert {("model", registry.get("math").digest), ("base", registry.get("qwen").digest)} == {
        (p.role, p.weights) for p in declared.parents
    }
