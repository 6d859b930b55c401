"""From a directory's configuration and weights to a runnable module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidCheckpoint
from zoo.safetensors_checkpoint import read_config

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture

_SHOWN = 6
"""Problems that a message names one by one."""


def load_module(architecture: Architecture, directory: Path) -> torch.nn.Module:
    """The module of an architecture with the weights of a directory, in eval mode, on the CPU.

    Weights keep their type: a half-precision checkpoint gives a half-precision module.

    Raises:
        InvalidCheckpoint: no configuration, or weights that are not those it asks for.
    """
    from safetensors.torch import load_file

    config = config_of(directory)
    module = architecture.build(config)
    state: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        state.update(load_file(file))
    fill(module, state, architecture.name, directory)
    return module.eval()


def config_of(directory: Path) -> Mapping[str, Any]:
    """The `config.json` of a directory.

    Raises:
        InvalidCheckpoint: it has none.
    """
    config = read_config(directory / "config.json")
    if config is None:
        raise InvalidCheckpoint(
            f"`{directory}` has no `config.json`.",
            "A model that is to be run needs one, with its `model_type`.",
            path=directory,
        )
    return config


def fill(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str, directory: Path
) -> None:
    """Put weights into a module, each in its own type; all problems are told at once.

    A tensor that shares its memory with one that is there, such as a tied head, may be missing.
    """
    own = module.state_dict()
    there = {own[n].data_ptr() for n in state if n in own and own[n].numel()}
    problems = [
        f"`{n}` is missing"
        for n, t in own.items()
        if n not in state and (not t.numel() or t.data_ptr() not in there)
    ]
    problems += [f"`{n}` is left over" for n in state if n not in own]
    problems += [
        f"`{n}` is {tuple(state[n].shape)}, not {tuple(t.shape)}"
        for n, t in own.items()
        if n in state and state[n].shape != t.shape
    ]
    if problems:
        more = len(problems) - _SHOWN
        raise InvalidCheckpoint(
            f"The weights in `{directory}` are not those of `{name}` as its `config.json` has it:",
            "; ".join(problems[:_SHOWN]) + (f"; and {more} more." if more > 0 else "."),
            "Correct `config.json`, or the names in the checkpoint.",
            path=directory,
            problems=problems,
        )
    types = {own[n].dtype for n in own if own[n].is_floating_point()}
    wanted = {t.dtype for t in state.values() if t.is_floating_point()}
    if len(wanted) == 1 and types != wanted:
        module.to(wanted.pop())
    module.load_state_dict(dict(state), strict=False)
