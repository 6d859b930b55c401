"""PEFT's `adapter_config.json`: the model that an adapter was trained on.

Source: https://github.com/huggingface/peft, `src/peft/config.py`.
"""

from __future__ import annotations

from zoo.declarations.files import Files
from zoo.declarations.plain import text
from zoo.declarations.records import Declared, DeclaredParent

FILE = "adapter_config.json"


def read(files: Files) -> Declared:
    config = files.json(FILE)
    name = text(config.get("base_model_name_or_path"))
    if name is None:
        return Declared()
    revision = text(config.get("revision"))
    parent = DeclaredParent(name, "base", f"{FILE} base_model_name_or_path", revision=revision)
    return Declared(parents=(parent,))
