"""Tasks by declaration: data in files, or derived from another task; kept in a registry as data.

    name: fashion                           name: fashion-shoes
    format: npz                             from: fashion
    path: fashion_mnist.npz                 derive:
    splits:                                   - labels: [Sandal, Sneaker, Ankle boot]
      train: {inputs: x_train, targets: y}    - rotate: 90
      test: {inputs: x_test, targets: y_t}
    labels: [T-shirt, Trouser, ...]
    license: MIT

`format` is one of `zoo.readers`, which also say what `splits` and `options` hold; a split may have
a `fold: {of: 5, take: [1, 2]}` besides. `derive` lists steps of `zoo.tasks.derivations`.
`normalize: {mean, std}` comes last. A task that is derived takes over licence, splits and
normalization unless it has its own; its steps see the other's data before normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Len

from zoo.errors import InvalidTask, NotFound
from zoo.readers import reader
from zoo.tasks.data import DataTask, Normalization
from zoo.tasks.derivations import Step, fold, step
from zoo.tasks.options import options

if TYPE_CHECKING:
    from zoo.task import Task
    from zoo.tasks.examples import Examples

MEND = "Put the data back, or declare the task again with `zoo tasks add FILE --replace`."

_Positive = Annotated[float, Gt(0)]
_Splits = Annotated[Mapping[str, Any], Len(1)]


@dataclass(frozen=True)
class _Normalize:
    mean: float | tuple[float, ...]
    std: _Positive | tuple[_Positive, ...]


@dataclass(frozen=True)
class _OfFiles:
    """A declaration that names files."""

    name: str
    format: str
    path: str
    splits: _Splits
    options: Mapping[str, Any] | None = None
    labels: tuple[str, ...] = ()
    license: str | None = None
    normalize: _Normalize | None = None
    derive: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _OfTask:
    """A declaration that names another task, and what is stored of that one."""

    name: str
    source: str
    splits: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    license: str | None = None
    normalize: _Normalize | None = None
    derive: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Fold:
    of: Annotated[int, Ge(2)]
    take: Annotated[tuple[Annotated[int, Ge(1)], ...], Len(1)]


def read_declaration(written: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A declaration as plain data, with an absolute path.

    Args:
        written: path of a YAML file, in which a relative `path` starts from the file's directory;
            or the content, in which it starts from the working directory.
    Raises:
        NotFound, InvalidTask: there is no such file; it is no mapping.
    """
    place = Path.cwd()
    if not isinstance(written, Mapping):
        import yaml

        file = Path(written)
        place = file.absolute().parent
        try:
            written = yaml.safe_load(file.read_text("utf-8"))
        except FileNotFoundError as e:
            raise NotFound(f"There is no file `{file}`.", path=str(file)) from e
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise InvalidTask(f"`{file}` cannot be read: {e}.", path=str(file)) from e
        if not isinstance(written, Mapping):
            raise InvalidTask(
                f"`{file}` holds no declaration.",
                how="Write `name: ...` and so on.",
                path=str(file),
            )
    found = dict(written)
    if isinstance(found.get("path"), str):
        found["path"] = str((place / Path(found["path"]).expanduser()).absolute())
    return found


def declared(
    declaration: Mapping[str, Any],
    other: Callable[[str], Task],
    digests: Mapping[str, str] | None = None,
) -> DataTask:
    """The task that a declaration describes.

    Args:
        other: finds the task it is derived from; asked when data is read, or is not known yet.
        digests: of the data when it was declared; what has changed since is refused.
    Raises:
        InvalidTask: the declaration is wrong.
    """
    if "from" in declaration:
        return _derived(declaration, other, digests)
    what = options(_OfFiles, declaration, "the declaration")
    source = reader(what.format)
    chosen = options(source.Options, what.options or {}, f"`options` of format `{what.format}`")
    parts = {name: _part(source.Where, name, where) for name, where in what.splits.items()}
    steps = [step(written) for written in what.derive]

    def read(split: str) -> Examples:
        where, folded = parts[split]
        found = source.read(Path(what.path), where, chosen, what.labels)
        if folded is not None:
            found = fold(found, folded.of, folded.take)
        return _after(steps, found, split)

    return DataTask(
        what.name,
        read,
        # A registry keeps no order of keys.
        splits=sorted(parts, key=lambda name: (name != "train", name == "test", name)),
        labels=_relabelled(steps, what.labels),
        license=what.license,
        normalize=_normalization(what.normalize),
        digests=digests,
        mend=MEND,
    )


def completed(declaration: Mapping[str, Any], other: Callable[[str], Task]) -> dict[str, Any]:
    """The declaration with what is found in the data or in the task it is derived from: labels,
    splits, licence, normalization. Reads the data, where labels are to be found.

    Raises:
        InvalidTask: the declaration or the data is wrong.
    """
    found = {key: value for key, value in declaration.items() if value is not None}
    if "from" in found:
        return _completed_from(found, other)
    declared(found, other)  # all that can be said before data is read
    if not found.get("labels"):
        # Steps may name labels, so the data is read without them first.
        plain = declared({k: v for k, v in found.items() if k != "derive"}, other)
        every = [plain.raw(split).labels for split in plain.splits]
        longest = max(every, key=len)
        is_numbered = all(labels == longest[: len(labels)] for labels in every)
        found["labels"] = list(longest) if is_numbered else sorted({n for e in every for n in e})
    return found


def _completed_from(found: dict[str, Any], other: Callable[[str], Task]) -> dict[str, Any]:
    what = options(_OfTask, _renamed(found), "the declaration")
    source = _source(what, other)
    for key, own, theirs in (
        ("splits", set(what.splits), set(source.splits)),
        ("labels", {what.labels} - {()}, {source.labels}),
    ):
        if not own <= theirs:
            raise InvalidTask(
                f"The {key} of task `{what.name}` are not those of `{what.source}`, which has "
                f"{', '.join(getattr(source, key))}.",
                "They are those of the task it is derived from, before any step.",
                f"Leave out `{key}`.",
                task=what.name,
            )
    found["labels"] = list(source.labels)
    found.setdefault("splits", list(source.splits))
    if source.license is not None:
        found.setdefault("license", source.license)
    if source.normalize is not None:
        mean, std = source.normalize
        found.setdefault("normalize", {"mean": list(mean), "std": list(std)})
    return found


def _derived(
    declaration: Mapping[str, Any],
    other: Callable[[str], Task],
    digests: Mapping[str, str] | None,
) -> DataTask:
    what = options(_OfTask, _renamed(declaration), "the declaration")
    steps = [step(written) for written in what.derive]

    def read(split: str) -> Examples:
        return _after(steps, _source(what, other).raw(split), split)

    return DataTask(
        what.name,
        read,
        splits=what.splits,
        labels=_relabelled(steps, what.labels),
        license=what.license,
        normalize=_normalization(what.normalize),
        digests=digests,
        mend=MEND,
    )


def _renamed(declaration: Mapping[str, Any]) -> dict[str, Any]:
    """`from`, which is a word of Python's own, under the name of its field."""
    if "format" in declaration or "path" in declaration:
        raise InvalidTask(
            "A declaration has `from`, and `format` or `path` as well.",
            "Its data is that of another task, or in files.",
            "Leave out one of the two.",
        )
    return {"source" if key == "from" else key: value for key, value in declaration.items()}


def _source(what: _OfTask, other: Callable[[str], Task]) -> DataTask:
    try:
        source = other(what.source)
    except NotFound as e:
        raise InvalidTask(
            f"Task `{what.name}` is derived from `{what.source}`, which is not there.",
            e.how,
            "Declare that one first.",
            task=what.name,
        ) from e
    if not isinstance(source, DataTask):
        raise InvalidTask(
            f"Task `{what.name}` cannot be derived from `{what.source}`:",
            "steps work on data in memory, and that task gives its data otherwise.",
            task=what.name,
        )
    return source


def _part(where: type[Any], name: str, written: Any) -> tuple[Any, _Fold | None]:
    """What a declaration says of a split: for its reader, and which of its examples."""
    what, folded = f"split `{name}`", None
    if isinstance(written, Mapping) and "fold" in written:
        folded = options(_Fold, written["fold"], f"`fold` of {what}")
        if max(folded.take) > folded.of:
            raise InvalidTask(f"`fold` of {what} takes {max(folded.take)} of {folded.of}.")
        written = {key: value for key, value in written.items() if key != "fold"}
    return options(where, {} if written is None else written, what), folded


def _after(steps: list[Step], found: Examples, split: str) -> Examples:
    for each in steps:
        found = each(found, split)
    return found


def _relabelled(steps: list[Step], labels: tuple[str, ...]) -> tuple[str, ...]:
    for each in steps:
        labels = each.relabelled(labels) if labels else labels
    return labels


def _normalization(written: _Normalize | None) -> Normalization | None:
    if written is None:
        return None
    mean, std = (v if isinstance(v, tuple) else (v,) for v in (written.mean, written.std))
    return Normalization(mean, std)
