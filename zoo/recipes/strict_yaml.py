"""YAML in which a key that stands twice in a map is an error; of YAML itself the last would win."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key `{key.value}` stands twice in one map", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def documents_in(text: str) -> list[Any]:
    """All documents but empty ones.

    Raises:
        yaml.YAMLError, RecursionError
    """
    return [d for d in yaml.load_all(text, _Loader) if d is not None]


def complaint(error: Exception) -> str:
    """What is wrong, and where: `line 3, column 1: expected the node content.`"""
    if isinstance(error, RecursionError):
        return "it is nested too deeply."
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}."
    return f"{error}".partition("\n")[0] + "."
