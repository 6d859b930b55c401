"""What to grow: a population of models over a grid, as plain data, read from YAML.

    name: digits                      # models are entries `digits/width8-batch16-seed0`
    architecture: {model_type: zoo_mlp, inputs: 64, width: 16, depth: 2, classes: 10,
                   activation: relu}
    task: digits
    train: {lr: 0.05, epochs: 20, schedule: onecycle}     # see `zoo.grow.training.TrainingPlan`
    grid:
      width: [4, 16, 64]              # a key of `architecture`, or of `train`
      batch: [16, 128]
      seed: [0, 1, 2]
    keep: {epochs: [5, 10]}           # checkpoints on the way, earlier versions of the same entry
    evaluate: {split: test}           # or a list of such; `[]` for none
    measure:                          # of one model, or of the pairs and sets within each cell
      - {metric: hessian, split: train, samples: 256, parameters: {probes: 20}}
      - {metric: cka, samples: 256}
    phases: {rule: default, thresholds: {loss: median}}   # see `Registry.assign_phases`

A cell is one choice of all of the grid but the seed; its members are a population.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from zoo.digest import json_digest
from zoo.errors import InvalidRecipe, did_you_mean
from zoo.grow.training import VERSION as TRAINING
from zoo.grow.training import TrainingPlan
from zoo.names import check_entry_name
from zoo.recipes.recipe import documents, mapping, refuse_unknown, sequence

SEED = "seed"
MOST = 100_000
"""Models of one plan."""
_SETTINGS = tuple(f.name for f in fields(TrainingPlan))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Arguments of `Registry.evaluate`."""

    tasks: tuple[str, ...] | None = None
    """None for the task that the models are trained on."""
    split: str = "test"
    samples: int | None = None
    batch: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MetricOf:
    """One metric, and how it is measured: arguments of `Registry.measure`."""

    metric: str
    parameters: Mapping[str, Any]
    task: str | None = None
    split: str | None = None
    samples: int | None = None
    batch: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Phases:
    """Arguments of `Registry.assign_phases`."""

    rule: str = "default"
    thresholds: Mapping[str, float | str] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the population."""

    name: str
    """Entry it is registered as."""
    cell: str
    """What it shares with those that differ only by seed: `width8-batch16`."""
    point: Mapping[str, Any]
    """Its place in the grid: key -> value, seed included."""
    config: Mapping[str, Any]
    """Its `config.json`."""
    train: TrainingPlan
    seed: int
    keep: tuple[int, ...]
    """Epochs before the last one whose weights are kept."""

    def digest(self, task: str, data: str) -> str:
        """Names all that decides its weights: `sha256:` + 64 hex digits.

        Args:
            data: digest of the training data.
        """
        return json_digest(
            {
                "config": dict(self.config),
                "task": task,
                "data": data,
                "train": asdict(self.train),
                "seed": self.seed,
                "training": TRAINING,
            }
        )


@dataclass(frozen=True, slots=True)
class GrowPlan:
    """A population over a grid, and what is measured of it."""

    name: str
    architecture: Mapping[str, Any]
    task: str
    train: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    keep: tuple[int, ...] = ()
    evaluate: tuple[Evaluation, ...] = (Evaluation(),)
    measure: tuple[MetricOf, ...] = ()
    phases: Phases | None = None

    @property
    def digest(self) -> str:
        """Names what all of the grid have in common: `sha256:` + 64 hex digits. A grid with more
        values is the same plan."""
        own = {k: v for k, v in self.architecture.items() if k not in self.grid}
        train = {k: v for k, v in self.train.items() if k not in self.grid}
        return json_digest(
            {
                "name": self.name,
                "architecture": own,
                "task": self.task,
                "train": train,
                "grid": sorted(self.grid),
            }
        )

    @property
    def where(self) -> str:
        """A query for the models at the end of their training."""
        return f"tag.'grow.plan' = '{self.digest}' and tag.'grow.last' = 'yes'"

    @property
    def members(self) -> tuple[Member, ...]:
        """All models, cell by cell, seeds innermost."""
        keys = [key for key in self.grid if key != SEED]
        seeds = self.grid.get(SEED, (0,))
        return tuple(
            self._member(dict(zip(keys, values, strict=True)), seed)
            for values in product(*(self.grid[key] for key in keys))
            for seed in seeds
        )

    def _member(self, point: Mapping[str, Any], seed: int) -> Member:
        train = TrainingPlan.read(
            {**self.train, **{k: v for k, v in point.items() if k in _SETTINGS}}
        )
        own = {k: v for k, v in point.items() if k not in _SETTINGS}
        cell = "-".join(f"{key}{_word(value)}" for key, value in point.items()) or "all"
        return Member(
            name=check_entry_name(f"{self.name}/{cell}-{SEED}{seed}"),
            cell=cell,
            point={**point, SEED: seed},
            config={**self.architecture, **own},
            train=train,
            seed=seed,
            keep=tuple(e for e in self.keep if e < train.epochs),
        )


def read_plan(source: str | Path | Mapping[str, Any]) -> GrowPlan:
    """Read a plan, and check all of it that can be checked without plugins.

    Args:
        source: path of a YAML file, or its content.
    Raises:
        InvalidRecipe: no such file, not YAML, an unknown key, a value that does not fit.
        InvalidName: the names that the models would have are no names of entries.
    """
    document = dict(source) if isinstance(source, Mapping) else _one_document(Path(source))
    refuse_unknown(document, tuple(f.name for f in fields(GrowPlan)), "the plan")
    for key in ("name", "architecture", "task", "grid"):
        if key not in document:
            raise InvalidRecipe(f"The plan has no `{key}`.", how="See `zoo grow --help`.", key=key)
    architecture = mapping(document["architecture"], "architecture")
    if not isinstance(architecture.get("model_type"), str):
        raise InvalidRecipe(
            "`architecture` names no `model_type`.",
            how="Add `model_type: zoo_mlp`, or another architecture.",
        )
    plan = GrowPlan(
        name=_text(document["name"], "name"),
        architecture=architecture,
        task=_text(document["task"], "task"),
        train=mapping(document.get("train", {}), "train"),
        grid=_grid(mapping(document["grid"], "grid"), architecture),
        keep=_kept(mapping(document.get("keep", {}), "keep")),
        evaluate=_evaluations(document.get("evaluate", {})),
        measure=tuple(_metric(one) for one in sequence(document.get("measure", ()), "measure")),
        phases=_phases(document.get("phases")),
    )
    refuse_unknown(plan.train, _SETTINGS, "`train`")
    _check(plan)
    return plan


def _check(plan: GrowPlan) -> None:
    count = 1
    for values in plan.grid.values():
        count *= len(values)
    if count > MOST:
        raise InvalidRecipe(f"The grid has {count:,} models.", f"{MOST:,} is the most.")
    members = plan.members  # reads each training plan
    name, times = Counter(m.name for m in members).most_common(1)[0]
    if times > 1:
        raise InvalidRecipe(
            f"{times} models of the grid would be called `{name}`.",
            "What no name may have is written `_`.",
            "Use values that differ in letters, digits, `.` or `-`.",
            name=name,
        )
    if plan.keep and max(plan.keep) > (most := max(m.train.epochs for m in members)):
        raise InvalidRecipe(
            f"Epoch {max(plan.keep)} is to be kept, and training ends after {most}.",
            how="Keep earlier epochs; the last one is kept always.",
            key="keep",
        )


def _one_document(path: Path) -> dict[str, Any]:
    found = documents(path, "plan")
    if len(found) > 1:
        raise InvalidRecipe(f"`{path}` holds {len(found)} documents.", "A plan is one.")
    return found[0]


def _grid(grid: Mapping[str, Any], architecture: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for key, values in grid.items():
        given = tuple(sequence(values, f"grid.{key}"))
        scalars = all(isinstance(v, (int, float, str)) and not isinstance(v, bool) for v in given)
        if not given or not scalars or len(set(given)) < len(given):
            raise InvalidRecipe(
                f"`grid.{key}` is {values!r}.",
                how="List numbers or words, each once: `[8, 16, 32]`.",
                key=key,
            )
        if key == SEED:
            bad = [v for v in given if not isinstance(v, int) or not 0 <= v < 2**63]
            if bad:
                raise InvalidRecipe(f"{bad[0]!r} is no seed.", how="Use whole numbers from 0.")
        elif key in _SETTINGS and key in architecture:
            raise InvalidRecipe(
                f"`{key}` of the grid is a key of both `train` and `architecture`.",
                "It cannot be told which is meant.",
                key=key,
            )
        elif key == "model_type":
            raise InvalidRecipe("A plan grows one architecture.", how="Write a plan for each.")
        found[key] = given
    return found


def unknown_grid_key(plan: GrowPlan) -> str:
    """What to say where an architecture refuses its configuration: keys of the grid that are no
    setting of the training were given to it."""
    known = (*_SETTINGS, SEED, *plan.architecture)
    strange = [k for k in plan.grid if k not in known]
    return " ".join(
        f"`{key}` of the grid is no setting of the training, and was taken for one of the "
        f"architecture. {did_you_mean(key, known)}"
        for key in strange
    )


def _kept(keep: Mapping[str, Any]) -> tuple[int, ...]:
    refuse_unknown(keep, ("epochs",), "`keep`")
    epochs = sequence(keep.get("epochs", ()), "keep.epochs")
    for epoch in epochs:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
            raise InvalidRecipe(f"{epoch!r} is no epoch.", how="Epochs count from 1.", key="keep")
    return tuple(sorted(set(epochs)))


def _evaluations(value: Any) -> tuple[Evaluation, ...]:
    given = [value] if isinstance(value, Mapping) else sequence(value, "evaluate")
    found = []
    for one in given:
        settings = mapping(one, "evaluate")
        refuse_unknown(settings, tuple(f.name for f in fields(Evaluation)), "`evaluate`")
        if "tasks" in settings:
            settings["tasks"] = tuple(sequence(settings["tasks"], "evaluate.tasks"))
        _check_counts(settings, "evaluate")
        found.append(Evaluation(**settings))
    return tuple(found)


def _metric(value: Any) -> MetricOf:
    settings = mapping(value, "measure")
    refuse_unknown(settings, tuple(f.name for f in fields(MetricOf)), "`measure`")
    if not isinstance(settings.get("metric"), str):
        raise InvalidRecipe("A part of `measure` names no metric.", how="Add `metric: NAME`.")
    _check_counts(settings, "measure")
    own = mapping(settings.pop("parameters", {}), "parameters")
    return MetricOf(parameters=own, **settings)


def _check_counts(settings: Mapping[str, Any], where: str) -> None:
    for key, least in (("samples", 1), ("batch", 1), ("seed", 0)):
        value = settings.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidRecipe(
                f"`{key}` of `{where}` is {value!r}.", how=f"Use {least} or more.", key=key
            )


def _phases(value: Any) -> Phases | None:
    if value is None:
        return None
    settings = mapping(value, "phases")
    refuse_unknown(settings, tuple(f.name for f in fields(Phases)), "`phases`")
    if "rule" in settings:
        _text(settings["rule"], "phases.rule")
    if "thresholds" in settings:
        settings["thresholds"] = mapping(settings["thresholds"], "phases.thresholds")
    return Phases(**settings)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRecipe(f"`{key}` must be text, not {value!r}.", key=key)
    return value


def _word(value: Any) -> str:
    """A value as a part of a name: what no name may have becomes `_`."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in str(value))
