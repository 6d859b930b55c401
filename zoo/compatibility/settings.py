"""What a configuration says of the network, under one spelling for all families.

Families call the same number `hidden_size`, `n_embd` or `d_model`, and put the language model's
part of a larger one into `text_config`. Here every value has one key, and remembers its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.tokenizers.vocabulary import text_parts

_SPELLINGS = {
    "hidden_size": ("n_embd", "d_model", "hidden_dim", "dim", "model_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers", "encoder_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "encoder_attention_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "intermediate_size": ("n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "encoder_ffn_dim"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len"),
    "hidden_act": ("activation_function", "hidden_activation", "activation", "dense_act_fn"),
    "norm_eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
}
_CANONICAL = {theirs: ours for ours, those in _SPELLINGS.items() for theirs in those}


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of one configuration."""

    values: Mapping[str, Any]
    """By our key."""
    spelt: Mapping[str, str]
    """Our key -> what this configuration calls it."""

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def number(self, key: str) -> int | None:
        """An integer above zero; None for anything else."""
        found = self.values.get(key)
        whole = isinstance(found, int) and not isinstance(found, bool) and found > 0
        return found if whole else None

    @property
    def head_dim(self) -> int | None:
        """Width of an attention head; where nothing is said, the hidden size over the heads."""
        said, size, heads = (
            self.number(key) for key in ("head_dim", "hidden_size", "num_attention_heads")
        )
        return said or (size // heads if size and heads else None)

    @property
    def key_value_heads(self) -> int | None:
        return self.number("num_key_value_heads") or self.number("num_attention_heads")


def settings_of(config: Mapping[str, Any] | None) -> Settings:
    """The settings of a configuration; empty for none. Never raises, whatever is in it."""
    values: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for part in (config or {}, *text_parts(config or {})):
        for key, value in part.items():
            if isinstance(key, str):
                ours = _CANONICAL.get(key, key)
                values[ours] = value
                spelt[ours] = key
    _settle_rope(values)
    if "num_labels" not in values and isinstance(labels := values.get("id2label"), Mapping):
        values["num_labels"], spelt["num_labels"] = len(labels), "num_labels"
    return Settings(values, spelt)


def kind_of(config: Mapping[str, Any] | None) -> str | None:
    """The `model_type` of a configuration, else its first class, as the catalog knows it."""
    found = (config or {}).get("model_type")
    classes = (config or {}).get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    return next((word for word in (found, first) if isinstance(word, str) and word), None)


def _settle_rope(values: dict[str, Any]) -> None:
    """`rope_parameters` of newer configurations, as `rope_theta` and `rope_scaling` of older."""
    new = values.pop("rope_parameters", None)
    old = values.get("rope_scaling")
    block = new if isinstance(new, Mapping) else old if isinstance(old, Mapping) else None
    if block is None:
        return
    found = dict(block)
    theta = found.pop("rope_theta", None)
    if theta is not None:
        values["rope_theta"] = theta
    kind = found.pop("type", None)
    found.setdefault("rope_type", kind)
    plain = found["rope_type"] in (None, "default") and not found.keys() - {"rope_type"}
    values["rope_scaling"] = None if plain else found


Formula = Callable[[Settings], int | None]


def _times(factor: int, key: str) -> Formula:
    return lambda s: None if (n := s.number(key)) is None else factor * n


def _heads(key: str) -> Formula:
    def width(s: Settings) -> int | None:
        count = s.key_value_heads if key == "num_key_value_heads" else s.number(key)
        return count * s.head_dim if count and s.head_dim else None

    return width


def _queries_keys_and_values(s: Settings) -> int | None:
    heads, few, width = s.number("num_attention_heads"), s.key_value_heads, s.head_dim
    return (heads + 2 * few) * width if heads and few and width else None


SIZES: tuple[tuple[str, Formula], ...] = (
    ("vocab_size", _times(1, "vocab_size")),
    ("hidden_size", _times(1, "hidden_size")),
    ("intermediate_size", _times(1, "intermediate_size")),
    ("num_key_value_heads", _heads("num_key_value_heads")),
    ("num_attention_heads", _heads("num_attention_heads")),
    ("head_dim", lambda s: s.head_dim),
    ("num_attention_heads", _queries_keys_and_values),
    ("hidden_size", _times(3, "hidden_size")),
    ("intermediate_size", _times(2, "intermediate_size")),
    ("num_experts", _times(1, "num_experts")),
    ("max_position_embeddings", _times(1, "max_position_embeddings")),
    ("type_vocab_size", _times(1, "type_vocab_size")),
    ("num_labels", _times(1, "num_labels")),
)
"""The size along an axis that a value leads to, the likeliest first."""


def _behind(key: str, a: Settings, b: Settings) -> str:
    """What differs where as many heads make another width: the width of each."""
    if not key.startswith("num_") or a.head_dim == b.head_dim:
        return key
    return "head_dim" if "head_dim" in a.values or "head_dim" in b.values else "hidden_size"


def explained(a: Settings, b: Settings, sizes: tuple[int, int]) -> str | None:
    """Our key of the value that makes an axis as long as it is in two models; None if none does."""
    for key, formula in SIZES:
        if (formula(a), formula(b)) == sizes:
            return key if a.get(key) != b.get(key) else _behind(key, a, b)
    for key in sorted(a.values.keys() & b.values.keys()):
        if (a.number(key), b.number(key)) == sizes:
            return key
    return None
