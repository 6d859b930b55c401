"""What lies beside an expert: tensors named and shaped like its own, such as Adam's second moments.

An artifact is a version of its own, content-addressed like any other. Its kind is `artifact`, its
base is the version it belongs to, and its entry is called after both: `math.exp_avg_sq` holds
those of `math`. So it is listed, verified, exported and kept by `gc` as versions are, and the
lineage of a merge names it with its role.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from uuid import uuid4

from zoo.checkpoints.rank_one import compressed, expanded
from zoo.engine.plan import misfits
from zoo.errors import IncompatibleModels, InvalidName, did_you_mean
from zoo.names import check_entry_name
from zoo.progress import NoProgress, Progress
from zoo.records import Version, VersionDraft
from zoo.source import format_of, local_path
from zoo.storage.ingest import ingest
from zoo.storage.links import LinkMode
from zoo.storage.publish import publish

if TYPE_CHECKING:
    from zoo.registry import Registry

KIND = "artifact"
Compress = Literal["none", "rank1"]


def attach(
    registry: Registry,
    ref: str,
    role: str,
    source: str | Path,
    *,
    compress: Compress = "none",
    link_mode: LinkMode = "clone",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Version:
    """Register a checkpoint as an artifact of a version; the newest of each role is used.

    Args:
        ref: the version it belongs to.
        role: what it is, as methods name it: `exp_avg_sq`.
        source: tensors named and shaped like the version's own. Some may be missing: parameters
            that were frozen have no second moments.
        compress: `rank1` keeps each matrix as row and column sums; see `zoo.checkpoints.rank_one`.
    Raises:
        NotFound: no such version or source.
        IncompatibleModels: a tensor that the version lacks, of another shape, or not of floats.
        InvalidName, UnsupportedFormat, InvalidCheckpoint, StoreError
    """
    owner = registry.get(ref)
    name = f"{owner.name}.{role}"
    check_entry_name(name)
    if compress not in get_args(Compress):
        how = did_you_mean(compress, get_args(Compress))
        raise InvalidName(f"There is no compression `{compress}`.", how=how, word=compress)
    path = local_path(registry, source)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(format_of(registry, path).open(path))
        own = {t.name: t.shape for t in registry.catalog.tensors(owner.id)}
        if found := misfits(expanded(checkpoint).tensors, own, owner.ref):
            raise IncompatibleModels(
                f"`{source}` cannot be the {role} of `{owner.ref}`:",
                "; ".join(found) + ".",
                problems=found,
            )
        if compress == "rank1":
            checkpoint = compressed(checkpoint)
        staging = stack.enter_context(registry.store.staging(f"register-{uuid4().hex}"))
        ingested = ingest(
            checkpoint,
            staging,
            link_mode=link_mode,
            threads=threads,
            progress=progress or NoProgress(),
        )
        draft = VersionDraft(
            name=name,
            kind=KIND,
            digest=ingested.digest,
            tensors=ingested.tensors,
            files=ingested.records,
            base=owner.id,
            task=owner.task,
            license=owner.license,
            source=str(source),
            notes={"artifact": role, "compress": compress, **checkpoint.opened.notes},
        )
        return publish(registry, ingested.files, draft)


def artifact_of(registry: Registry, version: Version, role: str) -> Version | None:
    """The newest artifact of that role that belongs to the version."""
    beside = registry.select(f"kind = '{KIND}' and base = '{version.name}'", "version desc")
    fitting = (a for a in beside if a.base == version.ref and a.notes.get("artifact") == role)
    return next(fitting, None)
