"""Converts small models to GGUF with the library `gguf`, as llama.cpp's own script does.

Written from `convert_hf_to_gguf.py`, apart from zoo's code: what zoo reads and writes is held
against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

VOCABULARY = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEAD = {"head_dim": 16}
ARCHITECTURES = {"llama3": "llama", "mistral": "llama", "gemma3_text": "gemma3"}
"""Of families that llama.cpp calls otherwise than we do here."""
NORMS_PLUS_ONE = ("gemma", "gemma2", "gemma3")


def model(family: str, seed: int = 0) -> Any:
    """A model of a family with random float16 weights, ready to run in float32 on the CPU."""
    import transformers as t

    three = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    longer = {**SIZES, "max_position_embeddings": 131072}
    wide = {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256}
    config = {
        "llama": lambda: t.LlamaConfig(**SIZES, **HEAD, tie_word_embeddings=False),
        "llama3": lambda: t.LlamaConfig(
            **longer, **HEAD, rope_scaling=three, rope_theta=500000.0, tie_word_embeddings=True
        ),
        "mistral": lambda: t.MistralConfig(**SIZES, **HEAD, sliding_window=None),
        "qwen2": lambda: t.Qwen2Config(**SIZES, tie_word_embeddings=True),
        "qwen3": lambda: t.Qwen3Config(**{**wide, "head_dim": 128}),
        "qwen3moe": lambda: t.Qwen3MoeConfig(
            **SIZES,
            **HEAD,
            moe_intermediate_size=768,  # transformers' reader knows no other
            num_experts=4,
            num_experts_per_tok=2,
            norm_topk_prob=True,
        ),
        "gemma": lambda: t.GemmaConfig(**SIZES, **HEAD),
        "gemma2": lambda: t.Gemma2Config(**wide, query_pre_attn_scalar=256, sliding_window=32),
        "gemma3_text": lambda: t.Gemma3TextConfig(
            **wide, query_pre_attn_scalar=256, sliding_window=32
        ),
        "phi3": lambda: t.Phi3Config(**SIZES, sliding_window=None),
        "starcoder2": lambda: t.Starcoder2Config(**SIZES),
    }[family]()
    made = t.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(made.named_parameters()):
            drawn = torch.randn(tensor.shape, generator=generator) * 0.1
            around = 1.0 if tensor.dim() == 1 and "gemma" not in family else 0.0
            # float16 twice: as the file will have it, and as it is run.
            tensor.copy_((drawn + around).half().float())
    return made


def converted(folder: Path, path: Path, family: str, **options: Any) -> None:
    """Write the model in `folder` (safetensors, config.json) as a GGUF file.

    Args:
        options: `dtype` of matrices, F16 by default; `pairs` to set beside the usual.
    """
    import json

    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    arch = ARCHITECTURES.get(family, family)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    _describe(writer, config, arch)
    for key, value in (options.get("pairs") or {}).items():
        writer.add_string(key, value)
    wanted = options.get("dtype", gguf.GGMLQuantizationType.F16)
    for name, values in tensors_of(state, config, arch).items():
        kind = wanted
        if values.ndim < 2 or name.endswith(("_norm.weight", "ffn_gate_inp.weight")):
            kind = gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors_of(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], arch: str
) -> dict[str, np.ndarray]:
    """llama.cpp's name -> values, float32, shape as torch has it."""
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    found: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in state.items():
        values = tensor.float().numpy()
        if ".experts." in name:
            front, _, rest = name.partition(".experts.")
            expert, _, part = rest.partition(".")
            experts.setdefault(f"{front}.experts.{part}", {})[int(expert)] = values
            continue
        if arch == "llama" and name.endswith(("q_proj.weight", "q_proj.bias")):
            values = permute(values, heads, heads)
        if arch == "llama" and name.endswith(("k_proj.weight", "k_proj.bias")):
            values = permute(values, heads, keys)
        if arch in NORMS_PLUS_ONE and name.endswith("norm.weight"):
            values = values + 1
        found[str(names.get_name(name, try_suffixes=(".weight", ".bias")))] = values
    for name, parts in experts.items():
        stacked = np.stack([parts[i] for i in sorted(parts)])
        found[str(names.get_name(name, try_suffixes=(".weight",)))] = stacked
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        found["rope_freqs.weight"] = _llama3(rope, config["head_dim"])
    return found


def permute(weights: np.ndarray, heads: int, keys: int) -> np.ndarray:
    """`LlamaModel.permute` of the script."""
    if heads != keys:
        heads = keys
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def _llama3(rope: Mapping[str, Any], width: int) -> np.ndarray:
    """`LlamaModel.generate_extra_tensors` of the script."""
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width))
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    found = []
    for frequency in frequencies:
        length = 2 * np.pi / float(frequency)
        if length < high:
            found.append(1.0)
        elif length > low:
            found.append(rope["factor"])
        else:
            smooth = (
                rope["original_max_position_embeddings"] / length - rope["low_freq_factor"]
            ) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, dtype=np.float32)


def _describe(writer: gguf.GGUFWriter, config: Mapping[str, Any], arch: str) -> None:
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "norm_epsilon" in config:
        writer.add_layer_norm_eps(config["norm_epsilon"])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config["vocab_size"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if arch in ("gemma2", "gemma3"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == "qwen3moe":
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    # transformers takes the size of the vocabulary from its tokens.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges([])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
