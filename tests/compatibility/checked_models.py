"""Models of a few hundred numbers, with the files that people's models have beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
HIDDEN, INNER, TOKENS, LAYERS = 8, 12, 16, 2
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": LAYERS,
    "vocab_size": TOKENS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def llama(seed: int = 0, near: State | None = None, **sizes: int) -> tuple[State, dict[str, Any]]:
    """Tensors and configuration of a small Llama; those of `near`, moved a little, if it is given.

    Args:
        sizes: keys of the configuration that differ from `CONFIG`.
    """
    config: dict[str, Any] = {**CONFIG, **sizes}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    few = config["num_key_value_heads"] * (hidden // heads)
    inner, tokens = config["intermediate_size"], config["vocab_size"]
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, *shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator)
        return drawn if near is None else near[name] + 0.05 * drawn

    shapes: dict[str, tuple[int, ...]] = {EMBEDDINGS: (tokens, hidden), HEAD: (tokens, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": (hidden,),
            at + "self_attn.q_proj.weight": (hidden, hidden),
            at + "self_attn.k_proj.weight": (few, hidden),
            at + "self_attn.v_proj.weight": (few, hidden),
            at + "self_attn.o_proj.weight": (hidden, hidden),
            at + "post_attention_layernorm.weight": (hidden,),
            at + "mlp.gate_proj.weight": (inner, hidden),
            at + "mlp.up_proj.weight": (inner, hidden),
            at + "mlp.down_proj.weight": (hidden, inner),
        }
    return {n: draw(n, *s) for n, s in shapes.items()}, config


def write(
    directory: Path,
    state: Mapping[str, torch.Tensor],
    config: Mapping[str, Any] | None = None,
    tokens: Sequence[str] | None = None,
    **files: Any,
) -> Path:
    """A model's directory.

    Args:
        tokens: of its tokenizer, in order of id.
        files: other files, `.` written `__`: a text as it is, anything else as JSON.
    """
    directory.mkdir(parents=True)
    save_file({n: t.clone() for n, t in state.items()}, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(dict(config)))
    if tokens is not None:
        vocabulary = {t: i for i, t in enumerate(tokens)}
        document = {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": tokens[0]},
        }
        (directory / "tokenizer.json").write_text(json.dumps(document))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def words(count: int = TOKENS) -> list[str]:
    return ["<unk>", "<s>", "</s>", *(f"word{i}" for i in range(3, count))]
