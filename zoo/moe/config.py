"""Configurations of mergekit-moe, read strictly: what they say of models, and what of the mixture.

    base_model: mistral            # attention, norms, embeddings
    gate_mode: hidden              # how the router comes about; see `zoo.moe.router`
    architecture: mixtral          # where several layouts fit
    dtype: bfloat16
    experts_per_token: 2
    experts:
      - source_model: mistral-math
        positive_prompts: ["Prove that", "Solve for x"]
        negative_prompts: ["Once upon a time"]
        noise_scale: 0.0
        residual_scale: 1.0
    shared_experts: []
    seed: 0                        # ours: of a router that is drawn, and of noise

Models are references or paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import InvalidRecipe
from zoo.recipes.recipe import documents, mapping, refuse_unknown, sequence

_OWN = ("gate_mode", "architecture", "dtype", "experts_per_token", "seed")
_EXPERT = ("positive_prompts", "negative_prompts", "noise_scale", "residual_scale")
_ROLES = {"experts": "expert", "shared_experts": "shared"}


def read_config(
    source: str | Path | Mapping[str, Any],
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The models by role, and the options of the transform `upcycle`.

    Args:
        source: path of a YAML file, or its content.
    Raises:
        InvalidRecipe: no such file, not YAML, an unknown key, no models, or no text for a prompt.
    """
    document = dict(source) if isinstance(source, Mapping) else _only(Path(source))
    refuse_unknown(document, ("base_model", *_OWN, *_ROLES), "the configuration of a mixture")
    parents = [("base", _model(document.get("base_model"), "base_model"))]
    options: dict[str, Any] = {k: document[k] for k in _OWN if document.get(k) is not None}
    if isinstance(dtype := options.get("dtype"), str):
        options["dtype"] = dtype.removeprefix("torch.")
    for key, role in _ROLES.items():
        said = []
        for i, listed in enumerate(sequence(document.get(key) or [], key)):
            where = f"{key}[{i}]"
            entry = mapping(listed, where)
            refuse_unknown(entry, ("source_model", *_EXPERT), f"`{where}`")
            parents.append((role, _model(entry.get("source_model"), f"{where}.source_model")))
            said.append(_said(entry, where))
        options[key] = said
    if len(options["experts"]) < 2:
        raise InvalidRecipe(
            f"A mixture needs two experts or more, and `experts` lists {len(options['experts'])}.",
            how="List a `source_model` for each.",
            key="experts",
        )
    return parents, options


def _only(path: Path) -> dict[str, Any]:
    found = documents(path, "configuration")
    if len(found) > 1:
        raise InvalidRecipe(
            f"`{path}` holds {len(found)} documents.", "A mixture is described by one.", path=path
        )
    return found[0]


def _model(value: Any, key: str) -> str:
    if isinstance(value, Mapping) and set(value) == {"model"}:
        value = value["model"]
    if isinstance(value, Mapping) and set(value) <= {"path", "revision"} and value.get("path"):
        revision = value.get("revision")
        value = f"{value['path']}@{revision}" if revision else value["path"]
    if not isinstance(value, str) or not value:
        raise InvalidRecipe(
            f"`{key}` must name a model, not {value!r}.",
            how="Give a reference, such as `mistral@2`, or the path of a directory.",
            key=key,
        )
    return value


def _said(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What is said of one expert; nulls say nothing."""
    found = {k: entry[k] for k in _EXPERT if entry.get(k) is not None}
    for key in ("positive_prompts", "negative_prompts"):
        if key in found:
            prompts = sequence(found[key], f"{where}.{key}")
            for prompt in prompts:
                if not isinstance(prompt, str):
                    raise InvalidRecipe(
                        f"`{where}.{key}` has {prompt!r}, which is no text.",
                        how="Put quotes around each prompt.",
                        key=key,
                    )
            found[key] = prompts
    return found
