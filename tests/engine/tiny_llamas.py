"""Language models of a few hundred numbers, named and configured like Llama's."""

from __future__ import annotations

from typing import Any

import torch

State = dict[str, torch.Tensor]

HIDDEN, INNER, TOKENS = 4, 6, 8
LAYER = {
    "input_layernorm.weight": (HIDDEN,),
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INNER),
}
EMBEDDINGS, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def llama(
    seed: int, layers: int = 4, *, tokens: int = TOKENS, hidden: int = HIDDEN, tied: bool = False
) -> State:
    """A model whose every tensor is another one's for no other seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state = {EMBEDDINGS: draw(tokens, hidden), NORM: draw(hidden)}
    if not tied:
        state[HEAD] = draw(tokens, hidden)
    for i in range(layers):
        for name, shape in LAYER.items():
            sizes = [hidden if n == HIDDEN else n for n in shape]
            state[f"model.layers.{i}.{name}"] = draw(*sizes)
    return state


def llama_config(layers: int = 4, *, tokens: int = TOKENS, tied: bool = False) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "vocab_size": tokens,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
    }


def layer(state: State, index: int) -> State:
    """The tensors of one layer, by their names in it."""
    prefix = f"model.layers.{index}."
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
