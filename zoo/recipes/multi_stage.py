"""Recipes of several stages: documents in one file, later ones merging what earlier ones made.

    name: soup
    method: linear
    experts: [math, code]
    ---
    method: slerp
    experts: [soup, chat]
    parameters: {t: 0.3}

A stage is referred to by its `name`, which goes before anything else of that name. The document
without a name is the result; where all have one it is the last. Stages run when what they need is
made, in the order of the file otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, Opened
from zoo.digest import flat_key
from zoo.engine.beside import described, tokenizer_files
from zoo.engine.inputs import RECIPE_FILE, Input, Made
from zoo.engine.merging import Prepared, Resources, merge, prepared
from zoo.engine.plan import Model, Plan
from zoo.errors import InvalidRecipe, NotFound
from zoo.names import check_entry_name
from zoo.progress import Progress
from zoo.recipes.recipe import Recipe, documents, read_recipe
from zoo.records import FileRecord, Version
from zoo.storage.becoming import check_target, hold
from zoo.storage.refusals import writing_beside
from zoo.tokenizers.tokenizer import FILES

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.registry import Registry

_log = logging.getLogger("zoo")


@dataclass(frozen=True, slots=True)
class Stage:
    """One document of a file."""

    name: str | None
    recipe: Recipe
    needs: frozenset[str]
    """Stages that it merges."""


def read_stages(
    source: str | Path | Mapping[str, Any], methods: Mapping[str, Method]
) -> tuple[Stage, ...]:
    """The stages of a file in an order they can run in, the result last.

    Raises:
        InvalidRecipe: a document that is no recipe, two of one name, or a circle.
    """
    found = [source] if isinstance(source, Mapping) else documents(Path(source))
    names = [d.get("name") for d in found]
    for name in names if len(found) > 1 else ():
        if name is not None and not isinstance(name, str):
            raise InvalidRecipe(f"`name` must be text, not {name!r}.", key="name")
        if names.count(name) > 1:
            raise InvalidRecipe(
                f"Two stages are called `{name}`." if name else "Two documents have no `name`.",
                "Later stages refer to a stage by its name; only the last needs none.",
                key="name",
            )
        if name is not None:
            check_entry_name(name)
    known = {n for n in names if n is not None} if len(found) > 1 else set()
    stages = []
    for document, name in zip(found, names, strict=True):
        recipe = read_recipe(document, methods)
        stages.append(Stage(name, recipe, frozenset(known & _models(recipe))))
    result = next((s for s in stages if s.name is None), stages[-1])
    return tuple(_ordered([s for s in stages if s is not result] + [result]))


def _models(recipe: Recipe) -> set[str]:
    """What a recipe calls the models it merges."""
    own = {e.model for e in recipe.experts} | {recipe.base, recipe.donor}
    own |= {artifact for e in recipe.experts for artifact in e.artifacts.values()}
    return {name for name in own if name is not None}


def _ordered(stages: Sequence[Stage]) -> list[Stage]:
    """Every stage after those it needs, the last given last."""
    found: list[Stage] = []
    left = list(stages)
    while left:
        made = {s.name for s in found}
        ready = next((s for s in left if s.needs <= made), None)
        if ready is None:
            circle = ", ".join(f"`{s.name}`" for s in left if s.name)
            raise InvalidRecipe(f"The stages {circle} wait for each other.", key="name")
        left.remove(ready)
        found.append(ready)
    if found[-1] is not stages[-1]:
        raise InvalidRecipe(
            f"The stage `{found[-1].name}` merges the result.",
            "The document without a name, or the last, is the result.",
            "Give the result a name, and leave out that of the last stage.",
        )
    return found


def merge_stages(
    registry: Registry,
    stages: Sequence[Stage],
    *,
    name: str | None,
    out: Path | None,
    resources: Resources,
    progress: Progress | None = None,
    **about: Any,
) -> Version | None:
    """Make the stages in order, and then the result.

    With a name each stage is a version of its own, of the entry `NAME-STAGE`, and one that is
    already what the recipe makes is not made again. Without, they lie beside `out` meanwhile, and
    those that a killed process left there are not made again either.

    Args:
        about: what is said of the result's version: task, phase, licence, tags.
    """
    if name is None and out is None:
        raise InvalidRecipe("Name the result, or say where to write it.")
    last = stages[-1]
    made: dict[str, Made] = {}
    if name is not None:
        for stage in stages[:-1]:
            assert stage.name is not None
            entry = f"{name}-{stage.name}"
            version = _made_before(registry, entry, stage, resources, made) or merge(
                registry,
                stage.recipe,
                name=entry,
                out=None,
                resources=resources,
                progress=progress,
                stages=made,
            )
            assert version is not None
            made[stage.name] = version.ref
        options = {"resources": resources, "progress": progress, "stages": made, **about}
        return merge(registry, last.recipe, name=name, out=out, **options)
    assert out is not None
    out = check_target(out)
    with _passing(out) as directory:
        for stage in _needed(stages):
            target = out if stage is last else directory / _folder(registry, stage)
            if stage is last or not _stands(registry, target, stage, resources, made):
                merge(
                    registry,
                    stage.recipe,
                    name=None,
                    out=target,
                    resources=resources,
                    progress=progress,
                    stages=made,
                    **about,
                )
            if stage.name is not None:
                made[stage.name] = target
    return None


def plan_stages(
    registry: Registry, stages: Sequence[Stage], resources: Resources
) -> list[tuple[str | None, Plan]]:
    """The plan of every stage, made of what those before it will be."""
    return [(stage.name, r.plan) for stage, r in prepared_stages(registry, stages, resources, {})]


def prepared_stages(
    registry: Registry,
    stages: Sequence[Stage],
    resources: Resources,
    opened: Mapping[str, Made],
) -> Iterator[tuple[Stage, Prepared]]:
    """Every stage, prepared of what those before it will be; its inputs are open until the next.

    Args:
        opened: models that the stages name, where they are open already.
    """
    made = dict(opened)
    several = len(stages) > 1  # one writes nothing
    with TemporaryDirectory() if several else nullcontext("") as directory:
        for number, stage in enumerate(stages):
            with prepared(
                registry, stage.recipe, resources, keep=False, stages=made, fetch=False
            ) as ready:
                yield stage, ready
                if stage.name is not None and several:
                    passing = Path(directory, str(number))
                    made[stage.name] = _promised(ready, stage.name, passing)


def _needed(stages: Sequence[Stage]) -> list[Stage]:
    """The stages that lead to the result; told of the others."""
    wanted = set(stages[-1].needs)
    for stage in reversed(stages[:-1]):
        if stage.name in wanted:
            wanted |= stage.needs
    for stage in stages[:-1]:
        if stage.name not in wanted:
            _log.warning("nothing merges `%s`, so it was not made; --as keeps it", stage.name)
    return [s for s in stages[:-1] if s.name in wanted] + [stages[-1]]


def _made_before(
    registry: Registry,
    entry: str,
    stage: Stage,
    resources: Resources,
    made: Mapping[str, Made],
) -> Version | None:
    """The entry's latest version, if the stage would make it again: an earlier call was ended."""
    try:
        version = registry.get(entry)
    except NotFound:
        return None
    run = registry.catalog.run_of(version.id)
    with prepared(registry, stage.recipe, resources, keep=False, stages=made) as ready:
        method = ready.plan.method
        same = run and (run.recipe_digest, run.code_hash) == (ready.digest, method.code_hash)
    return version if same else None


def _folder(registry: Registry, stage: Stage) -> str:
    """Where a stage lies meanwhile: other code may make other bytes of the same recipe."""
    code = registry.plugins.method(stage.recipe.method).code_hash
    return f"{stage.name}-{code.partition(':')[2][:16]}".replace("/", "%2F")


def _stands(
    registry: Registry,
    directory: Path,
    stage: Stage,
    resources: Resources,
    made: Mapping[str, Made],
) -> bool:
    """Whether a killed process left what the stage would make; what another made is removed."""
    if not directory.exists():
        return False
    left = json.loads((directory / RECIPE_FILE).read_bytes())["recipe_digest"]
    with prepared(registry, stage.recipe, resources, keep=False, stages=made) as ready:
        same: bool = left == ready.digest
    if not same:
        shutil.rmtree(directory)
    return same


@contextmanager
def _passing(out: Path) -> Iterator[Path]:
    """A directory for what stages make, ours alone, on the disk of the result.

    It vanishes in the end, and with an error. A killed process leaves it, for the next call to go
    on with.
    """
    directory = out.parent / f".{out.name}.stages"
    with writing_beside(out):
        lock = hold(directory, out)
        try:
            yield directory
            shutil.rmtree(directory)
        except Exception:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            os.close(lock)


class _Promise(Checkpoint):
    """A checkpoint that is not made yet: names, types and shapes, and no bytes."""

    def __init__(self, ready: Prepared, label: str) -> None:
        self.tensors = {t.info.name: t.info for t in ready.plan.tasks}
        config = ready.models.config
        self.opened = Opened(label, config=described(config, ready) if config else None)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        raise AssertionError(f"{self.opened.origin} is only planned")


def _promised(ready: Prepared, name: str, directory: Path) -> Input:
    """What a planned stage will be to those that merge it.

    Args:
        directory: for the tokenizer that it will have, where it makes one.
    """
    beside = dict(ready.inputs.donor.beside)
    if made := tokenizer_files(ready):
        beside = {r: p for r, p in beside.items() if r.path not in FILES}
        directory.mkdir()
        for path, data in made.items():
            (directory / path).write_bytes(data)
            beside[FileRecord(path, flat_key(data), len(data))] = directory / path
    return Input(Model(name, ready.digest, _Promise(ready, name)), None, beside)
