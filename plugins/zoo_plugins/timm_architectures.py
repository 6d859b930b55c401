"""The architectures of timm, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zoo.architecture import Architecture
from zoo.errors import InvalidCheckpoint
from zoo.hookspecs import hookimpl

if TYPE_CHECKING:
    import torch


class Timm(Architecture):
    """Any model of timm, by a `config.json` as its models have on the Hub: the name is in
    `architecture`, the outputs in `num_classes`, what else it is made with in `model_args`.

        (n, 3, h, w) -> (n, num_classes), float

    Nothing is downloaded.
    """

    name = "timm"

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Whether timm is there and the configuration has its layout; timm is not imported."""
        is_named = isinstance(config.get("architecture"), str) and "model_type" not in config
        return is_named and find_spec("timm") is not None

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        import timm

        if not timm.is_model(config["architecture"]):
            raise InvalidCheckpoint(
                f"timm has no model `{config['architecture']}`.",
                "`config.json` names one in `architecture`.",
                "Correct it, or update timm.",
                architecture=config["architecture"],
            )
        made = {**_published(config), **config}
        arguments: dict[str, Any] = dict(made.get("model_args") or {})
        if isinstance(classes := made.get("num_classes"), int):
            arguments["num_classes"] = classes
        module: torch.nn.Module = timm.create_model(
            made["architecture"], pretrained=False, **arguments
        )
        return module

    def head(self, config: Mapping[str, Any]) -> str | None:
        import torch

        with torch.device("meta"):
            module = self.build(config)
        name = getattr(module, "default_cfg", {}).get("classifier")
        found = dict(module.named_modules()).get(name) if isinstance(name, str) else None
        return name if isinstance(found, torch.nn.Linear) else None


def _published(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What timm keeps beside the name: older files have all of it at the top."""
    inner = config.get("pretrained_cfg")
    return inner if isinstance(inner, Mapping) else {}


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Timm())
