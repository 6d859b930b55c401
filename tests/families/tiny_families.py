"""Tiny models of representative families: a configuration, and what to feed the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

TOKENS = torch.tensor([[1, 5, 9, 2, 30], [7, 7, 3, 4, 23]])
IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
_TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
_ENCODER = {k: v for k, v in _TEXT.items() if k != "num_key_value_heads"}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
_GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
_BART = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _TEXT),
    "llama-tied": ("LlamaForCausalLM", {**_TEXT, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {**_TEXT, "tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", {**_GPT2, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt_neox": ("GPTNeoXForCausalLM", _ENCODER),
    "bert": ("BertForMaskedLM", _ENCODER),
    "roberta": ("RobertaForMaskedLM", {**_ENCODER, "pad_token_id": 0}),
    "t5": ("T5ForConditionalGeneration", {**_T5, "decoder_start_token_id": 0}),
    "bart": ("BartForConditionalGeneration", {**_BART, **_ENDS, "forced_eos_token_id": None}),
    "vit": ("ViTForImageClassification", {**_VISION, "num_labels": 3}),
    "clip": (
        "CLIPModel",
        {"text_config": {**_ENCODER, **_ENDS}, "vision_config": _VISION, "projection_dim": 8},
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {**_TEXT, "model_type": "llama"},
            "vision_config": {**_VISION, "model_type": "clip_vision_model"},
            "image_token_id": 39,
        },
    ),
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": 40, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
    ),
    "mixtral": (
        "MixtralForCausalLM",
        {**_TEXT, "num_local_experts": 3, "num_experts_per_tok": 2},
    ),
}


def built(family: str, seed: int, **other: Any) -> Any:
    """A random model, the same for the same seed."""
    import transformers

    kind, config = FAMILIES[family]
    made = getattr(transformers, kind)
    torch.manual_seed(seed)
    model = made(made.config_class(**{**config, **other})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def outputs(family: str, model: Any) -> torch.Tensor:
    """What a model makes of some input."""
    feeds: dict[str, Callable[[], Any]] = {
        "vit": lambda: model(pixel_values=IMAGES).logits,
        "clip": lambda: model(input_ids=TOKENS, pixel_values=IMAGES).logits_per_image,
        "llava": lambda: (
            model(input_ids=torch.tensor([[39, 39, 39, 39, 1, 5]] * 2), pixel_values=IMAGES).logits
        ),
        "t5": lambda: model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits,
        "bart": lambda: model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits,
    }
    with torch.no_grad():
        found: torch.Tensor = feeds.get(family, lambda: model(input_ids=TOKENS).logits)()
        return found


def averaged(one: Any, other: Any) -> Any:
    """`one`, with the mean of both models' weights: a hand-made oracle."""
    theirs = other.state_dict()
    own = {
        n: ((t.double() + theirs[n].double()) / 2).to(t.dtype) if t.is_floating_point() else t
        for n, t in one.state_dict().items()
    }
    one.load_state_dict(own)
    return one
