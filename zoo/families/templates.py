"""Names of tensors with the numbers left open: `model.layers.*.mlp.up_proj.weight`.

A `*` stands for a number that runs from 0 to a count that the configuration gives; numbers that
say a place in a fixed list, as in `mlp.0.weight`, stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")
_MOST_NUMBERS = 6
"""Numbers in a name that are tried, each as a place and as a count."""


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of tensor: one name for each choice of its numbers."""

    pattern: str
    counts: tuple[int | None, ...] = ()
    """How many there are, for each `*`; None where nothing says it."""
    optional: bool = False
    """Whether a model can do without: it depends on the configuration, or layers differ."""
    absent: bool = False
    """Whether the configuration says that there is none."""

    def names(self) -> Iterator[str]:
        """All names; none where a count is not known."""
        if None in self.counts:
            return
        for numbers in product(*(range(c or 0) for c in self.counts)):
            yield filled(self.pattern, numbers)


def filled(pattern: str, numbers: Iterable[int | str]) -> str:
    """A name: numbers in place of each `*`."""
    parts = pattern.split("*")
    found = [parts[0]]
    for number, part in zip(numbers, parts[1:], strict=True):
        found += [str(number), part]
    return "".join(found)


@lru_cache(maxsize=65536)
def opened(name: str) -> tuple[str, tuple[int, ...]]:
    """A name with all its numbers left open, and the numbers."""
    numbers = tuple(int(n) for n in _NUMBER.findall(name))
    return (_NUMBER.sub("*", name), numbers) if numbers else (name, ())


def matching(name: str, known: Mapping[str, Template]) -> tuple[Template, tuple[int, ...]] | None:
    """The template that a name is of, and its numbers; the one with most numbers left open."""
    pattern, numbers = opened(name)
    if (found := known.get(pattern)) is not None:
        return found, numbers
    if len(numbers) > _MOST_NUMBERS:
        return None
    for kept in range(1, len(numbers) + 1):
        for places in combinations(range(len(numbers)), kept):
            filling = [n if i in places else "*" for i, n in enumerate(numbers)]
            if (found := known.get(filled(pattern, filling))) is not None:
                return found, tuple(n for i, n in enumerate(numbers) if i not in places)
    return None


def fits(numbers: tuple[int, ...], template: Template) -> bool:
    """Whether numbers are within a template's counts."""
    return all(c is None or n < c for n, c in zip(numbers, template.counts, strict=True))
