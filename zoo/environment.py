"""What a run should remember of the machine and the libraries it used."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe

if TYPE_CHECKING:
    from zoo.plugins import Plugins


def check_device(name: str) -> None:
    """Refuse a device that torch does not have here, before any work is done.

    Raises:
        InvalidRecipe
    """
    if name == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidRecipe(
            f"There is no device `{name}` here.",
            f"torch says: {str(error).splitlines()[0]}",
            "Use `cpu`, or a `cuda` device with a torch built for it.",
            device=name,
        ) from None


def run_environment(threads: int, device: str, memory: int, plugins: Plugins) -> dict[str, Any]:
    """What a run remembers: `environment`, and the plugins that were loaded."""
    return environment(threads, device, memory) | {"plugins": plugins.record()}


def environment(threads: int, device: str, memory: int) -> dict[str, Any]:
    """Versions, platform and limits, as plain data."""
    import torch

    return {
        "zoo": _version("zoo-registry"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": _version("numpy"),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": threads,
        "memory": memory,
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
