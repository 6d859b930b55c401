"""What a declaration says of one thing, as a dataclass: strict, with all problems at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from zoo.errors import InvalidTask, did_you_mean

T = TypeVar("T")


def options(kind: type[T], given: Any, what: str) -> T:
    """The mapping as an instance of the dataclass `kind`.

    Types are as JSON has them: 3.0 and "3" are no integers. A value that is no mapping is that of
    the first field: `rotate: 90` is `rotate: {degrees: 90}`.

    Args:
        what: what it is of, in messages: "step `rotate`".
    Raises:
        InvalidTask: keys that are missing or unknown, values of a wrong type or out of bounds.
    """
    from pydantic import TypeAdapter, ValidationError

    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    own = given if isinstance(given, Mapping) else dict.fromkeys(names[:1], given)
    problems = [
        f"`{key}` is unknown. {did_you_mean(str(key), names)}" for key in own if key not in names
    ]
    try:
        known = json.dumps({k: v for k, v in own.items() if k in names}, allow_nan=False)
        found: T = TypeAdapter(kind).validate_json(known, strict=True)
    except ValidationError as error:
        for problem in error.errors():
            at = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "missing":
                problems.append(f"`{at}` is missing.")
            else:
                said = problem["msg"].removeprefix("Value error, ").rstrip(".").lower()
                problems.append(f"`{at}` is {problem['input']!r}: {said}.")
    except (TypeError, ValueError):
        problems.append("It is not plain data.")
    if problems:
        raise InvalidTask(
            f"{what[:1].upper()}{what[1:]} cannot be read:",
            " ".join(problems),
            "See docs/how-to/declare-a-task.md.",
            problems=problems,
        )
    return found
