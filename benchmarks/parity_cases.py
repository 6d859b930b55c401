"""The merges of `parity.py`: every method mergekit 0.1.5 has, as configurations in its own form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WEIGHTS = (0.7, 0.4, 0.5)
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


@dataclass(frozen=True)
class Case:
    """One configuration. `settings` are global, `own` those of each expert in turn."""

    method: str
    about: str = ""
    """What differs from mergekit's defaults, for the table."""
    experts: int = 3
    base: bool = True
    settings: tuple[tuple[str, Any], ...] = ()
    own: tuple[tuple[str, Sequence[Any]], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.about}".strip().translate(str.maketrans(" ,=.", "----"))

    @property
    def is_random(self) -> bool:
        return self.method in RANDOM

    def config(self, models: str) -> dict[str, Any]:
        """The configuration over the directories `models`/base, `models`/expert-1, …"""
        entries: list[dict[str, Any]] = []
        for i in range(self.experts):
            entry: dict[str, Any] = {"model": f"{models}/expert-{i + 1}"}
            if self.own:
                entry["parameters"] = {name: values[i] for name, values in self.own}
            entries.append(entry)
        document: dict[str, Any] = {"merge_method": self.method, "models": entries}
        if self.base:
            document["base_model"] = f"{models}/base"
        elif self.method == "slerp":
            document["base_model"] = f"{models}/expert-1"
        if self.settings:
            document["parameters"] = dict(self.settings)
        return {**document, "dtype": "float32"}


def _case(method: str, about: str = "", **more: Any) -> Case:
    settings = tuple(more.pop("settings", {}).items())
    own = tuple(more.pop("own", {}).items())
    return Case(method, about, settings=settings, own=own, **more)


def _weighted(method: str, about: str = "", own: Any = None, **more: Any) -> Case:
    return _case(method, about, own={"weight": WEIGHTS, **(own or {})}, **more)


CASES = [
    _weighted("linear", base=False),
    _weighted("linear", "normalize=false", base=False, settings={"normalize": False}),
    _case("slerp", "t=0.3", experts=2, base=False, settings={"t": 0.3}),
    _case(
        "slerp", "t a gradient", experts=2, base=False,
        settings={"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.6}]},
    ),
    _case("nuslerp", experts=2, base=False, own={"weight": (0.7, 0.4)}),
    _case("nuslerp", "with a base", experts=2, own={"weight": (0.7, 0.4)}),
    _case(
        "nuslerp", "flatten=false", experts=2, base=False, own={"weight": (0.7, 0.4)},
        settings={"nuslerp_flatten": False},
    ),
    _case(
        "nuslerp", "row_wise=true", experts=2, base=False, own={"weight": (0.7, 0.4)},
        settings={"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    _weighted("multislerp", base=False),
    _weighted("multislerp", "with a base"),
    _weighted("multislerp", "unnormalized", base=False, settings={"normalize_weights": False}),
    _case("karcher", base=False),
    _case("karcher", "max_iter=3", base=False, settings={"max_iter": 3, "tol": 1e-9}),
    _weighted("task_arithmetic"),
    _weighted("task_arithmetic", "normalized", settings={"normalize": True, "lambda": 0.8}),
    _weighted("ties"),
    _weighted("ties", "density=0.2", settings={"density": 0.2}),
    _weighted("ties", "a density each", own={"density": (0.5, 0.3, 0.1)}),
    _weighted("ties", "density=0.3, sum", settings={"density": 0.3, "normalize": False}),
    _weighted("ties", "density=0.3, int8", settings={"density": 0.3, "int8_mask": True}),
    _weighted("breadcrumbs", "density=0.6", settings={"density": 0.6}),
    _weighted("breadcrumbs", "density=0.5, gamma=0.1", settings={"density": 0.5, "gamma": 0.1}),
    _weighted("breadcrumbs_ties", "density=0.6", settings={"density": 0.6}),
    _weighted(
        "breadcrumbs_ties", "density=0.5, gamma=0.1", settings={"density": 0.5, "gamma": 0.1}
    ),
    _case("sce"),
    _case("sce", "select_topk=0.3", settings={"select_topk": 0.3}),
    _case("model_stock"),
    _case("model_stock", "two experts", experts=2),
    _case("model_stock", "filter_wise=true", settings={"filter_wise": True}),
    _case("arcee_fusion", experts=1),
    _case("nearswap", "t=0.001", experts=1, settings={"t": 0.001}),
    _case("nearswap", "t=0.0001", experts=1, settings={"t": 0.0001}),
    _case("ram"),
    _case("ram", "epsilon=0.005", settings={"epsilon": 0.005}),
    _case("ramplus_tl"),
    _case("ramplus_tl", "epsilon=0.005", settings={"epsilon": 0.005}),
    _case("passthrough", experts=1, base=False),
    _case("passthrough", "scale=0.5", experts=1, base=False, settings={"scale": 0.5}),
    # One expert shows the mask; three show what the whole makes of it.
    _case("dare_linear", "one expert", experts=1, own={"weight": (1.0,), "density": (0.3,)}),
    _weighted("dare_linear", "density=0.3", settings={"density": 0.3}),
    _case("dare_ties", "one expert", experts=1, own={"weight": (1.0,), "density": (0.3,)}),
    _weighted("dare_ties", "density=0.3", settings={"density": 0.3}),
    _case("della", "one expert", experts=1, own={"weight": (1.0,), "density": (0.4,)}),
    _weighted("della", "density=0.4", settings={"density": 0.4}),
    _case("della_linear", "one expert", experts=1, own={"weight": (1.0,), "density": (0.4,)}),
    _weighted("della_linear", "density=0.4", settings={"density": 0.4, "epsilon": 0.1}),
]  # fmt: skip
