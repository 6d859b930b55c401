"""mergekit's configuration, in its own file or in the card that mergekit writes.

Source: https://github.com/arcee-ai/mergekit, docs and `mergekit/config.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.declarations.files import Files
from zoo.declarations.plain import listed, mapping, number, text, yaml_mapping
from zoo.declarations.records import Declared, DeclaredParent

FILE = "mergekit_config.yml"
_FENCED = re.compile(r"^(`{3,})ya?ml[ \t]*\n(.*?)^\1[ \t]*$", re.M | re.S)
_REFERENCE = re.compile(r"(?P<model>[^@+]+)(?:@(?P<revision>[^@+]+))?(?:\+.*)?")


def read(files: Files) -> Declared:
    """The models of the last document: a file of several is the stages of one merge."""
    document: dict[str, Any] = {}
    place = FILE
    for part in re.split(r"^---[ \t]*$", files.text(FILE), flags=re.M):
        document = yaml_mapping(part) or document
    if not document and "merge_method:" in files.card[1]:
        place = "README.md recipe"
        for block in _FENCED.finditer(files.card[1]):
            if "merge_method:" in block.group(2):
                document = yaml_mapping(block.group(2))
    if not text(document.get("merge_method")):
        return Declared()
    return Declared(None, tuple(_parents(document, place)), document)


def _parents(document: Mapping[str, Any], place: str) -> Iterable[DeclaredParent]:
    base = _reference(document.get("base_model"))
    seen: set[tuple[str, str | None]] = set()
    if base:
        seen.add(base)
        yield DeclaredParent(base[0], "base", place, revision=base[1])
    for entry in _entries(document):
        found = _reference(entry.get("model"))
        if found and found not in seen:
            seen.add(found)
            weight = number(mapping(entry.get("parameters")).get("weight"))
            yield DeclaredParent(found[0], "expert", place, weight=weight, revision=found[1])


def _entries(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Everything with a `model`, in the order of the document."""
    modules = [mapping(m) for m in mapping(document.get("modules")).values()]
    for part in (document, *modules):
        yield from map(mapping, listed(part.get("models")))
        for piece in map(mapping, listed(part.get("slices"))):
            yield from map(mapping, listed(piece.get("sources")))


def _reference(value: Any) -> tuple[str, str | None] | None:
    """A model as mergekit names it: `path@revision+lora`, or a mapping of those."""
    inner = mapping(value).get("model", value)
    if isinstance(inner, Mapping):
        name, revision = text(inner.get("path")), text(inner.get("revision"))
        return (name, revision) if name else None
    found = _REFERENCE.fullmatch(text(inner) or "")
    return (found["model"], found["revision"]) if found else None
