"""A family: what is known of the tensors of a model, and how a set of names differs from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from zoo.families.renames import Called, Renames
from zoo.families.templates import Template, fits, matching

COMPONENTS = {
    "text_decoder": "text",
    "language_model": "text",
    "vision_tower": "vision",
    "vision_model": "vision",
    "multi_modal_projector": "projector",
    "audio_tower": "audio",
}
"""Names that recipes use for parts of models, and what families call those components."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers that are numbered under one prefix."""

    prefix: str
    """All up to the number, as `model.layers.`."""
    component: str
    """The component it is of, as `text` or `encoder`."""
    key: str | None
    """Where the configuration counts its layers, as `text_config.num_hidden_layers`."""
    count: int | None
    """Layers it has; None where neither configuration nor names say."""


@dataclass(frozen=True, slots=True)
class Differences:
    """What sets names apart from a family's own; all ascending."""

    missing: tuple[str, ...] = ()
    """Tensors that a model of this configuration has."""
    unexpected: tuple[str, ...] = ()
    """Tensors that the family has no place for."""
    optional_missing: tuple[str, ...] = ()
    """Tensors that some models of the family have, or that transformers does without: patterns."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Name here -> what transformers calls it now. Both load."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """One tensor of transformers' -> those here that it is made of, in order; or the other way
    round where it is one here and several there. Both load."""
    ignored: tuple[str, ...] = ()
    """Tensors that transformers passes over: buffers that it computes itself."""

    @property
    def none(self) -> bool:
        """Whether a model of these names loads: all that is needed is there, and nothing else."""
        return not self.missing and not self.unexpected


@dataclass(frozen=True)
class Family:
    """The tensors of one configuration's model."""

    name: str
    """The `model_type`; that of an unknown one, or `unknown`."""
    architecture: str | None
    """The class of transformers; None where it is none of its own."""
    known: bool
    """Whether the data has it; else all is worked out from configuration and names."""
    components: Mapping[str, str]
    """Component (`text`, `vision`, `projector`, `encoder`, ...) -> prefix of its tensors."""
    embeddings: str | None
    """The tensor of the token embeddings."""
    head: str | None
    """The tensor of the output head, be it stored or tied."""
    tied: Mapping[str, str]
    """Tensor -> the one it is, where the configuration ties them: a file may have either."""
    stacks: tuple[Stack, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    """`hidden`, `heads`, `layers`, `vocabulary` -> where the configuration says it."""
    norms: tuple[str, ...] = ()
    """Patterns of the norms' tensors."""
    templates: Mapping[str, Template] = field(default_factory=dict, repr=False)
    """Pattern -> tensors, as transformers calls them now."""
    renames: Renames = field(default_factory=Renames, repr=False)
    """From other names to these."""
    open_prefixes: tuple[str, ...] = ()
    """Prefixes of parts that are models of a type the data has not: any name may follow."""

    def component_of(self, name: str) -> str | None:
        """The component that a tensor belongs to: the one of the longest prefix."""
        own = [(len(p), c) for c, p in self.components.items() if name.startswith(p)]
        return max(own)[1] if own else None

    def called(self, names: Collection[str]) -> Called:
        """What transformers calls each tensor now."""
        return self.renames.called(names, self.templates)

    def compare(self, names: Collection[str]) -> Differences:
        """How names differ from those of the family's model."""
        called = self.called(set(names))
        targets: dict[str, tuple[str, ...]] = {n: (t,) for n, t in called.names.items()}
        targets |= {n: parts.names for n, parts in called.split.items()}
        targets |= {n: (t,) for t, parts in called.fused.items() for n in parts.names}
        have: set[str] = set()
        seen: set[str] = set()
        unexpected: list[str] = []
        ignored: list[str] = []
        for name, own in targets.items():
            if self._is_open(name):
                continue
            for target in own:
                if target in have:
                    continue  # as all parts of one fused tensor
                found = matching(target, self.templates)
                if found is None or found[0].absent or not fits(found[1], found[0]):
                    (ignored if self.renames.ignores(name) else unexpected).append(name)
                    break
                have.add(target)
                seen.add(found[0].pattern)
        groups: dict[str, set[str]] = {}
        for target, source in self.tied.items():
            groups.setdefault(source, {source}).add(target)
        for tied in groups.values():
            if tied & have:
                have |= tied
        missing: list[str] = []
        optional: list[str] = []
        for template in self.templates.values():
            if template.absent:
                continue
            if template.optional:
                optional += [template.pattern] if template.pattern not in seen else []
                continue
            lacking = [n for n in template.names() if n not in have]
            if lacking and self.renames.needless(lacking[0]):
                optional.append(template.pattern)
            else:
                missing += lacking
        return Differences(
            tuple(sorted(missing)),
            tuple(sorted(unexpected)),
            tuple(sorted(optional)),
            {n: t for n, t in sorted(called.names.items()) if n != t and t in have},
            {n: p.names for n, p in sorted((*called.fused.items(), *called.split.items()))},
            tuple(sorted(ignored)),
        )

    def _is_open(self, name: str) -> bool:
        return bool(self.open_prefixes) and name.startswith(self.open_prefixes)
