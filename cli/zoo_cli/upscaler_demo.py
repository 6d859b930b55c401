"""What `zoo demo` does, without a word printed: register, select, merge, evaluate, compare.

It uses nothing but the public interface of a registry, so it is also a program to copy from. Run
again, it finds what is there already and does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import NotFound, PluginError

if TYPE_CHECKING:
    from zoo.plugins import Plugins
    from zoo.records import MetricValue, Version
    from zoo.registry import Registry

PLUGIN = "upscaler_plugin"
ARCHITECTURE = "upresnet10"
TASK = "upscale-jpeg"
LEVELS = ("clean", "q90", "q70", "q50", "q30")
BASE = "upscaler-base"

SELECTION = f"kind = 'expert' and base = '{BASE}' and metric.'psnr'.'q70' > 29.5"


class Source(NamedTuple):
    """A published checkpoint."""

    directory: str
    name: str
    removes: str
    """Strength of the JPEG noise it was trained to remove."""


SOURCES = (
    Source("base-scale", BASE, "none"),
    Source("noise0", "upscaler-noise0", "weak"),
    Source("noise1", "upscaler-noise1", "light"),
    Source("noise2", "upscaler-noise2", "medium"),
    Source("noise3", "upscaler-noise3", "strong"),
)


class Setting(NamedTuple):
    """A merge to try."""

    name: str
    """Entry its result is stored under."""
    recipe: Mapping[str, Any] | str
    """A recipe, or the name of a recipe file of the example."""

    @property
    def text(self) -> str:
        """How it is told: `ties density=0.2 lambda=0.3`."""
        if isinstance(self.recipe, str):
            return f"recipe {self.recipe}"
        given = self.recipe["parameters"].items()
        return " ".join([self.recipe["method"], *(f"{k}={v}" for k, v in given)])


def _settings() -> Iterator[Setting]:
    """Each method with its usual settings, then near the best expert, where merges win."""
    everyone = {"where": SELECTION, "order_by": "name"}
    pair = {"where": SELECTION, "order_by": "metric.'psnr'.'q90' desc", "limit": 2}
    for weight in (1, [1, 3, 1], [0.05, 0.92, 0.03]):
        yield _setting("upscaler-linear", "linear", everyone, {"weight": weight})
    for t in (0.5, 0.97):
        yield _setting("upscaler-slerp", "slerp", pair, {"t": t})
    for scale in (0.3, 0.4):
        yield _setting("upscaler-arithmetic", "task_arithmetic", everyone, {"lambda": scale})
    for ties in ({"density": 0.2, "lambda": 0.3}, {"density": 1.0, "weight": [0.01, 1, 0.01]}):
        yield _setting("upscaler-ties", "ties", everyone, ties)
    yield Setting("upscaler-by-layer", "by-layer.yaml")


def _setting(
    name: str, method: str, select: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Setting:
    return Setting(name, {"method": method, "select": select, "parameters": parameters})


SETTINGS = tuple(_settings())


@dataclass(frozen=True, slots=True)
class Made:
    """A version of the demo."""

    version: Version
    how: str
    """`published`, or the setting that made it."""
    reused: bool
    """Whether an earlier run had made it."""

    @property
    def scores(self) -> dict[str, float]:
        """PSNR in dB: by noise level, and `mean` over the levels."""
        found = {level: self.version.metrics[f"psnr/{level}"] for level in LEVELS}
        return {**found, "mean": self.version.metrics["psnr"]}


@dataclass(frozen=True, slots=True)
class Board:
    """All versions of the demo, best mean first."""

    rows: tuple[Made, ...]

    def best(self, *, merged: bool, level: str = "mean") -> Made:
        """The best merge, or the best published model, at a level."""
        return max(
            (m for m in self.rows if (m.version.kind == "merge") == merged),
            key=lambda m: m.scores[level],
        )

    def find(self, name: str) -> Made:
        """The version of an entry; the best, if there are several."""
        return next(m for m in self.rows if m.version.name == name)

    def leaders(self) -> dict[str, float]:
        """The highest score of each column."""
        return {c: max(m.scores[c] for m in self.rows) for c in (*LEVELS, "mean")}


def find_example(directory: str | None) -> Path:
    """The directory of the upscalers: as given, as installed, or that of the checkout.

    Raises:
        NotFound: it holds no plugin.
    """
    here = Path(__file__).parent
    places = (
        [Path(directory)]
        if directory is not None
        else [here / "examples" / "upscaler", here.parents[1] / "examples" / "upscaler"]
    )
    for place in places:
        if (place / f"{PLUGIN}.py").is_file():
            return place
    raise NotFound(
        f"The example's upscalers are not at `{places[-1]}`:",
        f"there is no `{PLUGIN}.py`.",
        "Give the directory `examples/upscaler` of zoo's sources: zoo demo --example DIR",
        path=str(places[-1]),
    )


def check_ready(plugins: Plugins) -> None:
    """Raise PluginError unless the example's plugin is loaded and can read images."""
    from importlib.util import find_spec

    if find_spec("PIL") is None:
        raise PluginError(
            "The demo reads photographs, and Pillow is not installed.",
            how="pip install 'zoo-registry[demo]'",
        )
    if TASK not in plugins.tasks or ARCHITECTURE not in plugins.architectures:
        told = [str(b) for b in plugins.broken if b.name == PLUGIN]
        raise PluginError(f"The plugin `{PLUGIN}` did not load.", " ".join(told))


def register_all(registry: Registry, example: Path) -> Iterator[Made]:
    """Register the base and its experts, each with its scores.

    Yields:
        Each version as soon as it is there, the base first.
    """
    for source in SOURCES:
        path = example / "models" / source.directory
        known = registry.select(f"name = '{source.name}' and digest = '{_digest(registry, path)}'")
        if known:
            yield Made(known[-1], "published", reused=True)
            continue
        is_base = source.name == BASE
        version = registry.register(
            path,
            name=source.name,
            kind="base" if is_base else "expert",
            base=None if is_base else BASE,
            task="upscale" if is_base else TASK,
            license="MIT",
            tags={"noise": source.removes, "origin": "tsurumeso/waifu2x-chainer"},
            metrics=evaluate(registry, path),
        )
        yield Made(version, "published", reused=False)


def merge_all(registry: Registry, example: Path) -> Iterator[Made]:
    """Run every setting, and record the scores with the version it makes.

    Yields:
        Each version as soon as it is scored.
    """
    for setting in SETTINGS:
        recipe = setting.recipe
        if isinstance(recipe, str):
            recipe = str(example / recipe)
        known = _made_by(registry, setting.name, recipe)
        version = known or registry.merge(recipe, name=setting.name, task=TASK, license="MIT")
        assert version is not None, "a merge with a name makes a version"
        if "psnr" not in version.metrics:
            scores = evaluate(registry, registry.path(version.ref))
            version = registry.annotate(version.ref, metrics=scores)
        yield Made(version, setting.text, reused=known is not None)


def evaluate(registry: Registry, directory: Path) -> list[MetricValue]:
    """The scores of the model in a directory."""
    import torch

    from zoo.sample import Sample

    # The images are small: on busy cores, threads that wait for each other take four times longer.
    torch.set_num_threads(1)
    module = registry.plugins.architectures[ARCHITECTURE].load(directory)
    task = registry.plugins.tasks[TASK]
    return task.evaluate(module, Sample(task))


def board(made: list[Made]) -> Board:
    return Board(tuple(sorted(made, key=lambda m: -m.scores["mean"])))


def picture(registry: Registry, models: Mapping[str, Made], file: Path) -> None:
    """One part of one photograph, clean and as a poor JPEG, through each model, as a PNG."""
    task: Any = registry.plugins.tasks[TASK]
    architecture = registry.plugins.architectures[ARCHITECTURE]
    modules = {
        label: architecture.load(registry.path(m.version.ref)) for label, m in models.items()
    }
    task.compare(modules, "chelsea", ("clean", "q30"), (32, 32, 96, 96)).save(file)


def _digest(registry: Registry, path: Path) -> str:
    """The weights digest of a checkpoint that may not be registered."""
    from zoo.checkpoints.hashing import HashPool
    from zoo.digest import weights_digest
    from zoo.source import format_of

    with format_of(registry, path).open(path) as checkpoint, HashPool() as pool:
        found = {name: pool.tensor(checkpoint, info) for name, info in checkpoint.tensors.items()}
        return weights_digest((name, digest.result()) for name, digest in found.items())


def _made_by(registry: Registry, name: str, recipe: Mapping[str, Any] | str) -> Version | None:
    """The version of an entry that this recipe made of these same inputs, if there is one."""
    from zoo.digest import json_digest

    wanted = json_digest(registry.plan(recipe).lock)
    for version in registry.select(f"name = '{name}'"):
        run = registry.catalog.run_of(version.id)
        if run is not None and run.recipe_digest == wanted:
            return version
    return None
