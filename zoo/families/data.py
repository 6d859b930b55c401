"""`families.jsonl`, read one line at a time: opening it costs a millisecond, not its whole size.

The first line says which transformers it was made with; the second has the rules of renaming, in
blocks. Then one line per model type:

    classes   class -> what it is, see below
    base      the class that other models have as a part

and of each class, with empty fields left out:

    parts       [prefix, path of its configuration, class, model type] of models in it; the class is
                null where its tensors are listed here
    own         patterns of tensors in no such part; `~` marks those that a model may lack, ` ?key`
                and ` !key` those that are there if a value of the configuration is true, or is not
    minus       patterns of the parts that it has not
    axes        prefix -> [key, offset, default]: numbers after it run to config[key] + offset
    defaults    values of those keys where a configuration is silent; null where it is not known
    tied        tensor -> the one it is, always
    tied_if     path of a configuration -> the same, where that one ties embeddings
    ties        paths of those that tie them where they are silent
    ignored, unneeded   expressions: names that are passed over, or done without
    renames     [scope, block of rules]
    base, embeddings, head, norms, keys
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any


@cache
def _text() -> bytes:
    return files("zoo.families").joinpath("families.jsonl").read_bytes()


@lru_cache(maxsize=64)
def kind(model_type: str) -> dict[str, Any] | None:
    """The line of a model type, or None."""
    found: dict[str, Any] | None = _line(b'\n{"model_type":%s,' % json.dumps(model_type).encode())
    return found


@cache
def rules(block: str) -> list[dict[str, Any]]:
    """One block of renames, in the order they apply."""
    found: list[dict[str, Any]] = (_blocks() or {}).get(block, [])
    return found


def kinds() -> list[str]:
    """All model types there are."""
    lines = _text().splitlines()[2:]
    return [json.loads(line)["model_type"] for line in lines]


def made_with() -> dict[str, Any]:
    """The version of transformers, and the classes that could not be built."""
    found: dict[str, Any] = json.loads(_text().partition(b"\n")[0])
    return found


@cache
def _blocks() -> dict[str, Any] | None:
    line = _line(b'\n{"rules":')
    return line["rules"] if line else None


def _line(start: bytes) -> Any:
    text = _text()
    at = text.find(start)
    return None if at < 0 else json.loads(text[at + 1 : text.index(b"\n", at + 1)])
