"""A family nobody has heard of, worked out from configuration and names."""

from __future__ import annotations

from typing import Any

from zoo.families import family_of

CONFIG: dict[str, Any] = {
    "model_type": "made_up",
    "num_hidden_layers": 3,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}
NAMES = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(f"model.layers.{i}.{n}.weight" for i in range(3) for n in ("attn.q", "mlp.up", "norm1")),
]


def test_an_unknown_family_has_its_stack_embeddings_head_and_keys() -> None:
    family = family_of(CONFIG, NAMES)

    assert family is not None
    assert not family.known
    assert [("model.layers.", "num_hidden_layers", 3)] == [
        (s.prefix, s.key, s.count) for s in family.stacks
    ]
    assert ("model.embed_tokens.weight", "lm_head.weight") == (family.embeddings, family.head)
    assert {"lm_head.weight": "model.embed_tokens.weight"} == family.tied
    assert {
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "vocabulary": "vocab_size",
    } == family.keys
    assert family.compare(NAMES).none


def test_a_layer_that_the_configuration_counts_and_nobody_stored_is_missing() -> None:
    names = [n for n in NAMES if ".2." not in n and n != "model.layers.1.mlp.up.weight"]
    family = family_of(CONFIG, NAMES)

    assert family is not None
    found = family.compare([*names, "model.layers.7.attn.q.weight"])

    assert (
        "model.layers.1.mlp.up.weight",
        "model.layers.2.attn.q.weight",
        "model.layers.2.mlp.up.weight",
        "model.layers.2.norm1.weight",
    ) == found.missing
    assert ("model.layers.7.attn.q.weight",) == found.unexpected


def test_a_family_worked_out_from_half_a_checkpoint_asks_for_the_rest() -> None:
    half = [n for n in NAMES if ".2." not in n]

    family = family_of(CONFIG, half)

    assert family is not None
    assert len(family.compare(half).missing) == 3


def test_nothing_is_said_of_nothing() -> None:
    assert family_of(None, []) is None
