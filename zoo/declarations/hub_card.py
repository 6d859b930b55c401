"""The front matter of a Hugging Face model card.

Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from __future__ import annotations

from typing import Any

from zoo.declarations.files import Files
from zoo.declarations.plain import listed, text
from zoo.declarations.records import Declared, DeclaredParent

_KEPT = ("base_model", "base_model_relation", "datasets", "new_version", "license_link")
_ROLES = {"finetune": "base", "adapter": "base", "quantized": "base", "merge": "parent"}


def read(files: Files) -> Declared:
    """`base_model` of one model is the base, unless the card says that it was merged."""
    front = files.card[0]
    names = [name for one in listed(front.get("base_model")) if (name := text(one))]
    role = _ROLES.get(str(front.get("base_model_relation")))
    if role is None:
        merged = len(names) > 1 or "merge" in listed(front.get("tags"))
        role = "parent" if merged else "base"
    parents = tuple(DeclaredParent(n, role, "README.md base_model") for n in dict.fromkeys(names))
    facts = {key: front[key] for key in _KEPT if front.get(key)}
    return Declared(licence(front), parents, facts or None)


def licence(front: dict[str, Any]) -> str | None:
    """What `license` says; the name that stands beside `other`."""
    said = front.get("license")
    found = text(said[0] if isinstance(said, list) and said else said, 200)
    if found == "other":
        return text(front.get("license_name"), 200) or found
    return found
