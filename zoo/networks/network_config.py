"""A network's `config.json`, read into a dataclass: complete, without a key too many.

    @dataclass(frozen=True)
    class Config:
        width: Annotated[int, Ge(1), "units of each hidden layer"]

    config = checked(Config, {"model_type": "mine", "width": 64}, "mine")

Every field is written out in `config.json`, so that no later default changes what a checkpoint is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import InvalidCheckpoint, did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

BESIDE = frozenset(
    {"model_type", "architectures", "dtype", "torch_dtype", "id2label", "label2id"}
    | {"transformers_version", "_name_or_path"}
)
"""Keys of a `config.json` that describe no layer; any network's may have them."""


def checked(kind: type[T], config: Mapping[str, Any], model_type: str) -> T:
    """The configuration as an instance of the dataclass `kind`.

    Types are as JSON has them: 3.0 and "3" are no integers. Bounds are those of the annotations.

    Raises:
        InvalidCheckpoint: keys that are missing or unknown, or values of a wrong type or out of
            bounds; all are told at once, in `problems`.
    """
    from pydantic import TypeAdapter, ValidationError

    named = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    own = {k: v for k, v in config.items() if k in named}
    problems = [
        f"`{key}` is unknown. {did_you_mean(key, named)}"
        for key in config
        if key not in named and key not in BESIDE
    ]
    try:
        found: T = TypeAdapter(kind).validate_json(json.dumps(own), strict=True)
    except ValidationError as error:
        problems += _problems(error, own)
    except (TypeError, ValueError):
        problems.append("it is not plain data.")
    if problems:
        raise InvalidCheckpoint(
            f"This is no configuration of `{model_type}`:",
            " ".join(problems),
            f'Write all of {_keys(kind)} in `config.json`, beside `"model_type": "{model_type}"`.',
            model_type=model_type,
            problems=problems,
        )
    return found


def _problems(error: ValidationError, own: Mapping[str, Any]) -> list[str]:
    found = []
    for problem in error.errors():
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "missing":
            found.append(f"`{key}` is missing.")
        else:
            said = problem["msg"].removeprefix("Value error, ").rstrip(".")
            found.append(f"`{key}` is {own[key]!r}: {said}." if key in own else f"{said}.")
    return found


def _keys(kind: type) -> str:
    """`width` (units of each hidden layer), ..."""
    from typing import get_type_hints

    hints = get_type_hints(kind, include_extras=True)
    said = []
    for f in fields(kind):
        help_text = [m for m in getattr(hints[f.name], "__metadata__", ()) if isinstance(m, str)]
        said.append(f"`{f.name}`" + (f" ({help_text[0]})" if help_text else ""))
    return ", ".join(said)
