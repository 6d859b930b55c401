"""From sources on disk to versions in the registry."""

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
from zoo.records import MetricValue, Registration, Version, VersionDraft
from zoo.source import RemoteSource, format_of, outlined, resolve_source
from zoo.storage.ingest import ingest
from zoo.storage.links import LINK_MODES, LinkMode
from zoo.storage.publish import Staged, publish_all

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
    asked = Registration(
        source, name, kind, base, task, phase, license, tags or {}, metrics or (), origin
    )
    return register_many(
        registry, [asked], link_mode=link_mode, threads=threads, progress=progress
    )[0]


def register_many(
    registry: Registry,
    registrations: Iterable[Registration],
    *,
    link_mode: LinkMode | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Version]:
    """Take checkpoints into the zoo together: all of them become versions at one moment, or none.

    Hundreds of small ones cost little more than one: the disk is asked once to make all their
    files durable, and the database once to commit. Each is staged whole before any is published,
    so the store's disk needs room for all of them. A base must be there before the call.

    Args:
        link_mode, threads: as for `register`; for each of them.
        progress: told about one checkpoint after the other.
    Returns:
        The versions, in the order asked for.
    Raises:
        as `register`: the first failure; nothing is registered then.
    """
    if link_mode is not None:
        _check_word("link mode", link_mode, LINK_MODES)
    asked = list(registrations)
    if not asked:
        return []
    metrics = [_checked(one) for one in asked]
    bases = dict.fromkeys(one.base for one in asked if one.base is not None)
    parents = {ref: registry.catalog.get(ref) for ref in bases}
    with registry.store.staging(f"register-{uuid4().hex}") as staging:
        staged = [
            _stage(
                registry,
                one,
                measured,
                parents.get(one.base or ""),
                staging,
                prefix=f"{number}-",
                link_mode=link_mode,
                threads=threads,
                progress=progress or NoProgress(),
            )
            for number, (one, measured) in enumerate(zip(asked, metrics, strict=True))
        ]
        return publish_all(registry, staged, [None] * len(staged))


def _checked(asked: Registration) -> tuple[MetricValue, ...]:
    """The metrics of a registration whose words are in order."""
    check_entry_name(asked.name)
    _check_word("kind", asked.kind, VERSION_KINDS)
    return metric_values(asked.metrics)


def _stage(
    registry: Registry,
    asked: Registration,
    metrics: tuple[MetricValue, ...],
    parent: Version | None,
    staging: Path,
    *,
    prefix: str,
    link_mode: LinkMode | None,
    threads: int | None,
    progress: Progress,
) -> Staged:
    """Bring one checkpoint's files into a directory, hashed, with all that is known of them."""
    from zoo.adapters.inputs import checked

    registry.plugins.ask("zoo_before_register", source=str(asked.source), name=asked.name)
    found = resolve_source(registry, asked.source)
    origin, fetched = asked.origin, dict[str, Any]()
    if isinstance(found, RemoteSource):
        # What no format reads, or reads and refuses, is not fetched, nor an adapter without a base.
        with outlined(registry, found) as outline:
            checked(registry, outline, parent, outline=True)
        origin, fetched = origin or found.origin, dict(found.notes)
        link_mode = link_mode or found.link_mode
        found = found.fetch(progress)
    with format_of(registry, found).open(found) as checkpoint:
        kind, stem = asked.kind, "model"
        adapter = checked(registry, checkpoint, parent)
        if adapter is not None:
            kind, stem, parent = KIND, "adapter_model", adapter.base
        ingested = ingest(
            checkpoint,
            staging,
            link_mode=link_mode or "clone",
            threads=threads,
            progress=progress,
            stem=stem,
            prefix=prefix,
        )
        declared = read_declared(checkpoint.opened)
        architecture = architecture_of(checkpoint.opened.config)
        if adapter is not None:
            architecture = adapter.base.architecture
        draft = VersionDraft(
            name=asked.name,
            kind=kind,
            digest=ingested.digest,
            tensors=ingested.tensors,
            files=ingested.records,
            base=parent.id if parent else None,
            task=asked.task,
            phase=asked.phase,
            license=asked.license or declared.license,
            architecture=architecture,
            tags=dict(asked.tags),
            metrics=metrics,
            source=origin or str(asked.source),
            notes={
                **checkpoint.opened.notes,
                **(adapter.notes if adapter else {}),
                **declared.notes,
                **fetched,
            },
        )
        return Staged(draft, ingested.files)


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
