"""From a directory's configuration and weights to a runnable module, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import MemoryCheckpoint, state_of
from zoo.checkpoints.safetensors import open_path, read_config
from zoo.errors import InvalidCheckpoint, ZooError

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture

_SHOWN = 6
"""Problems that a message names one by one."""


def load_module(architecture: Architecture, directory: Path) -> torch.nn.Module:
    """The module of an architecture with the weights of a directory, in eval mode, on the CPU.

    Weights keep their type: a half-precision checkpoint gives a half-precision module.

    Raises:
        InvalidCheckpoint: no configuration, one that nothing can be built from, or weights that are
            not those it asks for.
    """
    config = config_of(directory)
    with open_path(directory) as checkpoint:
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        _check_outline(architecture, config, shapes, directory)
        module = built(architecture, config)
        fill(module, state_of(checkpoint), architecture.name, directory)
    return module.eval()


def _check_outline(
    architecture: Architecture,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    directory: Path,
) -> None:
    """Refuse a configuration that asks for other weights before it has asked for their memory,
    which may be any amount."""
    import torch

    try:
        with torch.device("meta"):
            outline = built(architecture, config)
        found = _problems(outline, shapes)
    except InvalidCheckpoint:
        return  # some modules cannot be built without memory; what is wrong, building them tells
    _refuse(found, architecture.name, directory)


def built(architecture: Architecture, config: Mapping[str, Any]) -> torch.nn.Module:
    """`architecture.build`, which leaves torch's random state as it was.

    Raises:
        InvalidCheckpoint: whatever else it raised, with the architecture's name.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            return architecture.build(config)
        except ZooError:
            raise
        except Exception as e:  # the plugin's code runs here, and may raise anything
            raise InvalidCheckpoint(
                f"`{architecture.name}` cannot be built from its `config.json`:",
                f"{type(e).__name__}: {e}",
                "Correct the configuration, or the architecture's `build`.",
                model_type=architecture.name,
            ) from e


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

    A tensor that shares its memory with one that is there, such as a tied head, may be missing; and
    so may BatchNorm's counters, which torch did not always keep, and running a model never reads.
    """
    _refuse(_problems(module, {n: tuple(t.shape) for n, t in state.items()}), name, directory)
    own = module.state_dict()
    types = {own[n].dtype for n in own if own[n].is_floating_point()}
    wanted = {t.dtype for t in state.values() if t.is_floating_point()}
    if len(wanted) == 1 and types != wanted:
        module.to(wanted.pop())
    module.load_state_dict(dict(state), strict=False)


def _problems(module: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """How a checkpoint's tensors are not those of a module."""
    own = module.state_dict(keep_vars=True)

    def place(tensor: torch.Tensor) -> int:
        return id(tensor) if tensor.is_meta or not tensor.numel() else tensor.data_ptr()

    there = {place(own[n]) for n in shapes if n in own}
    problems = [
        f"`{n}` is missing"
        for n, t in own.items()
        if n not in shapes and not n.endswith(".num_batches_tracked") and place(t) not in there
    ]
    problems += [f"`{n}` is left over" for n in shapes if n not in own]
    return problems + [
        f"`{n}` is {shapes[n]}, not {tuple(t.shape)}"
        for n, t in own.items()
        if n in shapes and shapes[n] != t.shape
    ]


def _refuse(problems: list[str], name: str, directory: Path) -> None:
    """
    Raises:
        InvalidCheckpoint: there are problems.
    """
    if problems:
        more = len(problems) - _SHOWN
        raise InvalidCheckpoint(
            f"The weights in `{directory}` are not those of `{name}` as its `config.json` has it:",
            "; ".join(problems[:_SHOWN]) + (f"; and {more} more." if more > 0 else "."),
            "Correct `config.json`, or the names in the checkpoint.",
            path=directory,
            problems=problems,
        )


def save_module(
    module: torch.nn.Module, config: Mapping[str, Any], directory: str | os.PathLike[str]
) -> Path:
    """Write a module as a directory that `zoo register` takes: `config.json` and weights.

    Same weights and configuration, same bytes. Tensors that share all their memory, such as a
    tied head, are stored once, under the name that comes first in the module. The directory
    appears whole or not at all.

    Args:
        config: what `build` makes this module from, with its `model_type`.
    Returns:
        The directory.
    Raises:
        StoreError: it exists and is not empty, or there is no room.
        InvalidCheckpoint: the configuration is not plain data, or has no `model_type`.
    """
    from contextlib import ExitStack

    from zoo.networks.loading import Loadable, write_model
    from zoo.storage.becoming import becoming

    if not isinstance(config.get("model_type"), str):
        raise InvalidCheckpoint(
            "The configuration has no `model_type`:",
            "nothing could tell which architecture builds the module again.",
            'Give `{"model_type": NAME, ...}`, with the name of a registered architecture.',
        )
    try:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as e:
        raise InvalidCheckpoint(
            f"The configuration cannot be written as JSON: {e}.",
            how="Use numbers, text, lists and maps.",
        ) from e
    with ExitStack() as stack:
        partial = stack.enter_context(becoming(Path(directory)))
        write_model(Loadable(MemoryCheckpoint(stored(module)), {}), partial)
        (partial / "config.json").write_text(text)
    return Path(directory)


def stored(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's state as a checkpoint has it: on the CPU, and what is tied only once."""
    found: dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        found[name] = tensor.detach().cpu().contiguous()
    return found


def norms(module: torch.nn.Module) -> Mapping[str, torch.nn.Module]:
    """Normalisation layers by name, in the module's order: torch's, and those of libraries whose
    class is called so (`LlamaRMSNorm`, `LayerNorm2d`)."""
    from torch import nn

    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    return {
        name: m
        for name, m in module.named_modules()
        if isinstance(m, kinds)
        or (type(m).__name__.rstrip("123d").endswith("Norm") and not any(m.children()))
    }


def batch_norms(module: torch.nn.Module) -> Mapping[str, torch.nn.Module]:
    """Layers that keep running statistics, which a merge makes stale; by name."""
    return {
        name: m for name, m in norms(module).items() if getattr(m, "running_mean", None) is not None
    }
