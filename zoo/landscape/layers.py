"""Which tensors make a layer, and what a layer is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from zoo.subject import Subject

Granularity = Literal["layer", "tensor"]


def layers_of(
    model: Subject, names: Iterable[str], granularity: Granularity = "layer"
) -> Mapping[str, list[str]]:
    """Name of each layer -> its tensors, from the input to the output where the order is known.

    Layers are those of the architecture (`Architecture.layers`); tensors that are in none of them,
    and all where it names none, are put together by their names: up to the first number
    (`blocks.3`), else by the module that holds them (`conv1`).

    Args:
        names: of the tensors, in the order of the module.
    """
    if granularity == "tensor":
        return {name: [name] for name in names}
    left = list(names)
    found: dict[str, list[str]] = {}
    for patterns in model.architecture.layers(model.config) if model.architecture else ():
        own = [n for n in left if any(fnmatchcase(n, pattern) for pattern in patterns)]
        if own:
            found[_called(own, found)] = own
            left = [n for n in left if n not in set(own)]
    for name in left:
        found.setdefault(_holder(name), []).append(name)
    return found


def _holder(name: str) -> str:
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), None)
    return ".".join(parts[:-1] if number is None else parts[: number + 1]) or name


def _called(tensors: list[str], taken: Mapping[str, object]) -> str:
    """What tensors have in common at the start of their names; else the name of the first one's
    module, or of the first one."""
    modules = [name.split(".")[:-1] for name in tensors]
    common = 0
    while all(len(m) > common and m[common] == modules[0][common] for m in modules):
        common += 1
    for name in (".".join(modules[0][:common]), ".".join(modules[0])):
        if name and name not in taken:
            return name
    return tensors[0]
