"""What is in a mixture as it lies on disk: its blocks, their routers, their experts.

    gate        BLOCK.gate.weight                       (experts, d)
    separate    BLOCK.experts.3.w1.weight               (width, d), of one expert
    fused       BLOCK.experts.gate_up_proj              (experts, 2 width, d), of all

Blocks are known by these names, whatever the model is called: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.checkpoint import Checkpoint
from zoo.dtypes import DTYPES

COUNTS = ("num_local_experts", "num_experts")
"""What configurations call the number of experts."""
MOST = 1 << 14
"""No mixture has more experts in a layer; a file that says so lies."""
_GATE = re.compile(r"(?P<block>(?:.+\.)?layers\.(?P<layer>\d+)\.[a-z_]+)\.gate\.weight")
_SEPARATE = re.compile(r"experts\.(?P<expert>\d+)\.(?P<part>[a-z0-9_]+)\.weight")
_FUSED = re.compile(r"experts\.(?P<part>gate_up_proj|down_proj)")
_IN = {"w1", "w3", "gate_proj", "up_proj", "gate_up_proj"}
_OUT = {"w2", "down_proj"}


@dataclass(frozen=True, slots=True)
class Slab:
    """A matrix of one expert: a tensor of its own, or a part of one."""

    name: str
    start: int
    """Its first element in that tensor."""
    rows: int
    columns: int


@dataclass
class Block:
    """The mixture of one layer."""

    name: str
    layer: int
    experts: int
    width: int
    """Elements of the hidden state: columns of the gate."""
    parts: dict[str, list[Slab]] = field(default_factory=dict)
    """Part -> the matrix of each expert."""
    fused: bool = False

    @property
    def gate(self) -> str:
        return f"{self.name}.gate.weight"

    def tensor(self, part: str, expert: int) -> str:
        """What the matrix of an expert is called; of all experts, where they are fused."""
        own = f"{self.name}.experts"
        return f"{own}.{part}" if self.fused else f"{own}.{expert}.{part}.weight"


def makes_hidden_units(part: str) -> bool:
    """Whether the rows of a part are the units inside an expert; otherwise its columns are."""
    return part in _IN


def blocks_of(checkpoint: Checkpoint) -> tuple[list[Block], list[str]]:
    """The blocks of a mixture by layer, and what is wrong with them."""
    tensors = checkpoint.tensors
    found, problems = [], []
    for name in tensors:
        match = _GATE.fullmatch(name)
        if match is None or len(tensors[name].shape) != 2:
            continue
        experts, width = tensors[name].shape
        block = Block(match["block"], int(match["layer"]), experts, width)
        own = [n for n in tensors if n.startswith(f"{block.name}.experts.")]
        if not own:
            continue  # the gate of something else
        if experts > MOST:
            problems.append(f"`{name}` has {experts} rows, and {MOST} experts are the most")
            continue
        problem = _fill(block, checkpoint, own)
        others = [n for n in tensors if n.startswith(f"{block.name}.gate.") and n != block.gate]
        if others:
            problem = f"`{others[0]}` takes part in routing, and it is not known how"
        if problem:
            problems.append(problem)
        found.append(block)
    return sorted(found, key=lambda b: (b.layer, b.name)), problems


def _fill(block: Block, checkpoint: Checkpoint, names: list[str]) -> str | None:
    """Find the experts' matrices; returns what is wrong with them."""
    separate: dict[str, dict[int, Slab]] = {}
    for name in names:
        info, inner = checkpoint.tensors[name], name.removeprefix(f"{block.name}.")
        if not DTYPES[info.dtype].merges:
            return f"`{name}` is {info.dtype}: give the mixture dequantized"
        if match := _SEPARATE.fullmatch(inner):
            part = match["part"]
            if part not in _IN | _OUT or len(info.shape) != 2:
                return f"`{name}` is no matrix of an expert that is known"
            separate.setdefault(part, {})[int(match["expert"])] = Slab(name, 0, *info.shape)
        elif match := _FUSED.fullmatch(inner):
            if len(info.shape) != 3 or info.shape[0] != block.experts:
                return f"`{name}` is {info.shape}, and the router has {block.experts} rows"
            block.fused = True
            _, rows, columns = info.shape
            block.parts[match["part"]] = [
                Slab(name, i * rows * columns, rows, columns) for i in range(block.experts)
            ]
        else:
            return f"`{name}` is no matrix of an expert that is known"
    for part, own in separate.items():
        if sorted(own) != list(range(block.experts)):
            return (
                f"`{block.name}` has {len(own)} experts with `{part}`, and its router has "
                f"{block.experts} rows"
            )
        block.parts[part] = [own[i] for i in range(block.experts)]
    for part, slabs in block.parts.items():
        if len({(s.rows, s.columns) for s in slabs}) > 1:
            return f"the experts of `{block.name}` differ in the shape of `{part}`"
        d = slabs[0].columns if part in _IN else slabs[0].rows
        if d != block.width:
            return f"`{part}` of `{block.name}` is for {d} elements, its router for {block.width}"
    if block.fused and separate:
        return f"`{block.name}` has experts both fused and apart"
    return None


def experts_said(config: Mapping[str, Any]) -> int | None:
    """How many experts a configuration says there are."""
    return next((config[k] for k in COUNTS if isinstance(config.get(k), int)), None)
