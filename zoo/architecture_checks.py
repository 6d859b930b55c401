"""What every architecture must do, whoever wrote it; `zoo.testing` runs it under pytest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidCheckpoint
from zoo.networks.modules import built, load_module, save_module, stored
from zoo.networks.network_config import BESIDE
from zoo.permutations import group_sizes, permuted

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture

SEED = 20250207


class ArchitectureError(AssertionError):
    """The architecture breaks the contract; the message says how."""


class NotDeclared(Exception):
    """The architecture does not say what this check is about; the message says what."""


@dataclass(frozen=True)
class Case:
    """An architecture under test: a configuration, and inputs for the model it makes."""

    architecture: Architecture
    config: Mapping[str, Any]
    inputs: torch.Tensor
    tolerance: float = 1e-5
    """Largest difference of outputs that must be equal but for rounding, relative to the largest
    output, dimensionless."""

    def module(self) -> torch.nn.Module:
        """A model with random weights and statistics, the same each time, in eval mode."""
        import torch

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            module = self.architecture.build(self.config)
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
        return module.eval()

    def outputs(self, module: torch.nn.Module, inputs: torch.Tensor | None = None) -> torch.Tensor:
        """The tensor that a model gives; of a library's record of outputs, the logits, or the
        first."""
        import torch

        with torch.inference_mode():
            found = module(self.inputs if inputs is None else inputs)
        if not isinstance(found, torch.Tensor):
            logits = getattr(found, "logits", None)
            found = logits if logits is not None else found[0]
        tensor: torch.Tensor = found
        return tensor


def check_build(case: Case) -> None:
    """It has a name, builds, gives finite outputs, and the same weights for the same seed."""
    import torch

    if not isinstance(case.architecture.name, str) or not case.architecture.name:
        raise ArchitectureError("It has no `name`.")
    states = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            states.append(case.architecture.build(case.config).state_dict())
    differing = [n for n in states[0] if not torch.equal(states[0][n], states[1][n])]
    if differing:
        raise ArchitectureError(
            f"Built twice from one seed, these differ: {differing}. Draw weights by torch only."
        )
    if not case.outputs(case.module()).isfinite().all():
        raise ArchitectureError("Its outputs are not finite.")


def check_eval_mode(case: Case) -> None:
    """In eval mode the outputs of an example depend on it alone, and repeat."""
    import torch

    module = case.module()
    whole = case.outputs(module)
    if not torch.equal(whole, case.outputs(module)):
        raise ArchitectureError("Run twice in eval mode, the outputs differ.")
    if len(case.inputs) < 2:
        raise ArchitectureError("Give inputs of two examples or more.")
    alone = torch.cat([case.outputs(module, x[None]) for x in case.inputs])
    _near(case, whole, alone, "Outputs of a batch are not those of its examples alone")


def check_round_trip(case: Case) -> None:
    """Saved and loaded, it is the same model, bit for bit, in eval mode."""
    import torch

    module = case.module()
    with tempfile.TemporaryDirectory(prefix="zoo-") as parent:
        first, again = (Path(parent, name) for name in ("first", "again"))
        save_module(module, _named(case), first)
        loaded = case.architecture.load(first)
        if loaded.training:
            raise ArchitectureError("`load` gives a module that is in training mode.")
        save_module(loaded, _named(case), again)
        for file in sorted(p.name for p in first.iterdir()):
            if (first / file).read_bytes() != (again / file).read_bytes():
                raise ArchitectureError(f"Saved, loaded and saved again, `{file}` differs.")
    if not torch.equal(case.outputs(module), case.outputs(loaded)):
        raise ArchitectureError("Saved and loaded, it gives other outputs.")


def check_wrong_weights(case: Case) -> None:
    """Weights that lack a tensor, or have one too many, are refused by its name."""
    from zoo.checkpoint import MemoryCheckpoint
    from zoo.networks.loading import Loadable, write_model

    state = stored(case.module())
    lost = sorted(state)[0]
    wrong = {n: t for n, t in state.items() if n != lost} | {"no_such_tensor": state[lost]}
    with tempfile.TemporaryDirectory(prefix="zoo-") as directory:
        write_model(Loadable(MemoryCheckpoint(wrong), {}), Path(directory))
        _write_config(case, Path(directory))
        try:
            load_module(case.architecture, Path(directory))
        except InvalidCheckpoint as e:
            unnamed = [n for n in (lost, "no_such_tensor") if n not in str(e)]
            if unnamed:
                raise ArchitectureError(f"The refusal does not name {unnamed}: {e}") from e
        else:
            raise ArchitectureError(f"A checkpoint without `{lost}` was loaded.")


def check_config(case: Case) -> None:
    """A configuration that says nothing but the name is refused."""
    if not case.config.keys() - BESIDE:
        raise NotDeclared("the configuration has no keys of its own")
    with suppress(InvalidCheckpoint):
        built(case.architecture, {"model_type": case.architecture.name})
        raise ArchitectureError("A configuration without any of its keys was accepted.")


def check_head(case: Case) -> None:
    """The head is a linear layer of the module, and the outputs are its."""
    import torch

    name = case.architecture.head(case.config)
    if name is None:
        raise NotDeclared("`head` gives None")
    module = case.module()
    found = dict(module.named_modules()).get(name)
    if not isinstance(found, torch.nn.Linear):
        raise ArchitectureError(f"The head `{name}` is {type(found).__name__}, not Linear.")
    gave: list[torch.Tensor] = []
    with found.register_forward_hook(lambda _, __, y: gave.append(y)):
        outputs = case.outputs(module)
    if len(gave) != 1 or outputs.shape != gave[0].shape or not torch.equal(outputs, gave[0]):
        raise ArchitectureError(f"The outputs are not what the head `{name}` gives.")


def check_layers(case: Case) -> None:
    """The layers have every tensor of the checkpoint once."""
    layers = case.architecture.layers(case.config)
    if not layers:
        raise NotDeclared("`layers` is empty")
    for name in stored(case.module()):
        fits = [i for i, layer in enumerate(layers) if _fits(name, layer)]
        if len(fits) != 1:
            raise ArchitectureError(f"`{name}` is in {len(fits)} layers, not in one: {fits}.")


def check_axes(case: Case) -> None:
    """The permutation groups fit the tensors; moving the units of each, and of all, leaves the
    function as it is."""
    import torch

    axes = case.architecture.axes(case.config)
    if not axes:
        raise NotDeclared("`axes` is empty")
    module = case.module()
    state = {n: t.clone() for n, t in stored(module).items()}  # not the memory that is filled
    units = case.architecture.units(case.config)
    sizes = group_sizes(axes, {n: tuple(t.shape) for n, t in state.items()}, units)
    left_out = sorted(state.keys() - axes.keys())
    if left_out:
        raise ArchitectureError(f"`axes` says nothing of {left_out}; None means no group.")
    generator = torch.Generator().manual_seed(SEED)
    every = {g: torch.randperm(n, generator=generator) for g, n in sizes.items()}
    wanted = case.outputs(module)
    for moved in [*({g: p} for g, p in every.items()), every]:
        module.load_state_dict(permuted(state, axes, moved), strict=False)
        _near(case, wanted, case.outputs(module), f"Permuting {sorted(moved)} changes the function")


def _named(case: Case) -> Mapping[str, Any]:
    return {"model_type": case.architecture.name, **case.config}


def _write_config(case: Case, directory: Path) -> None:
    import json

    (directory / "config.json").write_text(json.dumps(_named(case)))


def _fits(name: str, layer: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in layer)


def _near(case: Case, a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    worst = float((a.double() - b.double()).abs().max())
    size = float(a.double().abs().max())
    if not worst <= case.tolerance * max(size, 1e-30):
        raise ArchitectureError(f"{what}: off by {worst:.3g}, the largest being {size:.3g}.")
