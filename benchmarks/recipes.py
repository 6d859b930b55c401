"""The merges that the benchmarks run, as mergekit configurations.

Weights and densities are ordinary choices: a weighted mean, the midpoint of two experts, a sum of
three task vectors, TIES with the top fifth of each delta kept, DARE with half of it dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Merge:
    """One merge of a benchmark.

    `weights`: one per expert, dimensionless; empty where the method takes none. `settings`:
    further parameters by their mergekit names.
    """

    method: str
    experts: int
    weights: tuple[float, ...]
    settings: dict[str, float]
    uses_base: bool

    @property
    def inputs(self) -> list[str]:
        """Directory names of what is read."""
        names = [f"expert-{number}" for number in range(1, self.experts + 1)]
        return ["base", *names] if self.uses_base else names


MERGES = {
    merge.method: merge
    for merge in (
        Merge("linear", 3, (0.5, 0.3, 0.2), {}, uses_base=False),
        Merge("slerp", 2, (), {"t": 0.5}, uses_base=False),
        Merge("task_arithmetic", 3, (0.4, 0.4, 0.4), {}, uses_base=True),
        Merge("ties", 3, (1.0, 1.0, 1.0), {"density": 0.2}, uses_base=True),
        Merge("dare_ties", 3, (1.0, 1.0, 1.0), {"density": 0.5}, uses_base=True),
        Merge("breadcrumbs", 3, (0.4, 0.4, 0.4), {"density": 0.3, "gamma": 0.01}, uses_base=True),
        Merge("della", 3, (1.0, 1.0, 1.0), {"density": 0.5, "epsilon": 0.15}, uses_base=True),
        Merge("sce", 3, (), {}, uses_base=True),
        Merge("model_stock", 3, (), {}, uses_base=True),
        Merge("karcher", 3, (), {}, uses_base=False),
        Merge("nuslerp", 2, (0.6, 0.4), {}, uses_base=False),
        Merge("multislerp", 3, (0.5, 0.3, 0.2), {}, uses_base=False),
    )
}


def mergekit_yaml(merge: Merge, models: str, dtype: str = "bfloat16") -> str:
    """A mergekit configuration over what `models` + NAME names, for both programs.

    `models` is a directory with its slash; or empty, for what a registry knows by these names.
    """
    lines = [f"merge_method: {merge.method}"]
    if merge.uses_base:
        lines.append(f"base_model: {models}base")
    elif merge.method == "slerp":
        lines.append(f"base_model: {models}expert-1")
    lines.append("models:")
    for number in range(1, merge.experts + 1):
        lines.append(f"  - model: {models}expert-{number}")
        if merge.weights:
            lines.append("    parameters:")
            lines.append(f"      weight: {merge.weights[number - 1]}")
    if merge.settings:
        lines.append("parameters:")
        lines += [f"  {name}: {value}" for name, value in merge.settings.items()]
    lines.append(f"dtype: {dtype}")
    return "\n".join(lines) + "\n"


def write_yaml(merge: Merge, models: str, path: Path, dtype: str = "bfloat16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mergekit_yaml(merge, models, dtype))
    return path
