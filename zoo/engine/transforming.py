"""Run a transform: check, make the tensors, publish the version; and make it again to compare."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zoo.cards.card import CARD
from zoo.cards.transform_card import transform_card
from zoo.checkpoints.hashing import HashPool
from zoo.compatibility.terms import licences_of
from zoo.digest import flat_key, flat_key_of_file, json_digest
from zoo.engine.inputs import RECIPE_FILE, Input
from zoo.engine.opener import Opener
from zoo.engine.single_thread import single_threaded_torch
from zoo.engine.verify import CODE_CHANGED, Verdict
from zoo.engine.versioned import versioned
from zoo.environment import run_environment
from zoo.errors import InvalidRecipe, VerificationFailed, did_you_mean
from zoo.licences import combined
from zoo.progress import NoProgress, Progress
from zoo.records import FileRecord, RunDraft, RunInput, Version, VersionDraft
from zoo.storage.becoming import becoming, check_result
from zoo.storage.ingest import Ingested, ingest
from zoo.storage.publish import publish
from zoo.storage.register import architecture_of
from zoo.transform import Parents, Transform, Transformed

if TYPE_CHECKING:
    from zoo.engine.merging import Resources
    from zoo.registry import Registry


def transform(
    registry: Registry,
    named: str,
    parents: Sequence[tuple[str, str]],
    parameters: Mapping[str, Any],
    *,
    resources: Resources,
    name: str | None = None,
    out: Path | None = None,
    task: str | None = None,
    license: str | None = None,
    tags: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    told: Callable[[Mapping[str, Any]], None] | None = None,
) -> Version | None:
    """Make a model of others, as the next version of `name`, in the directory `out`, or both.

    Args:
        named: the transform.
        parents: (role, reference or path), in order within a role. With `name`, a path is
            registered, so that lineage has something to point at.
        parameters: the transform's options.
        told: gets the notes on what was made, which a version keeps.
    Returns:
        The new version; None when only a directory was written.
    Raises:
        InvalidRecipe, IncompatibleModels, NotFound, StoreError
    """
    made_by = transform_named(registry, named)
    out = check_result(name, out)
    listening = progress or NoProgress()
    started, clock = datetime.now(UTC), time.monotonic()
    with ExitStack() as stack:
        opener = Opener(registry, stack, resources.threads)
        opened = _by_role(made_by, [(role, opener.open(ref)) for role, ref in parents])
        values = _checked(made_by, parameters)
        made = made_by.apply(opened, values)
        if name is not None:
            opened = {
                role: tuple(versioned(registry, one, opener, role) for one in those)
                for role, those in opened.items()
            }
            made = made_by.apply(opened, values)
        lock = _lock(made_by, opened, values.model_dump(mode="json"))
        files = {**made.files, RECIPE_FILE: _recipe_file(lock)}
        license = license or _licence(opened)

        def card(staged: Ingested, folder: Path) -> None:
            """Put a card beside what was made, unless the transform wrote one."""
            if CARD not in files:
                text = transform_card(made_by, made, opened, lock, staged.digest, license)
                _beside(staged, folder, CARD, text)

        if name is None:
            assert out is not None
            with becoming(out) as partial:
                work = partial / ".staging"
                staged = _staged(made_by, made, files, work, resources, listening)
                card(staged, work)
                for record, path in staged.files.items():
                    target = partial / record.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)
                shutil.rmtree(partial / ".staging")
            if told is not None:
                told(made.notes)
            return None
        with registry.store.staging(f"transform-{uuid4().hex}") as staging:
            staged = _staged(made_by, made, files, staging, resources, listening)
            card(staged, staging)
            origin = registry.plugins.origin(made_by.name, "transforms")
            run = RunDraft(
                id=str(uuid4()),
                kind="transform",
                inputs=_inputs(opened),
                recipe=lock,
                recipe_digest=json_digest(lock),
                method=made_by.name,
                method_version=made_by.version,
                plugin=origin.distribution,
                plugin_version=origin.version,
                code_hash=made_by.code_hash,
                seed=int(lock["parameters"].get("seed") or 0),
                selection=None,
                environment=run_environment(
                    resources.threads, "cpu", resources.memory, registry.plugins
                ),
                timings={"transform": round(time.monotonic() - clock, 3)},
                started_at=started.isoformat(),
                ended_at=datetime.now(UTC).isoformat(),
            )
            base = made.base.version if made.base else None
            draft = VersionDraft(
                name=name,
                kind=made_by.makes,
                digest=staged.digest,
                tensors=staged.tensors,
                files=staged.records,
                base=base.id if base else None,
                task=task,
                license=license,
                architecture=made.architecture
                or architecture_of(made.checkpoint.opened.config)
                or (base.architecture if base else None),
                tags=dict(tags or {}),
                source=f"transform:{made_by.name}",
                notes=dict(made.notes),
            )
            version = publish(registry, staged.files, draft, run)
    if told is not None:
        told(made.notes)
    if out is not None:
        registry.export(version.ref, out)
    return version


def planned(
    registry: Registry,
    named: str,
    parents: Sequence[tuple[str, str]],
    parameters: Mapping[str, Any],
    *,
    resources: Resources,
) -> dict[str, Any]:
    """What `transform` would make, as plain data; nothing is written, and no weight is read.

    Raises:
        InvalidRecipe, IncompatibleModels, NotFound
    """
    made_by = transform_named(registry, named)
    with ExitStack() as stack:
        opener = Opener(registry, stack, resources.threads)
        opened = _by_role(made_by, [(role, opener.open(ref)) for role, ref in parents])
        values = _checked(made_by, parameters)
        made = made_by.apply(opened, values)
        return {
            "transform": made_by.name,
            "parents": {
                role: [{"model": one.model.label, "digest": one.model.digest} for one in those]
                for role, those in opened.items()
            },
            "parameters": values.model_dump(mode="json"),
            "architecture": made.architecture,
            "tensors": len(made.checkpoint.tensors),
            "bytes": sum(t.nbytes for t in made.checkpoint.tensors.values()),
            "notes": dict(made.notes),
        }


def replayed(
    registry: Registry,
    version: Version,
    run: RunDraft,
    *,
    sample: int | None,
    resources: Resources,
    progress: Progress | None = None,
) -> Verdict:
    """Make a version again from its recorded parents, and compare; nothing is written.

    Args:
        sample: this many tensors only, chosen as `zoo.engine.verify.replay` chooses; files beside
            the weights are compared when it is None.
    """
    made_by = transform_named(registry, run.method)
    if made_by.version != run.method_version:
        raise VerificationFailed(
            f"Transform `{run.method}` is version {made_by.version} here, and "
            f"{run.method_version} made this version.",
            "Another version of a transform may give other bytes.",
            f"Install `{run.plugin}` {run.plugin_version} and replay again.",
            method=run.method,
        )
    recorded = {t.name: t.digest for t in registry.catalog.tensors(version.id)}
    with ExitStack() as stack:
        opener = Opener(registry, stack, resources.threads)
        reopened = [
            (i.role, opener.version(registry.catalog.by_id(i.version)))
            for i in sorted(run.inputs, key=lambda i: (i.role, i.position))
        ]
        values = _checked(made_by, run.recipe["parameters"])
        made = made_by.apply(_by_role(made_by, reopened), values)
        tensors = made.checkpoint.tensors
        names = sorted(
            recorded.keys() | tensors,
            key=lambda n: hashlib.sha256(f"{run.id}{n}".encode()).digest(),
        )
        chosen = sorted(names[:sample])
        listening = progress or NoProgress()
        listening.start(sum(tensors[n].nbytes for n in chosen if n in tensors), "replay")
        stack.callback(listening.done)
        with single_threaded_torch(), HashPool(resources.threads, listening) as pool:
            work = {n: pool.tensor(made.checkpoint, tensors[n]) for n in chosen if n in tensors}
            found = {n: f.result() for n, f in work.items()}
        wrong = [n for n in chosen if found.get(n) != recorded.get(n)]
        if sample is None and not wrong:
            stored = {f.path: f.object for f in registry.catalog.files(version.id)}
            wrong = [path for path, c in made.files.items() if stored.get(path) != _key(c)]
    notes = () if made_by.code_hash == run.code_hash else (CODE_CHANGED,)
    return Verdict(not wrong, len(chosen), tuple(wrong), made_by.replay, notes)


def transform_named(registry: Registry, name: str) -> Transform:
    """The transform of that name.

    Raises:
        InvalidRecipe: no plugin offers it.
    """
    known = registry.plugins.transforms
    if name not in known:
        raise InvalidRecipe(
            f"Unknown transform `{name}`.", how=did_you_mean(name, sorted(known)), method=name
        )
    return known[name]


def _by_role(made_by: Transform, given: Sequence[tuple[str, Input]]) -> Parents:
    found: dict[str, tuple[Input, ...]] = dict.fromkeys(made_by.roles, ())
    for role, one in given:
        if role not in found:
            raise InvalidRecipe(
                f"Transform `{made_by.name}` has no role `{role}`.",
                how=did_you_mean(role, sorted(made_by.roles)),
            )
        found[role] += (one,)
    for role, (fewest, most) in made_by.roles.items():
        count = len(found[role])
        if count < fewest or (most is not None and count > most):
            wanted = str(fewest) if most == fewest else f"{fewest} or more"
            raise InvalidRecipe(
                f"Transform `{made_by.name}` takes {wanted} models as `{role}`, {count} given.",
                role=role,
            )
    return found


def _checked(made_by: Transform, parameters: Mapping[str, Any]) -> Any:
    """The options as the transform's own class.

    Raises:
        InvalidRecipe: unknown, or out of range; says which.
    """
    from pydantic import ValidationError

    known = made_by.parameters()
    try:
        return known.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        raise InvalidRecipe(
            f"Transform `{made_by.name}` cannot take `{key}`: {first['msg'].lower()}.",
            how=did_you_mean(key, sorted(known.model_fields)) if unknown else "",
            key=key,
        ) from None


def _lock(made_by: Transform, parents: Parents, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "transform": made_by.name,
        "version": made_by.version,
        "parents": {role: [one.model.digest for one in those] for role, those in parents.items()},
        "parameters": parameters,
    }


def _recipe_file(lock: Mapping[str, Any]) -> bytes:
    content = {"recipe": lock, "recipe_digest": json_digest(lock)}
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _staged(
    made_by: Transform,
    made: Transformed,
    files: Mapping[str, bytes | Path],
    staging: Path,
    resources: Resources,
    progress: Progress,
) -> Ingested:
    """Work out every tensor, and write it where it is hashed; put the other files beside."""
    opened = replace(made.checkpoint.opened, weight_files={}, auxiliary={})
    made.checkpoint.opened = opened
    with single_threaded_torch():
        staged = ingest(
            made.checkpoint,
            staging,
            link_mode="copy",
            threads=resources.threads,
            progress=progress,
            stem=made_by.weights_stem,
        )
    for path, content in files.items():
        _beside(staged, staging, path, content)
    return staged


def _beside(staged: Ingested, staging: Path, path: str, content: bytes | Path) -> None:
    """Add a file to what is staged."""
    target = staging / "files" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, target)
    else:
        target.write_bytes(content)
    staged.files[FileRecord(path, _key(target), target.stat().st_size)] = target


def _key(content: bytes | Path) -> str:
    return flat_key(content) if isinstance(content, bytes) else flat_key_of_file(content)


def _inputs(parents: Parents) -> tuple[RunInput, ...]:
    return tuple(
        RunInput(one.version.id, one.model.digest, role, position)
        for role, those in parents.items()
        for position, one in enumerate(those)
        if one.version is not None
    )


def _licence(parents: Parents) -> str | None:
    """The licence that those of all parents come to; None where there is no one such licence."""
    return combined(
        licences_of([one for those in parents.values() for one in those]).values()
    ).license
