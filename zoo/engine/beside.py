"""What lies beside a merge's weights: configuration, tokenizer, recipe, card, and all else that
the donor, the base or first expert, had there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards.card import cards
from zoo.checkpoints.safetensors import read_config
from zoo.dtypes import DTYPES
from zoo.engine.inputs import RECIPE_FILE
from zoo.overlays.overlay import config_path
from zoo.records import FileRecord
from zoo.tokenizers.chat_templates import with_template
from zoo.tokenizers.older_tokenizers import is_of_tiktoken
from zoo.tokenizers.tokenizer import FILES, read_object, written
from zoo.tokenizers.vocabulary import text_parts

if TYPE_CHECKING:
    from zoo.engine.merging import Prepared

_CONFIG, _GENERATION = "config.json", "generation_config.json"


def files_beside(
    ready: Prepared, digest: str, licence: str | None
) -> tuple[dict[str, bytes], dict[FileRecord, Path]]:
    """The files made for the result by path, and those taken over as they are.

    Args:
        digest: weights digest of the result.
    """
    lock, donor = ready.lock, ready.inputs.donor
    kept = dict(donor.beside)
    made = {RECIPE_FILE: _json({"recipe": lock, "recipe_digest": ready.digest})}
    config = ready.models.config
    file = next((p for r, p in kept.items() if r.path == _CONFIG), None)
    changed = config != (read_config(file) if file is not None else None)
    if config and (lock["dtype"] or ready.vocabulary or changed):
        made[_CONFIG] = _json(described(config, ready))
    for task, expert in zip(lock.get("tasks", ()), ready.inputs.experts, strict=False):
        own = expert.model.checkpoint.opened.config
        if own and own != donor.model.checkpoint.opened.config:
            made[config_path(task)] = _json(described(own, ready))
    made |= generation_files(ready)
    if tokenizer := tokenizer_files(ready):
        made |= tokenizer
        kept = {r: p for r, p in kept.items() if r.path not in FILES}
    if ready.vocabulary and (ready.vocabulary.source or ready.vocabulary.tokenizer.changed):
        # They would say the vocabulary of before, to the programs that read them.
        kept = {r: p for r, p in kept.items() if not is_of_tiktoken(r.path)}
    made |= cards(ready, digest, licence)
    return made, {r: p for r, p in kept.items() if r.path not in made}


def tokenizer_files(ready: Prepared) -> dict[str, bytes]:
    """The tokenizer that the recipe makes; empty where the donor's stays as it is."""
    template = ready.lock["chat_template"]
    if ready.vocabulary is not None:
        found = written(ready.vocabulary.tokenizer)
    elif template is not None:
        donor = ready.inputs.donor.beside
        found = {r.path: p.read_bytes() for r, p in donor.items() if r.path in FILES}
    else:
        return {}
    return found if template is None else with_template(found, template)


def generation_files(ready: Prepared) -> dict[str, bytes]:
    """How the model generates, where its tokens have other ids now."""
    if ready.vocabulary is None:
        return {}
    path = next((p for r, p in ready.inputs.donor.beside.items() if r.path == _GENERATION), None)
    if path is None:
        return {}
    before = read_object(path)
    now = ready.vocabulary.renumbered(before, ready.inputs, _GENERATION)
    return {_GENERATION: _json(now)} if now != before else {}


def described(config: Mapping[str, Any], ready: Prepared) -> dict[str, Any]:
    """A configuration that says the type and the vocabulary the weights will have."""
    found: dict[str, Any] = json.loads(json.dumps(config))
    if (dtype := ready.lock["dtype"]) is not None:
        name = DTYPES[dtype].torch_name
        found.update({k: name for k in ("torch_dtype", "dtype") if k in found})
    if ready.vocabulary is not None:
        found = ready.vocabulary.renumbered(found, ready.inputs, _CONFIG)
        parts = [part for part in (found, *text_parts(found)) if "vocab_size" in part]
        for part in parts or [found]:
            part["vocab_size"] = ready.vocabulary.rows
    return found


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
