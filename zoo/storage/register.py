"""From a source on disk to a version in the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zoo.adapters.adapter import KIND
from zoo.declared import read_declared
from zoo.errors import InvalidName, did_you_mean
from zoo.names import check_entry_name
from zoo.progress import NoProgress, Progress
from zoo.records import MetricValue, Version, VersionDraft
from zoo.source import RemoteSource, format_of, outlined, resolve_source
from zoo.storage.ingest import ingest
from zoo.storage.links import LINK_MODES, LinkMode
from zoo.storage.publish import publish

if TYPE_CHECKING:
    from zoo.registry import Registry

VERSION_KINDS = ("base", "expert", "merge", "adapter")


def register(
    registry: Registry,
    source: str | Path,
    *,
    name: str,
    kind: str = "expert",
    base: str | None = None,
    task: str | None = None,
    phase: str | None = None,
    license: str | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | Iterable[MetricValue] | None = None,
    link_mode: LinkMode | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    origin: str | None = None,
) -> Version:
    """Take a checkpoint into the zoo as the next version of `name`.

    Weights are hashed as they are copied, never changed, and not judged: a checkpoint with NaN
    registers, and a merge refuses it. A call that fails or is killed leaves no version. Of a model
    elsewhere the headers are looked at first: nothing is fetched that would be refused.

    Args:
        source: a file, a directory, or whatever a plugin's `zoo_resolve_source` knows.
        base: reference to the version this one was fine-tuned from; of an adapter, the one that
            its configuration names, by default.
        metrics: `name` or `name/split` -> value; or full records.
        link_mode: see `zoo.storage.links.link`; what suits the source by default.
        license: what the model's own card says, by default.
        threads: for hashing; all cores, at most 16, by default.
        origin: what the record says it came from; `source` by default, which may be gone soon.
    Raises:
        NotFound: no such source or base, or an adapter without one.
        IncompatibleModels: an adapter that does not fit its base.
        InvalidName, UnsupportedFormat, InvalidCheckpoint, StoreError
    """
    from zoo.adapters.inputs import checked

    check_entry_name(name)
    _check_word("kind", kind, VERSION_KINDS)
    if link_mode is not None:
        _check_word("link mode", link_mode, LINK_MODES)
    measured = metric_values(metrics)
    parent = registry.catalog.get(base) if base is not None else None
    registry.plugins.ask("zoo_before_register", source=str(source), name=name)
    listening = progress or NoProgress()
    found = resolve_source(registry, source)
    fetched: Mapping[str, Any] = {}
    if isinstance(found, RemoteSource):
        # What no format reads, or reads and refuses, is not fetched, nor an adapter without a base.
        with outlined(registry, found) as outline:
            checked(registry, outline, parent, outline=True)
        origin, fetched = origin or found.origin, found.notes
        link_mode = link_mode or found.link_mode
        found = found.fetch(listening)
    with (
        format_of(registry, found).open(found) as checkpoint,
        registry.store.staging(f"register-{uuid4().hex}") as staging,
    ):
        adapter = checked(registry, checkpoint, parent)
        if adapter is not None:
            kind, parent = KIND, adapter.base
        ingested = ingest(
            checkpoint,
            staging,
            link_mode=link_mode or "clone",
            threads=threads,
            progress=listening,
            stem="adapter_model" if adapter else "model",
        )
        declared = read_declared(checkpoint.opened)
        architecture = architecture_of(checkpoint.opened.config)
        if adapter is not None:
            architecture = adapter.base.architecture
        draft = VersionDraft(
            name=name,
            kind=kind,
            digest=ingested.digest,
            tensors=ingested.tensors,
            files=ingested.records,
            base=parent.id if parent else None,
            task=task,
            phase=phase,
            license=license or declared.license,
            architecture=architecture,
            tags=dict(tags or {}),
            metrics=measured,
            source=origin or str(source),
            notes={
                **checkpoint.opened.notes,
                **(adapter.notes if adapter else {}),
                **declared.notes,
                **fetched,
            },
        )
        return publish(registry, ingested.files, draft)


def architecture_of(config: Mapping[str, Any] | None) -> str | None:
    """What `config.json` calls it: `model_type`, else the first of `architectures`."""
    if config is None:
        return None
    listed = config.get("architectures")
    first = listed[0] if isinstance(listed, list) and listed else None
    found = config.get("model_type") or first
    return found if isinstance(found, str) else None


def metric_values(
    metrics: Mapping[str, float] | Iterable[MetricValue] | None,
) -> tuple[MetricValue, ...]:
    """Metrics as records, from either way of writing them.

    Raises:
        InvalidName: a metric without a name, which no query could ask for.
    """
    if isinstance(metrics, Mapping):
        split = ((key.partition("/"), value) for key, value in metrics.items())
        found = tuple(MetricValue(name, float(value), part) for (name, _, part), value in split)
    else:
        found = tuple(metrics or ())
    for metric in found:
        if not metric.name:
            raise InvalidName(
                f"The metric `{metric.split and '/' + metric.split}` has no name.",
                how="Write it as `name` or `name/split`.",
                split=metric.split,
            )
    return found


def _check_word(what: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise InvalidName(f"There is no {what} `{word}`.", how=did_you_mean(word, known), word=word)
