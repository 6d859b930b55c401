"""Hidden states of a dense model on prompts, one layer in memory at a time.

transformers says how: its model is built without memory, asked once what it gives to its layers
(masks, rotary angles), and then each layer is filled from the checkpoint, applied to all prompts,
and emptied again. Prompts are not padded: a state depends on its own prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, tensor_of
from zoo.errors import IncompatibleModels
from zoo.moe.dense import EMBEDDINGS
from zoo.moe.elements import elements

if TYPE_CHECKING:
    import torch


def embedded(checkpoint: Checkpoint, ids: Sequence[int]) -> torch.Tensor:
    """Token embeddings, float32, shape (tokens, d); only their rows are read."""
    import torch

    info = checkpoint.tensors[EMBEDDINGS]
    width = info.shape[1]
    rows = {i: elements(checkpoint, info, i * width, width).float() for i in set(ids)}
    return torch.stack([rows[i] for i in ids])


def entering(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    average: bool,
) -> list[torch.Tensor]:
    """The hidden state that enters each layer, in float32: of the last token, or the average.

    Args:
        checkpoint: a dense causal language model of `zoo.moe.dense`.
        config: its own.
        prompts: token ids of each.
        average: the mean over the tokens, in place of the last one's.
    Returns:
        For each prompt: shape (layers, d).
    Memory: one layer in float32, and the states of all prompts in one layer.
    """
    import torch

    def one(state: torch.Tensor) -> torch.Tensor:
        return state[0].mean(dim=0) if average else state[0, -1]

    model = _outline(config)
    given: list[list[Mapping[str, Any]]] = []
    states = [embedded(checkpoint, ids).unsqueeze(0) for ids in prompts]
    with torch.no_grad():
        for state in states:
            given.append(_given(model, state))
        found = [[one(s)] for s in states]
        for i, layer in enumerate(model.layers[:-1]):  # nobody asks what leaves the last one
            prefix = f"model.layers.{i}."
            own = {
                n: tensor_of(checkpoint, checkpoint.tensors[prefix + n]).float()
                for n in layer.state_dict()
            }
            layer.load_state_dict(own, assign=True)
            for p, state in enumerate(states):
                out = layer(state, **given[p][i])
                states[p] = out[0] if isinstance(out, tuple) else out
                found[p].append(one(states[p]))
            layer.to("meta")
    return [torch.stack(own) for own in found]


def check_runs(label: str, config: Mapping[str, Any]) -> None:
    """Refuse a base that `entering` could not run.

    Raises:
        IncompatibleModels: transformers is not there, or cannot build it.
    """
    if find_spec("transformers") is None:
        problem = (
            "hidden states need transformers, which is not installed: `pip install transformers`, "
            "or choose `gate_mode: cheap_embed`"
        )
        raise IncompatibleModels(problem, problems=[problem])
    try:
        _outline(config)
    except Exception as error:  # the library raises whatever a configuration makes it stumble over
        said = " ".join(str(error).split()) or "it does not say why"
        problem = f"transformers cannot build the base `{label}` from its `config.json`: {said}"
        raise IncompatibleModels(problem, problems=[problem]) from error


def _outline(config: Mapping[str, Any]) -> Any:
    """The model without memory for its weights; what follows from the configuration is there."""
    import torch
    import transformers

    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    known = {k: v for k, v in config.items() if k not in ("auto_map", "quantization_config")}
    own = kind.from_dict({**known, "attn_implementation": "eager"})
    build: Any = transformers.AutoModel.from_config
    with torch.device("meta"):
        model = build(own)
    model.rotary_emb = type(model.rotary_emb)(config=own)
    model.norm = torch.nn.Identity()
    return model.eval()


def _given(model: Any, state: torch.Tensor) -> list[Mapping[str, Any]]:
    """What the model gives to each of its layers besides the hidden state."""
    found: list[Mapping[str, Any]] = []

    def look(hidden: torch.Tensor, **named: Any) -> torch.Tensor:
        found.append(named)
        return hidden

    own = [layer.forward for layer in model.layers]
    try:
        for layer in model.layers:
            layer.forward = look
        model(inputs_embeds=state, use_cache=False)
    finally:
        for layer, forward in zip(model.layers, own, strict=True):
            layer.forward = forward
    return found
