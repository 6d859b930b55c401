"""Merge tensors that are already in memory, without a registry: the same engine, the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from zoo.contract import CHUNK, Method

if TYPE_CHECKING:
    import torch

    from zoo.checkpoint import Checkpoint, TensorInfo
    from zoo.plugins import Plugins

    State = Mapping[str, torch.Tensor] | torch.Tensor


def merge(
    method: str | Method,
    experts: Sequence[State],
    *,
    base: State | None = None,
    artifacts: Mapping[str, Sequence[State]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    chunk: int = CHUNK,
    module: Callable[[], torch.nn.Module] | None = None,
    data: Iterable[Any] | None = None,
) -> Any:
    """Merge state dicts, or single tensors, and return a new one; the inputs stay as they are.

    Args:
        method: a name, or a `Method` of your own.
        experts: state dicts with equal names and shapes; or tensors of one shape.
        base: the state dict the experts were fine-tuned from, where the method needs it.
        artifacts: what the method needs beside the experts, by name; one state dict per expert.
        parameters: the method's options by public name; see `zoo methods NAME`.
        dtype: type of the result; that of the base, or of the first expert, by default.
        chunk: elements per chunk. Part of the result of methods that sum; leave it alone.
        module: builds what the weights are those of, for methods that run their models.
        data: batches, for methods that need data.
    Returns:
        Name -> tensor, names ascending, on the CPU; a tensor where the experts are tensors. Where
        the method keeps parts per task, `TaskModels`.
    Raises:
        InvalidRecipe, IncompatibleModels, GateFailed
    """
    from zoo.engine.execute import execute
    from zoo.engine.plan import artifact_digests, plan
    from zoo.overlays.overlay import overlay_path
    from zoo.recipes.recipe import Data, Expert, Recipe, lock, output_dtype
    from zoo.units import parse_bytes

    known = method if isinstance(method, Method) else _named(method)
    recipe = Recipe(
        known.name,
        tuple(Expert(f"expert {i}") for i in range(len(experts))),
        parameters=dict(parameters or {}),
        seed=seed,
        dtype=None if dtype is None else output_dtype(dtype),
        data=None if data is None else Data("data"),
    )
    _check_artifacts(known, artifacts or {}, len(experts))
    beside = {
        role: [_model(f"{role} of expert {i}", state) for i, state in enumerate(states)]
        for role, states in (artifacts or {}).items()
    }
    models = [_model(f"expert {i}", state) for i, state in enumerate(experts)]
    if module is not None:
        models = [replace(m, module=partial(_filled, module, m)) for m in models]
    for i, model in enumerate(models):
        own = {role: found[i] for role, found in beside.items() if i < len(found)}
        models[i] = replace(model, artifacts=own)
    origin = _model("base", base) if base is not None else None
    if origin is not None and module is not None:
        origin = replace(origin, module=partial(_filled, module, origin))
    digests, tasks = [m.digest for m in models], [str(i) for i in range(len(models))]
    kept = artifact_digests(known, models)
    resolved = lock(recipe, known, origin.digest if origin else None, digests, tasks, kept)
    resolved["chunk"] = chunk
    memory = parse_bytes("1TiB")  # the caller's tensors are in memory already
    work = plan(known, resolved, models, origin, memory=memory, threads=threads)
    sink = _Tensors()
    execute(
        work,
        models,
        origin,
        sink,
        memory=memory,
        threads=threads,
        device=device,
        data=None if data is None else lambda: data,
    )
    trunk = {t.info.name: sink.made[t.info.name] for t in work.tasks}
    if known.overlays is not None:
        overlays: list[dict[str, torch.Tensor]] = [{} for _ in models]
        for part in (part for t in work.tasks for part in t.parts):
            local = part.info.name.removeprefix(overlay_path(tasks[part.expert]) + "/")
            overlays[part.expert][local] = sink.made[part.info.name]
        return TaskModels(trunk, overlays, origin.checkpoint if origin else None)
    return trunk if isinstance(experts[0], Mapping) else trunk[_LONE]


def _check_artifacts(method: Method, given: Mapping[str, Sequence[State]], experts: int) -> None:
    from zoo.errors import InvalidRecipe
    from zoo.recipes.recipe import refuse_unknown

    refuse_unknown(given, method.artifacts, f"method `{method.name}`", noun="artifact")
    for role, states in given.items():
        if len(states) > experts:  # too few are told by the plan
            raise InvalidRecipe(
                f"`{role}` has {len(states)} values for {experts} experts.",
                how="Give one for each expert, in their order.",
            )


class TaskModels(dict[str, Any]):
    """The trunk, name -> tensor; `task(i)` is the model for the task of expert i.

    `overlays[i]` has what the task keeps beside the trunk, as `zoo.overlays.overlay` describes it.
    """

    def __init__(
        self,
        trunk: Mapping[str, torch.Tensor],
        overlays: Sequence[Mapping[str, torch.Tensor]],
        base: Checkpoint | None,
    ) -> None:
        super().__init__(trunk)
        self.overlays = tuple(overlays)
        self._base = base

    def task(self, index: int) -> dict[str, torch.Tensor]:
        """Name -> tensor of one task's model."""
        from zoo.checkpoint import MemoryCheckpoint, state_of
        from zoo.overlays.task_model import TaskModel

        overlay = MemoryCheckpoint(self.overlays[index])
        return state_of(TaskModel(MemoryCheckpoint(self), overlay, self._base))


_LONE = "tensor"
"""What a tensor that came without a name is called in messages."""


class _Tensors:
    """Collects what the engine makes."""

    def __init__(self) -> None:
        self.made: dict[str, torch.Tensor] = {}
        self._bytes: dict[str, memoryview] = {}

    def write(self, info: TensorInfo, start: int, data: memoryview) -> None:
        if info.name not in self._bytes:
            self._bytes[info.name] = memoryview(bytearray(info.nbytes))
        self._bytes[info.name][start : start + len(data)] = data

    def finished(self, info: TensorInfo, digest: str) -> None:
        import torch

        from zoo.dtypes import torch_dtype

        dtype = torch_dtype(info.dtype)
        data = self._bytes.pop(info.name, None)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        self.made[info.name] = flat.reshape(info.shape)


def _model(label: str, state: State) -> Any:
    from zoo.checkpoint import MemoryCheckpoint
    from zoo.digest import tensor_digest, weights_digest
    from zoo.engine.plan import Model

    checkpoint = MemoryCheckpoint(state if isinstance(state, Mapping) else {_LONE: state})
    pairs = []
    for name, info in checkpoint.tensors.items():
        data = memoryview(bytearray(info.nbytes))
        if data:
            checkpoint.read_into(name, 0, data)
        pairs.append((name, tensor_digest(info.dtype, info.shape, data)))
    return Model(label, weights_digest(pairs), checkpoint, digests=dict(pairs))


def _filled(build: Callable[[], torch.nn.Module], model: Any) -> torch.nn.Module:
    """The module with the weights of a model, in eval mode."""
    from zoo.checkpoint import state_of

    module = build()
    module.load_state_dict(state_of(model.checkpoint))
    return module.eval()


def _named(name: str) -> Method:
    """A method by name; drop-ins may change between two merges, what is installed does not."""
    from zoo.plugin_sources import directories
    from zoo.plugins import load_plugins

    return (load_plugins() if directories(()) else _installed()).method(name)


@cache
def _installed() -> Plugins:
    from zoo.plugins import load_plugins

    return load_plugins()
