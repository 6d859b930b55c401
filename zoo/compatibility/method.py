"""What a method asks of its inputs: how many, with or without a base, with data, with artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.compatibility.problem import Problem
from zoo.compatibility.wording import listed
from zoo.dtypes import DTYPES

if TYPE_CHECKING:
    from zoo.checkpoint import TensorInfo
    from zoo.contract import Method
    from zoo.engine.planned import Model, Place


def unmet(
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    base: Model | None,
    places: Mapping[str, Place] | None,
) -> list[Problem]:
    """All that a method needs and these inputs lack."""
    found = list(_arity(method, experts, base))
    if method.needs == "data":
        found += _data(method, lock, [*experts, *([base] if base else [])])
    found += _artifacts(method, experts)
    if method.overlays is not None and (places is not None or lock.get("tokenizer")):
        found.append(
            Problem(
                "overlays",
                "error",
                f"method `{method.name}` keeps parts per task, which belong to the tensors of the "
                "base as they are: slices and a `tokenizer` block make others",
                remedy="Leave both out, or merge in two stages.",
            )
        )
    return found


def _arity(method: Method, experts: Sequence[Model], base: Model | None) -> list[Problem]:
    found = []
    given = f"{len(experts)} given"
    if len(experts) < method.min_experts:
        found.append(
            Problem(
                "experts",
                "error",
                f"method `{method.name}` merges {method.min_experts} or more experts, {given}",
            )
        )
    if method.max_experts is not None and len(experts) > method.max_experts:
        found.append(
            Problem(
                "experts",
                "error",
                f"method `{method.name}` merges at most {method.max_experts} experts, {given}",
            )
        )
    if method.base == "required" and base is None:
        found.append(
            Problem(
                "base",
                "error",
                f"method `{method.name}` needs the base its experts were fine-tuned from",
                remedy="Pass --base REF, or write `base: REF` into the recipe.",
            )
        )
    if method.base == "refused" and base is not None:
        found.append(
            Problem(
                "base",
                "error",
                f"method `{method.name}` takes no base, `{base.label}` given",
                models=(base.label,),
            )
        )
    return found


def _data(method: Method, lock: Mapping[str, Any], models: Sequence[Model]) -> list[Problem]:
    found = []
    if lock["data"] is None:
        found.append(
            Problem(
                "data",
                "error",
                f"method `{method.name}` needs data: name a task in the recipe, "
                "`data: {task: NAME, split: train}`; in memory, give `data`",
            )
        )
    found += [
        Problem(
            "architecture",
            "error",
            f"method `{method.name}` runs its models, and no plugin offers the architecture of "
            f"`{model.label}`; in memory, give `module`",
            models=(model.label,),
        )
        for model in models
        if model.module is None
    ]
    return found


def _artifacts(method: Method, experts: Sequence[Model]) -> list[Problem]:
    found = []
    for role in method.artifacts:
        for expert in experts:
            artifact = expert.artifacts.get(role)
            if artifact is None:
                found.append(
                    Problem(
                        "artifacts",
                        "error",
                        f"method `{method.name}` needs `{role}` beside `{expert.label}`",
                        remedy=f"Attach it, `zoo attach REF {role} PATH`, or name it in the "
                        f"recipe, `{{model: REF, {role}: PATH}}`.",
                        models=(expert.label,),
                    )
                )
                continue
            own = {n: t.shape for n, t in expert.checkpoint.tensors.items()}
            found += [
                Problem("artifacts", "error", f"`{role}` from `{artifact.label}`: {problem}")
                for problem in misfits(artifact.checkpoint.tensors, own, expert.label)
            ]
    return found


def misfits(
    tensors: Mapping[str, TensorInfo], own: Mapping[str, tuple[int, ...]], label: str
) -> list[str]:
    """Why tensors cannot be an artifact of a model; empty if they can.

    Args:
        own: shapes of the model's tensors.
        label: of the model.
    """
    found = []
    if strange := sorted(tensors.keys() - own.keys()):
        found.append(f"`{label}` lacks {listed(strange)}")
    for name in sorted(tensors.keys() & own.keys()):
        here = tensors[name]
        if here.shape != own[name]:
            found.append(f"tensor `{name}` is {list(here.shape)}, in `{label}` {list(own[name])}")
        elif not DTYPES[here.dtype].merges:
            found.append(f"tensor `{name}` is {here.dtype}, and should be of floats")
    return found
