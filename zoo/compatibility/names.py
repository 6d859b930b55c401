"""Tensors that some of the models lack, and why: fewer layers, a prefix, other names, no head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.checkpoints.tied_heads import head_of
from zoo.compatibility.problem import Problem
from zoo.compatibility.settings import kind_of
from zoo.compatibility.wording import by_value, counted, together
from zoo.families import family_of
from zoo.recipes.schedule import layers, stack_of

if TYPE_CHECKING:
    from zoo.checkpoint import TensorInfo
    from zoo.engine.planned import Model

FEW = 0.2
"""Share of names in common below which two models are of different architectures, rather than
variants of one. Dimensionless; variants of a family share nearly all, families next to none."""
MOST = 0.8
"""Share of the differing names that a prefix or a renaming must pair, to be the reason."""

Tensors = dict[str, "TensorInfo"]


def without_uneven_layers(
    models: Sequence[Model], tensors: Sequence[Tensors]
) -> tuple[list[Problem], list[Tensors]]:
    """Models of different depth: told once, and the layers that not all have taken out."""
    counts = [_depths(own) for own in tensors]
    shared = set.intersection(*(set(c) for c in counts))
    uneven = sorted(s for s in shared if len({c[s] for c in counts}) > 1)
    if not uneven:
        return [], list(tensors)
    problems = []
    for stack in uneven:
        depth = {m.label: c[stack] for m, c in zip(models, counts, strict=True)}
        fewest = min(depth.values())
        cut = ", ".join(f"{{model: {label}, layers: [0, {fewest}]}}" for label in depth)
        problems.append(
            Problem(
                "layers",
                "error",
                f"the layers `{stack}*` are {by_value(depth)}",
                "layer i is merged with layer i, and some have no partner",
                f"Merge those that all have, in place of `experts` in the recipe: "
                f"`slices: [{{sources: [{cut}]}}]`; or choose models of one depth.",
                tuple(depth),
            )
        )
    fewest_of = {s: min(c[s] for c in counts) for s in uneven}

    def kept(name: str) -> bool:
        stack = stack_of(name)
        at = layers([name]).get(name)
        return stack not in fewest_of or at is None or at[0] < fewest_of[stack]

    return problems, [{n: t for n, t in own.items() if kept(n)} for own in tensors]


def _depths(tensors: Tensors) -> dict[str, int]:
    """Layers of each stack, by its prefix."""
    found = {}
    for name, (_, count) in layers(tensors).items():
        if stack := stack_of(name):
            found[stack] = count
    return found


def paired(
    first: Model, other: Model, reference: Tensors, tensors: Tensors
) -> tuple[list[Problem], dict[str, str] | None]:
    """Why two models name their tensors differently, where one reason covers nearly all.

    Returns:
        The problem, and for each name of `other` what `first` calls it; (no problem, no names)
        where there is no such reason, and (the problem, None) where nothing pairs them.
    """
    lacking, extra = reference.keys() - tensors.keys(), tensors.keys() - reference.keys()
    common = reference.keys() & tensors.keys()
    for one, two, have, beyond in (
        (other, first, lacking, extra),
        (first, other, extra, lacking),
    ):
        # `one` has the longer names.
        if prefix := _prefix(have, beyond):
            names = sorted(n for n in beyond if n.startswith(prefix))
            stripped = {n: n.removeprefix(prefix) for n in names}
            renamed = stripped if one is other else {v: k for k, v in stripped.items()}
            return [
                Problem(
                    "names",
                    "error",
                    f"`{one.label}` calls {len(names)} tensors what `{two.label}` calls them, with "
                    f"`{prefix}` before it (`{names[0]}`)",
                    "a merge pairs tensors by name",
                    _remedy_of_prefix(prefix, one.label, two.label),
                    (one.label, two.label),
                    tuple(names),
                )
            ], renamed
    if lacking and extra and (called := _renamed(first, other, lacking, extra)):
        was, now = min(called.items())
        several = len(set(called.values())) < len(called)
        return [
            Problem(
                "names",
                "error",
                f"`{other.label}` and `{first.label}` have the same tensors under names of "
                f"different versions of transformers ({len(called)} of them; `{was}` is "
                f"{'part of ' if several else ''}`{now}`)",
                "a merge pairs tensors by name",
                "Save both with one version: "
                f'`AutoModel.from_pretrained("{other.label}").save_pretrained("renamed")`.',
                (first.label, other.label),
                tuple(sorted(called)),
            )
        ], None if several else called
    if len(common) < FEW * min(len(reference), len(tensors)):
        kind = kind_of(first.checkpoint.opened.config)
        listing = f"; `zoo ls --where \"architecture = '{kind}'\"` lists some" if kind else ""
        return [
            Problem(
                "architecture",
                "error",
                f"{_told(first)} and {_told(other)} have {len(common)} tensor names in common, of "
                f"{len(reference)} and {len(tensors)}",
                "a merge pairs tensors by name, and these are different networks",
                f"Choose models of one architecture{listing}.",
                (first.label, other.label),
            )
        ], None
    return [], {}


def _told(model: Model) -> str:
    kind = kind_of(model.checkpoint.opened.config)
    return f"`{model.label}`" + (f" ({kind})" if kind else "")


def _prefix(have: Collection[str], beyond: Collection[str]) -> str | None:
    """What stands before the names of `beyond`, where they are otherwise those of `have`."""
    if not have or not beyond:
        return None
    known = set(have)
    found: Counter[str] = Counter()
    for name in beyond:
        at = name.find(".")
        while at >= 0:
            if name[at + 1 :] in known:
                found[name[: at + 1]] += 1
            at = name.find(".", at + 1)
    if not found:
        return None
    prefix, count = max(found.items(), key=lambda item: (item[1], -len(item[0]), item[0]))
    return prefix if count >= MOST * min(len(have), len(beyond)) and count > 1 else None


def _remedy_of_prefix(prefix: str, long: str, short: str) -> str:
    if prefix in ("module.", "_orig_mod."):
        wrapper = "DataParallel" if prefix == "module." else "torch.compile"
        return (
            f"It was saved out of {wrapper}. Save it without: `save_file({{k.removeprefix("
            f"'{prefix}'): v for k, v in load_file('{long}').items()}}, 'renamed.safetensors')`."
        )
    return (
        f"One was saved with its head and one without. Save both as one class: "
        f'`AutoModel.from_pretrained("{long}").save_pretrained("bare")`, and merge that with '
        f"`{short}`."
    )


def _renamed(
    first: Model, other: Model, lacking: Collection[str], extra: Collection[str]
) -> dict[str, str]:
    """What `first` calls tensors of `other` that transformers has called otherwise meanwhile.

    Empty where that is not the reason why most of them differ. Several names may lead to one:
    what was a tensor for each expert is one of all experts now.
    """
    ours, theirs = (_called(m) for m in (first, other))
    by_name: dict[str, list[str]] = {}
    for name in lacking:
        by_name.setdefault(ours.get(name, name), []).append(name)
    found = {}
    for name in extra:
        if now := by_name.get(theirs.get(name, name)):
            found[name] = min(now)
    paired_here = {ours.get(n, n) for n in found.values()}
    reached = sum(len(by_name[n]) for n in paired_here)
    return found if len(found) >= MOST * len(extra) and reached >= MOST * len(lacking) else {}


def _called(model: Model) -> dict[str, str]:
    """What transformers calls a model's tensors now, where that is not what they are called."""
    names = list(model.checkpoint.tensors)
    family = family_of(model.checkpoint.opened.config, names)
    if family is None:
        return {}
    differing = family.compare(names)
    fused = {part: whole for whole, parts in differing.fused.items() for part in parts}
    return fused | dict(differing.renamed)


def missing(
    models: Sequence[Model],
    tensors: Mapping[int, Tensors],
    owes: Callable[[int, str], bool],
    donor: Model,
) -> list[Problem]:
    """What models lack that others have, each set of names told once.

    Args:
        tensors: by index of the model; under the names that the first of them uses.
        owes: whether the model of an index must have a tensor.
    """
    grouped: dict[tuple[int, ...], list[str]] = {}
    for name in sorted({n for own in tensors.values() for n in own}):
        lacking = tuple(i for i, own in tensors.items() if name not in own and owes(i, name))
        if lacking:
            grouped.setdefault(lacking, []).append(name)
    problems = []
    for who, names in grouped.items():
        labels = list(dict.fromkeys(models[i].label for i in who))
        having = [models[i].label for i, own in tensors.items() if i not in who and names[0] in own]
        why, remedy = _remedy_of_missing(names, [models[i] for i in who], donor)
        problems.append(
            Problem(
                "head" if names == [head_of(names)] else "names",
                "error",
                f"{together(labels)} {'lacks' if len(labels) == 1 else 'lack'} {counted(names)}, "
                f"which {together(having)} {'has' if len(set(having)) == 1 else 'have'}",
                why,
                remedy,
                tuple(labels),
                tuple(names),
            )
        )
    return problems


def _remedy_of_missing(
    names: Sequence[str], lacking: Sequence[Model], donor: Model
) -> tuple[str, str]:
    """(why it matters, what to do) where models lack some names."""
    if names == [head_of(names)]:
        return (
            "its configuration does not tie the head to the embeddings"
            if len(lacking) == 1
            else "their configurations do not tie the head to the embeddings",
            'If it is the embeddings, say so in `config.json`: `"tie_word_embeddings": true`. '
            "Else the file is incomplete: get it again.",
        )
    one = len(names) == 1
    if any(m is donor for m in lacking):
        return "", f"`missing: base` in the recipe leaves {'it' if one else 'them'} out."
    theirs = "that" if one else "those"
    return "", f"`missing: base` in the recipe takes {theirs} of `{donor.label}`."


def globs(names: Sequence[str]) -> str:
    """Patterns that fit these names, as a recipe writes them; modules where names are many."""
    found = list(names)
    for parts in (-1, 1):
        if len(found) > 3:
            found = list(dict.fromkeys(_module(n, parts) for n in names))
    return "[" + ", ".join(f'"{n}"' for n in found) + "]"


def _module(name: str, parts: int) -> str:
    """A pattern for the module that a tensor is in: without its own name, or the outermost."""
    return ".".join([*name.split(".")[:parts], "*"]) if "." in name else name
