"""Every error zoo raises, one tree.

ZooError                          1
├── NotFound                      3   a reference, name, alias or file names nothing
│   └── AmbiguousReference       14   a digest prefix fits several versions
├── InvalidName                   4   a name, alias or path that could leave the store
├── InvalidCheckpoint             5   a file that is not what it claims to be
│   └── UnsupportedFormat        15   a file no format plugin reads
├── IncompatibleModels            6   pre-flight found problems; all are listed
├── InvalidSelection              7   a query that is not an expression over the catalog
├── InvalidRecipe                 8   unknown key, method, parameter, or value out of range
├── GateFailed                    9   the merged tensors are not fit to publish
├── StoreError                   10   disk full, read-only, damaged object
├── RegistryError                11   database locked, schema unknown, row refused
├── VerificationFailed           12   bytes disagree with what was recorded
├── PluginError                  13   a plugin is broken or breaks the contract
├── InvalidTask                  16   a task's declaration or data is not as it must be
└── InvalidKey                   17   a key that can neither sign nor check

The number is the exit code of the command line; `2` stays click's, for wrong usage.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ZooError(Exception):
    """What happened, why it is an error, how to mend it.

    Args:
        what: one sentence with names and numbers.
        why: the rule that was broken; may be empty when `what` says it.
        how: the remedy, something to paste where possible.
        facts: the same facts as values, kept as attributes, so that no one parses prose.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", how: str = "", **facts: Any) -> None:
        super().__init__(" ".join(part for part in (what, why, how) if part))
        self.what = what
        self.why = why
        self.how = how
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(name) from None


class NotFound(ZooError):
    exit_code = 3


class AmbiguousReference(NotFound):
    exit_code = 14


class InvalidName(ZooError):
    exit_code = 4


class InvalidCheckpoint(ZooError):
    exit_code = 5


class UnsupportedFormat(InvalidCheckpoint):
    exit_code = 15


class IncompatibleModels(ZooError):
    """Pre-flight problems; `problems` is the list of all of them, each one sentence."""

    exit_code = 6


class InvalidSelection(ZooError):
    exit_code = 7


class InvalidRecipe(ZooError):
    exit_code = 8


class GateFailed(ZooError):
    exit_code = 9


class StoreError(ZooError):
    exit_code = 10


class RegistryError(ZooError):
    exit_code = 11


class VerificationFailed(ZooError):
    exit_code = 12


class PluginError(ZooError):
    exit_code = 13


class InvalidTask(ZooError):
    exit_code = 16


class InvalidKey(ZooError):
    exit_code = 17


LISTED = 24
"""Words that a suggestion lists at most."""


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """A sentence that names the nearest known words, or lists them when none is near."""
    import difflib

    lower: dict[str, list[str]] = {}
    for k in known:
        lower.setdefault(k.lower(), []).append(k)
    if near := difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.6):
        named = [k for n in near for k in lower[n]][:3]
        return "Did you mean " + " or ".join(f"`{n}`" for n in named) + "?"
    listed = ", ".join(f"`{k}`" for k in known[:LISTED])
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"Known: {listed}{more}." if known else ""
