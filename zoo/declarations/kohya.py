"""kohya's training metadata: `ss_*` in the metadata of safetensors files, adapters mostly.

Source: https://github.com/kohya-ss/sd-scripts, `train_network.py`.
"""

from __future__ import annotations

import re

from zoo.declarations.files import Files
from zoo.declarations.plain import text
from zoo.declarations.records import Declared, DeclaredParent

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_KEPT = (
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_output_name",
)


def read(files: Files) -> Declared:
    """The model trained on, by its file's name and sha256; an older short hash is only kept."""
    found = {key: said for key in _KEPT if (said := text(files.metadata.get(key)))}
    found = {key: said for key, said in found.items() if said != "None"}
    digest = found.get("ss_new_sd_model_hash", "")
    name = found.get("ss_sd_model_name") or found.get("ss_base_model_version")
    parents: tuple[DeclaredParent, ...] = ()
    if name:
        full = f"sha256:{digest.lower()}" if _SHA256.fullmatch(digest) else None
        parents = (DeclaredParent(name, "base", "metadata ss_sd_model_name", digest=full),)
    return Declared(None, parents, found or None)
