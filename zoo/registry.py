"""A zoo: the registry's database, its store and its plugins behind one object."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe, StoreError

if TYPE_CHECKING:
    import torch

    from zoo.bundle.known import Conflict
    from zoo.bundle.pack import Packed
    from zoo.bundle.take_in import TakenIn
    from zoo.catalog.analytics import Table
    from zoo.catalog.catalog import Catalog
    from zoo.catalog.lineage import Lineage
    from zoo.compatibility import Report
    from zoo.engine.diff import Diff
    from zoo.engine.merging import Resources
    from zoo.engine.plan import Plan
    from zoo.engine.verify import Verdict
    from zoo.grow.plan import GrowPlan
    from zoo.grow.population import Population
    from zoo.hub.pull import Pulled
    from zoo.hub.push import Pushed
    from zoo.measuring.measurement import Measured
    from zoo.mlflow.importing import Imported
    from zoo.overlays.compression import Compressed, Compression
    from zoo.phases.assignment import Assignment
    from zoo.plugins import Plugins
    from zoo.progress import Progress
    from zoo.recipes.multi_stage import Stage
    from zoo.records import MetricValue, Registration, Version
    from zoo.signing import SignatureVerdict
    from zoo.storage.artifacts import Compress
    from zoo.storage.fsck import FsckReport
    from zoo.storage.gc import GcReport
    from zoo.storage.links import LinkMode
    from zoo.storage.store import Store
    from zoo.task import Task

DEFAULT_URL = "registry.db"

_log = logging.getLogger("zoo")


def open(
    url: str | Path | None = None,
    *,
    store: str | Path | None = None,
    create: bool = True,
    plugins: Plugins | None = None,
    plugins_dirs: Sequence[str | Path] = (),
) -> Registry:
    """Open a zoo, and make it when there is none.

    Args:
        url: path of the registry file, or a SQLAlchemy URL; `ZOO_REGISTRY` or `registry.db`.
        store: directory of the store; beside the registry file by default.
        create: False makes a missing registry an error.
        plugins: a set already loaded; otherwise installed plugins and those of `plugins_dirs`.
    Raises:
        NotFound, RegistryError, StoreError
    """
    registry = Registry(
        str(url or os.environ.get("ZOO_REGISTRY") or DEFAULT_URL),
        store=store,
        create=create,
        plugins=plugins,
        plugins_dirs=plugins_dirs,
    )
    try:
        _ = registry.store
    except BaseException:
        registry.close()
        raise
    return registry


class Registry:
    """An open zoo. Close it, or use it in a `with` block.

    The database is opened when it is first needed: a merge of paths into a directory needs none.
    """

    def __init__(
        self,
        url: str,
        *,
        store: str | Path | None = None,
        create: bool = True,
        plugins: Plugins | None = None,
        plugins_dirs: Sequence[str | Path] = (),
    ) -> None:
        self.url = url
        self._store = store
        self._create = create
        self._plugins = plugins
        self._plugins_dirs = plugins_dirs
        self.tasks_in_use: dict[str, Task] = {}
        """Declared tasks that were asked for, by digest of their declaration."""

    @cached_property
    def catalog(self) -> Catalog:
        """The database."""
        from zoo.catalog.catalog import Catalog

        return Catalog.open(self.url, store=self._store, create=self._create)

    @property
    def opening(self) -> dict[str, Any]:
        """Arguments with which `open` opens this zoo again, in another process."""
        return {"url": self.url, "store": self._store, "plugins_dirs": self._plugins_dirs}

    @property
    def is_absent(self) -> bool:
        """Whether there is no registry file, and none is to be made: paths are all there is."""
        return not self._create and "://" not in self.url and not Path(self.url).exists()

    @cached_property
    def store(self) -> Store:
        """The files."""
        from zoo.storage.store import Store

        make = Store.create if self._create else Store.open
        return make(self.catalog.store_root, self.catalog.owner)

    @cached_property
    def plugins(self) -> Plugins:
        """Methods, formats, architectures, tasks and metrics."""
        from zoo.plugins import load_plugins

        return self._plugins or load_plugins(self._plugins_dirs)

    def close(self) -> None:
        if "catalog" in self.__dict__:
            self.catalog.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Versions

    def register(
        self,
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
        """Take a checkpoint in as the next version of `name`; see `zoo.storage.register`."""
        from zoo.storage.register import register

        return register(
            self,
            source,
            name=name,
            kind=kind,
            base=base,
            task=task,
            phase=phase,
            license=license,
            tags=tags,
            metrics=metrics,
            link_mode=link_mode,
            threads=threads,
            progress=progress,
            origin=origin,
        )

    def register_many(
        self,
        registrations: Iterable[Registration],
        *,
        link_mode: LinkMode | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> list[Version]:
        """Take checkpoints in together, all or none; see `zoo.storage.register`."""
        from zoo.storage.register import register_many

        return register_many(
            self, registrations, link_mode=link_mode, threads=threads, progress=progress
        )

    def pull(self, source: str, **about: Any) -> Pulled:
        """Bring a model from a hub, or the newer commit of one that was; see `zoo.hub.pull`."""
        from zoo.hub.pull import pull

        return pull(self, source, **about)

    def push(
        self,
        ref: str,
        repo: str,
        *,
        revision: str = "main",
        create: bool = False,
        private: bool = False,
    ) -> Pushed:
        """Put a version on a hub as one commit; see `zoo.hub.push`."""
        from zoo.hub.push import push

        return push(self, ref, repo, revision=revision, create=create, private=private)

    def import_mlflow(
        self,
        uri: str,
        *,
        models: Sequence[str] = (),
        stages: Sequence[str] = (),
        aliases: Sequence[str] = (),
        artifacts_root: str | Path | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> list[Imported]:
        """Take versions over from an MLflow registry; see `zoo.mlflow.importing`."""
        from zoo.mlflow.importing import import_mlflow

        return import_mlflow(
            self,
            uri,
            models=models,
            stages=stages,
            aliases=aliases,
            artifacts_root=None if artifacts_root is None else Path(artifacts_root),
            dry_run=dry_run,
            progress=progress,
        )

    def attach(
        self,
        ref: str,
        role: str,
        source: str | Path,
        *,
        compress: Compress = "none",
        link_mode: LinkMode = "clone",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Version:
        """Register what lies beside a version: `exp_avg_sq`, say; see `zoo.storage.artifacts`."""
        from zoo.storage.artifacts import attach

        return attach(
            self,
            ref,
            role,
            source,
            compress=compress,
            link_mode=link_mode,
            threads=threads,
            progress=progress,
        )

    def get(self, ref: str) -> Version:
        """The version a reference names.

        Raises:
            NotFound, AmbiguousReference
        """
        return self.catalog.get(ref)

    def select(
        self, where: str | None = None, order_by: str | None = None, limit: int | None = None
    ) -> list[Version]:
        """Versions that fit a query; see `docs/reference/queries.md` for the language."""
        return self.catalog.select(where, order_by, limit)

    def annotate(
        self,
        ref: str,
        *,
        tags: Mapping[str, str] | None = None,
        drop_tags: Sequence[str] = (),
        metrics: Mapping[str, float] | Iterable[MetricValue] | None = None,
        task: str | None = None,
        phase: str | None = None,
        license: str | None = None,
    ) -> Version:
        """Change what is said of a version; its bytes never change."""
        from zoo.storage.register import metric_values

        return self.catalog.annotate(
            self.get(ref).id,
            tags=dict(tags or {}),
            drop_tags=drop_tags,
            metrics=metric_values(metrics),
            task=task,
            phase=phase,
            license=license,
        )

    def alias(self, ref: str, alias: str) -> None:
        """Point an alias at a version; earlier targets stay in the alias's history."""
        self.catalog.alias(self.get(ref).id, alias)

    def unalias(self, name: str, alias: str) -> None:
        """Remove an alias; its history stays."""
        self.catalog.unalias(name, alias)

    def remove(self, ref: str, reason: str = "") -> None:
        """Retire a version: no query finds it, lineage remembers it, `gc` frees its bytes."""
        version = self.get(ref)
        self.catalog.remove(version.id, reason)
        try:
            self.store.drop_view(version.name, version.version)
        except StoreError as error:
            # It is removed; its directory is derived, and `gc` takes it.
            _log.warning("%s is removed, but its directory is left: %s", version.ref, error)

    # Merging

    def plan(self, recipe: str | Path | Mapping[str, Any] | None = None, **asked: Any) -> Plan:
        """Check a merge and predict its cost. Takes what `merge` takes; writes nothing.

        Raises:
            IncompatibleModels: `problems` lists all that is wrong.
        """
        return self.plans(recipe, **asked)[-1][1]

    def plans(
        self, recipe: str | Path | Mapping[str, Any] | None = None, **asked: Any
    ) -> list[tuple[str | None, Plan]]:
        """`plan` of each stage of a recipe, with the stage's name; the result's is the last."""
        from zoo.engine.merging import prepared, request
        from zoo.recipes.multi_stage import plan_stages

        if unknown := asked.keys() - signature(self.merge).parameters:
            raise TypeError(f"plan() got an unexpected keyword argument {min(unknown)!r}")
        resources = _resources(asked)
        options = {k: v for k, v in asked.items() if k in _REQUEST}
        if stages := self._stages(recipe, options):
            return plan_stages(self, stages, resources)
        asked_for = request(self, recipe, **options)
        with prepared(self, asked_for, resources, keep=False, fetch=False) as ready:
            return [(None, ready.plan)]

    def _stages(
        self, recipe: str | Path | Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> tuple[Stage, ...]:
        """The stages of a recipe that has several; none where it is one merge."""
        from zoo.recipes.multi_stage import read_stages

        if recipe is None or isinstance(recipe, Mapping):
            return ()
        stages = read_stages(recipe, self.plugins.methods)
        if len(stages) == 1:
            return ()
        if over := [k for k, v in options.items() if v is not None]:
            raise InvalidRecipe(
                f"`{recipe}` has {len(stages)} stages, and `{over[0]}` is for one merge.",
                how="Write it into the stage that it is meant for.",
            )
        return stages

    def check(
        self,
        models: Sequence[str] = (),
        *,
        base: str | None = None,
        method: str | None = None,
        recipe: str | Path | Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> Report:
        """What keeps models from being merged, or makes it doubtful: seen from headers, all at
        once. Nothing is downloaded or written; see `zoo.compatibility.checking.check`."""
        from zoo.compatibility.checking import check

        options = {"models": models or None, "base": base, "method": method, "where": where}
        if stages := self._stages(recipe, options):
            return check(self, stages=stages)
        return check(self, models, base=base, method=method, recipe=recipe, where=where)

    def merge(
        self,
        recipe: str | Path | Mapping[str, Any] | None = None,
        *,
        method: str | None = None,
        experts: Sequence[str] | None = None,
        where: str | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        base: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        seed: int | None = None,
        name: str | None = None,
        out: str | Path | None = None,
        memory: str | int = "1GiB",
        threads: int | None = None,
        device: str = "cpu",
        task: str | None = None,
        phase: str | None = None,
        license: str | None = None,
        tags: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        rehash: bool = False,
    ) -> Version | None:
        """Merge models by a recipe, or by a method and a query.

        Args:
            recipe: path of a YAML document, or its content as a mapping, see `zoo.recipes.recipe`;
                a file of several documents is a recipe of stages; see `zoo.recipes.multi_stage`.
            experts: references or paths, in order.
            where: a query in place of `experts`.
            base: reference or path; the experts' common base by default, where one is needed.
            parameters: the method's options by public name.
            name: entry that gets the result as its next version.
            out: directory to write the result to.
            memory: budget for the whole process, such as `1GiB`.
            rehash: hash all inputs. Without a `name`, digests of files that have not changed since
                they were last hashed are remembered.
        Returns:
            The new version; None when the result only went to `out`.
        Raises:
            InvalidRecipe, IncompatibleModels, GateFailed, NotFound, StoreError
        """
        from zoo.engine.merging import merge, request
        from zoo.recipes.multi_stage import merge_stages

        options: dict[str, Any] = {
            "method": method,
            "experts": experts,
            "where": where,
            "order_by": order_by,
            "limit": limit,
            "base": base,
            "parameters": parameters,
            "seed": seed,
        }
        result: dict[str, Any] = {
            "name": name,
            "out": None if out is None else Path(out),
            "resources": _resources({"memory": memory, "threads": threads, "device": device}),
            "task": task,
            "phase": phase,
            "license": license,
            "tags": tags,
            "progress": progress,
            "rehash": rehash,
        }
        if stages := self._stages(recipe, options):
            return merge_stages(self, stages, **result)
        return merge(self, request(self, recipe, **options), **result)

    def compress(
        self,
        *,
        name: str,
        method: str = "tall_masks",
        experts: Sequence[str] | None = None,
        where: str | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        base: str | None = None,
        exclude: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> Compressed:
        """Store a family of experts as one version: a trunk, and for each task what it adds.

        Args:
            name: entry that gets it as its next version.
            method: one that keeps parts per task: `tall_masks`, `emr`, `twin`, `tsv_compress`.
            exclude: glob patterns of tensors that each task keeps whole: heads.
            options: `memory`, `device`, `tags`, ... as for `merge`, which takes the others too.
        Returns:
            The version, its bytes beside those of the experts, and the error of each task.
        Raises:
            InvalidRecipe: the method keeps nothing per task; and what `merge` raises.
        """
        from zoo.overlays.compression import compress

        if (experts is None) == (where is None and order_by is None and limit is None):
            raise InvalidRecipe("Name the experts, or select them by a query; one of the two.")
        recipe: dict[str, Any] = {
            "method": method,
            "parameters": dict(parameters or {}),
            "exclude": list(exclude),
        }
        if experts is not None:
            recipe["experts"] = list(experts)
        else:
            recipe["select"] = {"where": where, "order_by": order_by, "limit": limit}
        return compress(self, recipe, name=name, base=base, threads=threads, **options)

    def compression(self, ref: str) -> Compression | None:
        """What a version with overlays takes beside its experts; None for one without."""
        from zoo.overlays.compression import compression

        return compression(self, self.get(ref))

    def transform(
        self,
        transform: str,
        parents: Sequence[tuple[str, str]],
        parameters: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        out: str | Path | None = None,
        memory: str | int = "1GiB",
        threads: int | None = None,
        **about: Any,
    ) -> Version | None:
        """Make a model of another form from others; see `zoo.engine.transforming.transform`.

        Args:
            parents: (role, reference or path); the transform says which roles it has.
            about: `task`, `license`, `tags`, `progress`.
        """
        from zoo.engine.transforming import transform as run

        return run(
            self,
            transform,
            parents,
            parameters or {},
            resources=_resources({"memory": memory, "threads": threads}),
            name=name,
            out=None if out is None else Path(out),
            **about,
        )

    def extract_lora(
        self,
        model: str,
        base: str,
        *,
        rank: int | None = None,
        energy: float | None = None,
        alpha: float | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        embeddings: bool = False,
        modules_to_save: str = "changed",
        **where: Any,
    ) -> Version | None:
        """Make a PEFT adapter of the difference of two models; see `zoo.adapters.factoring`.

        Args:
            rank: of each product, at most.
            energy: share of the squared singular values to keep, instead or as well.
            alpha: `lora_alpha` to write; the largest rank by default.
            include, exclude: globs of tensors.
            embeddings: factor embeddings too.
            modules_to_save: `changed` brings along what has no factors; `none` leaves it out.
            where: `name`, `out` and the others of `transform`.
        Raises:
            InvalidRecipe: neither a rank nor an energy.
            IncompatibleModels: no adapter takes the one to the other.
        """
        parameters = {
            "rank": rank,
            "energy": energy,
            "alpha": alpha,
            "include": list(include),
            "exclude": list(exclude),
            "embeddings": embeddings,
            "modules_to_save": modules_to_save,
        }
        return self.transform(
            "extract_lora", [("model", model), ("base", base)], parameters, **where
        )

    def plan_transform(
        self,
        transform: str,
        parents: Sequence[tuple[str, str]],
        parameters: Mapping[str, Any] | None = None,
        *,
        threads: int | None = None,
    ) -> dict[str, Any]:
        """What `transform` would make, as plain data; writes nothing."""
        from zoo.engine.transforming import planned

        resources = _resources({"memory": "1GiB", "threads": threads})
        return planned(self, transform, parents, parameters or {}, resources=resources)

    def upcycle(self, config: str | Path | Mapping[str, Any], **where: Any) -> Version | None:
        """Make a mixture of experts of dense siblings.

        Args:
            config: path of a configuration of mergekit-moe, or its content; see `zoo.moe.config`.
            where: `name`, `out` and the others of `transform`.
        Raises:
            InvalidRecipe, IncompatibleModels
        """
        from zoo.moe.config import read_config

        return self.transform("upcycle", *read_config(config), **where)

    def plan_upcycle(
        self, config: str | Path | Mapping[str, Any], *, threads: int | None = None
    ) -> dict[str, Any]:
        """What `upcycle` would make, as plain data; writes nothing."""
        from zoo.moe.config import read_config

        return self.plan_transform("upcycle", *read_config(config), threads=threads)

    def merge_moe_experts(
        self, ref: str, *, options: Mapping[str, Any], **where: Any
    ) -> Version | None:
        """Merge the experts of a mixture into fewer, by average.

        Args:
            ref: the mixture, a reference or path.
            options: `experts`, `groups` and the others of `zoo_plugins.merge_experts`.
            where: `name`, `out` and the others of `transform`.
        Raises:
            InvalidRecipe, IncompatibleModels
        """
        return self.transform("merge_experts", [("model", ref)], options, **where)

    # Measuring

    def measure(
        self,
        refs: Sequence[str] | None = None,
        *,
        where: str | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        metrics: Sequence[str],
        task: str | None = None,
        split: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        within: Sequence[str] = (),
        samples: int | None = None,
        batch: int = 256,
        seed: int = 0,
        device: str = "cpu",
        force: bool = False,
        progress: Progress | None = None,
    ) -> list[Measured]:
        """Measure versions, and record the values: metrics of one model for each version, metrics
        of pairs for each pair, metrics of sets for all together.

        What is recorded already with the same protocol is not measured again. A measurement that
        fails is returned with its `error`, and the others go on.

        Args:
            metrics: names of metrics, or of values they give.
            task: for metrics that need data; the versions' own task by default.
            split: of the task; each metric's own by default.
            parameters: `NAME` for every metric that has it, `METRIC.NAME` for one.
            within: tags or columns that the members of a pair or set must agree in.
            samples: examples, drawn by the seed; all by default.
            batch: examples per batch.
            force: measure again what is recorded.
        Raises:
            InvalidRecipe: an unknown metric, parameter or split; a pair of one version.
            NotFound: no such version or task; a query that finds none.
        """
        from zoo.measuring.measurement import measure

        return measure(
            self,
            refs,
            where=where,
            order_by=order_by,
            limit=limit,
            metrics=metrics,
            task=task,
            split=split,
            parameters=parameters,
            within=within,
            samples=samples,
            batch=batch,
            seed=seed,
            device=device,
            force=force,
            progress=progress,
        )

    def assign_phases(
        self,
        *,
        where: str | None = None,
        rule: str = "default",
        thresholds: Mapping[str, float | str] | None = None,
        keys: Sequence[str] = (),
        dry_run: bool = False,
        force: bool = False,
    ) -> Assignment:
        """Label versions with the phase of their configuration; see `zoo.phases.rule` for the rule.

        Versions of one task that agree in their tags are the seeds of one cell, and share a label
        and the metric `phase_confidence`. A label somebody asserted stays.

        Args:
            where: the versions; all by default.
            rule: `NAME`, its newest thresholds, or `NAME@N`.
            thresholds: changes to them, as numbers, or as `cka="midpoint"` and `loss="median"` of
                the cells; they are stored as numbers under the name's next number.
            keys: tags in which members of a cell agree; by default all that begin with `grow.`,
                but for `grow.seed`.
            dry_run: only look; nothing is written.
            force: replace asserted labels too.
        Raises:
            InvalidSelection: there is no cell.
            InvalidRecipe: an unfit threshold.
            NotFound: an unknown rule.
        """
        from zoo.phases.assignment import assign

        return assign(
            self,
            where=where,
            rule=rule,
            thresholds=thresholds,
            keys=keys,
            dry_run=dry_run,
            force=force,
        )

    def grow(
        self,
        plan: str | Path | Mapping[str, Any] | GrowPlan,
        *,
        jobs: int | None = None,
        progress: Progress | None = None,
    ) -> Population:
        """Train a population of models over a grid, and register, evaluate and measure each.

        What is there already is not made again; a run that was killed goes on where it was. A model
        that fails is told in the result, and the others go on.

        Args:
            plan: path of a YAML file, or its content; see `zoo.grow.plan`.
            jobs: processes, each on one core; as many as there are cores by default. With more than
                one, a script has its work under `if __name__ == "__main__":`.
        Raises:
            InvalidRecipe, InvalidCheckpoint, IncompatibleModels, NotFound, PluginError: the plan
                cannot be carried out; nothing was trained.
        """
        from zoo.grow.population import grow

        return grow(self, plan, jobs=jobs, progress=progress)

    # Audit

    def lineage(self, ref: str, *, descendants: bool = False, hash_files: bool = False) -> Lineage:
        """All ancestors of a version, or all descendants; removed versions included.

        What models only say of their parents is there too, marked `declared`.

        Args:
            hash_files: hash all weights files first, to recognise parents that are declared by
                the sha256 of their file. What was hashed before is known without it.
        """
        from zoo.storage.flat_digests import flat_digests, remembered

        if hash_files:
            flat_digests(self.store, self.catalog.live_objects())
        version = self.catalog.get(ref, removed=True)
        return self.catalog.lineage(version.id, descendants=descendants, files=remembered())

    def export_lineage(self, ref: str, form: str, *, descendants: bool = False) -> str:
        """Lineage as another tool reads it; see `zoo.lineage_exports`.

        Args:
            form: `openlineage`, `cyclonedx` or `spdx`. The last two hash every file of every
                model in the lineage.
        Raises:
            NotFound: no such version.
            InvalidRecipe: no such form.
        """
        from zoo.errors import did_you_mean
        from zoo.lineage_exports import EXPORTERS
        from zoo.lineage_exports.graph import collect

        if form not in EXPORTERS:
            raise InvalidRecipe(
                f"Lineage has no form `{form}`.", how=did_you_mean(form, sorted(EXPORTERS))
            )
        hashes = form != "openlineage"
        return EXPORTERS[form](collect(self, ref, descendants=descendants, hashes=hashes))

    def verify(
        self,
        ref: str,
        *,
        replay: bool = False,
        sample: int | None = None,
        memory: str | int = "1GiB",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Verdict:
        """Compare a version's bytes with the record, or merge it again and compare (`replay`)."""
        from zoo.engine import verify as v

        version = self.get(ref)
        resources = _resources({"memory": memory, "threads": threads})
        if replay or sample is not None:
            return v.replay(self, version, sample=sample, resources=resources, progress=progress)
        return v.verify(self, version, threads=resources.threads, progress=progress)

    def sign(
        self,
        ref: str,
        key: str | Path,
        *,
        out: str | Path | None = None,
        password: str | None = None,
        threads: int | None = None,
    ) -> Path:
        """Sign a version's files and its lineage by a private key; see `zoo.signing`.

        Args:
            out: the file to write; `NAME@N.sig` here by default.
        """
        from zoo.signing import sign

        version = self.get(ref)
        target = Path(out if out is not None else version.ref.replace("/", "-") + ".sig")
        workers = _resources({"threads": threads}).threads
        return sign(self, version, Path(key), target, password=password, threads=workers)

    def verify_signature(
        self, ref: str, signature: str | Path, key: str | Path
    ) -> SignatureVerdict:
        """Compare a version, or an exported directory, with a signature by a public key.

        Raises:
            VerificationFailed: the key did not make the signature.
        """
        from zoo.signing import verify_signature

        return verify_signature(self, ref, Path(signature), Path(key))

    def diff(
        self, a: str, b: str, *, threads: int | None = None, progress: Progress | None = None
    ) -> Diff:
        """How two versions differ, tensor by tensor."""
        from zoo.engine.diff import diff

        return diff(
            self,
            self.get(a),
            self.get(b),
            threads=threads or os.cpu_count() or 1,
            progress=progress,
        )

    # Scores

    def evaluate(
        self,
        refs: Sequence[str] | None = None,
        *,
        where: str | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        tasks: Sequence[str] | None = None,
        heads_from: Sequence[str] = (),
        split: str = "test",
        samples: int | None = None,
        batch: int = 256,
        seed: int = 0,
        device: str = "cpu",
        force: bool = False,
        progress: Progress | None = None,
    ) -> list[Version]:
        """Score versions on tasks, and record the scores; see `zoo.measuring.evaluation.evaluate`.

        Returns:
            The versions, each once, with all their metrics. A path has no record, and is left out.
        Raises:
            ZooError: the first failure, when all others are done; what could be scored is recorded.
        """
        from zoo.measuring.evaluation import evaluate

        found = evaluate(
            self,
            refs,
            where=where,
            order_by=order_by,
            limit=limit,
            tasks=tasks,
            heads_from=heads_from,
            split=split,
            samples=samples,
            batch=batch,
            seed=seed,
            device=device,
            force=force,
            progress=progress,
        )
        for one in found:
            if one.error is not None:
                raise one.error
        ids = dict.fromkeys(one.version.id for one in found if one.version is not None)
        return [self.catalog.by_id(i) for i in ids]

    # Use

    def path(self, ref: str) -> Path:
        """A version's directory in Hugging Face layout, made of links; hand it to
        `from_pretrained`."""
        version = self.get(ref)
        return self.store.view(version.name, version.version, self.catalog.files(version.id))

    def load(
        self, ref: str | Path, *, task: str | None = None, base: str | Path | None = None
    ) -> torch.nn.Module:
        """The module of a version, or of the model it has for a task; see `zoo.load`."""
        from zoo.networks.loading import load

        return load(ref, task=task, base=base, registry=self)

    def load_state(
        self, ref: str | Path, *, task: str | None = None, base: str | Path | None = None
    ) -> dict[str, torch.Tensor]:
        """The tensors of a version, or of the model it has for a task; see `zoo.load_state`."""
        from zoo.networks.loading import load_state

        return load_state(ref, task=task, base=base, registry=self)

    def export(
        self,
        ref: str,
        directory: str | Path,
        *,
        task: str | None = None,
        base: str | Path | None = None,
        format: str | None = None,
        dtype: str | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Copy a version to a new directory of plain files.

        Args:
            task: write the plain model of this task instead; `ref` may then be a directory too.
            base: where the base is, if the registry does not have it.
            format: `gguf` writes one file for llama.cpp into the directory.
            dtype: of that file's matrices: `f16`, `bf16`, `f32` or `q8_0`.
        Raises:
            StoreError: the directory exists and is not empty, or there is no room.
            NotFound: no such version or task, or the task's base is gone.
            InvalidCheckpoint: the model has no place in the format.
        """
        if format is not None:
            from zoo.storage.exporting import export_as

            return export_as(
                self, format, ref, Path(directory), task, base, dtype=dtype, progress=progress
            )
        from zoo.storage.becoming import becoming

        if task is not None:
            from zoo.networks.loading import opened, write_model

            with ExitStack() as stack:
                found = opened(self, ref, task, base, stack)
                with becoming(Path(directory)) as partial:
                    write_model(found, partial)
            return Path(directory)
        from zoo.storage.copying import copy_files

        version, target = self.get(ref), Path(directory)
        with becoming(target) as partial:
            copy_files(self.store, self.catalog.files(version.id), partial, progress)
        return target

    def query(self, sql: str) -> Table:
        """Run read-only SQL over a columnar snapshot of the registry."""
        from zoo.catalog.analytics import query

        return query(self.catalog, sql)

    # Tasks

    def task(self, name: str) -> Task:
        """The task of a plugin, or declared here, by its name.

        Raises:
            NotFound: there is none.
        """
        from zoo.tasks.known import task_named

        return task_named(self, name)

    def tasks(self) -> list[Task]:
        """All tasks of plugins and those declared here, names ascending."""
        from zoo.tasks.known import tasks

        return tasks(self)

    def add_task(
        self, declaration: str | Path | Mapping[str, Any], *, replace: bool = False
    ) -> Task:
        """Declare a task by a YAML file, or by its content; see `zoo.tasks.declaration`.

        Its data is read once, and known by its digests from then on.

        Raises:
            InvalidTask: the declaration or the data is wrong.
            RegistryError: the name is taken, and `replace` is False.
        """
        from zoo.tasks.known import add_task

        return add_task(self, declaration, replace=replace)

    def remove_task(self, name: str) -> None:
        """Forget a declared task; what was measured on it stays."""
        from zoo.tasks.known import remove_task

        remove_task(self, name)

    # Sharing

    def export_zoo(
        self,
        target: str | Path,
        *,
        refs: Sequence[str] | None = None,
        where: str | None = None,
        progress: Progress | None = None,
    ) -> Packed:
        """Write this zoo, or some versions with their ancestors, to one file; see `zoo.bundle`."""
        from zoo.bundle.pack import pack

        return pack(self, Path(target), refs=refs, where=where, progress=progress)

    def import_zoo(
        self,
        bundle: str | Path,
        *,
        conflict: Conflict | None = None,
        dry_run: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> TakenIn:
        """Add what a bundle has and this zoo lacks, each byte checked; see `zoo.bundle.take_in`.

        Args:
            conflict: what to do with entries whose names others have here: `append`, `rename`.
        """
        from zoo.bundle.take_in import take_in

        return take_in(
            self,
            Path(bundle),
            conflict=conflict,
            dry_run=dry_run,
            threads=threads,
            progress=progress,
        )

    # Upkeep

    def fsck(self, *, threads: int | None = None, progress: Progress | None = None) -> FsckReport:
        """Check every byte of the store and every row that points at it."""
        from zoo.storage.fsck import fsck

        return fsck(self, threads=threads, progress=progress)

    def gc(self, *, dry_run: bool = False, partial_age_days: float = 7.0) -> GcReport:
        """Free what no version uses."""
        from zoo.storage.gc import gc

        return gc(self, dry_run=dry_run, partial_age_days=partial_age_days)


_REQUEST = (
    "method",
    "experts",
    "where",
    "order_by",
    "limit",
    "base",
    "parameters",
    "seed",
)


def _resources(asked: Mapping[str, Any]) -> Resources:
    from zoo.engine.merging import Resources
    from zoo.units import parse_bytes

    threads = asked.get("threads")
    return Resources(
        parse_bytes(asked.get("memory", "1GiB")),
        min(16, os.cpu_count() or 1) if threads is None else int(threads),
        str(asked.get("device") or "cpu"),
    )
