"""Tiny models, and adapters of them made by peft: what the tests of adapters compare with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def llama(**settings: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{
            "vocab_size": 48,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            **settings,
        }
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=48, n_positions=16, n_embd=24, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config)


def classifier() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=48,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


class Convolutions(nn.Module):
    """Convolutions of one and two dimensions, and of kernels of one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 6, 1)
        self.line = nn.Conv1d(6, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.wide(x)).flatten(2)
        out: torch.Tensor = self.head(self.line(x).mean(2))
        return out


def save_state(model: nn.Module, folder: Path) -> Path:
    """A module that is none of transformers' as a directory."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def peft_adapter(
    model: nn.Module, config: Any, folder: Path, seed: int = 1, std: float = 0.1
) -> dict[str, torch.Tensor]:
    """Save a random adapter of a model, and return the state that peft merges it into."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of what we do on purpose
        wrapped = peft.get_peft_model(model, config)
        randomize(wrapped, seed, std)
        wrapped.save_pretrained(str(folder))
        merged = wrapped.merge_and_unload(safe_merge=True)
    return {name: t.detach().clone() for name, t in merged.state_dict().items()}


def randomize(wrapped: nn.Module, seed: int, std: float) -> None:
    """Give every trained parameter a value of its own, far from where training starts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * std
                parameter.copy_(noise.abs() + 0.5 if "magnitude" in name else parameter + noise)


def largest_difference(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
) -> float:
    """Over all tensors that we have."""
    return max(float((t.double() - theirs[n].double()).abs().max()) for n, t in ours.items())


Make = Callable[[], nn.Module]
