"""What llama.cpp and transformers call the same things, family by family.

A family is listed when a test reads its tensors back as transformers has them. llama.cpp changes
some values on the way, which is undone on reading and done on writing:

    permuted   rows of `attn_q` and `attn_k`: halves of a head interleaved, as its RoPE wants them
    shifted    norms are stored as weight + 1, as they are multiplied with
    experts    one tensor of all experts' matrices, where transformers has one for each

Source: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py; the library
`gguf`, `constants.py` and `tensor_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.#.attn_norm": "model.layers.#.input_layernorm",
    "blk.#.attn_q": "model.layers.#.self_attn.q_proj",
    "blk.#.attn_k": "model.layers.#.self_attn.k_proj",
    "blk.#.attn_v": "model.layers.#.self_attn.v_proj",
    "blk.#.attn_output": "model.layers.#.self_attn.o_proj",
    "blk.#.ffn_norm": "model.layers.#.post_attention_layernorm",
    "blk.#.ffn_gate": "model.layers.#.mlp.gate_proj",
    "blk.#.ffn_up": "model.layers.#.mlp.up_proj",
    "blk.#.ffn_down": "model.layers.#.mlp.down_proj",
}
_NORMED_HEADS = {
    "blk.#.attn_q_norm": "model.layers.#.self_attn.q_norm",
    "blk.#.attn_k_norm": "model.layers.#.self_attn.k_norm",
}
_GEMMA2 = _LLAMA | {
    "blk.#.post_attention_norm": "model.layers.#.post_attention_layernorm",
    "blk.#.ffn_norm": "model.layers.#.pre_feedforward_layernorm",
    "blk.#.post_ffw_norm": "model.layers.#.post_feedforward_layernorm",
}
_WITHOUT_GATE = ("blk.#.ffn_gate",)

_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
_RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_HEAD = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
_WINDOW = {"attention.sliding_window": "sliding_window"}
_EXPERTS = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of llama.cpp, and its models in transformers."""

    architecture: str
    """llama.cpp's name."""
    model_types: tuple[str, ...]
    """Those of transformers' models that are written as this; the first is what is read."""
    classes: tuple[str, ...]
    """The class of each."""
    names: Mapping[str, str]
    """llama.cpp's name of a tensor -> transformers', without `.weight`, `#` for the layer."""
    config: Mapping[str, str]
    """Key of the metadata, without the architecture -> key of `config.json`."""
    experts: Mapping[str, str] = field(default_factory=dict)
    """As `names`, for tensors of all experts; `@` for the expert."""
    permuted: bool = False
    shifted: bool = False
    defaults: Mapping[str, object] = field(default_factory=dict)
    """What `config.json` says of every model of the family."""

    @property
    def model_type(self) -> str:
        return self.model_types[0]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        f.architecture: f
        for f in (
            Family(
                "llama",
                ("llama", "mistral"),
                ("LlamaForCausalLM", "MistralForCausalLM"),
                _LLAMA,
                _SIZES | _RMS | _HEAD,
                permuted=True,
            ),
            Family("qwen2", ("qwen2",), ("Qwen2ForCausalLM",), _LLAMA, _SIZES | _RMS),
            Family(
                "qwen3",
                ("qwen3",),
                ("Qwen3ForCausalLM",),
                _LLAMA | _NORMED_HEADS,
                _SIZES | _RMS | _HEAD,
            ),
            Family(
                "qwen3moe",
                ("qwen3_moe",),
                ("Qwen3MoeForCausalLM",),
                {k: v for k, v in (_LLAMA | _NORMED_HEADS).items() if ".mlp." not in v}
                | {"blk.#.ffn_gate_inp": "model.layers.#.mlp.gate"},
                _SIZES
                | _RMS
                | _HEAD
                | _EXPERTS
                | {"expert_feed_forward_length": "moe_intermediate_size"},
                experts={
                    "blk.#.ffn_gate_exps": "model.layers.#.mlp.experts.@.gate_proj",
                    "blk.#.ffn_up_exps": "model.layers.#.mlp.experts.@.up_proj",
                    "blk.#.ffn_down_exps": "model.layers.#.mlp.experts.@.down_proj",
                },
                defaults={"norm_topk_prob": True},
            ),
            Family(
                "gemma",
                ("gemma",),
                ("GemmaForCausalLM",),
                _LLAMA,
                _SIZES | _RMS | _HEAD,
                shifted=True,
            ),
            Family(
                "gemma2",
                ("gemma2",),
                ("Gemma2ForCausalLM",),
                _GEMMA2,
                _SIZES
                | _RMS
                | _HEAD
                | _WINDOW
                | {
                    "attn_logit_softcapping": "attn_logit_softcapping",
                    "final_logit_softcapping": "final_logit_softcapping",
                },
                shifted=True,
            ),
            Family(
                "gemma3",
                ("gemma3_text",),
                ("Gemma3ForCausalLM",),
                _GEMMA2 | _NORMED_HEADS,
                _SIZES | _RMS | _HEAD | _WINDOW,
                shifted=True,
            ),
            Family(
                "phi3",
                ("phi3",),
                ("Phi3ForCausalLM",),
                {k: v for k, v in _LLAMA.items() if k not in _WITHOUT_GATE}
                | {
                    "blk.#.attn_qkv": "model.layers.#.self_attn.qkv_proj",
                    "blk.#.ffn_up": "model.layers.#.mlp.gate_up_proj",
                },
                _SIZES | _RMS | _WINDOW,
            ),
            Family(
                "starcoder2",
                ("starcoder2",),
                ("Starcoder2ForCausalLM",),
                {k: v for k, v in _LLAMA.items() if k not in _WITHOUT_GATE}
                | {
                    "blk.#.ffn_up": "model.layers.#.mlp.c_fc",
                    "blk.#.ffn_down": "model.layers.#.mlp.c_proj",
                },
                _SIZES | {"attention.layer_norm_epsilon": "norm_epsilon"},
            ),
        )
    }
)
"""By llama.cpp's name."""


def family_of_model(model_type: str | None) -> Family | None:
    """The family that models of a `model_type` are written as."""
    return next((f for f in FAMILIES.values() if model_type in f.model_types), None)
