"""From what an adapter calls a module to the tensor of the base it means.

Adapters name modules as they were in memory when they were trained; checkpoints may say `model.` in
front, or leave it out, and vision-language models put their parts in another order. So a module
that is not there as it is called is looked for by the end of its name. Where that fits one tensor
alone, the difference of the beginnings is a rule, and it is tried for the others first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Targets:
    """The tensors of a base, found by the names that adapters use."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._rules: dict[tuple[str, str], None] = {}
        """(what the adapter has in front, what the base has), in the order they were found."""
        self._by_end: dict[str, list[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str) -> str | None:
        """The base's name of a tensor; None where nothing fits, or more than one."""
        if name in self._names:
            return name
        for ours, theirs in self._rules:
            if name.startswith(ours) and theirs + name[len(ours) :] in self._names:
                return theirs + name[len(ours) :]
        return self._by_suffix(name)

    def _by_suffix(self, name: str) -> str | None:
        """The tensor that shares the longest end with a name, if it is the only one, and the end
        says more than a kind of module: at least two words before `weight`."""
        if not self._by_end:
            for known in sorted(self._names):
                parts = known.split(".")
                for at in range(len(parts)):
                    self._by_end.setdefault(".".join(parts[at:]), []).append(known)
        parts = name.split(".")
        for at in range(len(parts)):
            end = ".".join(parts[at:])
            if not (found := self._by_end.get(end)):
                continue
            if len(found) > 1 or (at and len(parts) - at < 3 and len(parts) > 3):
                return None
            whole = found[0]
            self._rules[name[: len(name) - len(end)], whole[: len(whole) - len(end)]] = None
            return whole
        return None


def flattened(name: str) -> str:
    """A tensor's module with underscores for dots, as kohya's and LyCORIS's files name it."""
    return name.rpartition(".")[0].replace(".", "_").replace("/", "_")


def by_flat_name(names: Iterable[str]) -> Mapping[str, list[str]]:
    """Flattened module -> its weights' names, names ascending."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.endswith(".weight"):
            found.setdefault(flattened(name), []).append(name)
    return found
