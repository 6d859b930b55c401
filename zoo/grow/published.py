"""Takes in a population that others trained, in the layout of the published model zoos.

    ZOO/TRIAL/params.json                     {"model::type": ..., "optim::lr": ..., "seed": ...}
             /result.json                     one JSON object per line and epoch
             /checkpoint_000050/checkpoints   a torch state dict, read as weights only

That is what ray.tune writes, and what the zoos of Schürholt et al. are published as. Each trial
becomes an entry, each chosen checkpoint a version of it. Its tags are those of `zoo grow`: a cell
is one choice of all settings that differ between trials, but for the seed.

Source: Schürholt et al. 2022, arXiv:2209.14764; Schürholt et al. 2025, arXiv:2504.18072.
Departs: metrics of pairs (mode connectivity, CKA) are written in those zoos beside one model or in
    tables of their own, and are not taken; `zoo measure` measures them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zoo.digest import json_digest
from zoo.errors import InvalidCheckpoint, InvalidRecipe, NotFound
from zoo.grow.member import RECORD, TAG, TRAINED
from zoo.names import check_entry_name
from zoo.progress import NoProgress, Progress
from zoo.records import MetricValue, Version

if TYPE_CHECKING:
    from zoo.registry import Registry

PARAMS, RESULTS, WEIGHTS = "params.json", "result.json", "checkpoints"
LARGEST = 100_000_000
"""Bytes of a `params.json` or `result.json`."""
SHORT = {
    "training::batchsize": "batch",
    "optim::lr": "lr",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "optim::optimizer": "optimizer",
    "model::width": "width",
    "training::epochs_train": "epochs",
}
"""Settings that `zoo grow` has a name for."""
GROUPS = ("model::", "optim::", "training::", "dataset::")
"""Settings that tell one cell from another; others say where and when a trial ran."""
SCORES = {
    "test_acc": ("accuracy", ""),
    "test_loss": ("loss", ""),
    "train_acc": ("train_accuracy", ""),
    "train_loss": ("train_loss", ""),
    "validation_acc": ("accuracy", "validation"),
    "validation_loss": ("loss", "validation"),
    "val_acc": ("accuracy", "validation"),
    "val_loss": ("loss", "validation"),
}
"""Key of a result -> name and split of the metric."""
_HESSIAN = re.compile(r"hessian_(top_eigenvalues|trace)_(train|val|test)_mean")
"""Beside them are lists of single estimates, one of which is published as `hessina_trace_*_list`;
they stay in `training.json`."""
_CHECKPOINT = re.compile(r"checkpoint_(\d+)")


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run, as its directory tells."""

    directory: Path
    params: Mapping[str, Any]
    results: Mapping[int, Mapping[str, Any]]
    """Epoch -> what was logged."""
    checkpoints: Mapping[int, Path]
    """Epoch -> file of weights, ascending."""

    @property
    def seed(self) -> int | str:
        return next((v for k, v in self.params.items() if k.split("::")[-1] == "seed"), 0)


def import_zoo(
    registry: Registry,
    directory: str | Path,
    *,
    name: str,
    epochs: Sequence[int] | None = None,
    task: str | None = None,
    license: str | None = None,
    progress: Progress | None = None,
) -> list[Version]:
    """Register the trials of a directory as entries `NAME/...`.

    What is registered already is not registered again. Each version has `config.json` with the
    settings of the model, and `training.json` with all settings and results up to its epoch.

    Args:
        epochs: the checkpoints to take; the last of each trial by default.
    Returns:
        All versions of the trials that were asked for, those that were there too.
    Raises:
        NotFound: no trials in the directory, or none has such a checkpoint.
        InvalidCheckpoint: a file that is not what it should be.
        InvalidName: the name cannot be that of entries.
    """
    check_entry_name(f"{name}/all-seed0")
    trials = read_trials(Path(directory))
    varied = _varied([t.params for t in trials])
    chosen = [(t, e) for t in trials for e in _epochs(t, epochs)]
    if not chosen:
        asked = ", ".join(map(str, epochs)) if epochs else "any epoch"
        raise NotFound(
            f"No trial in `{directory}` has a checkpoint of {asked}.",
            how=f"There are {sorted({e for t in trials for e in t.checkpoints})[:20]}.",
        )
    names = _names(name, trials, varied)
    progress = progress or NoProgress()
    progress.start(len(chosen), "import")
    found = []
    try:
        for trial, epoch in chosen:
            entry = names[trial.directory]
            found.append(_version(registry, trial, epoch, entry, name, varied, task, license))
            progress.advance(1)
    finally:
        progress.done()
    return found


def read_trials(directory: Path) -> list[Trial]:
    """The trials below a directory, by path.

    Raises:
        NotFound: there are none.
        InvalidCheckpoint: a file that is not JSON as it should be.
    """
    found = [_trial(path.parent) for path in sorted(directory.glob(f"**/{PARAMS}"))]
    if not found:
        raise NotFound(
            f"There is no `{PARAMS}` below `{directory}`.",
            "Each trial of a published zoo has one, beside its checkpoints.",
            "Unpack the archive, and give the directory that holds the trials.",
            path=directory,
        )
    return found


def _trial(directory: Path) -> Trial:
    params = _json(directory / PARAMS, _text(directory / PARAMS))
    results: dict[int, Mapping[str, Any]] = {}
    log = directory / RESULTS
    for line in _text(log).splitlines() if log.exists() else []:
        if line.strip():
            row = _json(log, line)
            results[int(row.get("training_iteration", len(results)))] = row
    checkpoints = {
        int(match[1]): path / WEIGHTS
        for path in sorted(directory.iterdir())
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / WEIGHTS).is_file()
    }
    return Trial(directory, params, results, checkpoints)


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise InvalidCheckpoint(f"`{path}` is larger than {LARGEST:,} bytes.", path=path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidCheckpoint(f"`{path}` is not text: {error}.", path=path) from None


def _json(path: Path, text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text, parse_constant=lambda _: None)  # NaN, of what diverged
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpoint(f"`{path}` is not JSON: {error}.", path=path) from None
    if not isinstance(found, dict):
        raise InvalidCheckpoint(f"`{path}` holds no object, but {text[:40]!r}.", path=path)
    return found


def _epochs(trial: Trial, epochs: Sequence[int] | None) -> list[int]:
    if epochs is None:
        return list(trial.checkpoints)[-1:]
    return [e for e in trial.checkpoints if e in epochs]


def _varied(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that differ between trials, the seed left out."""
    keys = {k for p in params for k in p if k.startswith(GROUPS) and k.split("::")[-1] != "seed"}
    return sorted(
        k
        for k in keys
        if all(isinstance(p.get(k), str | int | float | None) for p in params)
        and len({p.get(k) for p in params}) > 1
    )


def _names(name: str, trials: Sequence[Trial], varied: Sequence[str]) -> dict[Path, str]:
    """Directory of each trial -> entry; trials of one cell and seed are numbered."""
    taken: Counter[str] = Counter()
    found = {}
    for trial in trials:
        entry = f"{name}/{_cell(trial, varied)}-seed{trial.seed}"
        entry = re.sub(r"[^A-Za-z0-9._/-]", "_", entry)
        taken[entry] += 1
        numbered = entry if taken[entry] == 1 else f"{entry}-{taken[entry]}"
        found[trial.directory] = check_entry_name(numbered)
    return found


def _cell(trial: Trial, varied: Sequence[str]) -> str:
    return "-".join(f"{_short(k)}{trial.params.get(k)}" for k in varied) or "all"


def _short(key: str) -> str:
    return SHORT.get(key, key.replace("::", "."))


def _version(
    registry: Registry,
    trial: Trial,
    epoch: int,
    entry: str,
    name: str,
    varied: Sequence[str],
    task: str | None,
    license: str | None,
) -> Version:
    """The version of one checkpoint, made if it is not there."""
    results = [row for at, row in sorted(trial.results.items()) if at <= epoch]
    digest = json_digest([json.dumps(trial.params, sort_keys=True), epoch])
    if there := registry.select(f"name = '{entry}' and tag.{TRAINED} = '{digest}'"):
        return there[0]
    tags = {
        "name": name,
        "cell": _cell(trial, varied),
        "epoch": epoch,
        "last": "yes" if epoch == max(trial.checkpoints) else "no",
        "seed": trial.seed,
        **{_short(key): trial.params.get(key) for key in varied},
    }
    config = {k.removeprefix("model::"): v for k, v in trial.params.items() if "model::" in k}
    kind = config.pop("type", None)
    with registry.store.staging(f"import-{uuid4().hex}") as folder:
        model = folder / "model"
        model.mkdir()
        (model / "pytorch_model.bin").symlink_to(trial.checkpoints[epoch].resolve())
        if isinstance(kind, str):
            (model / "config.json").write_text(json.dumps({"model_type": kind, **config}))
        told = {
            "source": str(trial.checkpoints[epoch]),
            "params": dict(trial.params),
            "results": results,
        }
        (model / RECORD).write_text(json.dumps(told, indent=2) + "\n")
        return registry.register(
            model,
            name=entry,
            task=task,
            license=license,
            tags={TAG + key: str(value) for key, value in tags.items()} | {TRAINED: digest},
            metrics=_metrics(trial.results.get(epoch, {}), epoch),
            link_mode="copy",
        )


def _metrics(row: Mapping[str, Any], epoch: int) -> list[MetricValue]:
    """What was logged at an epoch, under our names."""
    found = []
    for key, value in row.items():
        protocol = {"source": RESULTS, "key": key, "epoch": epoch}
        if key in SCORES and _is_number(value):
            name, split = SCORES[key]
            found.append(MetricValue(name, float(value), split, protocol=protocol))
        elif (match := _HESSIAN.fullmatch(key)) and _is_number(value):
            name = "hessian_top" if match[1] == "top_eigenvalues" else "hessian_trace"
            found.append(MetricValue(name, float(value), match[2], protocol=protocol))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parse_epochs(text: str) -> list[int]:
    """Epochs from a word such as `50` or `10,20,50`.

    Raises:
        InvalidRecipe: it is no list of whole numbers.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InvalidRecipe(f"{text!r} lists no epochs.", how="Write them as `10,20,50`.")
    return [int(part) for part in parts]
