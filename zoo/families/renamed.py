"""Models of one family whose files name tensors differently, shown with the names of one of them.

    model.layers.0.block_sparse_moe.experts.0.w1.weight     as one version of transformers wrote it
    model.layers.0.mlp.experts.gate_up_proj                 as another does: all experts, fused

A view reads every tensor where it is. Fused tensors whose bytes are those of their parts, one after
the other, are put together, or taken apart; others are told of as problems. Copies of tied tensors
that some of the models leave out, and buffers that transformers computes itself, are left out
of all. Models whose tensors have the same names stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.digest import json_digest
from zoo.dtypes import DTYPES
from zoo.families.family import Family
from zoo.families.find import family_of
from zoo.families.renames import Called

if TYPE_CHECKING:
    from zoo.engine.inputs import Input, Inputs
    from zoo.engine.planned import Model


class Segment(NamedTuple):
    """Consecutive elements of a tensor."""

    name: str
    start: int
    """The first element."""
    length: int


@dataclass
class Aligned:
    """Models with the names of one of them."""

    models: list[Model]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Renamed(Checkpoint):
    """A checkpoint whose tensors are segments of another's.

    The checkpoint behind it belongs to somebody else: closing this closes nothing.
    """

    def __init__(
        self,
        own: Checkpoint,
        segments: Mapping[str, tuple[Segment, ...]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._own = own
        self._segments = dict(sorted(segments.items()))
        self.opened = own.opened
        self.tensors = {
            name: _info(name, own.tensors[parts[0].name], shapes[name])
            for name, parts in self._segments.items()
        }

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        width = DTYPES[self.tensors[name].dtype].bits // 8
        for segment in self._segments[name]:
            size = segment.length * width
            if not buffer:
                return
            if start < size:
                n = min(size - start, len(buffer))
                self._own.read_into(segment.name, segment.start * width + start, buffer[:n])
                buffer, start = buffer[n:], 0
            else:
                start -= size


def with_common_names(inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
    """The inputs of a merge, all with the names that the donor's tensors have; and what was done.

    Raises:
        IncompatibleModels: a model has tensors in a form that cannot be read in another.
    """
    donor = inputs.donor
    every: list[Input] = [donor, *inputs.experts]
    every += [one for one in (inputs.base, inputs.giver) if one is not None]
    found = aligned([one.model for one in every])
    if found.problems:
        from zoo.engine.plan import refuse

        refuse(found.problems)
    if all(a is one.model for a, one in zip(found.models, every, strict=True)):
        return inputs, ()
    by_label = {id(o.model): m for o, m in zip(every, found.models, strict=True)}

    def shown(one: Input) -> Input:
        return replace(one, model=by_label[id(one.model)])

    return replace(
        inputs,
        experts=tuple(map(shown, inputs.experts)),
        base=shown(inputs.base) if inputs.base else None,
        giver=shown(inputs.giver) if inputs.giver else None,
    ), tuple(found.notes)


def aligned(models: Sequence[Model]) -> Aligned:
    """Models of one family, with the names that the first has. Only headers are looked at.

    Models of other families, and those that the data does not know, stay as they are.
    """
    donor = models[0]
    names = donor.checkpoint.tensors.keys()
    if all(m.checkpoint.tensors.keys() == names for m in models):
        return Aligned(list(models))
    family = family_of(donor.checkpoint.opened.config, names)
    if family is None or not family.known:
        return Aligned(list(models))
    return _Alignment(donor, family).of(models)


class _Alignment:
    def __init__(self, donor: Model, family: Family) -> None:
        self._donor, self._family = donor, family
        self._called = family.called(donor.checkpoint.tensors.keys())
        self._notes: list[str] = []
        self._problems: list[str] = []
        here: dict[str, str] = {}
        for name, canonical in self._called.names.items():
            here.setdefault(canonical, name)
        self._here = here
        """Name of transformers' -> the donor's."""

    def of(self, models: Sequence[Model]) -> Aligned:
        pieces: dict[int, dict[str, tuple[Segment, ...]]] = {}
        kin: list[Model] = []
        for model in models:
            if id(model) in pieces:
                continue
            config = model.checkpoint.opened.config or {}
            if config and config.get("model_type") != self._family.name:
                continue
            kin.append(model)
            pieces[id(model)] = self._named(model)
        self._without_copies(kin, pieces)
        self._without_buffers(kin, pieces)
        made: dict[int, Model] = {}
        for model in kin:
            made[id(model)] = self._shown(model, pieces[id(model)])
        found = [made.get(id(m), m) for m in models]
        return Aligned(found, list(dict.fromkeys(self._notes)), self._problems)

    def _named(self, model: Model) -> dict[str, tuple[Segment, ...]]:
        """A model's tensors under the donor's names, and what is left under its own."""
        tensors, wanted = model.checkpoint.tensors, self._donor.checkpoint.tensors
        found = {n: _whole(tensors[n]) for n in tensors if n in wanted}
        rest = {n for n in tensors if n not in wanted}
        absent = [n for n in wanted if n not in tensors]
        if rest and absent:
            called = self._family.called(tensors.keys())
            streams = _Streams(tensors, called)
            odd: list[str] = []
            for name in absent:
                segments = self._made(name, streams)
                if segments is None:
                    continue
                if not segments:
                    odd.append(name)
                    continue
                found[name] = segments
                rest -= {s.name for s in segments}
            if odd:
                rest -= streams.odd
                self._problems.append(
                    f"`{model.label}` stores what makes up `{odd[0]}`"
                    + (f" and {len(odd) - 1} tensors more" if len(odd) > 1 else "")
                    + f" of `{self._donor.label}` in another form, whose values are in another "
                    "order: write both with one version of transformers, "
                    "`AutoModel.from_pretrained(DIR).save_pretrained(NEW)`"
                )
        found |= {n: _whole(tensors[n]) for n in rest}
        return found

    def _made(self, name: str, streams: _Streams) -> tuple[Segment, ...] | None:
        """A tensor of the donor's, made of a model's; empty if it cannot be, None if there is
        nothing to make it of."""
        called, tensors = self._called, self._donor.checkpoint.tensors
        if (canonical := called.names.get(name)) is not None:
            return streams.of(canonical)
        if (parts := called.split.get(name)) is not None:
            if not parts.contiguous:
                return () if streams.of(parts.names[0]) is not None else None
            made: list[Segment] = []
            for part in parts.names:
                segments = streams.of(part)
                if not segments:
                    return segments
                made += segments
            return tuple(made)
        whole, parts = next((w, p) for w, p in called.fused.items() if name in p.names)
        segments = streams.of(whole)
        if not segments:
            return segments
        if not parts.contiguous:
            return ()
        start = sum(tensors[p].elements for p in parts.names[: parts.names.index(name)])
        return _cut(segments, start, tensors[name].elements)

    def _without_copies(
        self, kin: Sequence[Model], pieces: Mapping[int, dict[str, tuple[Segment, ...]]]
    ) -> None:
        """Leave out second copies of tied tensors that not all have; the head is left to fitting,
        where a model has the embeddings."""
        for target, source in self._family.tied.items():
            copy = self._here.get(target, target)
            first = self._here.get(source, source)
            having = [m for m in kin if copy in pieces[id(m)]]
            for model in having:
                own = pieces[id(model)]
                if first not in own and any(first in pieces[id(m)] for m in kin):
                    own[first] = own.pop(copy)
            having = [m for m in kin if copy in pieces[id(m)]]
            if not having or len(having) == len(kin) or target == self._family.head:
                continue
            if all(_same(m, pieces[id(m)], copy, first) for m in having):
                for model in having:
                    del pieces[id(model)][copy]
                labels = ", ".join(f"`{m.label}`" for m in having)
                self._notes.append(f"`{copy}` is left out: in {labels} it is `{first}` once more")

    def _without_buffers(
        self, kin: Sequence[Model], pieces: Mapping[int, dict[str, tuple[Segment, ...]]]
    ) -> None:
        """Leave out what transformers passes over, where not all have it."""
        known = set(self._family.compare(self._donor.checkpoint.tensors.keys()).ignored)
        for model in kin:
            for name in list(pieces[id(model)]):
                ignored = name in known or (
                    name not in self._called.names and self._family.renames.ignores(name)
                )
                if ignored and not all(name in pieces[id(m)] for m in kin):
                    del pieces[id(model)][name]
                    self._notes.append(
                        f"`{name}` of `{model.label}` is left out: transformers computes it"
                    )

    def _shown(self, model: Model, segments: Mapping[str, tuple[Segment, ...]]) -> Model:
        tensors = model.checkpoint.tensors
        if segments.keys() == tensors.keys() and all(
            len(s) == 1 and s[0].name == n for n, s in segments.items()
        ):
            return model
        shapes = {n: self._shape(n, parts, tensors) for n, parts in segments.items()}
        renamed = [n for n, s in segments.items() if s[0].name != n or len(s) > 1]
        if renamed:
            self._notes.append(
                f"{len(renamed)} tensors of `{model.label}` are shown with the names that "
                f"`{self._donor.label}` has for them, as `{segments[renamed[0]][0].name}` for "
                f"`{renamed[0]}`"
            )
        digests = {n: _digest(model, n, parts) for n, parts in segments.items()}
        artifacts = {}
        for role, artifact in model.artifacts.items():
            own = {
                n: parts
                for n, parts in segments.items()
                if all(p.name in artifact.checkpoint.tensors for p in parts)
            }
            of = {n: shapes[n] for n in own}
            artifacts[role] = replace(
                artifact,
                checkpoint=Renamed(artifact.checkpoint, own, of),
                digests={n: _digest(artifact, n, parts) for n, parts in own.items()},
            )
        view = Renamed(model.checkpoint, segments, shapes)
        return replace(model, checkpoint=view, digests=digests, artifacts=artifacts)

    def _shape(
        self, name: str, parts: tuple[Segment, ...], tensors: Mapping[str, TensorInfo]
    ) -> tuple[int, ...]:
        own = tensors[parts[0].name]
        count = sum(p.length for p in parts)
        if len(parts) == 1 and count == own.elements:
            wanted = self._donor.checkpoint.tensors.get(name)
            fused = wanted is not None and wanted.elements == count
            return wanted.shape if wanted is not None and fused else own.shape
        wanted = self._donor.checkpoint.tensors[name]
        if wanted.elements == count:
            return wanted.shape
        # Experts or rows are more or fewer; the plan says so.
        inner = wanted.shape[1:]
        size = max(1, wanted.elements // max(1, wanted.shape[0]))
        return (count // size, *inner) if count % size == 0 else (count,)


class _Streams:
    """A model's tensors as transformers calls them: where their elements are."""

    def __init__(self, tensors: Mapping[str, TensorInfo], called: Called) -> None:
        self._tensors, self._called = tensors, called
        self._whole = {c: n for n, c in called.names.items()}
        self._split = {c: n for n, parts in called.split.items() for c in parts.names}
        self.odd: set[str] = set()
        """Tensors whose elements come in another order."""

    def of(self, canonical: str) -> tuple[Segment, ...] | None:
        """Empty where the elements are there in another order; None where they are not there."""
        if (name := self._whole.get(canonical)) is not None:
            return _whole(self._tensors[name])
        if (parts := self._called.fused.get(canonical)) is not None:
            dtypes = {self._tensors[n].dtype for n in parts.names}
            if not parts.contiguous or len(dtypes) > 1:
                self.odd |= set(parts.names)
                return ()
            return tuple(s for n in parts.names for s in _whole(self._tensors[n]))
        if (name := self._split.get(canonical)) is not None:
            parts = self._called.split[name]
            if not parts.contiguous or not parts.equal:
                self.odd.add(name)
                return ()
            count = self._tensors[name].elements // len(parts.names)
            return (Segment(name, parts.names.index(canonical) * count, count),)
        return None


def _whole(info: TensorInfo) -> tuple[Segment, ...]:
    return (Segment(info.name, 0, info.elements),)


def _cut(segments: Sequence[Segment], start: int, count: int) -> tuple[Segment, ...]:
    """Elements `start` and on of segments that follow each other."""
    found = []
    for segment in segments:
        if start < segment.length and count:
            n = min(segment.length - start, count)
            found.append(Segment(segment.name, segment.start + start, n))
            count, start = count - n, 0
        else:
            start -= segment.length
    return tuple(found)


def _digest(model: Model, name: str, parts: tuple[Segment, ...]) -> str:
    """What identifies the bytes: the tensor's own digest where it is shown whole."""
    own = [model.digests.get(p.name) or json_digest([model.digest, p.name]) for p in parts]
    whole = model.checkpoint.tensors[parts[0].name].elements
    if len(parts) == 1 and parts[0].length == whole:
        return own[0]
    return json_digest([[d, p.start, p.length] for d, p in zip(own, parts, strict=True)])


def _same(model: Model, own: Mapping[str, tuple[Segment, ...]], copy: str, first: str) -> bool:
    """Whether two tensors of a model are one, as far as their digests say."""
    if first not in own:
        return False
    a, b = own[copy][0].name, own[first][0].name
    known = model.digests.get(a), model.digests.get(b)
    return None in known or known[0] == known[1]


def _info(name: str, like: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(name, like.dtype, shape)
