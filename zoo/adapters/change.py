"""What one tensor of the base becomes under an adapter.

    W0 = the base's tensor, or the one the adapter brings in its place
    W  = W0 + sum of updates
    W  = m * W / ||W||, row by row or column by column, where the adapter has a magnitude m (DoRA)
    W  with some rows replaced, where it has trained single tokens

Source: Liu et al. 2024, arXiv:2402.09353, equation 5 (DoRA); peft 0.21, tuners/lora/variants.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zoo.adapters.updates import Update
from zoo.checkpoint import TensorInfo


@dataclass(frozen=True)
class Magnitude:
    """The norms that an adapter sets: m in m * W / ||W||."""

    values: TensorInfo
    """One number per row, or per column."""
    along: Literal["rows", "columns"]
    """`rows`: each first index has a norm of its own. `columns`: each second index."""


@dataclass(frozen=True)
class TokenRows:
    """Rows that an adapter replaces one by one."""

    values: TensorInfo
    """(k, n)."""
    indices: tuple[int, ...]


@dataclass
class Change:
    """All that an adapter does to one tensor of the base."""

    target: str
    """The tensor's name in the base."""
    replaced: TensorInfo | None = None
    """The adapter's own tensor for it."""
    updates: list[Update] = field(default_factory=list)
    magnitude: Magnitude | None = None
    tokens: TokenRows | None = None

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The adapter's tensors that it uses."""
        own = [t for u in self.updates for t in u.parts]
        own += [self.replaced] if self.replaced else []
        own += [self.magnitude.values] if self.magnitude else []
        own += [self.tokens.values] if self.tokens else []
        return tuple(own)

    def problems(self, base: TensorInfo | None) -> list[str]:
        """Why it cannot be made of the base's tensor; empty if it can."""
        if base is None and self.replaced is None:
            return [f"the base has no tensor `{self.target}`"]
        shape = self.replaced.shape if self.replaced else base.shape if base else ()
        found = []
        if base is not None and shape != base.shape and not _grows(shape, base.shape):
            found.append(
                f"`{self.target}` is {list(base.shape)} in the base, and {list(shape)} here"
            )
        for update in self.updates:
            if said := update.misfit(shape):
                found.append(f"`{self.target}` is {list(shape)}, and {said}")
        if self.magnitude is not None:
            size = shape[0 if self.magnitude.along == "rows" else 1] if len(shape) > 1 else 0
            if self.magnitude.values.elements != size:
                own = list(self.magnitude.values.shape)
                found.append(f"`{self.target}` is {list(shape)}, and its magnitude is {own}")
        if self.tokens is not None:
            wanted = (len(self.tokens.indices), *shape[1:])
            if self.tokens.values.shape != wanted or len(shape) != 2:
                own = list(self.tokens.values.shape)
                found.append(f"`{self.target}` has {list(shape)}, and its new rows are {own}")
            elif any(not 0 <= i < shape[0] for i in self.tokens.indices):
                found.append(
                    f"`{self.target}` has {shape[0]} rows, and a row beyond them is trained"
                )
        return found


def _grows(shape: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Whether a tensor that is brought along may have another number of rows: tokens were added, or
    a head has other classes."""
    return len(shape) == len(base) and shape[1:] == base[1:]
