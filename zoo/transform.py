"""The contract of a transform: how one model is made of others, other than by a merge method.

A merge keeps the names and shapes of its inputs, and combines numbers. A transform makes a model of
another form: a low-rank adapter of a fine-tuned model, a mixture of experts of dense ones. What
it makes is a lazy checkpoint, whose tensors are worked out when they are read; zoo reads each once,
stores the result as a version with its lineage, and can make it again to compare the bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zoo.checkpoint import Checkpoint
from zoo.code_hash import code_hash

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.engine.inputs import Input

Parents: TypeAlias = "Mapping[str, tuple[Input, ...]]"
"""By role, in the order given; a role that nobody takes has an empty tuple."""


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transform makes."""

    checkpoint: Checkpoint
    """Its tensors. `read_into` is called from many threads, and for each tensor in order from its
    first byte to its last; torch has one thread meanwhile."""
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    """What lies beside the weights: relative path -> content, or where it is."""
    base: Input | None = None
    """The parent that the result is registered as fine-tuned from, or an adapter of."""
    architecture: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain data worth keeping with the version, such as the error of an approximation."""


class Transform(ABC):
    """A transform, offered by a plugin through `zoo_register_transforms`."""

    name: str
    version: str
    """Semantic version; raise it when other bytes come out."""
    summary: str
    """One sentence."""
    roles: Mapping[str, tuple[int, int | None]]
    """Role -> fewest and most parents in it; None is any number."""
    makes: Literal["merge", "adapter"] = "merge"
    """The kind of the version."""
    replay: Literal["exact", "platform"] = "platform"
    """Whether the bytes are the same anywhere, or on one platform; as for methods."""
    weights_stem: str = "model"
    """What weights files are called: `model.safetensors`, `model-00001-of-00002.safetensors`."""

    @abstractmethod
    def parameters(self) -> type[BaseModel]:
        """The class of its options: unknown keys forbidden, values bounded."""

    @abstractmethod
    def apply(self, parents: Parents, parameters: Any) -> Transformed:
        """The result, from headers and small files; nothing large is read yet.

        Args:
            parameters: an instance of the class that `parameters` gives.
        Raises:
            IncompatibleModels: `problems` lists all that is wrong.
            InvalidRecipe
        """

    @property
    def code_hash(self) -> str:
        """`sha256:` over the source of the module that defines it; see `zoo.code_hash`."""
        return code_hash([type(self).apply])
