"""Everything that keeps named models from being merged, found at once and from headers only.

The models are opened without hashing them, and then go through the planning of the merge itself.
Whatever that refuses is an error; what it lets pass and may still go wrong is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.dequantize import dequantized_model
from zoo.compatibility.doubts import doubts
from zoo.compatibility.origins import doubts_of_origin
from zoo.compatibility.problem import Problem, Report, in_order, of_error
from zoo.compatibility.tensors import differences
from zoo.compatibility.terms import licences_of
from zoo.digest import flat_key_of_file, json_digest
from zoo.engine.inputs import Input, Inputs, is_carried
from zoo.engine.merging import Resources, request
from zoo.engine.opener import Opener
from zoo.engine.planned import Model
from zoo.errors import IncompatibleModels, InvalidCheckpoint, InvalidRecipe, NotFound, ZooError
from zoo.licences import combined
from zoo.recipes.multi_stage import Stage, prepared_stages
from zoo.recipes.recipe import Recipe
from zoo.records import FileRecord
from zoo.source import format_of, outlined, resolve_source
from zoo.storage.register import architecture_of
from zoo.tokenizers.tokenizer import FILES

if TYPE_CHECKING:
    from zoo.checkpoint import Checkpoint
    from zoo.registry import Registry

_READ_BESIDE = FILES | {"config.json", "generation_config.json", "adapter_config.json"}
"""Files that a check looks into; all are small."""


def check(
    registry: Registry,
    models: Sequence[str] = (),
    *,
    base: str | None = None,
    method: str | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    where: str | None = None,
    stages: Sequence[Stage] = (),
) -> Report:
    """What stands against merging models; nothing is hashed, downloaded or written.

    Args:
        models: references, paths or sources such as `hf://org/model`; or `where`, a query; or
            those of the recipe.
        base: what they were fine-tuned from.
        method: the merge method meant; without one, what any method would need is checked.
        recipe: of one merge, as `merge` takes it.
        stages: of a recipe that has several, in place of all else.
    Raises:
        NotFound: a name leads nowhere.
        InvalidRecipe: the recipe cannot be read, or contradicts the options.
    """
    if not stages:
        meant = method or ("task_arithmetic" if base else "linear")
        asked = request(
            registry,
            recipe,
            method=method if recipe is not None else meant,
            experts=list(models) or None,
            where=where,
            base=base,
        )
        stages = (Stage(None, asked, frozenset()),)
    stages = [replace(s, recipe=_selected(registry, s.recipe)) for s in stages]
    made = {s.name for s in stages if s.name is not None}
    with ExitStack() as stack:
        opened = _Opened(registry, stack)
        for name in dict.fromkeys(n for s in stages for n in _names(s.recipe) if n not in made):
            opened.add(name)
        problems = list(opened.problems)
        problems += opened.compared() if problems else _planned(registry, stages, opened)
        for one in stages:
            if (inputs := opened.together(one.recipe)) is not None:
                problems += _doubtful(inputs, problems)
        licence = combined(licences_of(list(opened.inputs.values())).values())
        labels = [one.model.label for one in opened.inputs.values()]
    last = stages[-1].recipe
    return Report(
        models=tuple(labels),
        problems=in_order(problems),
        base=opened.inputs[last.base].model.label if last.base in opened.inputs else None,
        method=method or (last.method if recipe is not None or len(stages) > 1 else None),
        license=licence.license,
        obligations=licence.obligations,
    )


@dataclass
class _Opened:
    """The models of a check by the names they were asked for, and what kept others out."""

    registry: Registry
    stack: ExitStack
    inputs: dict[str, Input] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Open one by its headers.

        Raises:
            NotFound: neither the registry nor the file system knows the name.
        """
        try:
            self.inputs[name] = _opened(self.registry, name, self.stack)
        except InvalidCheckpoint as error:
            self.problems += of_error(error, "damaged", (name,))
        except (IncompatibleModels, InvalidRecipe) as error:
            self.problems += of_error(error, "unreadable", (name,))

    def compared(self) -> list[Problem]:
        """The differences of those that could be opened, where not all can be planned."""
        models = [one.model for one in self.inputs.values()]
        return differences(models, len(models), set()) if len(models) > 1 else []

    def together(self, asked: Recipe) -> Inputs | None:
        """Those that could be opened, in their roles; None where no expert could."""
        experts = tuple(self.inputs[e.model] for e in asked.experts if e.model in self.inputs)
        base = self.inputs.get(asked.base or "")
        giver = self.inputs.get(asked.donor or "")
        return Inputs(experts, base, None, giver) if experts else None


def _opened(registry: Registry, named: str, stack: ExitStack) -> Input:
    """A model by its headers: what the registry knows goes before files, as for a merge."""
    opener = Opener(registry, stack, threads=1)
    if not (registry.is_absent and Path(named).exists()):
        try:
            version = registry.get(named)
        except ZooError:
            if not Path(named).exists() and "://" not in named:
                return opener.open(named)  # says best what is wrong with the name
        else:
            return opener.version(version)
    found = resolve_source(registry, named)
    checkpoint = (
        stack.enter_context(format_of(registry, found).open(found))
        if isinstance(found, Path)
        else stack.enter_context(outlined(registry, found))
    )
    return _unhashed(registry, named, checkpoint)


def _unhashed(registry: Registry, named: str, checkpoint: Checkpoint) -> Input:
    """An input whose tensors are known by name alone: no byte of them was read."""
    beside = {
        FileRecord(path, flat_key_of_file(source), source.stat().st_size): source
        for path, source in checkpoint.opened.auxiliary.items()
        if path in _READ_BESIDE and is_carried(path) and source.is_file()
    }
    config = checkpoint.opened.config or {}
    architecture = registry.plugins.architecture(architecture_of(config), config)
    module = (lambda: architecture.load(Path(named))) if architecture else None
    stands_for = json_digest(["unhashed", str(Path(named).absolute())])
    return Input(dequantized_model(Model(named, stands_for, checkpoint, module)), None, beside)


def _selected(registry: Registry, asked: Recipe) -> Recipe:
    """The recipe with the versions that its query gives by name, where it has one."""
    from zoo.recipes.recipe import Expert
    from zoo.storage.artifacts import KIND

    if asked.select is None:
        return asked
    chosen = registry.select(asked.select.where, asked.select.order_by, asked.select.limit)
    base = registry.get(asked.base) if asked.base and not Path(asked.base).exists() else None
    versions = [v for v in chosen if v.kind != KIND and v != base]
    if not versions:
        raise NotFound(
            f"No version fits `{asked.select.where or 'everything'}`.",
            "There is nothing to check.",
            "Try the query with `zoo ls --where`.",
            where=asked.select.where,
        )
    return replace(asked, experts=tuple(Expert(v.ref) for v in versions), select=None)


def _names(asked: Recipe) -> Iterator[str]:
    """All that a recipe names, each once, the base last."""
    named = [e.model for e in asked.experts]
    named += [path for e in asked.experts for path in e.artifacts.values()]
    named += [name for name in (asked.donor, asked.base) if name is not None]
    for name in dict.fromkeys(named):
        base, plus, adapter = name.rpartition("+")
        if plus and not Path(name).exists():  # an adapter on a base
            yield from (base, adapter)
        else:
            yield name


def _planned(registry: Registry, stages: Sequence[Stage], opened: _Opened) -> list[Problem]:
    """What planning refuses, and what it has to say; doubts are told apart."""
    found: list[Problem] = []
    try:
        for _, ready in prepared_stages(registry, stages, Resources(), opened.inputs):
            doubtful = ready.models.doubts
            known = {str(p) for p in doubtful}
            notes = [n for n in ready.plan.notes if n not in known]
            found += [*doubtful, *(Problem("plan", "note", n.rstrip(".")) for n in notes)]
    except IncompatibleModels as error:
        found += of_error(error, "refused")
    except InvalidRecipe as error:
        found += [*of_error(error, "recipe"), *opened.compared()]
    except (NotFound, InvalidCheckpoint) as error:
        found += [*of_error(error, "unreadable"), *opened.compared()]
    return found


def _doubtful(inputs: Inputs, problems: Sequence[Problem]) -> list[Problem]:
    """Warnings and notes, less those whose cause is told as an error already."""
    errors = [p for p in problems if p.severity == "error"]
    codes = {p.code for p in errors}
    found = [] if not errors else doubts(inputs, {})
    if "vocabulary" in codes or "recipe" in codes:
        found = [p for p in found if p.code != "tokenizer"]
    if "architecture" in codes:
        found = [p for p in found if p.code not in ("architecture", "settings", "tokenizer")]
    found = [p for p in found if not any(_same_value(p, e) for e in errors)]
    if not codes & {"architecture", "quantized", "adapter"}:
        found += doubts_of_origin(inputs.experts, inputs.base)
    return found


def _same_value(doubt: Problem, error: Problem) -> bool:
    """Whether both are about one value of the configurations."""
    told = doubt.what.split(" is ")[0]
    return doubt.code == "settings" and error.what.startswith(f"{told} is ")
