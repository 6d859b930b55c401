"""Names, shapes and types of the tensors of models that are to be merged, against each other.

One cause is told once. A vocabulary of another size is not also two tensors of another shape, and
a wider model is not two hundred of them: the configurations say which number makes them so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from zoo.checkpoints.quantization import quantization_of
from zoo.compatibility.names import Tensors, globs, missing, paired, without_uneven_layers
from zoo.compatibility.problem import Problem
from zoo.compatibility.settings import Settings, explained, kind_of, settings_of
from zoo.compatibility.wording import by_value, listed, together
from zoo.dtypes import DTYPES
from zoo.tokenizers.vocabulary import is_of_tokens

if TYPE_CHECKING:
    from zoo.checkpoint import TensorInfo
    from zoo.engine.planned import Model, Place

SINGLY = 4
"""Tensors of other shapes that are told one by one; more are counted."""
_ADAPTER = ("lora_A", "lora_B", "lora_down", "lora_up", "lora_embedding_A", "hada_w1_a", "lokr_w1")
"""Parts of the names of low-rank factors, in PEFT's layouts, kohya's and LyCORIS's."""


def differences(
    models: Sequence[Model],
    experts: int,
    excluded: set[str],
    places: Mapping[str, Place] | None = None,
) -> list[Problem]:
    """All that keeps the tensors of these models from being merged, one with the other.

    What is excluded may have another shape in each model, or be in some only: heads do.

    Args:
        experts: how many of the models are experts; the base, if there is one, is the last.
        excluded: names that are not merged.
        places: of a result of slices: views need not have every tensor.
    """
    problems = [p for m in models if (p := _unmergeable(m)) is not None]
    codes = {label for p in problems for label in p.models}
    kept = [i for i, m in enumerate(models) if m.label not in codes]
    if len(kept) < 2:
        return problems
    tensors: list[Tensors] = [
        {n: t for n, t in models[i].checkpoint.tensors.items() if n not in excluded} for i in kept
    ]
    if places is None:
        uneven, tensors = without_uneven_layers([models[i] for i in kept], tensors)
        problems += uneven

    def owes(number: int, name: str) -> bool:
        """Whether a model must have a tensor; views of slices need not have all."""
        return places is None or number >= experts or number < len(places[name].names)

    first, reference = models[kept[0]], tensors[0]
    alike = {kept[0]: reference}
    compared = _Compared(models)
    compared.add(kept[0], reference)
    for number, own in zip(kept[1:], tensors[1:], strict=True):
        other = models[number]
        if places is None and reference.keys() != own.keys():
            told, renamed = paired(first, other, reference, own)
            problems += told
            if renamed is None:
                continue
            own = {renamed.get(n, n): t for n, t in own.items()}
        alike[number] = own
        compared.add(number, own)
    donor = models[-1] if len(models) > experts else models[0]
    return [*problems, *missing(models, alike, owes, donor), *compared.problems(donor)]


def _unmergeable(model: Model) -> Problem | None:
    """Why no tensor of a model can be merged, whatever the others are."""
    tensors = model.checkpoint.tensors
    found = quantization_of(model.checkpoint.opened.config, tensors)
    if found is not None:
        return Problem(
            "quantized",
            "error",
            f"`{model.label}` stores {listed(found.tensors)} as codes of {found.kind}, "
            "which arithmetic is not defined on",
            remedy=found.remedy or "Dequantize it first.",
            models=(model.label,),
            tensors=found.tensors,
        )
    factors = [n for n in tensors if any(part in n for part in _ADAPTER)]
    if factors and len(factors) > len(tensors) / 2:
        return Problem(
            "adapter",
            "error",
            f"`{model.label}` is an adapter: {listed(factors)} are factors of what it adds to its "
            "base",
            "factors of different adapters do not add up to the sum of what they add",
            f"Register it with its base, and merge that: `zoo register {model.label} --name NAME "
            "--kind adapter --base REF`.",
            (model.label,),
            tuple(factors),
        )
    return None


class _Pair(NamedTuple):
    """A tensor that two models have in different shapes, or of types that do not go together."""

    first: int
    other: int
    name: str
    ours: str
    """Shape or type in the first."""
    theirs: str


class _Compared:
    """Shapes and types of what all models have, the causes collected over all of them."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self._settings: dict[int, Settings] = {}
        self._first: dict[str, tuple[int, TensorInfo]] = {}
        self._explained: dict[str, list[_Pair]] = {}
        """By our key of the configuration's value; `vocab_size` for rows that are tokens'."""
        self._plain: list[_Pair] = []
        self._types: list[_Pair] = []

    def add(self, index: int, tensors: Tensors) -> None:
        """Compare a model's tensors, each with that of the first model that has it."""
        for name, b in sorted(tensors.items()):
            owner, a = self._first.setdefault(name, (index, b))
            if a.shape != b.shape:
                found = _Pair(owner, index, name, str(list(a.shape)), str(list(b.shape)))
                keys = self._reasons(owner, index, name, a.shape, b.shape)
                for key in keys:
                    self._explained.setdefault(key, []).append(found)
                if not keys:
                    self._plain.append(found)
            elif DTYPES[a.dtype].merges != DTYPES[b.dtype].merges:
                self._types.append(_Pair(owner, index, name, a.dtype, b.dtype))

    def _reasons(
        self, first: int, other: int, name: str, a: Sequence[int], b: Sequence[int]
    ) -> list[str]:
        """Our keys of what makes a tensor differ in shape; none where an axis has no reason."""
        if len(a) != len(b) or not a:
            return []
        if is_of_tokens(name) and a[0] != b[0] and a[1:] == b[1:]:
            return ["vocab_size"]
        keys = []
        for sizes in zip(a, b, strict=True):
            if sizes[0] != sizes[1]:
                key = explained(self._of(first), self._of(other), sizes)
                if key is None:
                    return []
                keys.append(key)
        return list(dict.fromkeys(keys))

    def _of(self, index: int) -> Settings:
        if index not in self._settings:
            config = self._models[index].checkpoint.opened.config
            self._settings[index] = settings_of(config)
        return self._settings[index]

    def problems(self, donor: Model) -> list[Problem]:
        found = []
        for key, pairs in self._explained.items():
            found.append(
                self._vocabulary(pairs) if key == "vocab_size" else self._sizes(key, pairs, donor)
            )
        return [*found, *self._unexplained(donor), *self._of_types()]

    def _labels(self, pairs: Sequence[_Pair]) -> list[int]:
        return sorted({i for p in pairs for i in (p.first, p.other)})

    def _vocabulary(self, pairs: Sequence[_Pair]) -> Problem:
        rows: dict[str, str] = {}
        for pair in pairs:
            for index, shape in ((pair.first, pair.ours), (pair.other, pair.theirs)):
                rows.setdefault(self._models[index].label, shape.strip("[]").partition(",")[0])
        names = list(dict.fromkeys(p.name for p in pairs))
        return Problem(
            "vocabulary",
            "error",
            f"the vocabularies differ: rows of {together(names)} are {by_value(rows)}",
            "row i is token i's, and some tokens have no partner",
            "`tokenizer: {source: union}` in the recipe (or `base`, or one of the models) says "
            "whose the result has; `mismatch: crop` keeps the rows that all have.",
            tuple(rows),
            tuple(names),
        )

    def _sizes(self, key: str, pairs: Sequence[_Pair], donor: Model) -> Problem:
        labels = {i: self._models[i].label for i in self._labels(pairs)}
        values = {labels[i]: self._said(i, key) for i in labels}
        spelt = self._of(pairs[0].first).spelt.get(key, key)
        names = tuple(dict.fromkeys(p.name for p in pairs))
        return Problem(
            "shapes",
            "error",
            f"`{spelt}` is {by_value(values)}: {_first_of(pairs)}",
            "numbers are merged with those in the same place",
            self._remedy_of_sizes(key, names, pairs, donor),
            tuple(labels.values()),
            names,
        )

    def _said(self, index: int, key: str) -> object:
        settings = self._of(index)
        if key == "head_dim":
            return settings.head_dim
        return settings.key_value_heads if key == "num_key_value_heads" else settings.get(key)

    def _remedy_of_sizes(
        self, key: str, names: Sequence[str], pairs: Sequence[_Pair], donor: Model
    ) -> str:
        if key in ("num_labels", "type_vocab_size", "max_position_embeddings"):
            return f"`exclude: {globs(names)}` in the recipe keeps those of `{donor.label}`."
        kind = kind_of(self._models[pairs[0].first].checkpoint.opened.config)
        listing = f"; `zoo ls --where \"architecture = '{kind}'\"` lists some" if kind else ""
        return f"No recipe makes them fit: choose models of one size{listing}."

    def _unexplained(self, donor: Model) -> list[Problem]:
        grouped: dict[tuple[int, int], list[_Pair]] = {}
        for pair in self._plain:
            grouped.setdefault((pair.first, pair.other), []).append(pair)
        problems = []
        for (first, other), pairs in grouped.items():
            labels = (self._models[first].label, self._models[other].label)
            names = tuple(p.name for p in pairs)
            remedy = f"`exclude: {globs(names)}` in the recipe keeps those of `{donor.label}`."
            if len(pairs) <= SINGLY:
                problems += [
                    Problem(
                        "shapes",
                        "error",
                        f"tensor `{p.name}` is {p.ours} in `{labels[0]}` and {p.theirs} in "
                        f"`{labels[1]}`",
                        "one is the other transposed" if _transposed(p) else "",
                        f'`exclude: ["{p.name}"]` in the recipe keeps that of `{donor.label}`.',
                        labels,
                        (p.name,),
                    )
                    for p in pairs
                ]
                continue
            problems.append(
                Problem(
                    "shapes",
                    "error",
                    f"`{labels[0]}` and `{labels[1]}` differ: {_first_of(pairs)}",
                    "numbers are merged with those in the same place",
                    remedy,
                    labels,
                    names,
                )
            )
        return problems

    def _of_types(self) -> list[Problem]:
        grouped: dict[tuple[int, int, str, str], list[str]] = {}
        for p in self._types:
            grouped.setdefault((p.first, p.other, p.ours, p.theirs), []).append(p.name)
        problems = []
        for (first, other, ours, theirs), names in grouped.items():
            labels = (self._models[first].label, self._models[other].label)
            whole = labels[0] if not DTYPES[ours].merges else labels[1]
            one = len(names) == 1
            problems.append(
                Problem(
                    "types",
                    "error",
                    f"tensor `{names[0]}` is {ours} in `{labels[0]}` and {theirs} in `{labels[1]}`"
                    if one
                    else f"{listed(names)} are {ours} in `{labels[0]}` and {theirs} in "
                    f"`{labels[1]}`",
                    "one merges, the other does not",
                    f"Get `{whole}` in floating point, or keep what is copied: "
                    f"`exclude: {globs(names)}` in the recipe.",
                    labels,
                    tuple(names),
                )
            )
        return problems


def _first_of(pairs: Sequence[_Pair]) -> str:
    """`19 tensors have other shapes, first `x` ([8, 4] and [8, 6])`."""
    count, p = len({p.name for p in pairs}), pairs[0]
    if count == 1:
        return f"`{p.name}` is {p.ours} and {p.theirs}"
    return f"{count} tensors have other shapes, first `{p.name}` ({p.ours} and {p.theirs})"


def _transposed(pair: _Pair) -> bool:
    return pair.ours.strip("[]").split(", ")[::-1] == pair.theirs.strip("[]").split(", ")
