"""From the difference of two models to an adapter: the best product of thin matrices for each.

    D = model - base,   D ~ scale * B A,   B = U sqrt(S / scale),   A = sqrt(S / scale) V^T

of the largest singular triples of D. What has no factors worth having, norms and biases, is brought
along as it is.

Source: Eckart & Young 1936 for the best product; mergekit, scripts/extract_lora.py, for the use.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.adapters.adapter import NOTE
from zoo.adapters.peft_config import CONFIG
from zoo.adapters.peft_layout import CONV1D, PREFIX
from zoo.checkpoint import Checkpoint, Opened, TensorInfo, tensor_of
from zoo.checkpoints.tied_heads import tied_pair
from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidRecipe, did_you_mean
from zoo.stages.spectrum import gram, truncate
from zoo.tokenizers.tokenizer import FILES
from zoo.transform import Transformed

if TYPE_CHECKING:
    import torch

    from zoo.engine.inputs import Input

_EMBEDDING = ("embed", "wte", "wpe", "word_embeddings", "position_embeddings", "tok_embeddings")
"""In the last part of a module's name: its rows are looked up, not multiplied with."""
_ROWS = 1 << 20
"""Elements of a matrix that are in float64 at a time."""
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Extraction:
    """How an adapter is to be made."""

    rank: int | None
    energy: float | None
    alpha: float | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    embeddings: bool
    modules_to_save: Literal["changed", "none"]


@dataclass(frozen=True, slots=True)
class _Factored:
    """One module whose difference becomes a product."""

    module: str
    weight: str
    shape: Shape
    rank: int
    embedding: bool
    transposed: bool
    """The model keeps inputs as rows."""

    @property
    def names(self) -> tuple[str, str]:
        """What its two factors are called: A, B."""
        slots = (
            ("lora_embedding_A", "lora_embedding_B")
            if self.embedding
            else ("lora_A.weight", "lora_B.weight")
        )
        return tuple(f"{PREFIX}{self.module}.{slot}" for slot in slots)  # type: ignore[return-value]

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        m, n = self.shape[0], self.shape[1:]
        if self.embedding or self.transposed:
            return (self.rank, m), (n[0], self.rank)
        ones = (1,) * (len(n) - 1)
        return (self.rank, *n), (m, self.rank, *ones)


def extracted(model: Input, base: Input, asked: Extraction) -> Transformed:
    """The adapter that takes a base to a model; its factors are worked out when they are read.

    Raises:
        IncompatibleModels: tensors that only one of the two has, or that differ and can be neither
            factored nor saved.
        InvalidRecipe: a pattern that fits nothing; neither a rank nor an energy.
    """
    if asked.rank is None and asked.energy is None:
        raise InvalidRecipe(
            "Nothing says how large the adapter may be.",
            how="Give a rank, `--rank 16`, or a share of the difference, `--energy 0.99`.",
        )
    sorted_out = _sorted_out(model, base, asked)
    ranks = {w: r for w in sorted_out.factored if (r := _rank(model, base, w, asked))}
    alpha = asked.alpha or float(max(ranks.values(), default=1))
    kind = (base.model.checkpoint.opened.config or {}).get("model_type")
    turned = kind in CONV1D if isinstance(kind, str) else False
    modules = [
        _Factored(
            weight.removesuffix(".weight"),
            weight,
            base.model.checkpoint.tensors[weight].shape,
            rank,
            is_embedding(weight),
            turned and not is_embedding(weight) and not weight.startswith("lm_head"),
        )
        for weight, rank in sorted(ranks.items())
    ]
    notes: dict[str, Any] = {}
    made = _Extracted(model, base, modules, sorted_out.saved, alpha, notes)
    files: dict[str, bytes | Path] = {CONFIG: _config(modules, sorted_out, alpha, turned, base)}
    own = {f.path: p for f, p in model.beside.items() if f.path in FILES}
    theirs = {f.path: f.object for f in base.beside if f.path in FILES}
    if {f.path: f.object for f in model.beside if f.path in FILES} != theirs:
        files |= own
    architecture = kind if isinstance(kind, str) else None
    notes[NOTE] = {"layout": "peft", "method": "LORA", "targets": len(modules)}
    if modules:
        notes[NOTE]["rank"] = max(m.rank for m in modules)
    return Transformed(made, files, base=base, architecture=architecture, notes=notes)


@dataclass
class _SortedOut:
    factored: list[str] = field(default_factory=list)
    """Weights that become products."""
    saved: list[str] = field(default_factory=list)
    """Tensors that are brought along whole."""
    left: list[str] = field(default_factory=list)
    """Tensors that differ and are left as they are in the base, as was asked."""


def _sorted_out(model: Input, base: Input, asked: Extraction) -> _SortedOut:
    """What becomes of each tensor that may differ."""
    ours, theirs = model.model.checkpoint.tensors, base.model.checkpoint.tensors
    tied = tied_pair(base.model.checkpoint.opened.config, theirs)
    names = sorted(theirs)
    for pattern in (*asked.include, *asked.exclude):
        if not any(fnmatchcase(n, pattern) for n in names):
            raise InvalidRecipe(
                f"`{pattern}` fits no tensor of `{base.model.label}`.",
                how=did_you_mean(pattern, names),
                pattern=pattern,
            )
    found, problems = _SortedOut(), []
    for name in sorted(ours.keys() | theirs):
        if (name not in ours or name not in theirs) and not (tied and name == tied[0]):
            lacking = base if name in ours else model
            problems.append(f"`{lacking.model.label}` has no `{name}`")
            continue
        if tied and name == tied[0]:
            continue  # the embeddings say it
        a, b = ours[name], theirs[name]
        if not DTYPES[a.dtype].merges or not _may_differ(name, model, base):
            continue
        chosen = not asked.include or any(fnmatchcase(name, p) for p in asked.include)
        if not chosen or any(fnmatchcase(name, p) for p in asked.exclude):
            found.left.append(name)
        elif a.shape == b.shape and _factors(name, a.shape, asked):
            found.factored.append(name)
        elif asked.modules_to_save == "none" and a.shape == b.shape:
            found.left.append(name)
        elif name.endswith((".weight", ".bias")):
            found.saved.append(name)
        else:
            problems.append(f"`{name}` differs, and is no module's weight or bias: exclude it")
    if problems:
        raise IncompatibleModels(
            f"No adapter takes `{base.model.label}` to `{model.model.label}`, {len(problems)} "
            f"problems:\n" + "\n".join(f"  - {p}" for p in problems[:8]) + "\n",
            "An adapter changes what its base has.",
            "Name the base it was fine-tuned from, or exclude what is not to be brought along.",
            problems=problems,
        )
    # A module is saved whole: its bias goes with its weight.
    modules = {n.removesuffix(".weight") for n in found.saved if n.endswith(".weight")}
    with_bias = {f"{m}.bias" for m in modules} & ours.keys()
    found.saved = sorted(with_bias.union(found.saved))
    return found


_equal: dict[tuple[str, str, str], bool] = {}
"""Whether tensors of two types have the same values, by model, base and tensor. An adapter is laid
out again when its parents have become versions, and nothing is to be read twice for that."""


def _may_differ(name: str, model: Input, base: Input) -> bool:
    """Whether a tensor differs, as far as digests tell; they tell nothing across types."""
    ours, theirs = model.model.digests.get(name), base.model.digests.get(name)
    if ours is not None and ours == theirs:
        return False
    a, b = model.model.checkpoint.tensors[name], base.model.checkpoint.tensors[name]
    if ours is None or theirs is None or a.dtype == b.dtype or a.shape != b.shape:
        return True
    key = (model.model.digest, base.model.digest, name)
    if key not in _equal:
        from zoo.checkpoints.reading import Reader

        chunks = Reader().chunks(name, [model.model.checkpoint, base.model.checkpoint])
        _equal[key] = not any(bool((v[0] != v[1]).any()) for _, v in chunks)
    return not _equal[key]


def _factors(name: str, shape: Shape, asked: Extraction) -> bool:
    if not name.endswith(".weight") or len(shape) < 2 or 1 in (shape[0], prod(shape[1:])):
        return False
    return asked.embeddings or not is_embedding(name)


def is_embedding(weight: str) -> bool:
    """Whether a weight is a table of rows, by its module's name."""
    last = weight.removesuffix(".weight").rpartition(".")[2]
    return any(part in last for part in _EMBEDDING)


_ranks: dict[tuple[str, str, str, float], int] = {}
"""Ranks that an energy asks for, by model, base and tensor, kept for the same reason."""


def _rank(model: Input, base: Input, weight: str, asked: Extraction) -> int:
    """The rank of one product: as asked, or what the energy needs."""
    shape = base.model.checkpoint.tensors[weight].shape
    most = min(shape[0], prod(shape[1:]))
    if asked.rank is not None:
        most = min(most, asked.rank)
    if asked.energy is None:
        return most
    key = (model.model.digest, base.model.digest, weight, asked.energy)
    if key not in _ranks:
        import torch

        difference = _difference(model, base, weight)
        short = difference if difference.shape[0] >= difference.shape[1] else difference.T
        squares = torch.linalg.eigvalsh(gram(short)).flip(0).clamp_min_(0)
        total = float(squares.sum())
        reached = squares.cumsum(0) >= asked.energy * total * (1 - 1e-12)
        _ranks[key] = int(reached.int().argmax()) + 1 if total else 0
    return min(most, _ranks[key])


def _difference(model: Input, base: Input, weight: str) -> torch.Tensor:
    """model - base as a matrix (m, n), float32, rounded once."""
    import torch

    ours, theirs = model.model.checkpoint, base.model.checkpoint
    a, b = tensor_of(ours, ours.tensors[weight]), tensor_of(theirs, theirs.tensors[weight])
    a, b = a.flatten(1), b.flatten(1)
    found = torch.empty(a.shape, dtype=torch.float32)
    step = max(1, _ROWS // a.shape[1])
    for at in range(0, len(a), step):
        found[at : at + step] = a[at : at + step].double() - b[at : at + step].double()
    return found


class _Extracted(Checkpoint):
    """Factors, worked out when the first of the two is read; and tensors brought along."""

    def __init__(
        self,
        model: Input,
        base: Input,
        modules: Sequence[_Factored],
        saved: Sequence[str],
        alpha: float,
        notes: dict[str, Any],
    ) -> None:
        self._model, self._base, self._alpha, self._notes = model, base, alpha, notes
        self._of = {name: module for module in modules for name in module.names}
        self._locks = {module.weight: threading.Lock() for module in modules}
        self._made: dict[str, torch.Tensor] = {}
        """Factors by name; all stay until the adapter is written: it is small."""
        self._squares: dict[str, tuple[float, float]] = {}
        """Weight -> (squares of what the product misses, squares of the difference)."""
        self._saved: dict[str, TensorInfo] = {}
        weights = {module.weight for module in modules}
        for name in saved:
            info = model.model.checkpoint.tensors[name]
            of_target = name.endswith(".bias") and f"{name.removesuffix('.bias')}.weight" in weights
            short = f"{name.removesuffix('bias')}base_layer.bias" if of_target else name
            self._saved[PREFIX + short] = info
        tensors = {n: TensorInfo(n, t.dtype, t.shape) for n, t in self._saved.items()}
        for module in modules:
            for name, shape in zip(module.names, module.shapes, strict=True):
                tensors[name] = TensorInfo(name, "F32", shape)
        self.tensors = dict(sorted(tensors.items()))
        self.opened = Opened(f"{model.model.label} less {base.model.label}")

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        if name in self._saved:
            self._model.model.checkpoint.read_into(self._saved[name].name, start, buffer)
            return
        module = self._of[name]
        with self._locks[module.weight]:
            if name not in self._made:
                self._factor(module)
        data = memoryview(self._made[name].numpy()).cast("B")  # type: ignore[arg-type]
        buffer[:] = data[start : start + len(buffer)]

    def _factor(self, module: _Factored) -> None:
        difference = _difference(self._model, self._base, module.weight)
        left, values, right = truncate(difference, module.rank)
        root = (values.double() * module.rank / self._alpha).sqrt()
        up, down = (left.double() * root).float(), (right.double() * root).T.float()
        scale = self._alpha / module.rank
        missed = total = 0.0
        step = max(1, _ROWS // difference.shape[1])
        for at in range(0, len(difference), step):
            rows = difference[at : at + step].double()
            total += float(rows.square().sum())
            rest = rows - scale * (up[at : at + step].double() @ down.double())
            missed += float(rest.square().sum())
        if module.embedding or module.transposed:
            up, down = down.T, up.T
        for name, shape, factor in zip(module.names, module.shapes, (down, up), strict=True):
            self._made[name] = factor.reshape(shape).contiguous()
        self._squares[module.weight] = (missed, total)
        self._note()

    def _note(self) -> None:
        """Say how far off the adapter is: all that was missed beside all there was."""
        found = dict(sorted(self._squares.items()))
        missed, total = (math.fsum(s[i] for s in found.values()) for i in (0, 1))
        errors = {n: math.sqrt(m / t) if t else 0.0 for n, (m, t) in found.items()}
        worst = max(errors, key=lambda n: errors[n])
        self._notes["extract_lora"] = {
            "relative_error": math.sqrt(missed / total) if total else 0.0,
            "energy": 1 - missed / total if total else 1.0,
            "worst": {"tensor": worst, "relative_error": errors[worst]},
        }


def _config(
    modules: Sequence[_Factored], chosen: _SortedOut, alpha: float, turned: bool, base: Input
) -> bytes:
    """`adapter_config.json`, as PEFT reads it."""
    rank = max((m.rank for m in modules), default=1)
    biases = [n for n in chosen.saved if n.endswith(".bias")]
    norms = {n.rpartition(".")[0] for n in chosen.saved if n.endswith(".weight")}
    alone = [b for b in biases if b.removesuffix(".bias") not in norms]
    named, revision = _name_of(base)
    content = {
        "peft_type": "LORA",
        "task_type": _task(base.model.checkpoint.opened.config),
        "base_model_name_or_path": named,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha if alpha != int(alpha) else int(alpha),
        "lora_dropout": 0.0,
        "fan_in_fan_out": turned,
        "bias": "all" if alone else "none",
        "target_modules": _target_modules(modules, base.model.checkpoint.tensors),
        "modules_to_save": sorted(norms) or None,
        "rank_pattern": {_exactly(m.module): m.rank for m in modules if m.rank != rank},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _exactly(module: str) -> str:
    """A pattern that fits a module and no other."""
    return "^" + module.replace(".", r"\.")


def _target_modules(modules: Sequence[_Factored], tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Modules by their last name where all that are called so are factored; else by all of it."""
    ours = {m.module for m in modules}
    others = {
        n.removesuffix(".weight").rpartition(".")[2]
        for n in tensors
        if n.endswith(".weight") and n.removesuffix(".weight") not in ours
    }
    found = set()
    for module in ours:
        last = module.rpartition(".")[2]
        found.add(module if last in others or last.isdigit() else last)
    return sorted(found)


def _task(config: Mapping[str, Any] | None) -> str | None:
    """PEFT's word for what a base is for, by its class; it decides which class PEFT wraps it in."""
    named = (config or {}).get("architectures")
    first = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    for end, task in (
        ("ForCausalLM", "CAUSAL_LM"),
        ("LMHeadModel", "CAUSAL_LM"),
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForQuestionAnswering", "QUESTION_ANS"),
        ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    ):
        if first.endswith(end):
            return task
    return None


def _name_of(base: Input) -> tuple[str, str | None]:
    """What to call the base in the adapter's configuration, and its revision: its name on the hub,
    or where it lay, or its reference."""
    if base.version is None:
        return base.model.label, None
    source = base.version.source
    if source.startswith("hf://"):
        name, _, revision = source.removeprefix("hf://").partition("@")
        return name, revision or None
    return (base.version.ref if ":" in source or not source else source), None
