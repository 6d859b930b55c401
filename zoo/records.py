"""Plain values that pass between the stages: no database, no torch, no files opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from zoo.dtypes import DTYPES


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of a version: its identity, without its bytes."""

    name: str
    dtype: str
    """A key of `zoo.dtypes.DTYPES`."""
    shape: tuple[int, ...]
    digest: str
    """`sha256:` + 64 hex of (dtype, shape, raw little-endian bytes); see `zoo.digest`."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return (self.elements * DTYPES[self.dtype].bits + 7) // 8


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a version's directory, and the object that holds its bytes."""

    path: str
    """Relative, `/`-separated, checked: `config.json`, `model-00001-of-00002.safetensors`."""
    object: str
    """`flat:HEX` (sha256 of the bytes) or `tree:HEX` (root over header and tensor digests)."""
    bytes: int


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One measured number of one version. Unit and protocol belong to the metric's name."""

    name: str
    value: float
    split: str = ""
    """Part of the data, e.g. `test` or `q50`; empty for the whole."""
    dataset: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    stderr: float | None = None
    """Standard error, in the unit of the value; None when not estimated."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Registration:
    """One checkpoint that is to be registered, and what is said of it: what `Registry.register`
    takes, for `Registry.register_many`."""

    source: str | Path
    """A file, a directory, or whatever a plugin's `zoo_resolve_source` knows."""
    name: str
    """Entry that gets it as its next version."""
    kind: str = "expert"
    base: str | None = None
    """Reference to the version it was fine-tuned from; of an adapter, the one that its
    configuration names, by default."""
    task: str | None = None
    phase: str | None = None
    license: str | None = None
    """What the model's own card says, by default."""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] | Iterable[MetricValue] = ()
    """`name` or `name/split` -> value; or full records."""
    origin: str | None = None
    """What the record says it came from; `source` by default, which may be gone soon."""


@dataclass(frozen=True, slots=True)
class VersionDraft:
    """All that is known of a version before the registry numbers it."""

    name: str
    kind: str
    """`base`, `expert`, `merge`, `adapter`, `artifact`."""
    digest: str
    """Weights digest: over the sorted (tensor name, tensor digest) pairs."""
    tensors: tuple[TensorRecord, ...]
    files: tuple[FileRecord, ...]
    base: int | None = None
    """Row id of the version this one was fine-tuned from or merged onto."""
    task: str | None = None
    phase: str | None = None
    license: str | None = None
    architecture: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[MetricValue, ...] = ()
    source: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the format plugin did on the way in: prefix stripped, nested key, ties."""


@dataclass(frozen=True, slots=True)
class RunInput:
    """One parent of a run."""

    version: int
    """Row id."""
    digest: str
    role: str
    """`base`, `expert`, or what an artifact is, such as `exp_avg_sq`."""
    position: int
    weight: float | None = None
    """The scalar weight this parent had, where the recipe gave it one."""


@dataclass(frozen=True, slots=True)
class RunDraft:
    """One execution of a recipe, ready to be recorded with the version it made."""

    id: str
    """UUID4 as text."""
    kind: str
    """`merge` or `transform`."""
    inputs: tuple[RunInput, ...]
    recipe: Mapping[str, Any]
    """The resolved recipe (lock): digests, not names; what is replayed."""
    recipe_digest: str
    method: str
    method_version: str
    plugin: str
    """Distribution name, or the drop-in file's name."""
    plugin_version: str
    code_hash: str
    """sha256 of the source of the module that defines the method."""
    seed: int
    selection: Mapping[str, Any] | None
    """`{where, order_by, limit, frozen: [ref@digest, ...]}` or None."""
    environment: Mapping[str, Any]
    timings: Mapping[str, float]
    """Seconds per stage, wall clock."""
    started_at: str
    ended_at: str


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task that was declared in the registry."""

    name: str
    declaration: Mapping[str, Any]
    """What its data is made of; see `zoo.tasks.known`."""
    digests: Mapping[str, str]
    """Split -> digest of its data when it was declared."""
    created_at: str


@dataclass(frozen=True, slots=True)
class PhaseRule:
    """Thresholds that phases are derived by, under a name and a number."""

    name: str
    number: int
    thresholds: Mapping[str, float]
    """See `zoo.phases.rule` for each one's meaning and unit."""
    created_at: str

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class Version:
    """A version as the registry knows it: what `show`, `ls` and the Python API give."""

    id: int
    name: str
    version: int
    kind: str
    base: str | None
    """`name@number` of the base, or None."""
    task: str | None
    phase: str | None
    phase_rule: str | None
    """`NAME@N` of the rule that the phase was derived by; None when it was asserted."""
    license: str | None
    architecture: str | None
    digest: str
    parameters: int
    """Elements of the floating tensors, dimensionless."""
    bytes: int
    """Bytes of all tensors."""
    created_at: str
    """UTC, ISO 8601."""
    run: str | None
    source: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """`name` or `name/split` -> value."""
    aliases: tuple[str, ...]
    notes: Mapping[str, Any]
    path: str
    """The version's directory in the store, in Hugging Face layout."""

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    def as_dict(self) -> dict[str, Any]:
        """Everything but the row id, ready for JSON."""
        from dataclasses import asdict

        d = asdict(self)
        del d["id"]
        d["aliases"] = list(self.aliases)
        return d
