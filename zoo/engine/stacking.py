"""From a lock with slices and the models it names to models that look as if they were plain ones.

Every i-th source of a slice becomes a part of the i-th view: so a merge of slices is a merge of
views, tensor by tensor, in which a tensor knows how many of the views have it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.checkpoints.tied_heads import embeddings_of, head_beside, head_of, is_tied
from zoo.checkpoints.views import Piece, view
from zoo.engine.fitting import described_as_untied
from zoo.engine.layer_config import LayersOf, with_layers
from zoo.engine.plan import Model, Place, listed
from zoo.families import COMPONENTS, family_of
from zoo.recipes.schedule import (
    depth_at,
    depths,
    is_front,
    layer_count,
    layers,
    renumbered,
    stack_of,
)
from zoo.tokenizers.vocabulary import is_of_tokens

_KNOWN_AS = {
    "text_decoder": ("language_model",),
    "vision_tower": ("vision_tower", "vision_model", "visual"),
    "vision_model": ("vision_model", "vision_tower", "visual"),
    "multi_modal_projector": (
        "multi_modal_projector",
        "visual.merger",
        "visual.deepstack_merger_list",
    ),
}
"""Names that recipes use for modules, and what tensors of various models have for them."""


@dataclass
class Stack:
    """What slices make of models."""

    experts: list[Model] = field(default_factory=list)
    base: Model | None = None
    places: dict[str, Place] = field(default_factory=dict)
    """By the name a tensor has in the result."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A module of a model; all slices that take layers of it share one."""

    model: Model
    names: tuple[str, ...]
    """Its tensors."""
    by_layer: Mapping[int, list[str]]
    stacks: tuple[str, ...]
    """The prefixes under which its layers are numbered."""

    @property
    def count(self) -> int:
        """Layers it has."""
        return max(self.by_layer, default=-1) + 1


@dataclass(frozen=True, slots=True)
class _Part:
    """One source of a slice."""

    cut: _Cut
    start: int
    length: int
    """Layers taken; 0 takes the module as it is."""

    @property
    def model(self) -> Model:
        return self.cut.model

    @property
    def names(self) -> tuple[str, ...]:
        return self.cut.names

    @property
    def config(self) -> Mapping[str, Any] | None:
        return self.model.checkpoint.opened.config

    def at(self, name: str, layer: int) -> str:
        """What it calls a tensor of the slice's `layer`."""
        return renumbered(name, self.start + layer)

    def of(self, layer: int) -> list[str]:
        """Its tensors in the slice's `layer`."""
        return self.cut.by_layer.get(self.start + layer, [])


@dataclass(frozen=True, slots=True)
class _Opened:
    """One slice, its sources found."""

    number: int
    """From 1, for messages."""
    experts: tuple[_Part, ...]
    base: _Part | None
    parameters: Mapping[str, Any]

    @property
    def all(self) -> tuple[_Part, ...]:
        return (*([self.base] if self.base else []), *self.experts)


def stack(lock: Mapping[str, Any], models: Iterable[Model], donor: Model) -> Stack:
    """Views of the models as the lock's slices cut and stack them.

    The configuration is the donor's, for as many layers as there are now. What is wrong is listed
    in `problems`; no tensor is read.
    """
    by_digest = {m.digest: m for m in models}
    found = Stack()
    layout = _Layout(lock, found)
    modules = list(dict.fromkeys(s["module"] for s in lock["slices"]))
    cuts = {d: _cuts(m, modules) for d, m in by_digest.items()}
    config = donor.checkpoint.opened.config
    for module in modules:
        opened = [
            _opened(number, one, cuts)
            for number, one in enumerate(lock["slices"], 1)
            if one["module"] == module
        ]
        firsts = [o.all[0] for o in opened]
        if not _sound(opened, found):
            continue
        _check_shapes(opened, found)
        if not firsts[0].length:
            layout.whole(opened[0])
            continue
        layout.layered(opened)
        if config is not None and layout.untied(config):
            config = described_as_untied(config)
        if config is not None:
            taken = [
                LayersOf(p.model.checkpoint.opened.config or {}, p.start, p.length, p.cut.count)
                for p in firsts
            ]
            own = [
                n
                for n, m in module_of(donor.checkpoint.tensors, modules, config).items()
                if m == module
            ]
            config, notes = with_layers(config, taken, layer_count(own), module)
            found.notes.extend(notes)
    layout.close()
    _check_modules(lock, by_digest, modules, found)
    if not found.problems:
        found.experts = [view(pieces, config) for pieces in layout.experts]
        found.base = view(layout.base, config) if layout.base else None
    return found


def _cuts(model: Model, modules: Sequence[str | None]) -> dict[str | None, _Cut]:
    """What every module is in a model."""
    names: dict[str | None, list[str]] = {module: [] for module in modules}
    config = model.checkpoint.opened.config
    for name, module in module_of(model.checkpoint.tensors, modules, config).items():
        names.setdefault(module, []).append(name)
    found = {}
    for module, own in names.items():
        by_layer: dict[int, list[str]] = {}
        for name, (layer, _) in layers(own).items():
            by_layer.setdefault(layer, []).append(name)
        stacks = sorted({s for n in own if (s := stack_of(n)) is not None})
        found[module] = _Cut(model, tuple(own), by_layer, tuple(stacks))
    return found


def _opened(
    number: int, one: Mapping[str, Any], cuts: Mapping[str, Mapping[str | None, _Cut]]
) -> _Opened:
    def part(source: Mapping[str, Any]) -> _Part:
        start, stop = source["layers"] or (0, 0)
        return _Part(cuts[source["model"]][one["module"]], start, stop - start)

    return _Opened(
        number,
        tuple(part(s) for s in one["sources"]),
        part(one["base"]) if one["base"] else None,
        one["parameters"],
    )


def _sound(opened: Sequence[_Opened], found: Stack) -> bool:
    """Whether the ranges lie in their models and fit each other."""
    before = len(found.problems)
    for one in opened:
        if not one.all[0].length and len(opened) > 1:
            found.problems.append(
                f"slice {one.number} takes no layers, but all there is, and others follow: "
                "give it `layers`"
            )
        if len({p.length for p in one.all}) > 1:
            found.problems.append(
                f"slice {one.number} has sources of "
                f"{' and '.join(str(p.length) for p in one.all)} layers: its ranges must be "
                "equally long"
            )
        for part in one.all:
            stacks = part.cut.stacks
            if part.length and len(stacks) > 1:
                found.problems.append(
                    f"`{part.model.label}` numbers layers under "
                    f"{', '.join(f'`{s}`' for s in stacks)}: slice each as a module of its own, "
                    "under `modules`"
                )
            elif part.length and part.start + part.length > part.cut.count:
                found.problems.append(
                    f"slice {one.number} takes the layers from {part.start} to "
                    f"{part.start + part.length - 1} of `{part.model.label}`, which has "
                    f"{part.cut.count}"
                )
    return len(found.problems) == before


def _check_modules(
    lock: Mapping[str, Any],
    models: Mapping[str, Model],
    modules: Sequence[str | None],
    found: Stack,
) -> None:
    """Every module has tensors, and every tensor a module."""
    if modules == [None]:
        return
    model = models[lock["slices"][0]["sources"][0]["model"]]
    whose = module_of(model.checkpoint.tensors, modules, model.checkpoint.opened.config)
    for module in modules:
        if module not in whose.values():
            found.problems.append(f"no tensor of `{model.label}` belongs to a module `{module}`")
    left = [n for n, module in whose.items() if module is None]
    if left:
        found.problems.append(
            f"{len(left)} tensors of `{model.label}` are in none of the modules, first "
            f"`{left[0]}`: name the module that has them"
        )


def module_of(
    names: Collection[str],
    modules: Sequence[str | None],
    config: Mapping[str, Any] | None = None,
) -> dict[str, str | None]:
    """The module of each tensor: the one whose name, or another it goes by, is in the tensor's.

    The longest such name decides. A module that no name fits is the component that the model's
    family has for it (`zoo.families`). One module may have no tensors of its own: it has the rest,
    as the decoder has in models whose other parts were added to it. Where none is without, head and
    embeddings are of what makes text.
    """
    if list(modules) == [None]:
        return dict.fromkeys(names)
    patterns = [
        (f".{pattern}.", module)
        for module in modules
        if module is not None
        for pattern in _KNOWN_AS.get(module, (module,))
    ]
    patterns.sort(key=lambda pair: -len(pair[0]))
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = next((m for p, m in patterns if p in f".{name}."), None)
    silent = [m for m in modules if m not in found.values()]
    left = [n for n, m in found.items() if m is None]
    family = family_of(config, names) if config and left else None
    if family is not None and silent:
        of = {COMPONENTS.get(m or "", m): m for m in silent}
        found |= {n: of[c] for n in left if (c := family.component_of(n)) in of}
        silent = [m for m in modules if m not in found.values()]
    if len(silent) == 1:
        return {name: silent[0] if m is None else m for name, m in found.items()}
    if family is not None and not silent:
        own = {COMPONENTS.get(m or "", m): m for m in modules}
        makes_text = own.get("text", own.get("decoder"))
        called = family.called(names).names
        for name in (n for n, m in found.items() if m is None):
            if called.get(name) in (family.head, family.embeddings, *family.tied):
                found[name] = makes_text
    return found


class _Layout:
    """The pieces of each view, as they are found."""

    def __init__(self, lock: Mapping[str, Any], found: Stack) -> None:
        self.experts: list[dict[str, Piece]] = []
        self.base: dict[str, Piece] = {}
        self._found = found
        self._mergekit = lock["compat"] == "mergekit"
        self._lacking: dict[str, list[str]] = {}

    def whole(self, one: _Opened) -> None:
        """A module as it is, layers and all."""
        names = one.all[0].names
        depth = depths(names, mergekit=self._mergekit)
        for name in names:
            self._put(one, name, [name] * len(one.all), depth[name])
        for part in one.all[1:]:
            self._more(one, part, sorted(set(part.names) - set(names)))

    def layered(self, opened: Sequence[_Opened]) -> None:
        """Layers numbered anew, between what comes before those of the first slice and what
        comes after those of the last."""
        head = self._head(opened[0], opened[-1])
        for one, front in ((opened[0], True), (opened[-1], False)):
            depth = 0.0 if front or self._mergekit else 1.0
            outside = [
                {n for n in p.names if stack_of(n) is None and is_front(n) == front}
                for p in one.all
            ]
            if head is not None and not front:
                self._put(one, *head, depth)
                outside = [names - {head[0]} for names in outside]
            for name in sorted(outside[0]):
                self._put(one, name, [name] * len(one.all), depth)
            for part, names in zip(one.all[1:], outside[1:], strict=True):
                self._more(one, part, sorted(names - outside[0]))
        offset = 0
        for one in opened:
            self._layers(one, offset)
            offset += one.all[0].length

    def _head(self, first: _Opened, last: _Opened) -> tuple[str, list[str]] | None:
        """The head, and what each source of the last slice has for it: a tied model has its
        embeddings. None where all are tied to what are the result's embeddings anyway.
        """
        embeddings = embeddings_of(last.all[0].names, last.all[0].config)
        stored = next((h for p in last.all if (h := head_of(p.names, p.config)) is not None), None)
        head = stored or (head_beside(embeddings) if embeddings else None)
        if head is None or embeddings is None:
            return None
        tied = [is_tied(p.config) for p in last.all]
        has = [head if head in p.names else embeddings for p in last.all]
        if any(h == embeddings and not t for h, t in zip(has, tied, strict=True)):
            return None
        fronts = [Piece(p.model, embeddings).digest for p in first.all if embeddings in p.names]
        if not stored and fronts == [Piece(p.model, embeddings).digest for p in last.all]:
            return None
        return head, has

    def untied(self, config: Mapping[str, Any]) -> bool:
        """Whether the configuration ties a head that comes from elsewhere than the embeddings."""
        pieces = self.base or self.experts[0]
        embeddings, head = embeddings_of(pieces, config), head_of(pieces, config)
        if embeddings is None or head is None or not is_tied(config):
            return False
        return pieces[head].digest != pieces[embeddings].digest and (
            pieces[head].model is not pieces[embeddings].model or pieces[head].name == embeddings
        )

    def _layers(self, one: _Opened, offset: int) -> None:
        first, length = one.all[0], one.all[0].length
        for layer in range(length):
            depth = depth_at(layer, length, mergekit=self._mergekit)
            names = first.of(layer)
            for name in names:
                called = [p.at(name, layer) for p in one.all]
                self._put(one, renumbered(name, offset + layer), called, depth)
            for part in one.all[1:]:
                known = {part.at(name, layer) for name in names}
                self._more(one, part, sorted(set(part.of(layer)) - known))

    def _put(self, one: _Opened, out: str, called: Sequence[str], depth: float) -> None:
        """One tensor of the result, from each source of its slice."""
        targets = [*([self.base] if one.base else []), *self._views(len(one.experts))]
        for part, name, target in zip(one.all, called, targets, strict=True):
            if name in part.model.checkpoint.tensors:
                target[out] = Piece(part.model, name)
            else:
                self._lacking.setdefault(part.model.label, []).append(name)
        own = tuple(called[1:] if one.base else called)
        self._found.places[out] = Place(one.parameters, depth, own)

    def _views(self, count: int) -> list[dict[str, Piece]]:
        while len(self.experts) < count:
            self.experts.append({})
        return self.experts[:count]

    def _more(self, one: _Opened, part: _Part, names: Sequence[str]) -> None:
        if names:
            self._found.problems.append(
                f"slice {one.number}: `{one.all[0].model.label}` lacks {listed(names)}, which "
                f"`{part.model.label}` has"
            )

    def close(self) -> None:
        for label, names in self._lacking.items():
            self._found.problems.append(
                f"`{label}` lacks {listed(names)}, which other sources of the slice have"
            )


def _check_shapes(opened: Sequence[_Opened], found: Stack) -> None:
    """Layers that follow each other must fit, though no method sees them together.

    A model whose layers differ among themselves is no error: a tensor fits if the first model has
    one of its shape, in any layer.
    """

    def shapes(part: _Part) -> dict[str, set[tuple[int, ...]]]:
        tensors = part.model.checkpoint.tensors
        of: dict[str, set[tuple[int, ...]]] = {}
        for name in part.names:
            of.setdefault(renumbered(name, 0), set()).add(tensors[name].shape)
        return of

    first = opened[0].all[0]
    known = shapes(first)
    seen = {first.model.digest}
    for one in opened[1:]:
        part = one.all[0]
        if part.model.digest in seen:
            continue
        seen.add(part.model.digest)
        for name, own in shapes(part).items():
            theirs = known.get(name)
            if theirs is None and stack_of(name) is not None:
                found.problems.append(
                    f"`{first.model.label}` has no layer with a tensor like `{name}` of "
                    f"`{part.model.label}`, which slice {one.number} adds"
                )
            elif theirs is not None and not own <= theirs and not is_of_tokens(name):
                found.problems.append(
                    f"tensors like `{name}` are {_either(theirs)} in `{first.model.label}` and "
                    f"{_either(own)} in `{part.model.label}`: these layers cannot follow each other"
                )


def _either(shapes: Iterable[tuple[int, ...]]) -> str:
    return " or ".join(str(list(shape)) for shape in sorted(shapes))
