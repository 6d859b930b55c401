"""Dense models that mixtures are made of, as data: what their tensors are called, and what their
configurations mean by silence.

A configuration may leave out what its class has a default for. The class of the mixture has other
defaults (Mixtral's rotary base is 1e6, Llama's 1e4), so what was silent is said in the result.
Source: the configuration classes of transformers 5.23; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MLP = re.compile(r"model\.layers\.(\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
PARTS = ("gate_proj", "up_proj", "down_proj")
"""Of an MLP: down(act(gate x) * up x). `down_proj` writes into the residual stream."""
EMBEDDINGS, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")
"""Buffers that old checkpoints keep although they follow from the configuration."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A dense architecture."""

    name: str
    """`model_type`."""
    defaults: Mapping[str, Any]
    biases: tuple[str, ...] = ()
    """Projections of the attention that always have a bias."""
    norms: tuple[str, ...] = ()
    """Of queries and keys."""


_SILENT = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}
_QWEN = {
    **_SILENT,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LLAMA = {**_SILENT, "vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2}
THETA = 10000.0
"""Of all kinds."""

KINDS = {
    k.name: k
    for k in (
        Kind("llama", {**_LLAMA, "max_position_embeddings": 2048, "num_key_value_heads": None}),
        Kind(
            "mistral",
            {
                **_LLAMA,
                "max_position_embeddings": 4096 * 32,
                "num_key_value_heads": 8,
                "sliding_window": 4096,
            },
        ),
        Kind("qwen2", _QWEN, biases=("q_proj", "k_proj", "v_proj")),
        Kind("qwen3", {**_QWEN, "head_dim": 128}, norms=("q_norm", "k_norm")),
    )
}


def mlp(layer: int, part: str) -> str:
    """The name of a matrix of a dense model's MLP."""
    return f"model.layers.{layer}.mlp.{part}.weight"


def spoken(kind: Kind, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with everything said that its class would add."""
    found = {**kind.defaults, **config}
    if found.get("num_key_value_heads") is None:
        found["num_key_value_heads"] = found.get("num_attention_heads")
    if not config.get("rope_parameters") and config.get("rope_theta") is None:
        found["rope_theta"] = THETA
    return found


def outside_the_mlp(kind: Kind, config: Mapping[str, Any], layers: int) -> set[str]:
    """The tensors of a dense model that its mixture has as they are."""
    biases = {f"self_attn.{p}.bias" for p in kind.biases}
    if config.get("attention_bias"):
        biases = {f"self_attn.{p}_proj.bias" for p in "qkvo"}
    inner = {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{p}_proj.weight" for p in "qkvo"),
        *(f"self_attn.{n}.weight" for n in kind.norms),
        *biases,
    }
    names = {EMBEDDINGS, NORM, *(f"model.layers.{i}.{n}" for i in range(layers) for n in inner)}
    return names if config.get("tie_word_embeddings") else {*names, HEAD}


def is_derived(name: str) -> bool:
    """Whether a tensor follows from the configuration, and need not be carried."""
    return bool(_DERIVED.search(name))
