"""An adapter as an input of a merge: the model that it and its base make together, lazily."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters.adapted import AdaptedCheckpoint
from zoo.adapters.adapter import Adapter, about, adapter_in
from zoo.adapters.change import Change
from zoo.adapters.peft_config import CONFIG
from zoo.checkpoint import Checkpoint, tensor_of
from zoo.checkpoints.tied_heads import embeddings_of, head_of, is_tied
from zoo.digest import json_digest
from zoo.engine.inputs import Applied, Input
from zoo.engine.plan import Model
from zoo.errors import IncompatibleModels, NotFound, UnsupportedFormat, ZooError
from zoo.tokenizers.tokenizer import FILES
from zoo.tokenizers.vocabulary import text_parts

if TYPE_CHECKING:
    from zoo.records import Version
    from zoo.registry import Registry


def adapter_of(raw: Input) -> Adapter | None:
    """The adapter that an input's files are; None for a model."""
    config = next((p for f, p in raw.beside.items() if f.path == CONFIG), None)
    return adapter_in(raw.model.checkpoint, config)


def adapted(raw: Input, base: Input) -> Input:
    """An adapter on its base: what a merge sees of it.

    Configuration and tokenizer are the base's; a tokenizer of the adapter's own goes before.

    Args:
        raw: the factors, as they were opened.
    Raises:
        IncompatibleModels: the adapter does not fit the base, or was registered with another.
        UnsupportedFormat: it is no adapter.
    """
    if raw.applied is not None:
        return _same(raw, base)
    adapter = adapter_of(raw)
    if adapter is None:
        raise UnsupportedFormat(
            f"`{raw.model.label}` is no adapter:",
            f"`{base.model.label}+{raw.model.label}` means an adapter on a base.",
            "Give a directory with an `adapter_config.json`, or a file of kohya's layout.",
            path=raw.model.label,
        )
    own = base.model.checkpoint
    changes = adapter.changes(own.tensors, own.opened.config, base.model.label)
    _check_tied(adapter, changes, base)
    config = next((f.object for f in raw.beside if f.path == CONFIG), None)
    digest = json_digest(
        {"adapter": raw.model.digest, "configuration": config, "base": base.model.digest}
    )
    opened = replace(
        own.opened,
        origin=raw.model.label,
        weight_files={},
        config=_described(own.opened.config, changes, base),
        notes={},
    )
    checkpoint = AdaptedCheckpoint(own, raw.model.checkpoint, changes, opened)
    applied = Applied(base, raw.model.digest, config, raw.model.label)
    digests = {n: d for n, d in base.model.digests.items() if n not in changes}
    model = Model(raw.model.label, digest, checkpoint, None, digests)
    tokenizer = {f: p for f, p in raw.beside.items() if f.path in FILES}
    beside = {f: p for f, p in base.beside.items() if not (tokenizer and f.path in FILES)}
    return Input(model, raw.version, beside | tokenizer, applied=applied)


def _same(one: Input, base: Input) -> Input:
    """A stored adapter, where a recipe names its base too: it must be the one it has."""
    assert one.applied is not None
    if one.applied.base.model.digest != base.model.digest:
        own = one.applied.base.model.label
        raise IncompatibleModels(
            f"`{one.model.label}` was registered as an adapter of `{own}`, not of "
            f"`{base.model.label}`:",
            "lineage could not say what was merged.",
            f"Name it alone; or register its files again with `--base {base.model.label}`.",
            problems=[f"`{one.model.label}` is an adapter of `{own}`"],
        )
    return one


def named_base(registry: Registry, raw: Input) -> str:
    """What an adapter given by path names as its base: a reference, or a path that is there.

    Raises:
        NotFound: nothing of that name is here.
    """
    adapter = adapter_of(raw)
    assert adapter is not None
    named = adapter.config.base if adapter.config else None
    if named and Path(named).exists():
        return named
    return base_version(registry, adapter).ref


def _described(
    config: Mapping[str, Any] | None, changes: Mapping[str, Change], base: Input
) -> Mapping[str, Any] | None:
    """The base's configuration, with the vocabulary that the adapter's embeddings have."""
    name = embeddings_of(base.model.checkpoint.tensors)
    change = changes.get(name or "")
    if config is None or change is None or change.replaced is None or name is None:
        return config
    rows = change.replaced.shape[0]
    if rows == base.model.checkpoint.tensors[name].shape[0]:
        return config
    found: dict[str, Any] = json.loads(json.dumps(config))
    for part in (found, *text_parts(found)):
        if "vocab_size" in part:
            part["vocab_size"] = rows
    return found


def _check_tied(adapter: Adapter, changes: dict[str, Change], base: Input) -> None:
    """Where the base ties its head to the embeddings, an adapter cannot bring a head of its own.

    One that brings both, and the same, as training of new tokens does, brings the embeddings.
    """
    tensors = base.model.checkpoint.tensors
    head = head_of(changes)
    if head is None or head in tensors or not is_tied(base.model.checkpoint.opened.config):
        return
    change, embeddings = changes[head], changes.get(embeddings_of(tensors) or "")
    if change.replaced and embeddings and embeddings.replaced and not change.updates:
        import torch

        both = (tensor_of(adapter.checkpoint, c) for c in (change.replaced, embeddings.replaced))
        if torch.equal(*both):
            del changes[head]
            return
    raise IncompatibleModels(
        f"`{adapter.origin}` has a head `{head}` of its own, and `{base.model.label}` ties its "
        "head to the embeddings:",
        "the result would be read without it.",
        "Save the base untied, with `tie_word_embeddings: false` and the head's tensor, and "
        "register that as the adapter's base.",
        problems=[f"`{head}` is tied in `{base.model.label}`"],
    )


def base_version(registry: Registry, adapter: Adapter) -> Version:
    """The version that an adapter's own configuration names as its base.

    Raises:
        NotFound: it names none, or none that is here.
    """
    named = adapter.config.base if adapter.config else None
    if named and not registry.is_absent:
        try:
            return registry.get(named)
        except ZooError:
            pass  # no reference: a path, or a hub's name
        for version in reversed(registry.select("kind <> 'artifact'")):
            if _is_source(version.source, named):
                return version
    raise NotFound(
        f"`{adapter.origin}` is an adapter, and its base is not known:",
        f"it was trained on `{named}`, and no version here was registered from there."
        if named
        else "it does not say what it was trained on.",
        "Register the base, and name it: `--base REF`.",
        base=named,
    )


def _is_source(source: str, named: str) -> bool:
    """Whether a version's source is what an adapter calls its base."""
    plain = source.removeprefix("hf://").partition("@")[0]
    if named in (source, plain):
        return True
    return (
        "://" not in source
        and Path(named).is_dir()
        and Path(source).resolve() == Path(named).resolve()
    )


@dataclass(frozen=True, slots=True)
class Fitting:
    """An adapter that fits its base."""

    base: Version
    notes: Mapping[str, Any]
    """What is worth keeping with its version."""


def checked(
    registry: Registry, checkpoint: Checkpoint, parent: Version | None, *, outline: bool = False
) -> Fitting | None:
    """The base of an adapter, once it is known to fit; None for a model.

    Args:
        parent: the base, if somebody named it.
        outline: only headers are there.
    Raises:
        NotFound: no base is named, and the adapter names none that is here.
        IncompatibleModels, InvalidCheckpoint, UnsupportedFormat
    """
    from zoo.engine.opener import Opener

    adapter = adapter_in(checkpoint)
    if adapter is None:
        return None
    version = parent or base_version(registry, adapter)
    with ExitStack() as stack:
        base = Opener(registry, stack, 1).version(version)
        own = base.model.checkpoint
        changes = adapter.changes(own.tensors, own.opened.config, version.ref)
        if not outline:
            _check_tied(adapter, changes, base)
    return Fitting(version, about(adapter, changes))
