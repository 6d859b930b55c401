"""Overlays: what a merged version keeps for each task beside its trunk.

The trunk is a plain model. Each task has one safetensors file beside it,

    overlays/TASK.safetensors        tensors called KIND:NAME, NAME being a tensor of the model

    mask:NAME     U8, a bit per element in C order, 8 to a byte, the most significant first,
                  zeros at the end (what numpy calls packbits)
    scale:NAME    F64, 0-d: a number that goes with the mask
    left:NAME     (m, rank), and right:NAME (rank, n): factors, in the type of the tensor
    full:NAME     the expert's own tensor: heads, and what was excluded from the merge

and says in its header which base, expert and method it came from. A tensor without parts is the
trunk's. `zoo.overlays.task_model` puts a task's model together.

Source: the masks' format is that of Wang et al. 2024, arXiv:2405.07813 (TALL masks).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.checkpoint import TensorInfo
from zoo.checkpoints.safetensors_header import Layout, layout
from zoo.dtypes import DTYPES

if TYPE_CHECKING:
    from zoo.contract import Method, Overlay
    from zoo.engine.plan import Model, Plan, Task

FOLDER = "overlays/"
_ENDING = ".safetensors"
FORMAT = "1"
"""`zoo.overlay` in the header: the number of the format described above."""

Kind = Literal["mask", "scale", "left", "right", "full"]


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of an overlay that a merge makes."""

    info: TensorInfo
    """Called FILE/KIND:NAME, as no other tensor of the version is; the file says KIND:NAME."""
    kind: Kind
    expert: int


def overlay_path(task: str) -> str:
    """Where a task's overlay is in the version's directory."""
    return f"{FOLDER}{task}{_ENDING}"


def config_path(task: str) -> str:
    """Where a task's configuration is, if it is not the trunk's: heads differ in classes."""
    return f"{FOLDER}{task}.json"


def is_overlay(path: str) -> bool:
    return path.startswith(FOLDER) and path.endswith(_ENDING)


def task_of(path: str) -> str:
    """The task whose overlay this is."""
    return path.removeprefix(FOLDER).removesuffix(_ENDING)


def task_names(labels: Sequence[str]) -> list[str]:
    """Names for the tasks that may be files: from what the experts' tasks or entries are called.

    What two experts share gets a number from the second on, in the order of the experts.
    """
    names: list[str] = []
    for label in labels:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[:80] or "task"
        name, number = plain, 1
        while name.lower() in {n.lower() for n in names}:  # some file systems fold case
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def parts_of(
    task: Task,
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    donor: Model,
) -> tuple[Part, ...]:
    """What the experts' tasks keep of one tensor, from headers alone.

    Where the trunk has one model's bytes, the tasks whose expert has other bytes keep their own.
    """
    if method.overlays is None:
        return ()
    info, tasks = task.info, lock["tasks"]
    if task.source is None:
        kept = method.overlays(task.parameters, len(experts), info.shape)
        if kept is None:
            return ()
        return tuple(p for i, t in enumerate(tasks) for p in _computed(kept, info, t, i))
    trunk = experts[task.source] if task.source >= 0 else donor
    return tuple(
        _full(expert.checkpoint.tensors[info.name], info.dtype, tasks[i], i)
        for i, expert in enumerate(experts)
        if info.name in expert.checkpoint.tensors
        and expert.digests.get(info.name) != trunk.digests.get(info.name)
    )


def parts_apart(
    name: str, method: Method, lock: Mapping[str, Any], experts: Sequence[Model]
) -> tuple[Part, ...]:
    """What the tasks keep of a tensor that the trunk lacks."""
    if method.overlays is None:
        return ()
    return tuple(
        _full(found, lock["dtype"] or found.dtype, lock["tasks"][i], i)
        for i, expert in enumerate(experts)
        if (found := expert.checkpoint.tensors.get(name)) is not None
    )


def _computed(kept: Overlay, info: TensorInfo, task: str, expert: int) -> Iterator[Part]:
    def part(kind: Kind, dtype: str, shape: tuple[int, ...]) -> Part:
        return Part(TensorInfo(_name(task, kind, info.name), dtype, shape), kind, expert)

    if kept.kind == "full":
        yield _full(info, info.dtype, task, expert)
    elif kept.kind == "mask":
        yield part("mask", "U8", ((info.elements + 7) // 8,))
        if kept.scaled:
            yield part("scale", "F64", ())
    else:
        # Eight bits are too few for factors; their product is rounded once more.
        dtype = info.dtype if DTYPES[info.dtype].bits > 8 else "F16"
        yield part("left", dtype, (info.shape[0], kept.rank))
        yield part("right", dtype, (kept.rank, prod(info.shape[1:])))


def _full(found: TensorInfo, dtype: str, task: str, expert: int) -> Part:
    dtype = dtype if DTYPES[found.dtype].merges else found.dtype
    return Part(TensorInfo(_name(task, "full", found.name), dtype, found.shape), "full", expert)


def _name(task: str, kind: Kind, tensor: str) -> str:
    return f"{overlay_path(task)}/{kind}:{tensor}"


def overlay_layouts(plan: Plan) -> dict[str, Layout]:
    """The overlay files of a merge; their tensors go by the names they have in the merge.

    A task that keeps nothing has a file too: it says that there is such a task.
    """
    method, lock = plan.method, plan.lock
    if method.overlays is None:
        return {}
    kept: dict[int, list[TensorInfo]] = {i: [] for i in range(len(lock["tasks"]))}
    for task in (*plan.tasks, *plan.apart):
        for part in task.parts:
            kept[part.expert].append(part.info)
    found = {}
    for i, infos in kept.items():
        file = overlay_path(lock["tasks"][i])
        about = {
            "format": "pt",
            "zoo.overlay": FORMAT,
            "task": lock["tasks"][i],
            "base": lock["base"] or "",
            "expert": lock["experts"][i],
            "method": f"{method.name} {method.version}",
        }
        laid = layout(
            [replace(info, name=info.name.removeprefix(file + "/")) for info in infos], about
        )
        named = tuple(replace(t, name=name_in_merge(file, t.name)) for t in laid.tensors)
        found[file] = Layout(laid.header, named, laid.size)
    return found


def name_in_merge(file: str, name: str) -> str:
    """What a merge calls a tensor of one of its files."""
    return f"{file}/{name}" if is_overlay(file) else name


def files_below(directory: Path) -> list[str]:
    """The overlays in a version's directory, as paths relative to it."""
    found = directory / FOLDER
    return sorted(FOLDER + p.name for p in found.glob("*" + _ENDING)) if found.is_dir() else []
