"""`config.json` from a GGUF file's metadata, and back.

What both sides have is in `families.py`; here is what they say in different words: types, ties,
special tokens, and how positions are turned (RoPE). llama.cpp keeps Llama 3's scaling as a tensor
of factors, from which the parameters are found again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidCheckpoint
from zoo.gguf.families import Family

if TYPE_CHECKING:
    import numpy as np

    from zoo.gguf.header import Value

THETA = 10_000.0
"""RoPE's base where neither side says one."""
_TOKENS = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
_SCALED = {
    "original_context_length": "original_max_position_embeddings",
    "factor": "factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "attn_factor": "attention_factor",
}
_LLAMA3 = ({"factor": 8.0}, {"factor": 32.0}, {"factor": 4.0}, {"factor": 16.0})
"""What models of the Llama 3 line have been released with; the rest is the same in all."""
_LLAMA3_REST = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose attention is scaled by hidden_size / heads."""


def config_of(
    family: Family,
    pairs: Mapping[str, Value],
    names: Sequence[str],
    vocabulary: int,
    dtype: str,
    factors: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], list[str]]:
    """The content of `config.json`, and what could not be said in it.

    Args:
        names: of the file's tensors.
        vocabulary: rows of the embeddings.
        dtype: torch's name of the type most weights have.
        factors: RoPE tensors by name, where the file has some.
    Raises:
        InvalidCheckpoint: a size is missing, or is no number.
    """

    def own(key: str) -> Any:
        return pairs.get(f"{family.architecture}.{key}")

    config: dict[str, Any] = {
        "architectures": [family.classes[0]],
        "model_type": family.model_type,
        "torch_dtype": dtype,
        "tie_word_embeddings": "output.weight" not in names,
        **family.defaults,
    }
    for key, said in family.config.items():
        value = own(key)
        if value is not None:
            config[said] = _number(value, f"{family.architecture}.{key}")
    config["vocab_size"] = vocabulary
    for needed in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        if needed not in config:
            raise InvalidCheckpoint(
                f"The metadata of a `{family.architecture}` model lacks `{needed}`:",
                "its layers cannot be built.",
                "Convert it again with a current llama.cpp.",
                key=needed,
            )
    for key, said in _TOKENS.items():
        if type(token := pairs.get(key)) is int:
            config[said] = token
    turned = own("rope.dimension_count")
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if family.architecture == "llama" and "head_dim" not in config and turned is not None:
        config["head_dim"] = turned
    elif family.architecture == "phi3" and turned is not None and turned != width:
        config["partial_rotary_factor"] = turned / width
    config["rope_theta"] = _short(own("rope.freq_base") or THETA)
    scaling, problem = _scaling(family, pairs, config, factors)
    if scaling:
        config["rope_scaling"] = scaling
    if family.architecture == "llama" and "blk.0.attn_q.bias" in names:
        config["attention_bias"] = True
    if family.shifted:
        config |= _gemma(family, config)
    return config, [problem] if problem else []


def pairs_of(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a configuration, but for the tokenizer; ints, floats and texts.

    Raises:
        InvalidCheckpoint: the configuration lacks a size, or has one for each layer.
    """
    arch = family.architecture
    found: dict[str, Any] = {}
    whole = dict(config)
    heads, hidden = whole.get("num_attention_heads"), whole.get("hidden_size")
    whole.setdefault("num_key_value_heads", heads)
    whole.setdefault("num_experts", whole.get("num_local_experts"))  # transformers 5 says this
    if isinstance(heads, int) and isinstance(hidden, int) and heads:
        whole["head_dim"] = whole.get("head_dim") or hidden // heads
    for said, meant in family.defaults.items():
        if config.get(said, meant) != meant:
            raise InvalidCheckpoint(
                f"`{said}` in `config.json` is {config[said]}:",
                f"llama.cpp takes it to be {meant} in every `{arch}` model.",
                "The model cannot be run there as it is meant.",
                key=said,
            )
    for key, said in family.config.items():
        value = whole.get(said)
        if value is None:
            if said in ("sliding_window", *_OPTIONAL):
                continue
            raise InvalidCheckpoint(
                f"`config.json` lacks `{said}`:",
                f"llama.cpp needs it of a `{arch}` model.",
                key=said,
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidCheckpoint(
                f"`{said}` in `config.json` is {str(value)[:80]}:",
                "GGUF is written for models whose layers are all alike.",
                "Convert it with llama.cpp's `convert_hf_to_gguf.py`.",
                key=said,
            )
        whole_number = said not in _FRACTIONS
        found[f"{arch}.{key}"] = int(value) if whole_number else float(value)
    rope = _rope(config)
    theta = rope.get("rope_theta") or config.get("rope_theta") or THETA
    found[f"{arch}.rope.freq_base"] = float(theta)
    share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    found[f"{arch}.rope.dimension_count"] = int(whole["head_dim"] * share)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("linear", "yarn"):
        found[f"{arch}.rope.scaling.type"] = kind
        for key, said in _SCALED.items():
            if rope.get(said) is not None:
                value = rope[said]
                found[f"{arch}.rope.scaling.{key}"] = (
                    int(value) if said.startswith("original") else float(value)
                )
    elif kind == "longrope":
        original = config.get("original_max_position_embeddings") or rope.get(
            "original_max_position_embeddings"
        )
        if original:
            found[f"{arch}.rope.scaling.original_context_length"] = int(original)
        if rope.get("attention_factor"):
            found[f"{arch}.rope.scaling.attn_factor"] = float(rope["attention_factor"])
    elif kind not in ("default", "llama3"):
        raise InvalidCheckpoint(
            f"`config.json` turns positions by `{kind}`:",
            "zoo cannot say that in GGUF.",
            "Convert it with llama.cpp's `convert_hf_to_gguf.py`.",
            rope_type=kind,
        )
    return found


_FRACTIONS = (
    "rms_norm_eps",
    "norm_epsilon",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
_OPTIONAL = ("attn_logit_softcapping", "final_logit_softcapping")


def factors_of(family: Family, config: Mapping[str, Any]) -> dict[str, list[float]]:
    """The RoPE tensors that llama.cpp wants of a configuration, by name."""
    rope = _rope(config)
    kind = rope.get("rope_type") or rope.get("type")
    if kind == "llama3":
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        width = config.get("head_dim") or hidden // heads
        theta = rope.get("rope_theta") or config.get("rope_theta") or THETA
        return {"rope_freqs.weight": _llama3(rope, float(theta), int(width))}
    if kind == "longrope":
        return {
            "rope_factors_long.weight": [float(n) for n in rope["long_factor"]],
            "rope_factors_short.weight": [float(n) for n in rope["short_factor"]],
        }
    return {}


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How positions are turned: transformers 5 says it in one map, transformers 4 in two."""
    for key in ("rope_parameters", "rope_scaling"):
        block = config.get(key)
        if isinstance(block, Mapping):
            return block.get("full_attention", block) or {}
    return {}


def _number(value: Value, key: str) -> int | float | bool:
    """One number; a list with one value for each layer must say the same of all."""
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, int):
        return value
    listed = [] if isinstance(value, str | list) else value.tolist()
    if not listed or any(n != listed[0] for n in listed):
        raise InvalidCheckpoint(
            f"`{key}` differs between layers:",
            "zoo reads models whose layers are all alike.",
            "Merge the model that it was converted from.",
            key=key,
        )
    found: int | float = listed[0]
    return found


def _short(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-06 for 9.999999974752427e-07."""
    import numpy as np

    return float(str(np.float32(value)))


def _scaling(
    family: Family,
    pairs: Mapping[str, Value],
    config: Mapping[str, Any],
    factors: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any] | None, str]:
    prefix = f"{family.architecture}.rope.scaling."
    said = {theirs: pairs[prefix + key] for key, theirs in _SCALED.items() if prefix + key in pairs}
    if "rope_freqs.weight" in factors:
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        wanted = factors["rope_freqs.weight"]
        for parameters in _LLAMA3:
            found = {"rope_type": "llama3", **parameters, **_LLAMA3_REST}
            made = _llama3(found, config["rope_theta"], int(width))
            if len(made) == len(wanted) and all(
                math.isclose(a, float(b), rel_tol=1e-4) for a, b in zip(made, wanted, strict=True)
            ):
                return found, ""
        return None, "`rope_freqs.weight` is not of a known kind, so `rope_scaling` is not set"
    if "rope_factors_long.weight" in factors and "rope_factors_short.weight" in factors:
        found = {
            "rope_type": "longrope",
            "long_factor": [float(n) for n in factors["rope_factors_long.weight"]],
            "short_factor": [float(n) for n in factors["rope_factors_short.weight"]],
        }
        for key in ("original_max_position_embeddings", "attention_factor"):
            if key in said:
                found[key] = said[key]
        return found, ""
    kind = pairs.get(prefix + "type")
    if kind in ("linear", "yarn"):
        return {"rope_type": kind, **said}, ""
    if kind in (None, "none"):
        return None, ""
    return None, f"positions are turned by `{kind}`, so `rope_scaling` is not set"


def _llama3(rope: Mapping[str, Any], theta: float, width: int) -> list[float]:
    """Factor by which each frequency is divided, shape (width / 2,), float64.

    Source: `_compute_llama3_parameters` of transformers, which llama.cpp follows.
    """
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context, factor = rope["original_max_position_embeddings"], rope["factor"]
    found = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * theta ** (i / width)
        if wavelength < context / high:
            found.append(1.0)
        elif wavelength > context / low:
            found.append(float(factor))
        else:
            smooth = (context / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found


def _gemma(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """What Gemma's classes would fill in from one size of model, though others differ."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    width = config.get("head_dim") or hidden // heads
    if family.architecture == "gemma":
        return {"hidden_activation": "gelu_pytorch_tanh"}
    large = config["num_hidden_layers"] == _LARGE_GEMMA[family.architecture]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": hidden // heads if large else width,
        **({"rope_local_base_freq": THETA} if family.architecture == "gemma3" else {}),
    }
