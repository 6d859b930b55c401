"""Embeddings and the output head, and whether they are one matrix; other tensors that are one.

With a configuration whose family is known (`zoo.families`), its data is asked first; else, and
where a model has none of what the data names, the usual names decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.checkpoint import Checkpoint
from zoo.families import family_of
from zoo.tokenizers.vocabulary import EMBEDDING, HEAD, text_parts

_BODY = re.compile(r"(?:(?:model|transformer|gpt_neox|backbone)\.)+\w+\.weight$")
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def is_tied(config: Mapping[str, Any] | None) -> bool:
    """Whether a configuration ties the head to the embeddings; silence means the usual."""
    if (said := _said(config or {})) is not None:
        return said
    return any(
        isinstance(name, str) and name.endswith(_GENERATES)
        for name in (config or {}).get("architectures") or ()
    )


def tied_pair(config: Mapping[str, Any] | None, names: Mapping[str, Any]) -> tuple[str, str] | None:
    """(head, embeddings) where a model stores both, although its configuration says they are tied.

    Silence is no reason to take two matrices for one.
    """
    if not _said(config or {}):
        return None
    head, embeddings = head_of(names, config), embeddings_of(names, config)
    return None if head is None or embeddings is None else (head, embeddings)


def kept_once(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensor -> the one it is, where the file that was registered kept several names' bytes once.

    A pair that the configuration ties is called as it calls it: the head is the embeddings.
    """
    pair = tied_pair(checkpoint.opened.config, checkpoint.tensors)
    same: dict[str, str] = {}
    for group in checkpoint.opened.notes.get("ties", ()):
        origin = pair[1] if pair and not set(pair).isdisjoint(group) else group[0]
        same |= {name: origin for name in group if name != origin}
    return same


def _said(config: Mapping[str, Any]) -> bool | None:
    for part in (config, *text_parts(config)):
        if isinstance(tied := part.get("tie_word_embeddings"), bool):
            return tied
    return None


def embeddings_of(
    names: Sequence[str] | Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> str | None:
    """The tensor of a model's token embeddings."""
    if own := _known(names, config, "embeddings"):
        return own
    found = [n for n in names if EMBEDDING.search(n)]
    return min(found, key=len) if found else None


def head_of(
    names: Sequence[str] | Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> str | None:
    """The tensor of a model's output head, where it has one of its own."""
    if own := _known(names, config, "head"):
        return own
    return next((n for n in names if HEAD.search(n) and n.endswith(".weight")), None)


def _known(
    names: Sequence[str] | Mapping[str, Any], config: Mapping[str, Any] | None, what: str
) -> str | None:
    """What a known family has for embeddings or head, as it is called here."""
    family = family_of(config, names) if config else None
    if family is None or not family.known:
        return None
    wanted = family.embeddings if what == "embeddings" else family.head
    if wanted is None or wanted in names:
        return wanted
    return next((n for n, own in family.called(names).names.items() if own == wanted), None)


def head_beside(embeddings: str) -> str | None:
    """What the head would be called that embeddings are tied to."""
    name, changed = _BODY.subn("lm_head.weight", embeddings)
    return name if changed else None
