"""Names that tensors had in other versions, and what transformers calls them now.

Rules are tried in order, each on what the one before made of the name: a regular expression and
what stands in place of its first match. Rules that also fuse or split tensors come last, and at
most one of them fits a name. The rules are transformers' own; that they do the same here as there
is tested against it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.families.templates import Template, filled, matching, opened

_FIRST_STAND_IN = 900_001
"""Numbers that no model counts to: what becomes of them says what becomes of any."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors that together are one other."""

    names: tuple[str, ...]
    """In the order their bytes follow each other in the whole, if they do."""
    contiguous: bool
    """Whether the whole is those bytes, one part after the other."""
    equal: bool = True
    """Whether the parts are of one size, where they are not there to be looked at."""


@dataclass(frozen=True, slots=True)
class Called:
    """What transformers calls the tensors of a model."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Name -> name, of those that are one tensor on both sides."""
    fused: Mapping[str, Parts] = field(default_factory=dict)
    """Name there -> the tensors here that it is made of."""
    split: Mapping[str, Parts] = field(default_factory=dict)
    """Name here -> the tensors there that it is made of."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One renaming; see `families.jsonl`."""

    kind: str
    expression: re.Pattern[str]
    sources: int
    targets: tuple[str, ...]
    scope: str | None
    base: str
    operations: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    offset: int = 0

    def applied(self, name: str, active: bool = True) -> tuple[str, int | None]:
        """The name changed, and the number of the expression that fitted, or None."""
        prefix = ""
        if self.scope is not None:
            scope = f"{self.scope}." if self.scope else ""
            base = f"{self.base}." if self.base else ""
            if name.startswith(base + scope):
                prefix = base + scope
            elif name.startswith(scope):
                prefix = scope
            else:
                return name, None
        rest = name[len(prefix) :]
        match = self.expression.search(rest)
        if match is None:
            return name, None
        group = next(g for g, found in match.groupdict().items() if found is not None)
        number = int(group[1:])
        if self.kind == "group" and number and not active:
            return name, None
        inner = self.expression.groupindex[group]
        target = self.targets[number if self.kind == "group" else 0]

        def referred(m: re.Match[str]) -> str:
            said = str(match.group(inner + int(m[1])))
            return str(int(said) + self.offset) if self.kind == "offset" else said

        target = re.sub(r"\\(\d)", referred, target)
        return prefix + rest.replace(match.group(0), target, 1), number


def rule(data: Mapping[str, Any], scope: str | None, base: str) -> Rule:
    """A rule as `families.jsonl` has it."""
    branches = []
    # The first branch that fits is taken: `weight.absmax` must come before `weight`.
    for i, source in sorted(enumerate(data["from"]), key=lambda pair: -len(pair[1])):
        expression = source.replace("*.", r".*\.")
        if re.search(r"[a-zA-Z0-9]$", expression):
            expression += r"(?!\w)"
        branches.append(f"(?P<g{i}>{expression})")
    return Rule(
        data["kind"],
        re.compile("|".join(branches)),
        len(data["from"]),
        tuple(data["to"]),
        scope,
        base,
        tuple((name, tuple(given.values())) for name, given in data.get("operations", ())),
        data.get("offset", 0),
    )


@dataclass(frozen=True)
class Renames:
    """Rules from other names to those of now."""

    rules: Sequence[Rule] = ()
    base: str = ""
    """The prefix that whole models have and their bodies alone have not."""
    ignored: tuple[re.Pattern[str], ...] = ()
    unneeded: tuple[re.Pattern[str], ...] = ()

    def ignores(self, name: str) -> bool:
        """Whether transformers passes over a tensor that it has no place for."""
        return any(p.search(name) for p in self.ignored)

    def needless(self, name: str) -> bool:
        """Whether transformers does without a tensor that is not there."""
        return any(p.search(name) for p in self.unneeded)

    def called(self, names: Collection[str], templates: Mapping[str, Template]) -> Called:
        """What transformers calls each tensor; what it does not know keeps its name."""
        renaming = _Renaming(self, names)
        plain: dict[str, str] = {}
        fused: dict[str, list[tuple[int, tuple[int, ...], str]]] = defaultdict(list)
        how: dict[str, Rule] = {}
        split: dict[str, Parts] = {}
        placed_as: dict[str, str] = {}
        for name in names:
            if self.rules:
                target, converter, branch = renaming.of(name)
            else:
                target, converter, branch = name, None, 0
            if converter is not None and target == name:
                converter = None  # it is called so already
            if converter is None:
                there = self._placed(target, templates)
                odd = matching(there, templates) is None  # the rule is for another class
                plain[name] = self._placed(name, templates) if odd else there
                continue
            if len(converter.targets) > 1:
                first, *others = converter.targets
                at = target.rfind(first)
                found = [target] + [target[:at] + o + target[at + len(first) :] for o in others]
                placed = tuple(self._placed(f, templates) for f in found)
                contiguous, equal = _split_in_order(converter)
                split[name] = Parts(placed, contiguous, equal)
                continue
            if target not in placed_as:
                placed_as[target] = self._placed(target, templates)
                how[placed_as[target]] = converter
            fused[placed_as[target]].append((branch, opened(name)[1], name))
        wholes = {t: _ordered(how[t], parts) for t, parts in fused.items()}
        return Called(plain, wholes, split)

    def _placed(self, name: str, templates: Mapping[str, Template]) -> str:
        """With the prefix of the whole model, or without, whichever is known."""
        if not self.base or matching(name, templates) is not None:
            return name
        prefix = self.base + "."
        if name.startswith(prefix) and matching(name[len(prefix) :], templates) is not None:
            return name[len(prefix) :]
        return prefix + name if matching(prefix + name, templates) is not None else name


class _Renaming:
    """Rules applied to many names, most of which differ in numbers only."""

    def __init__(self, renames: Renames, names: Collection[str]) -> None:
        self._plain = [r for r in renames.rules if r.kind != "convert"]
        self._converters = [r for r in renames.rules if r.kind == "convert"]
        # Numbers that a rule names, or counts with, are not any numbers.
        self._alike = not any(r.kind == "offset" or _names_numbers(r) for r in renames.rules)
        self._active: dict[int, bool] = {}
        for i, r in enumerate(self._plain):
            if r.kind == "group":
                self._active[i] = any(r.applied(n)[1] == 0 for n in names)
        self._known: dict[str, tuple[str, Rule | None, int]] = {}

    def of(self, name: str) -> tuple[str, Rule | None, int]:
        """The name there; the rule that fuses or splits, if one does, and which of its names."""
        pattern, numbers = opened(name)
        if not self._alike or not numbers:
            return self._one(name)
        stand_ins = [_FIRST_STAND_IN + i for i in range(len(numbers))]
        if pattern not in self._known:
            self._known[pattern] = self._one(filled(pattern, stand_ins))
        found, converter, branch = self._known[pattern]
        for stand_in, number in zip(stand_ins, numbers, strict=True):
            found = found.replace(str(stand_in), str(number), 1)
        return found, converter, branch

    def _one(self, name: str) -> tuple[str, Rule | None, int]:
        for i, r in enumerate(self._plain):
            name, _ = r.applied(name, self._active.get(i, True))
        for r in self._converters:
            target, branch = r.applied(name)
            if branch is not None:
                return target, r, branch
        return name, None, 0


def _names_numbers(rule: Rule) -> bool:
    """Whether a rule's expression has digits of its own."""
    plain = re.sub(r"\?P<g\d+>|\\d|\\\d|\[[^\]]*\]|\{\d*,?\d*\}", "", rule.expression.pattern)
    return re.search(r"(?<![A-Za-z_])\d+(?![A-Za-z_])", plain) is not None


def _ordered(rule: Rule, parts: list[tuple[int, tuple[int, ...], str]]) -> Parts:
    """Parts of a fused tensor as their bytes follow each other there."""
    plain = [(name, given[:1]) for name, given in rule.operations]
    if plain in (
        [("MergeModulelist", (0,))],
        [("MergeModulelist", (0,)), ("Concatenate", (1,))],
    ):
        parts = sorted(parts, key=lambda p: (p[1], p[0]))
        return Parts(tuple(name for _, _, name in parts), contiguous=True)
    parts = sorted(parts)
    names = tuple(name for _, _, name in parts)
    return Parts(names, contiguous=plain == [("Concatenate", (0,))] and rule.sources > 1)


def _split_in_order(rule: Rule) -> tuple[bool, bool]:
    """Whether parts follow each other in a tensor that is split, and are of one size."""
    plain = [(name, given[:1]) for name, given in rule.operations]
    return plain in ([("Chunk", (0,))], [("Split", (0,))]), plain == [("Chunk", (0,))]
