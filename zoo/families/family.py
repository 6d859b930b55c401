"""A family: what is known of the tensors of a model, and how a set of names differs from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from zoo.families.renames import Renames
from zoo.families.templates import Template, fits, matching


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

    def component_of(self, name: str) -> str | None:
        """The component that a tensor belongs to: the one of the longest prefix."""
        own = [(len(p), c) for c, p in self.components.items() if name.startswith(p)]
        return max(own)[1] if own else None

    def canonical(self, names: Collection[str]) -> dict[str, str]:
        """Each name -> what transformers calls it now; itself where that is not known.

        Tensors that transformers fuses with others all get the fused one's name.
        """
        return self.renames.canonical(names, self.templates)

    def compare(self, names: Collection[str]) -> Differences:
        """How names differ from those of the family's model."""
        here = set(names)
        called = self.canonical(here)
        groups = self.renames.groups(called, self.templates)
        have: set[str] = set()
        unexpected, ignored = [], []
        renamed, fused = {}, {}
        seen: set[str] = set()
        for whole, parts in groups.wholes.items():
            fused[whole] = parts
        for name in here:
            for target in groups.targets.get(name, (called[name],)):
                found = matching(target, self.templates)
                if found is None or not fits(found[1], found[0]):
                    (ignored if self.renames.ignores(name) else unexpected).append(name)
                    break
                have.add(target)
                seen.add(found[0].pattern)
                if name not in groups.targets and target != name and target not in groups.wholes:
                    renamed[name] = target
        for target, source in self.tied.items():
            if target in have or source in have:
                have |= {target, source}
        missing: list[str] = []
        optional: list[str] = []
        for template in self.templates.values():
            if template.absent:
                continue
            if template.optional:
                if template.pattern not in seen:
                    optional.append(template.pattern)
                continue
            missing += [n for n in template.names() if n not in have]
        lacking = [n for n in missing if self.renames.needless(n)]
        return Differences(
            tuple(sorted(set(missing) - set(lacking))),
            tuple(sorted(unexpected)),
            tuple(sorted({*optional, *lacking})),
            dict(sorted(renamed.items())),
            dict(sorted(fused.items())),
            tuple(sorted(ignored)),
        )
