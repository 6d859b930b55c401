"""Stability AI's ModelSpec: `modelspec.*` in the metadata of safetensors files.

Source: https://github.com/Stability-AI/ModelSpec, version 1.0.1.
"""

from __future__ import annotations

from zoo.declarations.files import Files
from zoo.declarations.plain import LONGEST, text
from zoo.declarations.records import Declared, DeclaredParent

_PREFIX = "modelspec."
_LEFT_OUT = ("thumbnail", "license")


def read(files: Files) -> Declared:
    """`merged_from` lists titles, with commas between; without it the model is no merge."""
    said = {
        key.removeprefix(_PREFIX): value[:LONGEST]
        for key, value in sorted(files.metadata.items())
        if key.startswith(_PREFIX)
    }
    names = [n for part in said.get("merged_from", "").split(",") if (n := text(part))]
    evidence = f"metadata {_PREFIX}merged_from"
    parents = tuple(DeclaredParent(n, "parent", evidence) for n in dict.fromkeys(names))
    facts = {key: value for key, value in said.items() if key not in _LEFT_OUT and value}
    return Declared(text(said.get("license"), 200), parents[:64], facts or None)
